"""Attention in the form that suits the device: who may attend to whom is a `AttentionPattern`'s, how it is computed is decided here.

Four forms, one function. Dense: `F.scaled_dot_product_attention` with a [B, S, K] mask, the plain twin of the others.
Tiles (CPU): a tile of queries at a time, only against keys that one of them sees; for short rows their scores are written
down, which is quickest. Halves (CPU): a block diffusion without the quadrants that are closed throughout. FlexAttention
(CUDA): closed tiles are skipped in one fused kernel (https://pytorch.org/blog/flexattention/).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import flex_attention as flex

from dllm_core.compute.transfer import to_device
from dllm_core.patterns import AttentionPattern, MaskTerms

TILE = 128  # queries of a tile
LEAST = 16  # elements of a head that FlexAttention's kernels want
# scores of a head, in one row and in all of a batch, up to which they are written down; beyond, flash attention saves
# the memory
EXPLICIT, EXPLICIT_IN_ALL = 2**20, 2**22


@dataclass(frozen=True)
class Tiles:
    """A mask cut by queries. Each tile: queries (a slice), the keys open to any of them in any row of the batch (a slice or
    int64 indices), and what to add to the scores [B, s, k], 0 where open and −inf where closed; in bool, True where open,
    if scores are not `written` down. shape: the mask's, (B, S, K)."""

    tiles: list[tuple[slice, slice | Tensor, Tensor]]
    shape: torch.Size
    written: bool

    @classmethod
    def of(cls, mask: Tensor) -> "Tiles":
        """Of a mask [B, S, K] bool."""
        return cls.from_rows(lambda queries: mask[:, queries], mask.shape)

    @classmethod
    def from_rows(cls, rows: Callable[[slice], Tensor], shape: tuple[int, int, int], size: int = TILE) -> "Tiles":
        """Of `rows`, which gives those of a mask for some queries, [B, s, K] bool; so a mask need not be there as a whole.
        shape: of the mask. Every query must see a key."""
        made, scores = [], shape[1] * shape[2]
        written = scores <= EXPLICIT and shape[0] * scores <= EXPLICIT_IN_ALL
        for start in range(0, shape[1], size):
            queries = slice(start, start + size)
            seen = rows(queries)
            keys = seen.any(dim=0).any(dim=0).nonzero()[:, 0]
            first, last = int(keys[0]), int(keys[-1]) + 1
            keys = slice(first, last) if last - first == len(keys) else keys
            seen = seen[:, :, keys].clone()  # without the columns that nobody sees
            made.append((queries, keys, torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf) if written else seen))
        return cls(made, torch.Size(shape), written)


class Halves(NamedTuple):
    """A block diffusion's mask without the quadrants that are closed throughout: the clean half never looks at noisy
    views, and these never at each other.

    clean: of [B, C, C], the clean half's own mask; None where it asks nothing, see `last_layer`. noisy: of [B·V, N, C + N],
    each view's to the clean half and to itself. views, size: V, N.
    """

    clean: Tiles | None
    noisy: Tiles
    views: int
    size: int


Mask = Tensor | Tiles | Halves | flex.BlockMask


def labels_to(pattern: AttentionPattern, device: torch.device | str) -> AttentionPattern:
    """The pattern with the labels that a forward needs on `device`; `source` and where predictions are read stay."""
    labels = ("document", "block", "view", "position")
    return replace(pattern, **{name: to_device(getattr(pattern, name), device) for name in labels})


def prepared(pattern: AttentionPattern) -> Mask:
    """The pattern's mask in the form that `attend` is fastest with on the pattern's device."""
    if pattern.document.is_cuda:
        return block_mask(pattern)
    if pattern.document.device.type != "cpu":
        return pattern.mask()
    if not pattern.view.any():
        length = pattern.view.shape[1]
        return Tiles.from_rows(lambda queries: part_of_mask(pattern, queries, slice(None)), (len(pattern.view), length, length))
    return halves(pattern)


