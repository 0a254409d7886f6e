"""Hand-written gradients and the batched Muon, each against PyTorch's own."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from dllm_core.compute import cpu, muon
from dllm_core.compute.cpu import rms_norm, rotate
from dllm_core.compute.muon import Muon, orthogonalize


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
def test_rotation_equals_the_plain_form(transposed, monkeypatch):
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


def test_half_precision_takes_pytorchs_own():
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


def matrices() -> list[torch.nn.Parameter]:
    shapes = [(8, 8), (12, 8), (8, 12), (8, 8), (12, 8)]
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("half", [False, True])
def test_muon_equals_pytorchs_within_its_bfloat16(half, monkeypatch):
    monkeypatch.setattr(muon, "bfloat16_units", lambda: True)
    ours, theirs = matrices(), matrices()
    optimizer = Muon(ours, lr=0.1, weight_decay=0.2, ns_steps=4, half=half)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, ns_steps=4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b, start in zip(ours, theirs, matrices(), strict=True):
        assert (a - b).detach().norm() < 0.02 * (b - start).detach().norm()
        torch.testing.assert_close(optimizer.state[a]["momentum_buffer"], reference.state[b]["momentum_buffer"])


def test_muon_takes_no_step_where_infinities_were_found():
    """Nor does its momentum keep anything of them; where `found_inf` is 0 it steps as without it."""
    scaled, plain, generator = matrices(), matrices(), torch.Generator().manual_seed(1)
    optimizer, plain_optimizer = (Muon(parameters, lr=0.1, weight_decay=0.2) for parameters in (scaled, plain))
    for overflow in (0, 1, 0):
        optimizer.found_inf = torch.tensor(float(overflow))
        for a, b in zip(scaled, plain, strict=True):
            b.grad = torch.randn(b.shape, generator=generator)
            a.grad = b.grad.clone() if not overflow else torch.full_like(b, torch.inf)
        optimizer.step()
        if not overflow:
            plain_optimizer.step()
        for a, b in zip(scaled, plain, strict=True):
            momentum, expected = optimizer.state[a]["momentum_buffer"], plain_optimizer.state[b]["momentum_buffer"]
            assert torch.equal(a, b) and torch.equal(momentum, expected)


def test_orthogonalising_brings_singular_values_near_one():
    x = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0)) * 5
    values = torch.linalg.svdvals(orthogonalize(x, 5))
    assert values.min() > 0.5 and values.max() < 1.5
    torch.testing.assert_close(orthogonalize(x.mT, 5), orthogonalize(x, 5).mT, rtol=1e-4, atol=1e-4)


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"matrices, not a parameter of shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1)


def test_muon_leaves_matrices_without_gradient_alone():
    first, second = (torch.nn.Parameter(torch.eye(4)) for _ in range(2))
    first.grad = torch.randn(4, 4)
    Muon([first, second], lr=0.1).step()
    assert torch.equal(second, torch.eye(4)) and not torch.equal(first, torch.eye(4))
