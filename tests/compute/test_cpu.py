"""RMSNorm and rotation with hand-written gradients, each against PyTorch."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from dllm_core.compute import cpu
from dllm_core.compute.cpu import rms_norm, rotate


def gradients(function, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The value and its gradients, for an uneven gradient of the value."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(7))
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), leaves)]


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 4, 6)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])  # small ones make eps count
def test_rms_norm_equals_pytorchs(shape, scale):
    torch.manual_seed(0)
    x, gain = scale * torch.randn(shape), 1 + 0.3 * torch.randn(shape[-1])
    ours = gradients(lambda x, gain: rms_norm(x, gain, 1e-5), x, gain)
    theirs = gradients(lambda x, gain: F.rms_norm(x, gain.shape, gain, 1e-5), x, gain)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("transposed", [False, True])  # the model rotates a transposed view
def test_rotation_equals_the_textbook_form(transposed, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8).transpose(1, 2) if transposed else torch.randn(2, 3, 5, 8)
    angle = torch.randn(2, 1, 5, 4)
    turn = lambda x: rotate(x, angle.cos(), angle.sin())
    fast = gradients(turn, x)
    monkeypatch.setattr(cpu, "has_cpu_kernels", lambda x: False)
    for mine, other in zip(fast, gradients(turn, x), strict=True):
        torch.testing.assert_close(mine, other)
    # lengths stay, and turning back by the same angle undoes it
    torch.testing.assert_close(fast[0].norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(fast[0], angle.cos(), -angle.sin()), x)


def test_half_precision_uses_pytorchs_norm():
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    gain = torch.ones(8, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(x, gain, 1e-6), F.rms_norm(x, (8,), gain, 1e-6))


def test_half_precision_in_inference_is_computed_in_float32_and_rounded_once():
    torch.manual_seed(0)
    x, gain = torch.randn(2, 3, 5, 8).bfloat16(), (1 + 0.3 * torch.randn(8)).bfloat16()
    angles = torch.rand(2, 1, 5, 4)
    with torch.inference_mode():
        normed, turned = rms_norm(x, gain, 1e-6), rotate(x, angles.cos(), angles.sin())
    assert normed.dtype == turned.dtype == torch.bfloat16
    wanted = F.rms_norm(x.float(), (8,), gain.float(), 1e-6), rotate(x.float(), angles.cos(), angles.sin())
    for result, exact in zip((normed, turned), wanted, strict=True):
        torch.testing.assert_close(result.float(), exact, rtol=2**-8, atol=1e-6)  # half a step of bfloat16


def test_half_precision_under_float32_gains_is_normed_in_float32():
    torch.manual_seed(0)
    x, gain = torch.randn(4, 8).bfloat16(), 1 + 0.3 * torch.randn(8)
    norm = lambda x, gain: rms_norm(x, gain, 1e-6)
    with warnings.catch_warnings():  # PyTorch's own, given the two, warns and takes a slow way
        warnings.simplefilter("error")
        value, for_x, for_gain = gradients(norm, x, gain)
    assert value.dtype == for_gain.dtype == torch.float32 and for_x.dtype == torch.bfloat16
    exact = gradients(norm, x.float(), gain)
    assert torch.equal(value, exact[0]) and torch.equal(for_x, exact[1].bfloat16()) and torch.equal(for_gain, exact[2])
