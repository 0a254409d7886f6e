"""The batched Muon against PyTorch's; what it refuses and what it leaves."""


import pytest
import torch

from dllm_core.compute import muon
from dllm_core.compute.muon import Muon, orthogonalize


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


def test_muon_takes_no_step_after_an_overflow():
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


def test_muon_does_not_change_matrices_without_gradient():
    first, second = (torch.nn.Parameter(torch.eye(4)) for _ in range(2))
    first.grad = torch.randn(4, 4)
    Muon([first, second], lr=0.1).step()
    assert torch.equal(second, torch.eye(4)) and not torch.equal(first, torch.eye(4))
