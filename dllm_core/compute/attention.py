"""Attention in the form that is fastest on the device. Who may attend to whom is an `AttentionPattern`'s.

Four forms, one function `attend`. Dense: `F.scaled_dot_product_attention` with a [B, S, K] mask, the reference for the
others. Tiles (CPU): a tile of queries at a time, against only the keys that one of them sees; for short rows all scores
are materialized, which is fastest. Halves (CPU): a block diffusion without the quadrants of its mask that are entirely
closed. FlexAttention (CUDA): one fused kernel that skips closed tiles (https://pytorch.org/blog/flexattention/).
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
MIN_HEAD = 16  # smallest head dimension of FlexAttention's kernels
# The most scores of a head, of one row and of a batch, that are materialized; flash attention needs less memory beyond.
MAX_SCORES, MAX_BATCH_SCORES = 2**20, 2**22


@dataclass(frozen=True)
class Tiles:
    """A mask [B, S, K] cut along its queries.

    tiles: of each the queries (a slice), the keys that any of them sees in any row (a slice or int64 indices), and its
    mask: float [B, s, k] to add to the scores (0 or −inf) where `materialize`, else bool. shape: the mask's (B, S, K).
    """

    tiles: list[tuple[slice, slice | Tensor, Tensor]]
    shape: torch.Size
    materialize: bool

    @classmethod
    def of(cls, rows: Callable[[slice], Tensor], shape: tuple[int, int, int]) -> "Tiles":
        """Tiles of a mask that need not exist as a whole: `rows` returns its part [B, s, K] bool for a slice of
        queries. Every query must see a key."""
        tiles, scores = [], shape[1] * shape[2]
        materialize = scores <= MAX_SCORES and shape[0] * scores <= MAX_BATCH_SCORES
        for start in range(0, shape[1], TILE):
            queries = slice(start, start + TILE)
            part = rows(queries)
            keys = part.any(dim=0).any(dim=0).nonzero()[:, 0]
            first, last = int(keys[0]), int(keys[-1]) + 1
            keys = slice(first, last) if last - first == len(keys) else keys
            part = part[:, :, keys].clone()  # so that the other columns are freed
            if materialize:
                part = torch.zeros(part.shape).masked_fill_(~part, -torch.inf)
            tiles.append((queries, keys, part))
        return cls(tiles, torch.Size(shape), materialize)


class Halves(NamedTuple):
    """A block diffusion's mask without its closed quadrants: neither the clean half nor another view sees a view."""

    clean: Tiles | None  # of [B, C, C], the clean half to itself; None where it has no queries (`last_layer_mask`)
    noisy: Tiles  # of [B·V, N, C + N], each view to the clean half and itself
    views: int  # V
    size: int  # N


Mask = Tensor | Tiles | Halves | flex.BlockMask


# --- masks from patterns ----------------------------------------------------------------------------------------------


def labels_to(pattern: AttentionPattern, device: torch.device | str) -> AttentionPattern:
    """The pattern with the labels that a forward needs on `device`; `source` and where predictions are read stay."""
    labels = ("document", "block", "view", "position")
    return replace(pattern, **{name: to_device(getattr(pattern, name), device) for name in labels})


def prepare_mask(pattern: AttentionPattern) -> Mask:
    """The pattern's mask in the form that is fastest on the pattern's device."""
    if pattern.document.is_cuda:
        return block_mask(pattern)
    if pattern.document.device.type != "cpu":
        return pattern.mask()
    batch, length = pattern.view.shape
    if pattern.view.any():
        return halves(pattern)
    return Tiles.of(lambda queries: pattern.terms(queries).open, (batch, length, length))


def last_layer_mask(mask: Mask, pattern: AttentionPattern, queries: int) -> tuple[Mask, int]:
    """(mask, Q) of a last layer whose states are read only among the first Q elements; the others are keys and values.

    mask: of `prepare_mask`. queries: a block diffusion's noisy elements; Q is all elements where the mask's form saves
    nothing."""
    if isinstance(mask, Halves):
        return mask._replace(clean=None), queries
    if isinstance(mask, flex.BlockMask):
        return first_query_tiles(mask, queries), queries
    return mask, pattern.view.shape[1]


def halves(pattern: AttentionPattern) -> Halves:
    """The two open parts of a block diffusion's mask. pattern: elements in the order of `patterns.block_diffusion`."""
    (batch, length), noisy = pattern.view.shape, int((pattern.view[0] > 0).sum())
    size, clean = noisy // pattern.views, torch.arange(noisy, length)
    views = torch.arange(noisy).split(size)

    def noisy_rows(queries: slice) -> Tensor:
        parts = [pattern.terms(view[queries], torch.cat([clean, view])).open for view in views]
        return torch.stack(parts, dim=1).flatten(0, 1)

    def clean_rows(queries: slice) -> Tensor:
        return pattern.terms(clean[queries], clean).open

    clean_mask = Tiles.of(clean_rows, (batch, len(clean), len(clean)))
    noisy_mask = Tiles.of(noisy_rows, (batch * pattern.views, size, len(clean) + size))
    return Halves(clean_mask, noisy_mask, pattern.views, size)


def block_mask(pattern: AttentionPattern) -> flex.BlockMask:
    """The pattern's mask for FlexAttention, which determines once per forward which tiles are closed."""
    labels = [label.int() for label in (pattern.document, pattern.block, pattern.view)]

    def may_attend(b, h, q, k):
        return MaskTerms.of([label[b, q] for label in labels], [label[b, k] for label in labels]).open

    batch, length = pattern.view.shape
    create = _fused(flex.create_block_mask, pattern.view.device.type)
    return create(may_attend, batch, None, length, length, device=pattern.view.device)


