"""The forward process: which tokens of a batch are masked, and what each of them weighs in the loss.

Sources: LLaDA (arXiv 2502.09992) Eq. 3 and 6; LLaDA 2.0 (arXiv 2512.15745) Eq. 1 and 5.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dllm_core.schedules import NoiseSchedule


def generator_for(seed: int, step: int, part: int = 0) -> torch.Generator:
    """The random numbers of one micro-batch: `part` of `step` in the run of `seed`.

    They depend on these alone, so any number of processes draws the same noise, and a resumed training that of an
    uninterrupted one. The three are hashed, since PyTorch's CPU generator keeps only 32 bits of a seed: neighbors, and
    seeds that differ in higher bits, must not meet there.
    """
    sequence = np.random.SeedSequence([seed % 2**64, step, part])
    return torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))


@dataclass(frozen=True)
class Noised:
    """A noisy view. x_t: [B, L] int64; masked: [B, L] bool; weight: [B, L] float32, of each token's loss."""

    x_t: Tensor
    masked: Tensor
    weight: Tensor


def corrupt(
    x_0: Tensor,
    maskable: Tensor,
    schedule: NoiseSchedule,
    mask_token_id: int,
    generator: torch.Generator | None = None,
    groups: Tensor | None = None,
    u: Tensor | None = None,
) -> tuple[Noised, Noised]:
    """Mask each maskable token of x_0 [B, L] with probability 1 − alpha(t); return the view and its complement.

    The complement comes from the same draw: it is masked where the first view is clean. Each view carries the weight of
    the t that drew its mask. One t serves a row, or each value of `groups` [B, L] int64 (documents or blocks, counted
    from 0 within a row). u: one number in [0, 1) per group, in the order of `flatten_groups`, from which t follows; the
    schedule draws them when u is None.
    """
    # 1. t ~ U[t_min, t_max)
    batch, length = x_0.shape
    if groups is None:
        t = schedule.draw((batch, 1), generator).to(x_0.device).expand(batch, length)
    else:
        group, count = flatten_groups(groups)
        t = (schedule.draw((count,), generator) if u is None else schedule.time(u)).to(x_0.device)[group]
    # 2. mask each token independently with probability 1 − alpha(t)
    chance = torch.rand(batch, length, generator=generator).to(x_0.device)
    drawn = chance < 1 - schedule.alpha(t)
    masked, complement = drawn & maskable, ~drawn & maskable
    # 3. both views, each with its weight: −alpha'/(1 − alpha) and −alpha'/alpha
    view = Noised(x_0.masked_fill(masked, mask_token_id), masked, schedule.weight(t))
    complementary = Noised(x_0.masked_fill(complement, mask_token_id), complement, schedule.complement_weight(t))
    return view, complementary


def corrupt_exactly(
    x_0: Tensor,
    maskable: Tensor,
    mask_token_id: int,
    groups: Tensor,
    u: Tensor,
    generator: torch.Generator | None = None,
) -> Noised:
    """Mask exactly l of each group's n maskable tokens, any l alike, with weight n / l (LLaDA Eq. 6).

    x_0, maskable, groups: [B, L] as in `corrupt`; u: one number in [0, 1) per group, and l = 1 + ⌊u·n⌋. Averaged over a
    uniform u this is the loss of an iid t (a share t of n is masked, 1 / t its weight) without the scatter of t itself.
    """
    group, count = flatten_groups(groups)
    flat = group.flatten()
    # 1. l of n
    n = torch.zeros(count, device=x_0.device).index_add_(0, flat, maskable.flatten().float())
    l = (1 + (u.to(n) * n).floor()).clamp(max=n.clamp(min=1))
    # 2. the group's tokens in random order, those that may not be masked behind the others
    chance = torch.rand(x_0.shape, generator=generator).to(x_0.device)
    order = torch.where(maskable, chance, 2).flatten().argsort()
    order = order[flat[order].argsort(stable=True)]
    size = flat.bincount(minlength=count)
    rank = torch.empty_like(flat).scatter_(0, order, torch.arange(len(flat), device=flat.device))
    rank = rank - (size.cumsum(0) - size)[flat]
    # 3. the first l of them
    masked = maskable & (rank.view_as(x_0) < l[group])
    return Noised(x_0.masked_fill(masked, mask_token_id), masked, (n / l)[group])


def flatten_groups(groups: Tensor) -> tuple[Tensor, int]:
    """Number the groups of a batch from 0 through all its rows; return ([B, L] int64 numbers, their count).

    groups: [B, L] int64, counted from 0 within each row; −1 (padding) counts as 0.
    """
    counts = groups.max(dim=1).values.clamp(min=0) + 1
    return groups.clamp(min=0) + (counts.cumsum(0) - counts)[:, None], int(counts.sum())
