"""What a training will cost, estimated before it begins: tokens, arithmetic, time, memory and disk."""

import timeit
from dataclasses import dataclass

import torch

from dllm_core import patterns
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.work import training_work
from dllm_core.config import TrainConfig
from dllm_core.schedules import BlockSchedule

# Share of the speed of one large matrix product that a training step reaches. Attention, norms, the optimizer, data and
# Python take the rest, more of it in small models. The estimate is right within a factor of two.
UTILIZATION = {"cpu": 0.3, "cuda": 0.35, "mps": 0.3}
# Bytes of activations that a step holds. A layer: so many for each number of a position's hidden state, and of the MLP's
# inner state; under autocast some are kept in both precisions, so they do not depend on it. A prediction: so many for each
# logit, its copy in float32 and the gradients of both. Fitted to the tensors that autograd keeps for the large presets'
# model, 0.34 MiB a position in AR and 0.27 in LLaDA 2, on a CPU.
PER_HIDDEN, PER_INNER, PER_LOGIT = 48, 8, 12


@dataclass(frozen=True)
class Cost:
    """tokens: read in all, each once per epoch; positions: what they take in the network's input, clean halves included;
    flops: `compute.work.training_work`; seconds: an estimate; memory_bytes: weights, gradients and optimizer state;
    activation_bytes: of a micro-batch, about; disk_bytes: the run's folder at its largest, and the cached tokens."""

    parameters: int
    tokens: int
    positions: int
    flops: float
    seconds: float
    memory_bytes: int
    activation_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters; at most {self.tokens / 1e6:.3g} M tokens as "
            f"{self.positions / 1e6:.3g} M positions, {self.flops:.1e} FLOP (the price after the training is lower: without "
            f"padding tokens, and without logits and clean blocks that the loss does not need); about "
            f"{_duration(self.seconds)}, within a factor of two; {self.memory_bytes / 2**20:,.0f} MiB for weights and "
            f"optimizer, and about {self.activation_bytes / 2**20:,.0f} MiB for activations (fewer rows at a time: "
            f"micro_batch_size); {self.disk_bytes / 2**20:,.0f} MiB of disk"
        )


def estimate(
    model: torch.nn.Module, config: TrainConfig, *, blocks: BlockSchedule | None = None, views: int = 1, documents=None
) -> Cost:
    """Cost of training `model` under `config` on its device (a matrix product is timed there, < 1 s).

    blocks: LLaDA 2's block sizes. A step of block diffusion takes views + 1 positions per token, because the clean half
    is read too; a step at full length takes `views`. This is an upper bound, as if every token were scored in each view:
    blocks that no scored token sees are left out in training, and logits of clean tokens. views: noisy views per token, 2 with complementary masking; AR and LLaDA 1 have one.
    documents: a `TokenDataset` whose cached tokens count as disk. Validation and samples during training come on top.
    """
    tokens_per_step = config.batch_size * config.seq_len
    # 1. work of a step without and with a clean half
    document = torch.zeros(config.batch_size, config.seq_len, dtype=torch.long)
    position = torch.arange(config.seq_len).expand_as(document)
    full = patterns.bidirectional(document, position).repeat(views)
    full = training_work(model.config, full, views * tokens_per_step)
    block = patterns.block_diffusion(document, position, 1, views)
    block = training_work(model.config, block, views * tokens_per_step, noisy_only=True)
    # 2. of all steps
    steps = range(config.max_iters)
    block_steps = sum(blocks.block_size(step) < config.seq_len for step in steps) if blocks else 0
    full_steps = config.max_iters - block_steps
    positions = full_steps * full.positions + block_steps * block.positions
    flops = full_steps * full.flops + block_steps * block.flops
    size = sum(parameter.numel() for parameter in model.parameters())
    # 3. time: a share of the speed that a matrix product of the model's shape has on this device
    device = next(model.parameters()).device
    flops_per_second = matmul_speed(model.config, tokens_per_step, device, config.dtype) * UTILIZATION[device.type]
    # 4. activations of a micro-batch: of all its positions, and of one prediction for each of its tokens
    share = (config.micro_batch_size or config.batch_size) / config.batch_size
    widest = block.positions if block_steps else full.positions
    activations = widest * _bytes_per_position(model.config, config)
    activations += tokens_per_step * model.config.vocab_size * PER_LOGIT
    # 5. AdamW keeps two numbers per weight, Muon one; a run keeps last, best, merged and the k best weights and a state
    matrices = sum(p.numel() for name, p in model.model.layers.named_parameters() if p.ndim == 2)
    moments = 2 * size - (matrices if config.optimizer == "muon" else 0)
    memory = 4 * (2 * size + moments)
    disk = 4 * (size * (3 + config.keep_best) + size + moments)
    if documents is not None:
        arrays = (documents.tokens, documents.lengths, documents.scored)
        disk += sum(array.nbytes for array in arrays if array.strides[0])  # stride 0: one value for all, not stored
    tokens = tokens_per_step * config.max_iters
    return Cost(size, tokens, positions, flops, flops / flops_per_second, memory, int(share * activations), disk)


def _bytes_per_position(shape, config: TrainConfig) -> int:
    """Of activations in all layers; with activation checkpointing of each layer's input, and of one whole layer."""
    layer = PER_HIDDEN * shape.hidden_size + PER_INNER * shape.intermediate_size
    if config.activation_checkpointing:
        return 4 * shape.num_hidden_layers * shape.hidden_size + layer
    return shape.num_hidden_layers * layer


def matmul_speed(shape, rows: int, device: torch.device, dtype: str = "float32") -> float:
    """Floating-point operations per second of [rows, hidden] × [hidden, intermediate], the best of eight rounds."""
    rows = min(rows, 8192)
    a = torch.randn(rows, shape.hidden_size, device=device, dtype=getattr(torch, dtype))
    b = torch.randn(shape.hidden_size, shape.intermediate_size, device=device, dtype=getattr(torch, dtype))

    def four_products() -> None:
        for _ in range(4):
            a @ b
        if device.type != "cpu":  # whose call returns before the device has computed
            torch.accelerator.synchronize(device)

    with onednn_matmul(rows, shape.hidden_size, device):  # as in training
        seconds = min(timeit.repeat(four_products, number=1, repeat=8)) / 4
    return 2.0 * rows * shape.hidden_size * shape.intermediate_size / seconds


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
