"""Several processes that train one model together, through Hugging Face Accelerate (DDP, FSDP; gloo on CPUs, NCCL on GPUs).

The processes share the micro-batches of a step: each packs the same global batch and computes every n-th micro-batch. The
noise of a micro-batch depends on its place alone (`noise.generator_for`), so it is the noise that one process would draw.
FSDP (`fully_shard`) shards the trained weights, gradients and optimizer states; each process keeps a full copy of the
weights beside its shard, to validate, sample and save. A single process imports nothing and does nothing here.
"""

import copy
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

TIMEOUT = timedelta(minutes=30)  # the other processes wait while the first one validates, samples and saves


def rank() -> int:
    """The number of this process among those that a launcher (accelerate, torchrun) started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many processes a launcher started together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class ProcessGroup:
    """The processes of one training: this is `rank` of `size`; its model is on `device`.

    Raises ValueError when Accelerate is configured for an engine other than DDP and FSDP 2, or for another device.
    """

    def __init__(self, device: torch.device):
        self.rank, self.size, self.device, self.accelerator = rank(), world_size(), device, None
        self.sharded = False  # FSDP: each process trains a shard of the weights
        self.shards: list[torch.nn.Module] = []  # the modules whose weights FSDP gathers and frees together
        if self.size > 1:
            self.accelerator = _accelerator(device)
            self.sharded = _engine(self.accelerator) == "FSDP"

    @property
    def is_single(self) -> bool:
        return self.size == 1

    def split(self, batch, rows: int) -> list:
        """The batch in micro-batches of `rows` rows (0: as many micro-batches as processes).

        Raises ValueError for fewer micro-batches than processes; under FSDP, which gathers weights in every forward, also
        for a number that does not give each process equally many.
        """
        parts = batch.split(rows) if rows or self.is_single else batch.divide(self.size)
        description = f"a batch of {len(batch.tokens)} rows makes {len(parts)} parts of micro_batch_size={rows}"
        if len(parts) < self.size:
            raise ValueError(
                f"{description}, too few for {self.size} processes: lower micro_batch_size (0: as many parts as processes) or "
                "raise batch_size"
            )
        if self.sharded and len(parts) % self.size:
            raise ValueError(
                f"{description}; FSDP needs the same number for each of {self.size} processes: change micro_batch_size or "
                "batch_size"
            )
        return parts

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with gradients averaged over the processes (unchanged for a single process).

        Under FSDP its parameters are shards from here on; make the optimizers of them.
        """
        if self.is_single:
            return module
        if self.sharded:
            # PyTorch's own function: Accelerate's would take the mesh of whatever accelerator the machine has
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.size,))
            reshard = self.accelerator.state.fsdp_plugin.reshard_after_forward
            self.shards = [part for part in module.modules() if type(part).__name__ == "Layer"]
            for part in self.shards:
                fully_shard(part, mesh=mesh, reshard_after_forward=reshard)
            self.shards.append(fully_shard(module, mesh=mesh))
            return module
        with warnings.catch_warnings():
            # newer torch renames this setting; older torch and Accelerate do not know the new name
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare(module)

    def gradients(self, module: torch.nn.Module, last: bool) -> AbstractContextManager:
        """Around one forward and backward: gradients accumulate locally; the `last` of a step averages them."""
        if self.sharded:
            module.set_requires_gradient_sync(last)
        only_accumulates = not (self.is_single or self.sharded or last)
        return self.accelerator.no_sync(module) if only_accumulates else nullcontext()

    def sum(self, values: list[Tensor | float]) -> Tensor:
        """[n] float64 on the device: each value summed over the processes, without waiting for the device."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        tensors = [
            value.to(wide) if isinstance(value, Tensor) else torch.full((), value, dtype=wide, device=self.device)
            for value in values
        ]
        sums = torch.stack(tensors)
        if not self.is_single:
            torch.distributed.all_reduce(sums)
        return sums

    def sharded_copy(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model to train: `model` itself, or under FSDP a copy to shard, with the first process's weights."""
        if not self.sharded:
            return model
        for parameter in model.parameters():
            torch.distributed.broadcast(parameter.data, 0)
        return copy.deepcopy(model)

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        """`clip_grad_norm_` over all shards; the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return norm.full_tensor() if self.sharded else norm

    def gather_weights_into(self, trained: torch.nn.Module, model: torch.nn.Module) -> None:
        """Copy the full weights of `trained`, the `sharded_copy` of `model`, into `model`. Under FSDP all processes call it."""
        if not self.sharded:
            return
        with torch.no_grad():
            for shard in self.shards:
                shard.unshard()
            torch._foreach_copy_(list(model.parameters()), list(trained.parameters()))
            for shard in self.shards:
                shard.reshard()

    def gather(self, value):
        """A nest of dicts and lists with its sharded tensors gathered into the first process's host memory (None on the
        others). Under FSDP all processes call it."""
        if not self.sharded:
            return value

        def full(part):
            if not hasattr(part, "full_tensor"):
                return part
            tensor = part.full_tensor()
            return tensor.cpu() if self.rank == 0 else None

        return tree_map(full, value)

    def shard_optimizer_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep this process's shard of the full states that were loaded into an optimizer."""
        if not self.sharded:
            return
        from torch.distributed.tensor import distribute_tensor

        for parameter, states in optimizer.state.items():
            for name, value in states.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    mesh, placements = parameter.device_mesh, parameter.placements
                    states[name] = distribute_tensor(value, mesh, placements, src_data_rank=None)

    def broadcast_object(self, value):
        """The first process's `value` (anything that can be pickled), on all processes."""
        if self.is_single:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def first_then_others(self) -> AbstractContextManager:
        """Around work that leaves files behind: the first process of each machine does it before the others."""
        return nullcontext() if self.is_single else self.accelerator.local_main_process_first()


