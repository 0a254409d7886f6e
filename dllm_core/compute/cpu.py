"""Operations that run faster on a CPU than PyTorch's own: RMSNorm and RoPE with hand-written gradients, float32 matrix
products by the faster of two libraries, the greatest of many numbers, memory that is kept.

The textbook forms, `F.rms_norm` and the rotation in `rotate`, are used on other devices and for training in half
precision. Gradients of gradients are not available.
"""

import contextlib
import ctypes
import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128  # numbers that `max_with_index` and `top_k` compare at once
MIN_ROWS, MIN_SIZE = 32, 2**14  # rows, and rows × width, from which oneDNN's products outweigh their overhead


def has_cpu_kernels(x: Tensor) -> bool:
    """Whether the hand-written operations apply to x: float32 on a CPU, and not being compiled."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def is_bfloat16_inference(x: Tensor) -> bool:
    """Whether x is bfloat16 in inference on a CPU, where operations on two precisions are slow: converted to float32
    once, and back at the end, they are faster and round once."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_inference_mode_enabled()


def onednn_matmul(rows: int, width: int, device: torch.device) -> contextlib.AbstractContextManager:
    """Within it, float32 products of matrices [rows, width] on a CPU use the faster library, still in float32. On other
    devices it does nothing: with the setting for oneDNN PyTorch would refuse to compile FlexAttention.

    By default PyTorch calls MKL, which does not use the AVX-512 of other makers' processors. Allowed bfloat16, it calls
    oneDNN, which uses the permission only on processors with matrix units for it (AMX). There MKL stays.
    """
    if torch.compiler.is_compiling() or device.type != "cpu":
        return contextlib.nullcontext()
    if rows < MIN_ROWS or rows * width < MIN_SIZE or not onednn_keeps_float32():
        return contextlib.nullcontext()
    return _bfloat16_allowed()


@contextlib.contextmanager
def _bfloat16_allowed():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@functools.cache
def onednn_keeps_float32() -> bool:
    """Whether oneDNN is available and, allowed bfloat16, computes in float32 on this processor, by a trial."""
    a = torch.linspace(-1, 1, 64 * 64).view(64, 64)
    with torch.autocast("cpu", enabled=False), _bfloat16_allowed():  # the first caller may be inside another autocast
        product = (a @ a).double()
    return torch.backends.mkldnn.is_available() and bool((product - a.double() @ a.double()).abs().max() < 1e-4)


@functools.cache
def bfloat16_units() -> bool:
    """Whether this CPU has instructions that multiply bfloat16 (AVX-512 BF16 or AMX)."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@functools.cache
def keep_memory() -> None:
    """Let the process keep freed memory (glibc only). A training step frees and allocates the same tensors again;
    memory returned in between is mapped and cleared page by page, which costs more than many operations on it."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: return nothing from the heap's top
        mallopt(-3, 2**30) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: no mapping below 1 GiB (older glibc: 32 MiB)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · gain over the last dimension; x [..., D], gain [D] → [..., D], in gain's dtype."""
    x = x.to(gain.dtype)  # under autocast they differ, and PyTorch's fused kernels need one precision
    if is_bfloat16_inference(x):
        return _normalize(x.float(), gain.float(), eps)[0].to(x.dtype)
    if not has_cpu_kernels(x):
        return F.rms_norm(x, gain.shape, gain, eps)
    if torch.is_inference_mode_enabled():  # there an autograd function is only overhead
        return _normalize(x, gain, eps)[0]
    return _RMSNorm.apply(x, gain, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [B, H, S, D] with cos, sin [B, 1, S, D/2]; pairs are (i, i + D/2) as in Qwen3."""
    if is_bfloat16_inference(x):
        return _rotate(x.float(), cos, sin, 1).to(x.dtype)
    if has_cpu_kernels(x):
        return _rotate(x, cos, sin, 1) if torch.is_inference_mode_enabled() else _Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def max_with_index(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x.max(dim=-1)` of [..., V]: (value, index), the first of equals.

    On a CPU PyTorch finds a maximum many numbers at a time, but its index one number after the other. So the chunk that
    holds the maximum is found first, and the index within it.
    """
    if x.device.type != "cpu" or x.shape[-1] % CHUNK or x.numel() < 2**16:
        return tuple(x.max(dim=-1))
    chunks = x.unflatten(-1, (-1, CHUNK))
    value, first = chunks.amax(dim=-1).max(dim=-1)
    inside = chunks.gather(-2, first[..., None, None].expand(*first.shape, 1, CHUNK)).argmax(dim=-1)[..., 0]
    return value, inside.add_(first, alpha=CHUNK)


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`x.topk(k, dim=-1)` of [..., V]: (values, indices) [..., k], the greatest first.

    On a CPU PyTorch sorts pairs of value and index. The k greatest are in the k chunks with the greatest maxima, so only
    those are sorted.
    """
    if x.device.type != "cpu" or x.shape[-1] % CHUNK or x.shape[-1] <= k * CHUNK or x.numel() < 2**16:
        return tuple(x.topk(k, dim=-1))
    chunks = x.unflatten(-1, (-1, CHUNK))
    first = chunks.amax(dim=-1).topk(k, dim=-1).indices
    values, inside = chunks.gather(-2, first[..., None].expand(*first.shape, CHUNK)).flatten(-2).topk(k, dim=-1)
    return values, first.gather(-1, inside // CHUNK).mul_(CHUNK).add_(inside % CHUNK)


def logits_rows(vocab_size: int, device: torch.device) -> int:
    """How many rows of logits [·, V] are computed at a time: as many as a processor's cache holds, or 1 GiB on other
    devices. A large vocabulary's logits for a whole batch take gigabytes, a small one's are computed at once."""
    return max((6 * 2**20 if device.type == "cpu" else 2**28) // vocab_size, 1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        y, scale = _normalize(x, gain, eps)
        ctx.save_for_backward(x, gain, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        x, gain, scale = ctx.saved_tensors
        unit = x * scale
        grad_gain = grad_y * unit
        radial = (grad_gain @ gain)[..., None] / x.shape[-1]  # the gradient along x, which only changes its length
        grad_x = (grad_y * gain).sub_(unit.mul_(radial)).mul_(scale)
        return grad_x, grad_gain.reshape(-1, x.shape[-1]).sum(dim=0), None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        cos, sin = ctx.saved_tensors
        return _rotate(grad_y, cos, sin, -1), None, None  # a rotation's gradient is rotated back


def _normalize(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(x · scale · gain, scale = 1 / sqrt(mean(x²) + eps)), [..., D] and [..., 1]."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * scale).mul_(gain), scale


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """`rotate` without temporary tensors; direction 1, or −1 to rotate back."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.empty_like(x, memory_format=torch.contiguous_format)
    first_out, second_out = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=first_out).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=second_out).addcmul_(first, sin, value=direction)
    return rotated
