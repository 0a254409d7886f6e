"""Which positions to commit in a step, and why: pure functions of confidences, no model in sight.

N candidates per row (a block, or a whole answer); confidence [B, N] float, masked [B, N] bool. Each policy returns a
`Commits`. Sources: LLaDA `generate.py` (arXiv 2502.09992); LLaDA 2.0 inference (arXiv 2512.15745 §5).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.trace import REASONS


@dataclass(frozen=True)
class Commits:
    """commit: [B, N] bool; reasons: [B, N] int64, index into `REASONS` of why a position is committed, if it is;
    held_back: [B] int64, positions above the threshold that a budget held back."""

    commit: Tensor
    reasons: Tensor
    held_back: Tensor


def tokens_per_step(count: int, steps: int) -> list[int]:
    """`count` tokens over `steps` steps as evenly as can be, the remainder on the earliest (LLaDA, Algorithm 5)."""
    return [count // steps + (step < count % steps) for step in range(steps)]


def ranks(confidence: Tensor, masked: Tensor) -> Tensor:
    """[B, N] int64: 0 for the most confident masked position of the row; ties go to the earlier position."""
    scores = confidence.masked_fill(~masked, -math.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def commit_top_k(confidence: Tensor, masked: Tensor, count: Tensor) -> Commits:
    """LLaDA 1: the `count` [B] most confident masked positions; all others stay (are "remasked")."""
    commit = masked & (ranks(confidence, masked) < count[:, None])
    return Commits(commit, torch.zeros_like(commit, dtype=torch.long), torch.zeros_like(count))


def commit_above_threshold(
    confidence: Tensor, masked: Tensor, threshold: float | None, least: Tensor, most: Tensor | None = None
) -> Commits:
    """LLaDA 2: every masked position above `threshold`; where fewer than `least` [B] are, the `least` most confident.

    `most` [B] caps the commits of a step (a decoding budget, >= 1); without a threshold the schedule alone decides.
    """
    above = masked & (confidence > (math.inf if threshold is None else threshold))
    enough = above.sum(dim=1) >= least
    held, over = torch.zeros_like(least), REASONS.index("threshold")
    if most is None and enough.all():  # the order decides nothing, and need not be known
        return Commits(above, torch.full_like(above, over, dtype=torch.long), held)
    rank = ranks(confidence, masked)
    # 1. enough above the threshold: all of them; else the most confident `least`
    commit = torch.where(enough[:, None], above, masked & (rank < least[:, None]))
    # 2. the budget keeps the most confident of these
    if most is not None:
        commit = commit & (rank < most[:, None])
        held = (above & ~commit).sum(dim=1)
        over = torch.where(held > 0, REASONS.index("budget"), over)[:, None]
    # 3. why
    otherwise = REASONS.index("schedule" if threshold is None else "fallback")
    return Commits(commit, torch.where(above, over, otherwise), held)


def commit_budget(masked: Tensor, total: Tensor, start: float | None, end: float | None, hard: int | None) -> Tensor | None:
    """[B] int64, the most commits a step may make, or None when no budget is set.

    masked, total: [B] answer positions still masked, and all of them. The share of the still masked grows linearly
    from `start` to `end` with progress (the share committed so far); `hard` caps it. Never below 1.
    """
    if start is None and hard is None:
        return None
    most = masked
    if start is not None:
        progress = 1 - masked / total.clamp(min=1)
        most = ((start + (end - start) * progress) * masked).floor().long()
    if hard is not None:
        most = most.clamp(max=hard)
    return most.clamp(min=1)
