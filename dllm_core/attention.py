"""Attention in the form that suits the device: who may attend to whom is a `Pattern`'s, how it is computed is decided here.

Four forms, one function. Dense: `F.scaled_dot_product_attention` with a [B, S, K] mask, the plain twin of the others.
Explicit: all scores written down, the quickest on a CPU for short rows. Halves: a block diffusion without the quadrants
that are closed throughout (CPU). FlexAttention (https://pytorch.org/blog/flexattention/): CUDA, closed tiles are skipped.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import flex_attention as flex

from dllm_core.kernels import ROWS, plain_cpu
from dllm_core.patterns import Pattern

EXPLICIT = 2**20  # scores per head up to which they are written down whole; beyond, flash attention saves the memory


class Halves(NamedTuple):
    """A block diffusion's mask without the quadrants that are closed throughout: the clean half never looks at noisy
    views, and these never at each other.

    clean: [B, C, C] bool, the clean half's own. noisy: [B, V, N, C + N] bool, each view's to the clean half and to itself.
    """

    clean: Tensor
    noisy: Tensor


Mask = Tensor | Halves | flex.BlockMask


def prepared(pattern: Pattern) -> Mask:
    """The pattern's mask in the form that `attend` is fastest with on the pattern's device."""
    if pattern.document.is_cuda:
        return block_mask(pattern)
    return halves(pattern) if pattern.view.any() and pattern.document.device.type == "cpu" else pattern.mask()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """softmax(q kᵀ / √D) v where the mask is open. q: [B, H, S, D]; k, v: [B, G, K, D], G a divisor of H → [B, H, S, D]."""
    grouped = q.shape[1] != k.shape[1]
    if isinstance(mask, Halves):
        return _by_halves(q, k, v, mask)
    if isinstance(mask, flex.BlockMask):
        return _flex(q.device.type)(q, k, v, block_mask=mask, enable_gqa=grouped)
    if plain_cpu(q) and q.shape[0] * q.shape[2] >= ROWS and mask.shape[-2] * mask.shape[-1] <= EXPLICIT:
        return _Explicit.apply(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=grouped)


def halves(pattern: Pattern) -> Halves:
    """The two open parts of a block diffusion's mask. pattern: elements in the order of `patterns.block_diffusion`."""
    noisy = int((pattern.view[0] > 0).sum())
    labels, size = (pattern.document, pattern.block, pattern.view), noisy // pattern.views
    of = lambda columns: Pattern(*(label[:, columns] for label in labels), *(None,) * 4).mask()
    clean = torch.arange(noisy, pattern.view.shape[1])
    views = [torch.cat([clean, torch.arange(start, start + size)]) for start in range(0, noisy, size)]
    return Halves(of(clean), torch.stack([of(columns)[:, len(clean) :] for columns in views], dim=1))


def _by_halves(q: Tensor, k: Tensor, v: Tensor, mask: Halves) -> Tensor:
    """The clean half against itself, then every noisy view, as a row of its own, against the clean half and itself."""
    batch, views, size, _ = mask.noisy.shape
    noisy = views * size
    apart = lambda part: part[:, :, :noisy].unflatten(2, (views, size)).transpose(1, 2).flatten(0, 1)
    beside = lambda part: part[:, None, :, noisy:].expand(-1, views, -1, -1, -1).flatten(0, 1)
    seen = lambda part: torch.cat([beside(part), apart(part)], dim=2)
    clean = attend(q[:, :, noisy:], k[:, :, noisy:], v[:, :, noisy:], mask.clean)
    own = attend(apart(q), seen(k), seen(v), mask.noisy.flatten(0, 1))
    return torch.cat([own.unflatten(0, (batch, views)).transpose(1, 2).flatten(2, 3), clean], dim=2)


def block_mask(pattern: Pattern) -> flex.BlockMask:
    """The rule of `patterns` for FlexAttention, which finds out once per forward which tiles of the mask are closed."""
    document, block, view = pattern.document, pattern.block, pattern.view

    def may_attend(b, h, q, k):
        own_block = (view[b, q] == view[b, k]) & (block[b, q] == block[b, k])
        earlier_clean = (view[b, k] == 0) & (block[b, k] < block[b, q])
        return (document[b, q] == document[b, k]) & (own_block | earlier_clean)

    batch, length = view.shape
    return flex.create_block_mask(may_attend, batch, None, length, length, device=view.device)


@functools.cache
def _flex(device: str):
    """FlexAttention: one fused kernel where it is compiled; the plain form of it on a CPU, which has no gradient kernel."""
    return torch.compile(flex.flex_attention, dynamic=True) if device == "cuda" else flex.flex_attention


class _Explicit(torch.autograd.Function):
    """Every score written down. Heads that share keys are one product: [B·G, (H/G)·S, D]."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        batch, heads, length, size = q.shape
        groups, keys = k.shape[1], k.shape[2]
        q_ = q.reshape(batch * groups, -1, size) * size**-0.5
        k_, v_ = k.reshape(batch * groups, keys, size), v.reshape(batch * groups, keys, size)
        bias = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        scores = torch.bmm(q_, k_.mT)
        scores.view(batch, heads, length, keys).add_(bias[:, None])
        p = scores.softmax(dim=-1)
        ctx.save_for_backward(q_, k_, v_, p)
        return torch.bmm(p, v_).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        q_, k_, v_, p = ctx.saved_tensors
        batch, heads, _, size = gradient.shape
        gradient = gradient.reshape(q_.shape)
        for_p = torch.bmm(gradient, v_.mT)
        for_scores = torch._softmax_backward_data(for_p, p, -1, p.dtype)
        for_q = torch.bmm(for_scores, k_).mul_(size**-0.5)
        for_k, for_v = torch.bmm(for_scores.mT, q_), torch.bmm(p.mT, gradient)
        shape = (batch, -1, k_.shape[1], size)
        return for_q.view(batch, heads, -1, size), for_k.view(shape), for_v.view(shape), None
