"""Who may attend to whom, where each token stands and where its prediction is read: attention as data.

Every pattern of this project is one rule over three labels per element (document, block, view), the mask of LLaDA 2.0
Eq. 3 (arXiv 2512.15745; first in BD3LM, arXiv 2503.09573). An element q may see k when both are of one document and

    own_block:      same view and same block, or
    earlier_clean:  k is clean (view 0) and its block comes before q's.

causal = blocks of 1; bidirectional = one block; block-causal = blocks of L_B; block diffusion = noisy views 1, 2, …
beside the clean half. Block indices count from each document's start, so packing changes no document's logits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Labels of S elements (S = L, or (views + 1)·L for block diffusion: noisy views first, the clean half last).

    document, block, view, position: [B, S] int64 (position: RoPE position within the document; document −1: padding).
    read: [B, V, L] int64, the element whose logits predict token i of view v.
    scorable: [B, L] bool, False where no element can predict the token (the first of a document under the label shift).
    """

    document: Tensor
    block: Tensor
    view: Tensor
    position: Tensor
    read: Tensor
    scorable: Tensor

    @property
    def views(self) -> int:
        return self.read.shape[1]

    def mask(self) -> Tensor:
        """[B, S, S] bool, True where row may attend to column."""
        same_document = _pairs(self.document, torch.eq)
        same_view = _pairs(self.view, torch.eq)
        own_block = same_view & _pairs(self.block, torch.eq)
        earlier_clean = (self.view == 0)[:, None, :] & _pairs(self.block, torch.gt)
        return same_document & (own_block | earlier_clean)


def _pairs(labels: Tensor, compare) -> Tensor:
    return compare(labels[:, :, None], labels[:, None, :])


def block_causal(document: Tensor, position: Tensor, block_size: int, label_shift: bool = False) -> Pattern:
    """One copy of the row; each token sees its own block and all earlier ones. document, position: [B, L].

    With `label_shift` token i is read at row i − 1 (a causal model's habit), else at its own row.
    """
    batch, length = position.shape
    own = torch.arange(length, device=position.device).expand(batch, length)
    read = (own - 1).clamp(min=0) if label_shift else own
    scorable = (position > 0) if label_shift else torch.ones_like(position, dtype=torch.bool)
    block = position // block_size
    return Pattern(document, block, torch.zeros_like(block), position, read[:, None], scorable & (document >= 0))


def causal(document: Tensor, position: Tensor) -> Pattern:
    """AR: blocks of one token, labels shifted by one."""
    return block_causal(document, position, 1, label_shift=True)


def bidirectional(document: Tensor, position: Tensor, label_shift: bool = False) -> Pattern:
    """Full attention within each document (LLaDA Eq. 3; LLaDA 2.0 Eq. 2 and 4): one block, no clean half."""
    return block_causal(document, position, max(position.shape[1], int(position.max()) + 1), label_shift)


def block_diffusion(
    document: Tensor, position: Tensor, block_size: int, views: int = 1, label_shift: bool = False
) -> Pattern:
    """[x_t ; x_0]: `views` noisy copies, then the clean half (LLaDA 2.0 Eq. 1 with the mask of Eq. 3).

    Noisy views never see each other, so complementary views share one clean half: (views + 1)·L elements.
    With `label_shift` token i is read at row i − 1: of its own noisy view inside a block, of the clean half for a
    block's first token; at block size 1 that is AR exactly.
    """
    batch, length = position.shape
    own = torch.arange(length, device=position.device).expand(batch, length)
    noisy = [own + view * length for view in range(views)]
    if label_shift:
        clean = own + views * length
        first_of_block = position % block_size == 0
        noisy = [(torch.where(first_of_block, clean, row) - 1).clamp(min=0) for row in noisy]
    scorable = (position > 0) if label_shift else torch.ones_like(position, dtype=torch.bool)
    copies = views + 1
    view = torch.arange(1, copies + 1, device=position.device) % copies  # 1, …, views, then 0 = clean
    return Pattern(
        document=document.repeat(1, copies),
        block=(position // block_size).repeat(1, copies),
        view=view.repeat_interleave(length).expand(batch, copies * length),
        position=position.repeat(1, copies),
        read=torch.stack(noisy, dim=1),
        scorable=scorable & (document >= 0),
    )
