"""Weights laid out once, so that a CPU's matrix products need not do it in every forward.

A product of few rows spends a quarter of its time and more on bringing the weights into the order that its inner loop reads.
Training changes them between any two products; decodings use the same again and again. The operations are oneDNN's, those
that `torch.compile` chooses for frozen weights.
"""

import copy
import functools

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dllm_core.compute.cpu import SIZE, onednn_matmul

LEAST = 2**18  # weights from which it pays: smaller matrices stay in the processor's cache, where MKL is quicker
ROWS = 32  # of a product that the order is chosen for; it serves any number
_kept = WeakTensorKeyDictionary()  # weight → (its state when it was laid out, the layout)


class PrepackedLinear(nn.Module):
    """`nn.Linear` without a bias, [..., in] → [..., out], by a layout of its weight [out, in] as that is now."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight, now = weight.detach(), _state(weight)
        then, self.layout = _kept.pop(weight, (None, None))
        if then != now:
            self.layout = None  # its memory is free before the next is made
            self.layout = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
        _kept[weight] = now, self.layout

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.layout, None, "none", [], "")


def prepacked(module: nn.Module) -> nn.Module:
    """A twin of a model on a CPU (or a part of one) for inference, which reads the larger matrices, as they are now, from
    layouts of their own and shares the rest. A layout is kept for the next twin, for as long as its weight lives. Where
    nothing is to be gained: the module itself, as where somebody gave it hooks or a forward of its own."""
    if "forward" in module.__dict__ or module._compiled_call_impl is not None:
        return module
    if type(module) is nn.Linear:
        hooked = module._forward_hooks or module._forward_pre_hooks
        return module if hooked or module.bias is not None or not _gains(module.weight) else PrepackedLinear(module.weight)
    children = {name: child and prepacked(child) for name, child in module._modules.items()}
    if all(twin is module._modules[name] for name, twin in children.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin


def _gains(weight: Tensor) -> bool:
    plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.layout == torch.strided
    return plain and weight.numel() >= LEAST and prepacks(weight.dtype)


def _state(weight: Tensor) -> tuple[int, int, int]:
    """What differs once a weight [out, in] was written to: its version, which fused optimisers and `.data` leave as it was; so
    also a sum of its bits, taken as whole numbers, each row with a factor of its own."""
    rows = weight.detach().contiguous()
    eighths = rows.shape[1] * rows.element_size() % 8 == 0 and rows.storage_offset() * rows.element_size() % 8 == 0
    sums = rows.view(torch.int64 if eighths else torch.int16).sum(dim=1)
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, int((sums * torch.arange(1, 2 * len(sums), 2)).sum())


@functools.cache
def prepacks(dtype: torch.dtype) -> bool:
    """Whether prepacked products of this precision are there and right: seen by one, not assumed."""
    weight, x = (torch.linspace(-1, 1, 32 * rows, device="cpu").view(rows, 32).to(dtype) for rows in (64, 48))
    try:
        with torch.autocast("cpu", enabled=False), onednn_matmul(SIZE, 1, weight.device):  # as the model asks for them
            layout = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            product = torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    error = (product.double() - x.double() @ weight.double().T).abs().max()
    return bool(error < (1e-4 if dtype == torch.float32 else 0.1))
