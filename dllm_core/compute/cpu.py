"""What a CPU can do faster than PyTorch's own operations: RMSNorm and RoPE with hand-written gradients, matrix products
by the quicker of two libraries, memory that stays mapped.

The same functions as `F.rms_norm` and the textbook rotation, which stand beside them and are used on other devices and,
in training, for weights in half precision; gradients of gradients are not offered. `attention` holds the rest of a layer's work.
"""

import contextlib
import ctypes
import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS, SIZE = 32, 2**14  # rows and elements (rows × width) from which oneDNN's products are worth their start


def plain_cpu(x: Tensor) -> bool:
    """Whether the hand-written operations are for x: float32 on a CPU, and not being compiled."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def half_in_inference(x: Tensor) -> bool:
    """Whether x is bfloat16 in inference on a CPU, which is slow where numbers of two precisions meet in one operation:
    turned into float32 as a whole first, and back at the end, it is quicker and rounds once."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_inference_mode_enabled()


@contextlib.contextmanager
def onednn_matmul(rows: int, width: int, device: torch.device):
    """Within it, float32 matrix products of matrices [rows, width] on a CPU go to the quicker library, in float32 all the
    same. On another device it does nothing: the setting for oneDNN makes PyTorch refuse to compile FlexAttention.

    Left alone PyTorch asks MKL, which does not use the AVX-512 of other makers' processors; allowed bfloat16, it asks
    oneDNN, which takes the permission only where the processor has matrix units for it (AMX). There MKL stays.
    """
    if torch.compiler.is_compiling() or device.type != "cpu" or rows < ROWS or rows * width < SIZE or not by_onednn():
        yield
        return
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@functools.cache
def by_onednn() -> bool:
    """Whether oneDNN is there and, allowed bfloat16, keeps to float32 on this processor: seen by a product, not assumed."""
    setting, a = torch.backends.mkldnn.matmul, torch.linspace(-1, 1, 64 * 64).view(64, 64)
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):  # the first to ask may stand within one
            product = (a @ a).double()
    finally:
        setting.fp32_precision = before
    return torch.backends.mkldnn.is_available() and bool((product - a.double() @ a.double()).abs().max() < 1e-4)


@functools.cache
def bfloat16_units() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own (AVX-512 BF16 or AMX)."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@functools.cache
def keep_memory() -> None:
    """Let the process keep freed memory (glibc alone). A training step frees and asks for the same tensors again; given
    back in between, every page of them is mapped and cleared anew, which costs more than many an operation on it."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back from the heap's top
        mallopt(-3, 2**30) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, 1 GiB: none of their own below (older: 32 MiB)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · gain over the last dimension; x [..., D], gain [D] → [..., D] in the gain's precision."""
    x = x.to(gain.dtype)  # under autocast they differ, and PyTorch's fused kernels ask for one
    if half_in_inference(x):
        return _normed(x.float(), gain.float(), eps)[0].to(x.dtype)
    if not plain_cpu(x):
        return F.rms_norm(x, gain.shape, gain, eps)
    # in inference an autograd function is overhead alone
    return _normed(x, gain, eps)[0] if torch.is_inference_mode_enabled() else _RMSNorm.apply(x, gain, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [B, H, S, D] with cos, sin [B, 1, S, D/2]; pairs are (i, i + D/2) as in Qwen3."""
    if half_in_inference(x):
        return _turn(x.float(), cos, sin, 1).to(x.dtype)
    if plain_cpu(x):
        return _turn(x, cos, sin, 1) if torch.is_inference_mode_enabled() else _Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        y, scale = _normed(x, gain, eps)
        ctx.save_for_backward(x, gain, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, gain, scale = ctx.saved_tensors
        unit = x * scale
        for_gain = gradient * unit
        along = (for_gain @ gain)[..., None] / x.shape[-1]  # the part of the gradient that only changes x's length
        for_x = (gradient * gain).sub_(unit.mul_(along)).mul_(scale)
        return for_x, for_gain.reshape(-1, x.shape[-1]).sum(dim=0), None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, -1), None, None  # a rotation's gradient is rotated back


def _normed(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(gain), scale


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.empty_like(x, memory_format=torch.contiguous_format)
    a, b = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=a).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=b).addcmul_(first, sin, value=direction)
    return turned
