"""Who may attend to whom, where each token stands and where its prediction is read: attention as data.

Every pattern of this project is one rule over three labels per element (document, block, view), the mask of LLaDA 2.0
Eq. 3 (arXiv 2512.15745; first in BD3LM, arXiv 2503.09573). An element q may see k when both are of one document and

    own_block:      same view and same block, or
    earlier_clean:  k is clean (view 0) and its block comes before q's.

causal = blocks of 1; bidirectional = one block; block-causal = blocks of L_B; block diffusion = noisy views 1, 2, …
beside the clean half. Block indices count from each document's start, so packing changes no document's logits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Labels of S elements (S = L, or up to (views + 1)·L for block diffusion: noisy views first, the clean half last).

    document, block, view, position: [B, S] int64 (position: RoPE position within the document; document −1: padding).
    source: [B, S] int64, the token of the row that the element is a copy of, in its view.
    read: [B, V, L] int64, the element whose logits predict token i of view v.
    scorable: [B, L] bool, False where no element can predict the token (the first of a document under the label shift).
    """

    document: Tensor
    block: Tensor
    view: Tensor
    position: Tensor
    source: Tensor
    read: Tensor
    scorable: Tensor

    @property
    def views(self) -> int:
        return self.read.shape[1]

    def terms(self) -> "Terms":
        """What the rule asks of every pair of elements, each answer under its name."""
        ask = lambda labels, compare: compare(labels[:, :, None], labels[:, None, :])
        return Terms(
            same_document=ask(self.document, torch.eq),
            same_view=ask(self.view, torch.eq),
            same_block=ask(self.block, torch.eq),
            earlier_block=ask(self.block, torch.gt),
            clean=(self.view == 0)[:, None, :],
        )

    def mask(self) -> Tensor:
        """[B, S, S] bool, True where row may attend to column."""
        of = self.terms()
        return of.same_document & (of.own_block | of.earlier_clean)


class Terms(NamedTuple):
    """The terms of the rule for every query q (row) and key k (column), [B, S, S] bool each; clean: [B, 1, S].

    earlier_block: k's block comes before q's; clean: k is of the clean half.
    """

    same_document: Tensor
    same_view: Tensor
    same_block: Tensor
    earlier_block: Tensor
    clean: Tensor

    @property
    def own_block(self) -> Tensor:
        return self.same_view & self.same_block

    @property
    def earlier_clean(self) -> Tensor:
        return self.clean & self.earlier_block


def block_causal(document: Tensor, position: Tensor, block_size: int, label_shift: bool = False) -> Pattern:
    """One copy of the row; each token sees its own block and all earlier ones. document, position: [B, L].

    With `label_shift` token i is read at row i − 1 (a causal model's habit), else at its own row.
    """
    batch, length = position.shape
    own = torch.arange(length, device=position.device).expand(batch, length)
    read = (own - 1).clamp(min=0) if label_shift else own
    scorable = (position > 0) if label_shift else torch.ones_like(position, dtype=torch.bool)
    block = position // block_size
    return Pattern(document, block, torch.zeros_like(block), position, own, read[:, None], scorable & (document >= 0))


def causal(document: Tensor, position: Tensor) -> Pattern:
    """AR: blocks of one token, labels shifted by one."""
    return block_causal(document, position, 1, label_shift=True)


def bidirectional(document: Tensor, position: Tensor, label_shift: bool = False) -> Pattern:
    """Full attention within each document (LLaDA Eq. 3; LLaDA 2.0 Eq. 2 and 4): one block, no clean half."""
    return block_causal(document, position, max(position.shape[1], int(position.max()) + 1), label_shift)


def block_diffusion(
    document: Tensor,
    position: Tensor,
    block_size: int,
    views: int = 1,
    label_shift: bool = False,
    scored: Tensor | None = None,
) -> Pattern:
    """[x_t ; x_0]: `views` noisy copies, then the clean half (LLaDA 2.0 Eq. 1 with the mask of Eq. 3).

    Noisy views never see each other, so complementary views share one clean half: (views + 1)·L elements.
    With `label_shift` token i is read at row i − 1: of its own noisy view inside a block, of the clean half for a
    block's first token; at block size 1 that is AR exactly.
    scored: [B, L] bool; given it, noisy views hold only the blocks in which a token is scored, and the clean half only
    the blocks before a document's last such block. Nothing that is scored ever looks at the others, so no logit
    changes; a prompt's noisy copy and an answer's clean end cost nothing.
    """
    batch, length = position.shape
    block = position // block_size
    # 1. the tokens that the noisy views and the clean half hold, [B, N] and [B, C], and where each token went, [B, L]
    own = torch.arange(length, device=position.device).expand(batch, length)
    noisy, noisy_place, clean, clean_place = own, own, own, own
    if scored is not None:
        noisy_wanted, clean_wanted = _wanted(document, block, scored)
        (noisy, noisy_place), (clean, clean_place) = _gathered(noisy_wanted), _gathered(clean_wanted)
    count = noisy.shape[1]
    # 2. where each token's prediction is read
    read = [noisy_place + view * count for view in range(views)]
    if label_shift:
        before = [torch.roll(place, 1, dims=1) for place in (*read, clean_place + views * count)]
        first_of_block = position % block_size == 0
        read = [torch.where(first_of_block, before[-1], place) for place in before[:-1]]
    scorable = (position > 0) if label_shift else torch.ones_like(position, dtype=torch.bool)
    # 3. labels: noisy views 1, 2, …, then the clean half (view 0)
    label = lambda values: torch.cat([values.gather(1, noisy)] * views + [values.gather(1, clean)], dim=1)
    view = [torch.full_like(noisy, number + 1) for number in range(views)] + [torch.zeros_like(clean)]
    return Pattern(
        document=label(document),
        block=label(block),
        view=torch.cat(view, dim=1),
        position=label(position),
        source=label(own),
        read=torch.stack(read, dim=1),
        scorable=scorable & (document >= 0),
    )


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
    """wanted [B, L] bool → (held [B, N], place [B, L]): the wanted tokens in order, N the most of any row (shorter rows
    are filled with other tokens of theirs, which nobody reads), and each wanted token's index in `held`."""
    count = max(int(wanted.sum(dim=1).max()), 1)
    order = (~wanted).long().sort(dim=1, stable=True).indices
    place = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).to(order).expand_as(order))
    return order[:, :count], place.clamp(max=count - 1)
