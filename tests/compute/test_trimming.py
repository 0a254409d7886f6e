"""A trimmed block diffusion gives scored tokens the same attention as the whole one."""

import pytest
import torch
from small import batch_of

from dllm_core import patterns
from dllm_core.compute import trimming
from dllm_core.compute.trimming import trim_unscored


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_views_that_hold_only_scored_blocks_give_the_same_attention(monkeypatch, size, label_shift):
    """Each scored token's element, in the short pattern and in the full one: same labels, same keys."""
    monkeypatch.setattr(trimming, "MULTIPLE", 1)  # else rows this short are kept whole
    batch = batch_of([7, 4], [3, 2, 5], [9], prompt=3)
    full = patterns.block_diffusion(batch.document, batch.position, size, 2, label_shift)
    short = trim_unscored(patterns.block_diffusion(batch.document, batch.position, size, 2, label_shift), batch.scored)
    assert short.document.shape[1] < full.document.shape[1]
    assert torch.equal(short.scorable, full.scorable)

    def keys(pattern, row, element):
        seen = pattern.mask()[row, element].nonzero().flatten()
        return sorted(zip(pattern.view[row, seen].tolist(), pattern.source[row, seen].tolist(), strict=True))

    for row, column in (batch.scored & full.scorable).nonzero().tolist():
        for view in range(2):
            a, b = full.predicted_at[row, view, column], short.predicted_at[row, view, column]
            for name in ("document", "block", "view", "position", "source"):
                assert getattr(full, name)[row, a] == getattr(short, name)[row, b], name
            assert keys(full, row, a) == keys(short, row, b)


def test_a_batch_with_nothing_scored_is_no_error():
    batch = batch_of([4], prompt=4)
    pattern = trim_unscored(patterns.block_diffusion(batch.document, batch.position, 2, 1, False), batch.scored)
    assert pattern.mask().any(dim=2).all()