@contextmanager
def explain_lost_peer() -> Iterator[None]:
    """Around a training. Raises RuntimeError that says so when another of its processes has ended."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in ("gloo", "NCCL"))
        if world_size() == 1 or not lost:
            raise
        raise RuntimeError(
            f"process {rank()} of {world_size()}: another process of this training has ended, its own error says why; "
            "the same command goes on from the last saved state"
        ) from error


class LossModule(torch.nn.Module):
    """Model and objective as one module, from a batch to the fields of its `Loss`: DDP must wrap everything
    from tokens to loss, including the tied head's use of the embedding."""

    def __init__(self, model: torch.nn.Module, objective: Callable):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch, **settings) -> tuple:
        loss = self.objective(self.model, batch, **settings)
        return loss.total, loss.count, loss.work, loss.parts


def leave() -> None:
    """Leave the process group, if there is one, before this process ends or goes on alone."""
    if world_size() == 1:
        return
    # gloo's threads release a summed tensor a moment after it is there, and take the interpreter lock for it; a process
    # that is about to end is aborted then (https://github.com/pytorch/pytorch/pull/179291)
    time.sleep(0.2)
    torch.distributed.destroy_process_group()


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor that FSDP shards, sharing its memory; any other tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _engine(accelerator) -> str:
    """How Accelerate is configured to train: MULTI_…, FSDP, DEEPSPEED, …"""
    configured = accelerator.distributed_type.value
    uses_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return "FSDP" if configured == "MULTI_CPU" and uses_fsdp else configured


def _accelerator(device: torch.device):
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        # one machine: by default gloo listens at the address that the host's name resolves to
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0] if loopback else "lo")
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=TIMEOUT)]
    # the precision is the run's own `dtype`, whatever Accelerate's config says
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=handlers)
    engine = _engine(accelerator)
    if engine == "FSDP" and device.type == "cpu":  # Accelerate keeps FSDP for GPUs and would use DDP here
        from accelerate.utils import FullyShardedDataParallelPlugin

        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if engine == "FSDP":
        plugin = accelerator.state.fsdp_plugin
        offload = os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true"
        if plugin.fsdp_version != 2 or offload or plugin.activation_checkpointing:
            raise ValueError(
                f"FSDP is configured with version {plugin.fsdp_version}, offload {offload}, activation checkpointing "
                f"{plugin.activation_checkpointing}: launch with --fsdp_version 2 and neither of the two (the run's own "
                "activation_checkpointing does the latter)"
            )
    elif not engine.startswith("MULTI_"):
        raise ValueError(
            f"Accelerate is configured for {engine}; DDP (--multi_gpu) and FSDP (--use_fsdp --fsdp_version 2) can train "
            "here: launch with one of them, or run `accelerate config` again"
        )
    if device.type != "cpu" and device.index is not None and accelerator.device != device:
        raise ValueError(f"the model is on {device}, this process's device is {accelerator.device}: use device='auto'")
    return accelerator