def part_of_mask(pattern: AttentionPattern, queries, keys) -> Tensor:
    """The part [B, queries, keys] of the pattern's mask, of elements chosen by slices or int64 indices."""
    labels = (pattern.document, pattern.block, pattern.view)
    return MaskTerms.of([label[:, queries, None] for label in labels], [label[:, None, keys] for label in labels]).open


def last_layer(mask: Mask, pattern: AttentionPattern, queries: int) -> tuple[Mask, int]:
    """(mask, Q) of a layer of which no more than the first Q elements are read: the others are keys and values alone.

    mask: what `prepared` made of the pattern. queries: a block diffusion's noisy elements. Q is all of them where the
    form of the mask has nothing to save."""
    if isinstance(mask, Halves):
        return mask._replace(clean=None), queries
    if isinstance(mask, flex.BlockMask):
        return asked_first(mask, queries), queries
    return mask, pattern.view.shape[1]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """softmax(q kᵀ / √D) v where the mask is open. q: [B, H, S, D]; k, v: [B, G, K, D], G a divisor of H → [B, H, S, D]."""
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Halves):
        return _by_halves(q, k, v, mask)
    if isinstance(mask, flex.BlockMask):
        return _flexible(q, k, v, mask, grouped)
    if isinstance(mask, Tiles):
        return _Tiled.apply(q, k, v, mask) if mask.written else _by_tiles(q, k, v, mask, grouped)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=grouped)


def halves(pattern: AttentionPattern) -> Halves:
    """The two open parts of a block diffusion's mask. pattern: elements in the order of `patterns.block_diffusion`."""
    (batch, length), noisy = pattern.view.shape, int((pattern.view[0] > 0).sum())
    size, clean = noisy // pattern.views, torch.arange(noisy, length)
    views = torch.arange(noisy).split(size)

    def own(queries: slice) -> Tensor:
        each = [part_of_mask(pattern, view[queries], torch.cat([clean, view])) for view in views]
        return torch.stack(each, dim=1).flatten(0, 1)

    return Halves(
        Tiles.from_rows(lambda queries: part_of_mask(pattern, clean[queries], clean), (batch, len(clean), len(clean))),
        Tiles.from_rows(own, (batch * pattern.views, size, len(clean) + size)), pattern.views, size,
    )  # fmt: skip


def _by_halves(q: Tensor, k: Tensor, v: Tensor, mask: Halves) -> Tensor:
    """The clean half against itself, then every noisy view, as a row of its own, against the clean half and itself.
    q: [B, H, V·N + C, D], or without the clean half's where the mask has none."""
    views, noisy = mask.views, mask.views * mask.size
    apart = lambda part: part[:, :, :noisy].unflatten(2, (views, -1)).transpose(1, 2).flatten(0, 1)
    beside = lambda part: part[:, None, :, noisy:].expand(-1, views, -1, -1, -1).flatten(0, 1)
    seen = lambda part: torch.cat([beside(part), apart(part)], dim=2)
    own = attend(apart(q), seen(k), seen(v), mask.noisy).unflatten(0, (-1, views)).transpose(1, 2).flatten(2, 3)
    if mask.clean is None:
        return own
    clean = attend(q[:, :, noisy:], k[:, :, noisy:], v[:, :, noisy:], mask.clean)
    return torch.cat([own, clean], dim=2)


def block_mask(pattern: AttentionPattern) -> flex.BlockMask:
    """The rule of `patterns` for FlexAttention, which finds out once per forward which tiles of the mask are closed."""
    labels = [label.int() for label in (pattern.document, pattern.block, pattern.view)]

    def may_attend(b, h, q, k):
        return MaskTerms.of([label[b, q] for label in labels], [label[b, k] for label in labels]).open

    batch, length = pattern.view.shape
    create = _fused(flex.create_block_mask, pattern.view.device.type)
    return create(may_attend, batch, None, length, length, device=pattern.view.device)


