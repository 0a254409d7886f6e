"""What a training will cost, before it begins: tokens, arithmetic, time and disk."""

import time
from dataclasses import dataclass

import torch

from dllm_core.compute.cpu import onednn_matmul
from dllm_core.config import TrainConfig
from dllm_core.schedules import BlockSchedule

# Share of the speed of one large matrix product that a whole step reaches. Attention, norms, the optimiser, data and
# Python take the rest; small models lose more of it. Expect the truth within a factor of two.
UTILISATION = {"cpu": 0.3, "cuda": 0.35, "mps": 0.3}


@dataclass(frozen=True)
class Cost:
    """tokens: read in all, each once per epoch; positions: rows of the network they take (a clean half counts);
    flops: 6 · parameters · positions; seconds: an estimate; memory_bytes: weights, gradients and optimiser;
    disk_bytes: the run's folder at its largest, and the cached tokens."""

    parameters: int
    tokens: int
    positions: int
    flops: float
    seconds: float
    memory_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.tokens / 1e6:.3g} M tokens as {self.positions / 1e6:.3g} M "
            f"positions, {self.flops:.2e} floating-point operations: about {_duration(self.seconds)}, within a factor "
            f"of two; {self.memory_bytes / 2**20:,.0f} MiB for weights and optimiser (activations come on top); "
            f"{self.disk_bytes / 2**20:,.0f} MiB of disk"
        )


def estimate(
    model: torch.nn.Module, config: TrainConfig, *, blocks: BlockSchedule | None = None, views: int = 1, documents=None
) -> Cost:
    """Cost of training `model` under `config` on the device it is on (a matrix product is timed there, < 1 s).

    blocks: LLaDA 2's block sizes: a step of block diffusion adds the clean half, views + 1 positions per token, a step
    at full length none (at most: blocks that nobody needs are left out). views: noisy views per token, 2 with complementary
    masking. AR and LLaDA 1 take one position. documents: `TokenDataset` whose cached tokens count as disk.
    Validation and samples during training come on top.
    """
    # 1. positions: tokens × how often each stands in the network's input
    per_step = config.batch_size * config.seq_len
    steps = range(config.max_iters)
    clean = sum(blocks.block_size(step) < config.seq_len for step in steps) if blocks else 0
    positions = per_step * (views * config.max_iters + clean)
    # 2. arithmetic: 2 operations per weight forward, 4 backward (Kaplan et al., arXiv 2001.08361, §2.1)
    size = sum(parameter.numel() for parameter in model.parameters())
    flops = 6.0 * size * positions
    # 3. time: at a share of the speed that a matrix product of the model's own shape has here
    device = next(model.parameters()).device
    seconds = flops / (matmul_speed(model.config, per_step, device, config.dtype) * UTILISATION[device.type])
    # 4. AdamW keeps two numbers per weight, Muon one; a run keeps last, best, merged and the k best weights and a state
    matrices = sum(p.numel() for name, p in model.model.layers.named_parameters() if p.ndim == 2)
    moments = 2 * size - (matrices if config.optimizer == "muon" else 0)
    memory = 4 * (2 * size + moments)
    disk = 4 * (size * (3 + config.keep_best) + size + moments)
    if documents is not None:
        kept = (documents.tokens, documents.offsets, documents.scored)
        disk += sum(part.nbytes for part in kept if part.strides[0])  # stride 0: one value for all, nothing stored
    return Cost(size, per_step * config.max_iters, positions, flops, seconds, memory, disk)


def matmul_speed(shape, rows: int, device: torch.device, dtype: str = "float32") -> float:
    """Floating-point operations per second of [rows, hidden] × [hidden, intermediate], the best of a few."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    rows = min(rows, 8192)
    a = torch.randn(rows, shape.hidden_size, device=device, dtype=kind)
    b = torch.randn(shape.hidden_size, shape.intermediate_size, device=device, dtype=kind)
    best = float("inf")
    for _ in range(8):
        _wait(device)
        began = time.perf_counter()
        with onednn_matmul(rows, shape.hidden_size, device):  # as in training
            for _ in range(4):
                a @ b
        _wait(device)
        best = min(best, (time.perf_counter() - began) / 4)
    return 2.0 * rows * shape.hidden_size * shape.intermediate_size / max(best, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
