"""Weights laid out once, so that a CPU's matrix products need not do it in every forward.

A product of few rows spends a third of its time and more on bringing the weights into the order that its inner loop reads.
Training changes them between any two products; decodings use the same again and again. The operations are oneDNN's, those
that `torch.compile` chooses for frozen weights.
"""

import copy
import functools
import weakref

import torch
from torch import Tensor, nn

from dllm_core.model import Transformer

LEAST = 2**18  # weights from which it pays: smaller matrices stay in the processor's cache, where MKL is quicker
ROWS = 32  # of a product that the order is chosen for; it serves any number
_twins = weakref.WeakKeyDictionary()  # model → (its weights' states when it was prepacked, the twin)


class PrepackedLinear(nn.Module):
    """`nn.Linear` without a bias, [..., in] → [..., out], its weight [out, in] laid out anew as of now. `weight` is the one
    it was made of."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = linear.weight.detach()
        self.prepacked = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.prepacked, None, "none", [], "")


def prepacked(model: Transformer) -> Transformer:
    """A twin of a model on a CPU for inference: its larger matrices are prepacked copies, all else is shared. Kept for as long
    as the weights stay as they are. The model itself where no such products are offered."""
    if not prepacks(model.lm_head.weight.dtype):
        return model
    weights = [_state(module.weight) for module in model.modules() if _large(module)]
    known, twin = _twins.get(model, (None, None))
    if known != weights:
        twin = _twin(model)
        _twins[model] = weights, twin
    return twin


def _large(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.weight.numel() >= LEAST and module.bias is None


def _state(weight: Tensor) -> tuple[int, int, int]:
    """What differs once a weight was written to: its version, but for fused optimisers, which leave that as it was; so the
    sum of its bits too, as whole numbers, which takes a sixth of a forward's time."""
    whole = torch.int64 if weight.nbytes % 8 == 0 else torch.int16
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, int(weight.detach().flatten().view(whole).sum())


def _twin(module: nn.Module) -> nn.Module:
    if _large(module):
        return PrepackedLinear(module)
    twin = copy.copy(module)
    twin._modules = {name: _twin(child) for name, child in module._modules.items()}
    return twin


@functools.cache
def prepacks(dtype: torch.dtype) -> bool:
    """Whether prepacked products of this precision are there and right: seen by one, not assumed."""
    weight, x = (torch.linspace(-1, 1, 32 * rows).view(rows, 32).to(dtype) for rows in (64, 8))
    linear = nn.Linear(32, 64, bias=False, dtype=dtype)
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            linear.weight.copy_(weight)
            product = PrepackedLinear(linear)(x)
    except (RuntimeError, AttributeError):
        return False
    error = (product.double() - x.double() @ weight.double().T).abs().max()
    return bool(error < (1e-4 if dtype == torch.float32 else 0.1))
