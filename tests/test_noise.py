"""The forward process: masks, times and weights that belong together, and noise that belongs to its place."""

import pytest
import torch
from small import MASK, batch_of, documents_of

from dllm_core import reference
from dllm_core.losses import Diffusion
from dllm_core.noise import corrupt, flatten_groups, generator_for
from dllm_core.schedules import ALPHAS, NoiseSchedule

BAND = NoiseSchedule.band(0.05, 0.95)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_depends_only_on_seed_step_and_part():
    numbers = {
        (seed, step, part): tuple(torch.rand(4, generator=generator_for(seed, step, part)).tolist())
        for seed in (0, 1, 2**40)
        for step in (0, 1, 99_999)
        for part in (0, 1, 63)
    }
    assert len(set(numbers.values())) == len(numbers)  # no two places share their noise
    for (seed, step, part), drawn in numbers.items():
        assert tuple(torch.rand(4, generator=generator_for(seed, step, part)).tolist()) == drawn


@pytest.mark.parametrize("schedule_name", sorted(ALPHAS))
def test_the_weight_belongs_to_the_time_that_drew_the_mask(schedule_name):
    """In each long row the share of masked tokens is 1 − alpha(t) for the very t whose weights stand beside it."""
    schedule = NoiseSchedule.band(0.05, 0.95, schedule_name)
    x_0, count = torch.full((200, 4000), 5), 4000
    first, second = corrupt(x_0, torch.ones_like(x_0, dtype=torch.bool), schedule, MASK, seeded())
    t = torch.linspace(schedule.t_min, schedule.t_max, 100_001)
    for noise, weights in ((first, schedule.weight(t)), (second, schedule.complement_weight(t))):
        assert (noise.weight == noise.weight[:, :1]).all()  # one time per row
        # the time at which the weight is the row's, then the probability there
        nearest = (weights[None] - noise.weight[:, :1]).abs().argmin(dim=1)
        p = 1 - schedule.alpha(t[nearest]) if noise is first else schedule.alpha(t[nearest])
        assert ((noise.masked.float().mean(dim=1) - p).abs() < 5 * (p * (1 - p) / count).sqrt() + 1e-3).all()
    assert first.weight[:, 0].unique().numel() > 150


@pytest.mark.parametrize("schedule_name", sorted(ALPHAS))
def test_the_reference_masks_the_same_tokens(schedule_name):
    """One document; the generator gives t first, then a number for each token."""
    schedule, x_0 = NoiseSchedule(schedule_name), batch_of([50]).tokens
    for seed in range(5):
        view, _ = corrupt(x_0, torch.ones_like(x_0, dtype=torch.bool), schedule, MASK, seeded(seed))
        generator = seeded(seed)
        x_t = reference.corrupt(x_0[0], 1 - schedule.alpha(schedule.draw((1,), generator)), MASK, generator)
        assert torch.equal(x_t, view.x_t[0])
    assert 0 < view.masked.sum() < 50


def test_the_two_views_partition_the_maskable_tokens():
    batch = batch_of([9, 4], [6], prompt=2)
    for seed in range(20):
        first, second = corrupt(batch.tokens, batch.scored, BAND, MASK, seeded(seed))
        assert torch.equal(first.masked ^ second.masked, batch.scored)
        assert not (first.masked & second.masked).any()
        for view in (first, second):
            assert torch.equal(view.x_t == MASK, view.masked)
            assert torch.equal(view.x_t[~view.masked], batch.tokens[~view.masked])


def test_groups_share_a_time_and_others_do_not():
    batch = batch_of([6, 6], [12])
    for name, block_size, groups in (("row", 3, 2), ("document", 3, 3), ("block", 3, 8), ("block", None, 3)):
        objective = Diffusion(BAND, MASK, one_t_per=name)
        numbered = objective.groups(batch, block_size)
        noise, _ = corrupt(batch.tokens, batch.scored, BAND, MASK, seeded(), numbered)
        assert noise.weight.unique().numel() == groups
        if name == "document":
            assert noise.weight[0, :6].unique().numel() == noise.weight[0, 6:].unique().numel() == 1
        if name == "block" and block_size:
            assert (noise.weight.view(2, 4, 3) == noise.weight.view(2, 4, 3)[:, :, :1]).all()


def test_padding_is_no_block():
    batch = batch_of([5, 4], [3])  # blocks of 4: two and one, and one beside six places of padding
    groups = Diffusion(BAND, MASK, one_t_per="block").groups(batch, 4)
    assert groups[0].tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2] and flatten_groups(groups)[1] == 4


def test_times_are_stratified_over_all_documents_of_a_batch():
    batch = batch_of([3, 3, 2], [8], [4, 4], [1] * 8)
    schedule = NoiseSchedule(t_min=0.0, t_max=0.5, draw_method="stratified")
    noise, _ = corrupt(batch.tokens, batch.scored, schedule, MASK, seeded(), batch.document)
    times = sorted(1 / noise.weight[row, columns][0].item() for row, columns in documents_of(batch))
    assert [int(t * 2 * 14) for t in times] == list(range(14))
