"""Attention as data: pictures drawn by hand, and every pair of elements against the rule in words."""

import pytest
import torch
from small import batch_of

from dllm_core import patterns


def picture(text: str) -> torch.Tensor:
    return torch.tensor([[cell == "x" for cell in line.split()] for line in text.strip().splitlines()])


def one_document(length: int):
    return torch.zeros(1, length, dtype=torch.long), torch.arange(length)[None]


def test_causal():
    pattern = patterns.causal(*one_document(4))
    assert torch.equal(pattern.mask()[0], torch.ones(4, 4).tril().bool())
    assert pattern.predicted_at[0, 0].tolist() == [0, 0, 1, 2]  # token i at row i − 1
    assert pattern.scorable[0].tolist() == [False, True, True, True]


def test_bidirectional_is_full_attention_within_a_document():
    batch = batch_of([3, 2], width=6)
    pattern = patterns.bidirectional(batch.document, batch.position)
    assert torch.equal(pattern.mask()[0], picture("""
        x x x . . .
        x x x . . .
        x x x . . .
        . . . x x .
        . . . x x .
        . . . . . x
    """))  # fmt: skip
    assert pattern.predicted_at[0, 0].tolist() == [0, 1, 2, 3, 4, 5]  # no shift: at the token's own row
    assert pattern.scorable[0].tolist() == [True] * 5 + [False]


def test_block_causal_counts_blocks_from_each_documents_start():
    batch = batch_of([3, 4])
    assert torch.equal(patterns.block_causal(batch.document, batch.position, 2).mask()[0], picture("""
        x x . . . . .
        x x . . . . .
        x x x . . . .
        . . . x x . .
        . . . x x . .
        . . . x x x x
        . . . x x x x
    """))  # fmt: skip


def test_block_diffusion_is_equation_3():
    pattern = patterns.block_diffusion(*one_document(4), 2)
    assert torch.equal(pattern.mask()[0], picture("""
        x x . . . . . .
        x x . . . . . .
        . . x x x x . .
        . . x x x x . .
        . . . . x x . .
        . . . . x x . .
        . . . . x x x x
        . . . . x x x x
    """))  # fmt: skip
    assert pattern.position[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert pattern.view[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert pattern.predicted_at[0, 0].tolist() == [0, 1, 2, 3]  # on the noisy half


def test_label_shift_reads_a_blocks_first_token_on_the_clean_half():
    pattern = patterns.block_diffusion(*one_document(6), 3, views=2, label_shift=True)
    # elements: first view 0–5, second view 6–11, clean 12–17
    assert pattern.predicted_at[0, :, 1:].tolist() == [[0, 1, 14, 3, 4], [6, 7, 14, 9, 10]]
    assert pattern.scorable[0].tolist() == [False] + [True] * 5
    ones = patterns.block_diffusion(*one_document(4), 1, label_shift=True)
    assert ones.predicted_at[0, 0, 1:].tolist() == [4, 5, 6]  # blocks of one: all on the clean half, as AR


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_every_pair_follows_the_rule(size, views):
    batch = batch_of([5, 3], [2, 1, 4], [8], width=9)
    pattern = patterns.block_diffusion(batch.document, batch.position, size, views)
    mask, length = pattern.mask().tolist(), batch.tokens.shape[1]
    document, position, elements = batch.document.tolist(), batch.position.tolist(), range((views + 1) * length)
    assert pattern.views == views and len(mask[0]) == len(mask[0][0]) == len(elements)
    for row in range(3):
        for q in elements:
            for k in elements:
                (q_view, q_token), (k_view, k_token) = divmod(q, length), divmod(k, length)
                q_clean, k_clean = q_view == views, k_view == views
                q_block, k_block = position[row][q_token] // size, position[row][k_token] // size
                if q_clean:
                    allowed = k_clean and k_block <= q_block  # clean → clean iff not later; clean → noisy never
                elif k_clean:
                    allowed = k_block < q_block  # noisy → clean iff strictly earlier
                else:
                    allowed = q_view == k_view and q_block == k_block  # noisy → noisy iff same view and block
                assert mask[row][q][k] == (allowed and document[row][q_token] == document[row][k_token]), (row, q, k)


def test_padding_is_seen_by_no_token_and_sees_something():
    batch = batch_of([3], [5], width=6)
    for pattern in (
        patterns.causal(batch.document, batch.position),
        patterns.bidirectional(batch.document, batch.position),
        patterns.block_diffusion(batch.document, batch.position, 2, views=2),
    ):
        mask, padding = pattern.mask(), pattern.document < 0
        assert not (mask & ~padding[:, :, None] & padding[:, None, :]).any()
        assert mask.any(dim=2).all()  # else its softmax would be of nothing
        assert not (pattern.scorable & (batch.document < 0)).any()


def test_one_block_is_full_attention_beside_an_unseen_clean_half():
    batch = batch_of([6], [4, 2])
    both = patterns.block_diffusion(batch.document, batch.position, 6).mask()
    alone = patterns.bidirectional(batch.document, batch.position).mask()
    assert torch.equal(both[:, :6, :6], alone) and not both[:, :6, 6:].any()


def test_blocks_may_begin_where_the_answer_does():
    """A prompt of three tokens before blocks of four; behind it a document that is scored whole, below it one that ends
    unscored."""
    batch = batch_of([9, 5], [6])
    scored = torch.tensor([[False] * 3 + [True] * 11, [True, True] + [False] * 12])
    offset = patterns.answer_offset(batch.document, batch.position, scored, 4)
    assert offset[0].tolist() == [1] * 9 + [0] * 5 and offset[1, :6].tolist() == [0] * 6
    for label_shift in (False, True):
        labels = (batch.document, batch.position, 4)
        blocks = patterns.block_causal(*labels, label_shift, offset).block
        assert blocks[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 1]
        pattern = patterns.block_diffusion(*labels, 1, label_shift, offset)
        assert torch.equal(pattern.block, blocks.repeat(1, 2))
    # of the clean half where a block begins
    assert pattern.predicted_at[0, 0, 3:9].tolist() == [14 + 2, 3, 4, 5, 14 + 6, 7]
