"""Who may attend to whom, where each token stands and where its prediction is read: attention as data.

Every pattern of this project is one rule over three labels per element (document, block, view), the mask of LLaDA 2.0
Eq. 3 (arXiv 2512.15745; first in BD3LM, arXiv 2503.09573). An element q may see k when both are of one document and

    own_block:      same view and same block, or
    earlier_clean:  k is clean (view 0) and its block comes before q's.

causal = blocks of 1; bidirectional = one block; block-causal = blocks of L_B; block diffusion = noisy views 1, 2, …
beside the clean half. Block indices count from each document's start, so packing changes no document's logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_core.compute.transfer import to_device

GRAIN = 16  # noisy and clean elements of a row are kept in multiples of so many: few shapes, see `losses.READS`


@dataclass(frozen=True)
class AttentionPattern:
    """Labels of S elements (S = L, or up to (views + 1)·L for block diffusion: noisy views first, the clean half last).

    document, block, view, position: [B, S] int64 (position: RoPE position within the document; document −1: padding).
    source: [B, S] int64, the token of the row that the element is a copy of, in its view.
    predicted_at: [B, V, L] int64, the element whose logits predict token i of view v.
    scorable: [B, L] bool, False where no element can predict the token (the first of a document under the label shift).
    """

    document: Tensor
    block: Tensor
    view: Tensor
    position: Tensor
    source: Tensor
    predicted_at: Tensor
    scorable: Tensor

    @property
    def views(self) -> int:
        return self.predicted_at.shape[1]

    def labels_to(self, device) -> "AttentionPattern":
        """With what a forward asks for on `device`; where predictions are read stays."""
        labels = ("document", "block", "view", "position")
        return replace(self, **{name: to_device(getattr(self, name), device) for name in labels})

    def repeat(self, times: int) -> "AttentionPattern":
        """The batch so many times over, one after another."""
        parts = (getattr(self, field.name) for field in fields(self))
        return AttentionPattern(*(part.repeat(times, *(1,) * (part.ndim - 1)) for part in parts))

    def terms(self) -> "MaskTerms":
        """Eq. 3, term by term, for every query q (row) and key k (column)."""
        labels = (self.document, self.block, self.view)
        return MaskTerms.of([label[:, :, None] for label in labels], [label[:, None, :] for label in labels])

    def mask(self) -> Tensor:
        """[B, S, S] bool, True where row may attend to column."""
        return self.terms().open


class MaskTerms(NamedTuple):
    """What the rule asks of every query q (row) and key k (column): [B, S, S] bool each; clean: [B, 1, S].

    The rule is made of same_document, own_block (same view and same block) and earlier_clean (k is clean and its block
    comes before q's); the others are what these are made of.
    """

    same_document: Tensor
    same_view: Tensor
    same_block: Tensor
    clean: Tensor
    own_block: Tensor
    earlier_clean: Tensor

    @classmethod
    def of(cls, q: Sequence[Tensor], k: Sequence[Tensor]) -> "MaskTerms":
        """q, k: (document, block, view) of queries and of keys, in shapes that broadcast."""
        same_document, same_block, same_view = (one == other for one, other in zip(q, k, strict=True))
        clean, earlier_block = k[2] == 0, k[1] < q[1]
        # noisy → noisy and clean → clean, within the block; then noisy → clean and clean → clean, before it
        own_block, earlier_clean = same_view & same_block, clean & earlier_block
        return cls(same_document, same_view, same_block, clean, own_block, earlier_clean)

    @property
    def open(self) -> Tensor:
        """Whether q may attend to k."""
        return self.same_document & (self.own_block | self.earlier_clean)


def block_causal(document: Tensor, position: Tensor, block_size: int, label_shift: bool = False) -> AttentionPattern:
    """One copy of the row; each token sees its own block and all earlier ones. document, position: [B, L].

    With `label_shift` token i is read at row i − 1 (a causal model's habit), else at its own row.
    """
    batch, length = position.shape
    own = torch.arange(length, device=position.device).expand(batch, length)
    read = (own - 1).clamp(min=0) if label_shift else own
    scorable = (position > 0) if label_shift else torch.ones_like(position, dtype=torch.bool)
    block = position // block_size
    return AttentionPattern(document, block, torch.zeros_like(block), position, own, read[:, None], scorable & (document >= 0))


def causal(document: Tensor, position: Tensor) -> AttentionPattern:
    """AR: blocks of one token, labels shifted by one."""
    return block_causal(document, position, 1, label_shift=True)


def bidirectional(document: Tensor, position: Tensor, label_shift: bool = False) -> AttentionPattern:
    """Full attention within each document (LLaDA Eq. 3; LLaDA 2.0 Eq. 2 and 4): one block, no clean half."""
    return block_causal(document, position, max(position.shape[1], int(position.max()) + 1), label_shift)


def block_diffusion(
    document: Tensor,
    position: Tensor,
    block_size: int,
    views: int = 1,
    label_shift: bool = False,
    scored: Tensor | None = None,
) -> AttentionPattern:
    """[x_t ; x_0]: `views` noisy copies, then the clean half (LLaDA 2.0 Eq. 1 with the mask of Eq. 3).

    Noisy views never see each other, so complementary views share one clean half: (views + 1)·L elements.
    With `label_shift` token i is read at row i − 1: of its own noisy view inside a block, of the clean half for a
    block's first token; at block size 1 that is AR exactly.
    scored: [B, L] bool; given it, the blocks that nobody needs are dropped (`trim_unscored`).
    """
    batch, length = position.shape
    # 1. the elements: every view is the whole row; noisy views 1, 2, … first, the clean half (view 0) last
    own = torch.arange(length, device=position.device).expand(batch, length)
    row = lambda values: values.repeat(1, views + 1)
    view = torch.arange(1, views + 2, device=position.device) % (views + 1)
    view = view.repeat_interleave(length).expand(batch, -1)
    # 2. where each token's prediction is read: at its own row, or at the row before it (clean, where a block begins)
    read = torch.stack([own + length * number for number in range(views)], dim=1)
    scorable = document >= 0
    if label_shift:
        before = (own - 1) % length
        noisy = torch.stack([before + length * number for number in range(views)], dim=1)
        clean = (before + length * views)[:, None]
        read = torch.where((position % block_size == 0)[:, None], clean, noisy)
        scorable = scorable & (position > 0)
    pattern = AttentionPattern(row(document), row(position // block_size), view, row(position), row(own), read, scorable)
    return pattern if scored is None else trim_unscored(pattern, scored)


def trim_unscored(pattern: AttentionPattern, scored: Tensor) -> AttentionPattern:
    """A block diffusion without the elements that nothing scored ever looks at: no logit of a scored token changes.

    pattern: of whole rows; scored: [B, L] bool. Noisy views keep the blocks in which a token is scored, the clean half
    those before a document's last such block: a prompt's noisy copy and an answer's clean end cost nothing.
    """
    length = scored.shape[1]
    document, block = pattern.document[:, :length], pattern.block[:, :length]
    noisy_wanted, clean_wanted = _wanted(document, block, scored)
    (noisy, noisy_place), (clean, clean_place) = _gathered(noisy_wanted), _gathered(clean_wanted)
    # the elements kept [B, S'], and where each element of before went [B, S]
    count, starts = noisy.shape[1], range(pattern.views)
    kept = torch.cat([*(noisy + length * view for view in starts), clean + length * pattern.views], dim=1)
    place = torch.cat([*(noisy_place + count * view for view in starts), clean_place + count * pattern.views], dim=1)
    labels = (pattern.document, pattern.block, pattern.view, pattern.position, pattern.source)
    read = place.gather(1, pattern.predicted_at.flatten(1)).view_as(pattern.predicted_at)
    return AttentionPattern(*(label.gather(1, kept) for label in labels), read, pattern.scorable)


def _wanted(document: Tensor, block: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] bool each: the token's block holds a scored token; a later block of its document does."""
    # blocks numbered along the row: a new one starts where the document or the block changes
    new = (document.diff(dim=1) != 0) | (block.diff(dim=1) != 0)
    number = torch.nn.functional.pad(new.long().cumsum(dim=1), (1, 0))
    noisy = torch.zeros_like(number).scatter_add_(1, number, scored.long()).gather(1, number) > 0
    last = torch.full_like(number, -1).scatter_reduce_(
        1, document.clamp(min=0), torch.where(scored, block, -1), "amax", include_self=True
    )
    return noisy, (block < last.gather(1, document.clamp(min=0))) & (document >= 0)


def _gathered(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """wanted [B, L] bool → (held [B, N], place [B, L]): the wanted tokens in order, N the most of any row, in multiples
    of `GRAIN` (rows are filled with other tokens of theirs, which nobody reads), and each wanted token's index in `held`."""
    count = max(int(wanted.sum(dim=1).max()), 1)
    count = min(-(-count // GRAIN) * GRAIN, wanted.shape[1])
    order = (~wanted).long().sort(dim=1, stable=True).indices
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
    return order[:, :count], place.clamp(max=count - 1)