def asked_first(mask: flex.BlockMask, queries: int) -> flex.BlockMask:
    """The mask [B, S, K] as [B, queries, K], where only the first elements ask: its first rows of tiles."""
    rows = -(-queries // mask.BLOCK_SIZE[0])
    tiles = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    kept = [part if part is None else part[:, :, :rows].contiguous() for part in tiles]
    return flex.BlockMask.from_kv_blocks(
        *kept, BLOCK_SIZE=mask.BLOCK_SIZE, mask_mod=mask.mask_mod, seq_lengths=(queries, mask.seq_lengths[1])
    )


def _flexible(q: Tensor, k: Tensor, v: Tensor, mask: flex.BlockMask, grouped: bool) -> Tensor:
    """`attend` by FlexAttention, shapes as there. Its kernel for few queries is left out, which cannot take some numbers of them."""
    size, attention = q.shape[-1], _fused(flex.flex_attention, q.device.type)
    if size < LEAST:
        q, k, v = (F.pad(part, (0, LEAST - size)) for part in (q, k, v))
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    y = attention(q, k, v, block_mask=mask, scale=size**-0.5, enable_gqa=grouped, kernel_options=options)
    return y[..., :size]


def _fused(function: Callable, device: str) -> Callable:
    """FlexAttention, or what makes its masks, as one kernel where that is compiled (without it a mask is written down
    whole); the plain form on a CPU, which has no kernel for gradients."""
    if device != "cuda":
        return function
    # a kernel for each of: one row or several, short or long, with a gradient or without, each precision and head size;
    # beyond the limit Dynamo would fall back to writing all scores down. Set anew: it holds for one thread and context.
    if not torch.compiler.is_compiling():
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return _compiled(function)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


def _by_tiles(q: Tensor, k: Tensor, v: Tensor, mask: Tiles, grouped: bool) -> Tensor:
    """`attend` a tile at a time, no more of the scores kept than flash attention does."""
    each = [
        F.scaled_dot_product_attention(
            q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=seen[:, None], enable_gqa=grouped
        )
        for queries, keys, seen in mask.tiles
    ]
    return torch.cat(each, dim=2)


class _Tiled(torch.autograd.Function):
    """softmax tile by tile, every score of a tile written down. Heads that share keys are one product: [B·G, H/G·s, D]."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tiles) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            y, ps = torch.empty_like(q, memory_format=torch.contiguous_format), []
            for queries, keys, bias in mask.tiles:
                q_, k_, v_ = _tile(q, k, queries), k[:, :, keys].flatten(0, 1), v[:, :, keys].flatten(0, 1)
                scores = torch.bmm(q_ * q.shape[-1] ** -0.5, k_.mT)
                scores.view(len(bias), q.shape[1], *bias.shape[1:]).add_(bias[:, None])
                ps.append(scores.softmax(dim=-1))
                y[:, :, queries] = torch.bmm(ps[-1], v_).view(y[:, :, queries].shape)
            ctx.save_for_backward(q, k, v, *ps)
            ctx.mask = mask
            return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        q, k, v, *ps = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            scale, for_q = q.shape[-1] ** -0.5, torch.empty_like(q, memory_format=torch.contiguous_format)
            for_k, for_v = torch.zeros_like(k), torch.zeros_like(v)
            for (queries, keys, _), p in zip(ctx.mask.tiles, ps, strict=True):
                q_, k_, v_ = _tile(q, k, queries), k[:, :, keys].flatten(0, 1), v[:, :, keys].flatten(0, 1)
                for_y = _tile(gradient, k, queries)
                for_scores = torch._softmax_backward_data(torch.bmm(for_y, v_.mT), p, -1, p.dtype)
                for_q[:, :, queries] = torch.bmm(for_scores, k_).mul_(scale).view(for_q[:, :, queries].shape)
                for_k[:, :, keys] += torch.bmm(for_scores.mT, q_ * scale).unflatten(0, k.shape[:2])
                for_v[:, :, keys] += torch.bmm(p.mT, for_y).unflatten(0, k.shape[:2])
            return for_q, for_k, for_v, None


def _tile(part: Tensor, k: Tensor, queries: slice) -> Tensor:
    """[B, H, S, D] → [B·G, H/G·s, D]: the tile's queries, under the heads of k [B, G, K, D]."""
    batch, _, _, size = part.shape
    return part[:, :, queries].reshape(batch * k.shape[1], -1, size)
