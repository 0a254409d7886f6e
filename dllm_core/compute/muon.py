"""Muon as in `torch.optim.Muon`, with all matrices of one shape orthogonalised together.

The same update and the same state (`momentum_buffer`). PyTorch's takes one matrix at a time, always in bfloat16, which
most CPUs only emulate: at this project's laptop size that is a quarter of a training step. Here it is bfloat16 on CUDA,
and on CPUs with units for it where the training is. Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/.
"""

import torch
from torch import Tensor

from dllm_core.compute.cpu import bfloat16_units, onednn_matmul
from dllm_core.compute.processes import local


class Muon(torch.optim.Optimizer):
    """Momentum, then Newton–Schulz; for matrices only.

    params: 2-D parameters, or groups of them. lr: scaled by sqrt(max(1, rows / columns)). weight_decay: decoupled. half:
    orthogonalise in bfloat16 also on a CPU that has units for it. Raises ValueError for a parameter that is not a matrix.
    A step changes nothing while `found_inf`, which a GradScaler sets on PyTorch's fused optimisers too, is a tensor of 1.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params, lr: float, weight_decay: float = 0.1, momentum: float = 0.95, ns_steps: int = 5, half: bool = False
    ):  # fmt: skip
        self.half = half and bfloat16_units()
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_steps": ns_steps}
        super().__init__(params, defaults)
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim != 2:
                raise ValueError(f"Muon updates matrices, not a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            shapes: dict[tuple, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault((parameter.shape, parameter.device, parameter.dtype), []).append(parameter)
            for parameters in shapes.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict) -> None:
        rows, columns = parameters[0].shape
        gradients = [local(parameter.grad) for parameter in parameters]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        decay, rate = 1 - group["lr"] * group["weight_decay"], -group["lr"] * max(1, rows / columns) ** 0.5
        if self.found_inf is not None:  # decided on the device, where nobody waits for it
            skipped = self.found_inf.bool()
            gradients = list(torch.where(skipped, torch.stack(momenta), torch.stack(gradients)).unbind())
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # Nesterov
        updates = self._orthogonal(ahead, parameters[0], group["ns_steps"]).to(ahead.dtype)
        parts = [local(parameter) for parameter in parameters]
        if self.found_inf is not None:
            decay, updates = torch.where(skipped, 1.0, decay), updates.masked_fill_(skipped, 0)
        torch._foreach_mul_(parts, decay)
        torch._foreach_add_(parts, list(updates.unbind()), alpha=rate)

    def _orthogonal(self, ahead: Tensor, parameter: Tensor, steps: int) -> Tensor:
        """ahead [n, rows here, columns] made orthogonal as the whole matrices that they are parts of, where FSDP shards
        the `parameter`s by rows."""
        if not hasattr(parameter, "device_mesh"):
            return orthogonalise(ahead, steps, self.half)
        from torch.distributed.tensor import DTensor, Shard, distribute_tensor

        shape, mesh, by_rows = torch.Size([len(ahead), *parameter.shape]), parameter.device_mesh, [Shard(1)]
        stride = torch.empty(shape, device="meta").stride()
        whole = DTensor.from_local(ahead, mesh, by_rows, shape=shape, stride=stride, run_check=False).full_tensor()
        return distribute_tensor(orthogonalise(whole, steps, self.half), mesh, by_rows, src_data_rank=None).to_local()


def orthogonalise(x: Tensor, steps: int, half: bool = False) -> Tensor:
    """x [n, rows, columns] → about U Vᵀ of each x = U S Vᵀ: singular values near 1, by Newton–Schulz iterations; in bfloat16
    if `half` or on CUDA."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x.bfloat16() if half or x.is_cuda else x.float()
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).contiguous()  # the smaller side first: cheaper products
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    with onednn_matmul(x.shape[0] * x.shape[1], x.shape[2], x.device):
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
