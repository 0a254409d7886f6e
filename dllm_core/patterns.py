"""Attention patterns: who may attend to whom, at which position a token stands and where its prediction is read.

Every pattern of this project is one rule over three labels per element (document, block, view): the mask of LLaDA 2.0
Eq. 3 (arXiv 2512.15745; first in BD3LM, arXiv 2503.09573). A query q may attend to a key k when both belong to one
document and at least one of these terms holds:

    own_block:      q and k have the same view and the same block
    earlier_clean:  k is clean (view 0) and its block comes before q's

causal = blocks of one token; bidirectional = one block; block-causal = blocks of L_B tokens; block diffusion = noisy
views 1, 2, … beside the clean half. Block indices count from each document's start, so packing several documents into a
row changes no document's logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionPattern:
    """Labels of the S elements of each row: S = L, or (views + 1)·L for block diffusion, noisy views first, the clean
    half last (`compute.trimming` leaves out some)."""

    document: Tensor  # [B, S] int64, counted within the row; −1 is padding
    block: Tensor  # [B, S] int64, counted within the document
    view: Tensor  # [B, S] int64; 0 is clean, 1, 2, … are noisy
    position: Tensor  # [B, S] int64, RoPE position within the document
    source: Tensor  # [B, S] int64, the token of the row that the element is a copy of, in its view
    predicted_at: Tensor  # [B, V, L] int64, the element whose logits predict token i of noisy view v (numbered from 0)
    scorable: Tensor  # [B, L] bool, False where no element predicts the token (a document's first under label shift)

    @property
    def views(self) -> int:
        """V, the number of noisy views; 1 for a single copy of the row."""
        return self.predicted_at.shape[1]

    def repeat(self, times: int) -> "AttentionPattern":
        """The pattern of `times` copies of the batch, one after another: [times · B, …]."""
        parts = (getattr(self, field.name) for field in fields(self))
        return AttentionPattern(*(part.repeat(times, *(1,) * (part.ndim - 1)) for part in parts))

    def terms(self, queries=slice(None), keys=slice(None)) -> "MaskTerms":
        """Eq. 3, term by term, for every query q (row) and key k (column) of some elements: slices or int64 indices."""
        labels = (self.document, self.block, self.view)
        return MaskTerms.of([label[:, queries, None] for label in labels], [label[:, None, keys] for label in labels])

    def mask(self) -> Tensor:
        """[B, S, S] bool, True where the row's element may attend to the column's."""
        return self.terms().open


class MaskTerms(NamedTuple):
    """The terms of the rule for every query q (row) and key k (column): [B, S, S] bool each; clean: [B, 1, S]."""

    same_document: Tensor
    same_view: Tensor
    same_block: Tensor
    clean: Tensor
    own_block: Tensor
    earlier_clean: Tensor

    @classmethod
    def of(cls, q: Sequence[Tensor], k: Sequence[Tensor]) -> "MaskTerms":
        """q, k: (document, block, view) of queries and of keys, in shapes that broadcast."""
        same_document, same_block, same_view = (q_label == k_label for q_label, k_label in zip(q, k, strict=True))
        clean, earlier_block = k[2] == 0, k[1] < q[1]
        # noisy → noisy and clean → clean, within the block
        own_block = same_view & same_block
        # noisy → clean and clean → clean, before the block
        earlier_clean = clean & earlier_block
        return cls(same_document, same_view, same_block, clean, own_block, earlier_clean)

    @property
    def open(self) -> Tensor:
        """Whether q may attend to k."""
        return self.same_document & (self.own_block | self.earlier_clean)


def block_causal(
    document: Tensor, position: Tensor, block_size: int, label_shift: bool = False, offset: Tensor | int = 0
) -> AttentionPattern:
    """One copy of the row; each token sees its own block and all earlier ones. document, position: [B, L].

    With `label_shift` the prediction of token i is read at element i − 1, as in AR models; else at element i. offset:
    by how many tokens the first block is shorter (`answer_offset`), of all or of each token's document [B, L].
    """
    batch, length = position.shape
    source = torch.arange(length, device=position.device).expand(batch, length)
    predicted_at, scorable = source, document >= 0
    if label_shift:
        predicted_at = (source - 1).clamp(min=0)
        scorable = scorable & (position > 0)
    block = (position + offset) // block_size
    return AttentionPattern(document, block, torch.zeros_like(block), position, source, predicted_at[:, None], scorable)


def answer_offset(document: Tensor, position: Tensor, scored: Tensor, block_size: int) -> Tensor:
    """[B, L] int64: by how many tokens the first block of each token's document must be shorter, so that a block begins
    at the document's first scored token, where an answer does. document, position: [B, L]; scored: [B, L] bool."""
    length, row_document = document.shape[1], document.clamp(min=0)
    at = position.masked_fill(~scored, length)
    first = torch.full_like(position, length).scatter_reduce_(1, row_document, at, "amin")
    return -first.gather(1, row_document) % block_size


def causal(document: Tensor, position: Tensor) -> AttentionPattern:
    """AR: blocks of one token, labels shifted by one. document, position: [B, L]."""
    return block_causal(document, position, 1, label_shift=True)


def bidirectional(document: Tensor, position: Tensor, label_shift: bool = False) -> AttentionPattern:
    """Full attention within each document (LLaDA Eq. 3; LLaDA 2.0 Eq. 2 and 4): one block, no clean half."""
    return block_causal(document, position, max(position.shape[1], int(position.max()) + 1), label_shift)


def block_diffusion(
    document: Tensor, position: Tensor, block_size: int, views: int = 1, label_shift: bool = False,
    offset: Tensor | int = 0,
) -> AttentionPattern:  # fmt: skip
    """[x_t ; x_0]: `views` noisy copies, then the clean half (LLaDA 2.0 Eq. 1 with the mask of Eq. 3).

    document, position: [B, L]. Noisy views never see each other, so complementary views share one clean half: there
    are (views + 1)·L elements. With `label_shift` the prediction of token i is read at element i − 1: of its noisy view
    inside a block, of the clean half for a block's first token. At block size 1 that is AR exactly. offset: as in
    `block_causal`.
    """
    batch, length = position.shape
    # 1. the elements: every view is the whole row; noisy views 1, 2, … first, the clean half (view 0) last
    source = torch.arange(length, device=position.device).expand(batch, length)
    view = torch.arange(1, views + 2, device=position.device) % (views + 1)
    view = view.repeat_interleave(length).expand(batch, -1)
    # 2. where each token's prediction is read: at its own element, or at the one before (clean, where a block begins)
    first = length * torch.arange(views, device=position.device)[:, None]  # the first element of each noisy view
    predicted_at, scorable = source[:, None] + first, document >= 0
    if label_shift:
        before = ((source - 1) % length)[:, None]
        begins_block = ((position + offset) % block_size == 0)[:, None]
        predicted_at = torch.where(begins_block, before + length * views, before + first)
        scorable = scorable & (position > 0)
    # 3. the labels, once per view
    labels = (document, (position + offset) // block_size, position, source)
    document, block, position, source = (label.repeat(1, views + 1) for label in labels)
    return AttentionPattern(document, block, view, position, source, predicted_at, scorable)
