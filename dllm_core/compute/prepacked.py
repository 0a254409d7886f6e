"""Weights reordered once for a CPU's matrix products, which otherwise reorder them in every forward.

A product of few rows spends a quarter of its time or more on that. In training the weights change between any two
products; decoding uses the same ones again and again. The operations are oneDNN's, those that `torch.compile` chooses
for frozen weights.
"""

import copy
import functools

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dllm_core.compute.cpu import MIN_SIZE, onednn_matmul

MIN_WEIGHTS = 2**18  # weights from which it is faster; smaller matrices stay in the processor's cache, where MKL is
ROWS = 32  # rows of the products that the order is optimized for; it works for any number
_layouts = WeakTensorKeyDictionary()  # weight → (its fingerprint when it was reordered, the layout)


class PrepackedLinear(nn.Module):
    """`nn.Linear` without a bias, [..., in] → [..., out], by a reordered copy of its weight [out, in] as it is now."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight, fingerprint = weight.detach(), _fingerprint(weight)
        known, self.layout = _layouts.pop(weight, (None, None))
        if known != fingerprint:
            self.layout = None  # frees its memory before the next is allocated
            self.layout = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
        _layouts[weight] = fingerprint, self.layout

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.layout, None, "none", [], "")


def prepacked(module: nn.Module) -> nn.Module:
    """A copy of a model on a CPU, or of its part, for inference: its larger matrices are prepacked, all else is shared.

    A layout is kept for the next copy as long as its weight lives. Where nothing would be faster, the module itself is
    returned; also where it has hooks or a replaced forward.
    """
    if "forward" in module.__dict__ or module._compiled_call_impl is not None:
        return module
    if type(module) is nn.Linear:
        hooks = module._forward_hooks or module._forward_pre_hooks
        keep = hooks or module.bias is not None or not _is_faster(module.weight)
        return module if keep else PrepackedLinear(module.weight)
    children = {name: child and prepacked(child) for name, child in module._modules.items()}
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    copied = copy.copy(module)
    copied._modules = children
    return copied


def _is_faster(weight: Tensor) -> bool:
    is_plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.layout == torch.strided
    return is_plain and weight.numel() >= MIN_WEIGHTS and prepacking_works(weight.dtype)


def _fingerprint(weight: Tensor) -> tuple[int, int, int]:
    """Values that change when a weight [out, in] is written to: its address, its version and, because fused optimizers
    and `.data` do not change the version, a sum of its bits as integers, each row with a factor of its own."""
    rows = weight.detach().contiguous()
    row_bytes, offset_bytes = rows.shape[1] * rows.element_size(), rows.storage_offset() * rows.element_size()
    integers = torch.int64 if row_bytes % 8 == 0 and offset_bytes % 8 == 0 else torch.int16
    sums = rows.view(integers).sum(dim=1)
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, int((sums * torch.arange(1, 2 * len(sums), 2)).sum())


@functools.cache
def prepacking_works(dtype: torch.dtype) -> bool:
    """Whether prepacked products of this precision are available and right: measured by one."""
    weight, x = (torch.linspace(-1, 1, 32 * rows, device="cpu").view(rows, 32).to(dtype) for rows in (64, 48))
    try:
        with torch.autocast("cpu", enabled=False), onednn_matmul(MIN_SIZE, 1, weight.device):  # as in the model
            layout = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            product = torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    error = (product.double() - x.double() @ weight.double().T).abs().max()
    return bool(error < (1e-4 if dtype == torch.float32 else 0.1))
