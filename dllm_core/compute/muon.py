"""The optimizers of a training: AdamW, and Muon for the matrices of the layers.

Muon is momentum, then Newton–Schulz (Keller Jordan, https://kellerjordan.github.io/posts/muon/). PyTorch's takes one
matrix at a time and always in bfloat16, which most CPUs only emulate: at this project's laptop size that is a quarter of
a training step. Here bfloat16 is used on CUDA, and on CPUs that have units for it if the training uses it too.
"""

import torch
from torch import Tensor

from dllm_core.compute.cpu import bfloat16_units, onednn_matmul
from dllm_core.compute.processes import local
from dllm_core.config import TrainConfig


class Muon(torch.optim.Muon):
    """PyTorch's Muon, whose step takes all matrices of one shape at once. half: orthogonalize in bfloat16 also on a CPU
    that has units for it. While `found_inf` is a tensor of 1, a step changes nothing (a GradScaler sets it on PyTorch's
    fused optimizers too)."""

    found_inf: Tensor | None = None

    def __init__(self, params, *, half: bool = False, **options):
        super().__init__(params, **options)
        self.half = half and bfloat16_units()

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
        if self.found_inf is not None:  # the device decides, the host does not wait
            skipped = self.found_inf.bool()
            gradients = list(torch.where(skipped, torch.stack(momenta), torch.stack(gradients)).unbind())
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        updates = self._orthogonalize(nesterov, parameters[0], group["ns_steps"]).to(nesterov.dtype)
        weights = [local(parameter) for parameter in parameters]
        if self.found_inf is not None:
            decay, updates = torch.where(skipped, 1.0, decay), updates.masked_fill_(skipped, 0)
        torch._foreach_mul_(weights, decay)
        torch._foreach_add_(weights, list(updates.unbind()), alpha=rate)

    def _orthogonalize(self, updates: Tensor, parameter: Tensor, steps: int) -> Tensor:
        """`orthogonalize` of updates [n, local rows, columns]. Where FSDP shards the parameters by rows, the whole matrices
        are gathered for it and the local rows returned."""
        if not hasattr(parameter, "device_mesh"):
            return orthogonalize(updates, steps, self.half)
        from torch.distributed.tensor import DTensor, Shard, distribute_tensor

        shape, mesh, by_rows = torch.Size([len(updates), *parameter.shape]), parameter.device_mesh, [Shard(1)]
        stride = torch.empty(shape, device="meta").stride()
        sharded = DTensor.from_local(updates, mesh, by_rows, shape=shape, stride=stride, run_check=False)
        result = orthogonalize(sharded.full_tensor(), steps, self.half)
        return distribute_tensor(result, mesh, by_rows, src_data_rank=None).to_local()


def orthogonalize(x: Tensor, steps: int, half: bool = False) -> Tensor:
    """x [n, rows, columns] → about U Vᵀ of each x = U S Vᵀ: Newton–Schulz iterations bring the singular values near 1; in
    bfloat16 if `half` or on CUDA."""
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


def optimizers(model: torch.nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices only; with "muon", Muon (Newton–Schulz-orthogonalized momentum) on the layers'
    matrices and AdamW on the rest. Each group keeps its peak learning rate under "peak"."""
    matrices, embeddings, gains = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            gains.append(parameter)
        elif "embed" in name or "lm_head" in name:
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    groups = [{"params": embeddings, "weight_decay": config.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    result = []
    if config.optimizer == "muon":
        # three Newton–Schulz steps instead of Muon's usual five: cheaper, and all recorded results are made with three
        half = config.dtype == "bfloat16"
        rate, decay = config.muon_learning_rate, config.weight_decay
        result.append(Muon(matrices, lr=rate, weight_decay=decay, ns_steps=3, half=half))
    else:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    result.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True))
    for optimizer in result:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return result
