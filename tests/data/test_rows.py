"""A batch and its parts; segments collated into it as if token by token."""


import numpy as np
import pytest
import torch
from examples import equal, examples
from small import EOS, PAD

from dllm_core.data.batches import PackedBatches
from dllm_core.data.rows import Batch, Segments, collate
from dllm_core.data.token_cache import TokenDataset


def test_parts_of_a_batch():
    batch = next(PackedBatches(examples(), batch_size=4, seq_len=24))
    assert batch.cut(7).tokens.shape == (4, 7) and torch.equal(batch.rows(1, 3).scored, batch.scored[1:3])
    assert equal(batch.to("cpu"), batch)
    assert [len(part.tokens) for part in batch.split(3)] == [3, 1]
    assert equal(batch.split(3)[1], batch.rows(3, 4)) and equal(batch.split(0)[0], batch) and len(batch.split(4)) == 1
    assert [len(part.tokens) for part in batch.divide(3)] == [2, 1, 1] and equal(batch.divide(3)[1], batch.rows(2, 3))
    assert len(batch.divide(9)) == 4


def laid_one_by_one(documents: TokenDataset, placed: Segments, rows: int, width: int, fill_scored: bool) -> Batch:
    """`rows.collate`, token by token."""
    whole = Batch(*(torch.full((rows, width), empty) for empty in (PAD, -1, 0)), torch.zeros(rows, width, dtype=torch.bool))
    labels = (placed.row, placed.column, placed.source, placed.length, placed.fill, placed.number)
    for row, column, source, length, fill, number in zip(*labels, strict=True):
        for i in range(length + fill):
            in_document = i < length
            whole.tokens[row, column + i] = int(documents.tokens[source + i]) if in_document else EOS
            whole.scored[row, column + i] = bool(documents.scored[source + i]) if in_document else fill_scored
            whole.document[row, column + i], whole.position[row, column + i] = int(number), i
    return whole


@pytest.mark.parametrize("fill_scored", [False, True])
@pytest.mark.parametrize("row, column, source, length, fill, number", [
    ([0, 0, 1], [0, 4, 0], [0, 9, 3], [4, 2, 6], [0, 0, 0], [0, 1, 0]),  # full rows, in order: the quick way
    ([1, 0, 0], [0, 0, 4], [3, 0, 9], [6, 4, 2], [0, 0, 0], [0, 0, 1]),  # full, the second row first
    ([0, 1], [0, 1], [0, 3], [4, 2], [0, 0], [0, 0]),                    # with gaps
    ([0, 0, 1], [0, 3, 0], [0, 9, 3], [2, 2, 3], [1, 1, 3], [0, 1, 0]),  # filled with eos
])  # fmt: skip
def test_collate_equals_token_by_token_copies(fill_scored, row, column, source, length, fill, number):
    documents = examples(6)
    placed = Segments(*(np.array(part) for part in (row, column, source, length, fill, number)))
    mine = collate(documents, placed, 2, 6, fill_scored)
    plain = laid_one_by_one(documents, placed, 2, 6, fill_scored)
    for part in ("tokens", "document", "position", "scored"):
        assert torch.equal(getattr(mine, part), getattr(plain, part)), part
