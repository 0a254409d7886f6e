"""A block diffusion without the elements that no scored token attends to: a shorter forward with the same logits.

A prompt's noisy copy and the clean copy of an answer's last block enter no scored prediction, so they are left out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core.patterns import AttentionPattern

MULTIPLE = 16  # a half keeps a multiple of so many elements per row: few shapes, for which kernels are compiled once


def trim_unscored(pattern: AttentionPattern, scored: Tensor) -> AttentionPattern:
    """The pattern without its unneeded elements; the logits of scored tokens do not change.

    pattern: `patterns.block_diffusion` of whole rows; scored: [B, L] bool. A noisy view keeps the blocks that hold a
    scored token, the clean half keeps the blocks before the last such block of their document.
    """
    length, views = scored.shape[1], range(pattern.views)
    noisy_needed, clean_needed = _needed_tokens(pattern.document[:, :length], pattern.block[:, :length], scored)
    noisy, noisy_index = _gather_order(noisy_needed)
    clean, clean_index = _gather_order(clean_needed)
    # 1. the elements that stay [B, S'], views first, and the new index of each old element [B, S]
    count = noisy.shape[1]
    kept = torch.cat([*(noisy + length * view for view in views), clean + length * pattern.views], dim=1)
    index = torch.cat([*(noisy_index + count * view for view in views), clean_index + count * pattern.views], dim=1)
    # 2. their labels, and where predictions are read among them
    labels = (pattern.document, pattern.block, pattern.view, pattern.position, pattern.source)
    predicted_at = index.gather(1, pattern.predicted_at.flatten(1)).view_as(pattern.predicted_at)
    return AttentionPattern(*(label.gather(1, kept) for label in labels), predicted_at, pattern.scorable)


def _needed_tokens(document: Tensor, block: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] bool each: the token's block holds a scored token; a later block of its document holds one."""
    # blocks numbered along the row: a new one starts where the document or the block changes
    starts = (document.diff(dim=1) != 0) | (block.diff(dim=1) != 0)
    number = F.pad(starts.long().cumsum(dim=1), (1, 0))
    noisy = torch.zeros_like(number).scatter_add_(1, number, scored.long()).gather(1, number) > 0
    # the last scored block of each document, -1 where there is none
    scored_block, row_document = torch.where(scored, block, -1), document.clamp(min=0)
    last = torch.full_like(number, -1).scatter_reduce_(1, row_document, scored_block, "amax", include_self=True)
    clean = (block < last.gather(1, row_document)) & (document >= 0)
    return noisy, clean


def _gather_order(needed: Tensor) -> tuple[Tensor, Tensor]:
    """needed [B, L] bool → (kept [B, N], index [B, L]): the tokens to keep, in order, and each one's index among them.

    N is the most that any row needs, rounded up to `MULTIPLE`; other tokens of the row, which nothing reads, fill it.
    """
    count = max(int(needed.sum(dim=1).max()), 1)
    count = min(-(-count // MULTIPLE) * MULTIPLE, needed.shape[1])
    order = (~needed).long().sort(dim=1, stable=True).indices
    columns = torch.arange(order.shape[1], device=order.device).expand_as(order)
    index = torch.empty_like(order).scatter_(1, order, columns)
    return order[:, :count], index.clamp(max=count - 1)
