"""Policies: which positions a decoding step commits, and why, as pure functions of the confidences.

N candidate positions per row (a block, or a whole answer): confidence [B, N] float, masked [B, N] bool. Each policy
returns `Commits`. Sources: LLaDA `generate.py` (arXiv 2502.09992); LLaDA 2.0 inference (arXiv 2512.15745 §5).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.trace import REASONS


@dataclass(frozen=True)
class Commits:
    """commit: [B, N] bool. reasons: [B, N] int64, the index into `REASONS` where a position is committed, of no meaning
    elsewhere. held_back: [B] int64, positions above the threshold that a budget held back."""

    commit: Tensor
    reasons: Tensor
    held_back: Tensor


def tokens_per_step(count: int, steps: int) -> list[int]:
    """`count` tokens spread evenly over `steps` steps, the remainder on the earliest (LLaDA, Algorithm 5)."""
    return [count // steps + (step < count % steps) for step in range(steps)]


def ranks(confidence: Tensor, masked: Tensor) -> Tensor:
    """[B, N] int64: 0 for the most confident masked position of the row, and so on; of equals the earlier is first."""
    scores = confidence.masked_fill(~masked, -math.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank)


def commit_top_k(confidence: Tensor, masked: Tensor, count: Tensor) -> Commits:
    """LLaDA 1: the `count` [B] most confident masked positions; all others stay masked (are "remasked")."""
    commit = masked & (ranks(confidence, masked) < count[:, None])
    return Commits(commit, torch.zeros_like(commit, dtype=torch.long), torch.zeros_like(count))


def commit_above_threshold(
    confidence: Tensor, masked: Tensor, threshold: float | None, least: Tensor, most: Tensor | None = None
) -> Commits:
    """LLaDA 2: every masked position above `threshold`; where fewer than `least` [B] are, the `least` most confident.

    most: [B], the most commits of the step (a decoding budget, >= 1), or None. Without a threshold only `least` counts.
    """
    above = masked & (confidence > (math.inf if threshold is None else threshold))
    is_enough = above.sum(dim=1) >= least
    held_back, reason_above = torch.zeros_like(least), REASONS.index("threshold")
    if most is None and is_enough.all():  # no position depends on its rank
        return Commits(above, torch.full_like(above, reason_above, dtype=torch.long), held_back)
    rank = ranks(confidence, masked)
    # 1. all above the threshold if they are enough, else the most confident `least`
    commit = torch.where(is_enough[:, None], above, masked & (rank < least[:, None]))
    # 2. of these, the budget admits the most confident
    if most is not None:
        commit = commit & (rank < most[:, None])
        held_back = (above & ~commit).sum(dim=1)
        reason_above = torch.where(held_back > 0, REASONS.index("budget"), reason_above)[:, None]
    # 3. why each is committed
    reason_below = REASONS.index("schedule" if threshold is None else "fallback")
    return Commits(commit, torch.where(above, reason_above, reason_below), held_back)


def commit_budget(
    masked: Tensor, total: Tensor, start: float | None, end: float | None, limit: int | None
) -> Tensor | None:
    """[B] int64: the most commits that a step may make, at least 1; None when no budget is set.

    masked, total: [B], answer positions still masked, and all of them. The budget is a share of the masked ones, which
    grows linearly from `start` to `end` with progress (the share committed so far), and at most `limit`.
    """
    if start is None and limit is None:
        return None
    most = masked
    if start is not None:
        progress = 1 - masked / total.clamp(min=1)
        most = ((start + (end - start) * progress) * masked).floor().long()
    if limit is not None:
        most = most.clamp(max=limit)
    return most.clamp(min=1)