def first_query_tiles(mask: flex.BlockMask, queries: int) -> flex.BlockMask:
    """The mask [B, S, K] cut to its first queries, [B, queries, K]: its first rows of tiles."""
    rows = -(-queries // mask.BLOCK_SIZE[0])
    tiles = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    first = [part if part is None else part[:, :, :rows].contiguous() for part in tiles]
    return flex.BlockMask.from_kv_blocks(
        *first, BLOCK_SIZE=mask.BLOCK_SIZE, mask_mod=mask.mask_mod, seq_lengths=(queries, mask.seq_lengths[1])
    )


# --- attention --------------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """softmax(q kᵀ / √D) v where the mask is open; q [B, H, S, D], k, v [B, G, K, D], G divides H → [B, H, S, D]."""
    if isinstance(mask, Halves):
        return _attend_halves(q, k, v, mask)
    if isinstance(mask, Tiles) and mask.materialize:
        return _MaterializedTiles.apply(q, k, v, mask)
    if isinstance(mask, Tiles):  # a tile at a time by flash attention, which keeps no scores
        parts = [attend(q[:, :, rows], k[:, :, keys], v[:, :, keys], tile) for rows, keys, tile in mask.tiles]
        return torch.cat(parts, dim=2)
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, flex.BlockMask):
        return _flex_attend(q, k, v, mask, grouped)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=grouped)


def _attend_halves(q: Tensor, k: Tensor, v: Tensor, mask: Halves) -> Tensor:
    """The noisy views, each as a row of the batch, against the clean half and themselves; then the clean half.
    q: [B, H, V·N + C, D], or [B, H, V·N, D] where the clean half has no queries."""
    views, noisy = mask.views, mask.views * mask.size

    def as_rows(part: Tensor) -> Tensor:  # [B, H, V·N, D] → [B·V, H, N, D]
        return part[:, :, :noisy].unflatten(2, (views, -1)).transpose(1, 2).flatten(0, 1)

    def with_clean(part: Tensor) -> Tensor:  # → [B·V, H, C + N, D]
        clean = part[:, None, :, noisy:].expand(-1, views, -1, -1, -1).flatten(0, 1)
        return torch.cat([clean, as_rows(part)], dim=2)

    y = attend(as_rows(q), with_clean(k), with_clean(v), mask.noisy)
    y = y.unflatten(0, (-1, views)).transpose(1, 2).flatten(2, 3)
    if mask.clean is None:
        return y
    y_clean = attend(q[:, :, noisy:], k[:, :, noisy:], v[:, :, noisy:], mask.clean)
    return torch.cat([y, y_clean], dim=2)


def _flex_attend(q: Tensor, k: Tensor, v: Tensor, mask: flex.BlockMask, grouped: bool) -> Tensor:
    """`attend` by FlexAttention. Its own kernel for few queries fails for some numbers of them and is off."""
    size, attention = q.shape[-1], _fused(flex.flex_attention, q.device.type)
    if size < MIN_HEAD:
        q, k, v = (F.pad(part, (0, MIN_HEAD - size)) for part in (q, k, v))
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    y = attention(q, k, v, block_mask=mask, scale=size**-0.5, enable_gqa=grouped, kernel_options=options)
    return y[..., :size]


def _fused(function: Callable, device: str) -> Callable:
    """A function of FlexAttention, compiled into one kernel on CUDA. Uncompiled it materializes the mask or all scores;
    a CPU has no kernel with gradients."""
    if device != "cuda":
        return function
    # One kernel each for: one row or several, short or long, with a gradient or without, every precision and head size.
    # Beyond the limit Dynamo would fall back to materialized scores. The limit holds for one thread and context only.
    if not torch.compiler.is_compiling():
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return _compiled(function)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


class _MaterializedTiles(torch.autograd.Function):
    """`attend` a tile at a time with materialized scores. Heads that share keys are one product: [B·G, H/G·s, D]."""

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
    def backward(ctx, grad_y: Tensor):
        q, k, v, *ps = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            scale, grad_q = q.shape[-1] ** -0.5, torch.empty_like(q, memory_format=torch.contiguous_format)
            grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
            for (queries, keys, _), p in zip(ctx.mask.tiles, ps, strict=True):
                q_, k_, v_ = _tile(q, k, queries), k[:, :, keys].flatten(0, 1), v[:, :, keys].flatten(0, 1)
                grad_tile = _tile(grad_y, k, queries)
                grad_scores = torch._softmax_backward_data(torch.bmm(grad_tile, v_.mT), p, -1, p.dtype)
                grad_q[:, :, queries] = torch.bmm(grad_scores, k_).mul_(scale).view(grad_q[:, :, queries].shape)
                grad_k[:, :, keys] += torch.bmm(grad_scores.mT, q_ * scale).unflatten(0, k.shape[:2])
                grad_v[:, :, keys] += torch.bmm(p.mT, grad_tile).unflatten(0, k.shape[:2])
            return grad_q, grad_k, grad_v, None


def _tile(part: Tensor, k: Tensor, queries: slice) -> Tensor:
    """[B, H, S, D] → [B·G, H/G·s, D]: the tile's queries, grouped by the heads of k [B, G, K, D]."""
    batch, _, _, size = part.shape
    return part[:, :, queries].reshape(batch * k.shape[1], -1, size)
