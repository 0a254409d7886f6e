"""Several processes that train one model together, through Hugging Face Accelerate (DDP; gloo on CPUs, NCCL on GPUs).

The unit of sharing is the micro-batch, whole: every process packs the same global batch and draws the noise of all its
parts in order, and computes its own. So a part's noise, strata and CAP mean are what one process would have had.
Alone, nothing here is imported or does anything.
"""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # for the first process, which validates, samples and saves while the others wait


def rank() -> int:
    """The number of this process among those a launcher (accelerate, torchrun) started together; 0 for one alone."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes a launcher started together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Team:
    """This process and the others that train with it: `rank` of `size`; `device` is where its model is.

    Raises ValueError when Accelerate is configured for an engine other than DDP, or for another device than this one.
    """

    def __init__(self, device: torch.device):
        self.rank, self.size, self.device, self.accelerator = rank(), size(), device, None
        if self.size > 1:
            self.accelerator = _accelerator(device)

    @property
    def alone(self) -> bool:
        return self.size == 1

    def split(self, batch, rows: int) -> list:
        """The batch in parts of `rows` rows (0: as many parts as processes). Raises ValueError for fewer than that."""
        parts = batch.split(rows or (0 if self.alone else -(-len(batch.tokens) // self.size)))
        if len(parts) < self.size:
            raise ValueError(
                f"a batch of {len(batch.tokens)} rows makes {len(parts)} parts of micro_batch_size={rows}, too few for "
                f"{self.size} processes: lower micro_batch_size (0: as many parts as processes) or raise batch_size"
            )
        return parts

    def owns(self, part: int) -> bool:
        """Whether this process computes the part of that number."""
        return part % self.size == self.rank

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module whose gradients the processes average; as it is where there is only one."""
        if self.alone:
            return module
        with warnings.catch_warnings():
            # newer torch has another word for this setting, which older torch and Accelerate do not know
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare(module)

    @contextlib.contextmanager
    def gradients(self, module: torch.nn.Module, last: bool) -> Iterator[None]:
        """Around a forward and its backward: gradients are kept here, and with the step's `last` part averaged over all.

        Raises RuntimeError when another process has ended.
        """
        if self.alone or last:
            with self._together():
                yield
        else:
            with self.accelerator.no_sync(module):
                yield

    def sum(self, values: list[Tensor | float]) -> Tensor:
        """[n] float64 (host numbers keep their digits), on the device: the values, each summed over the processes.

        Nothing waits for the device. Raises RuntimeError when another process has ended.
        """
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        filled = [
            value.to(wide) if isinstance(value, Tensor) else torch.full((), value, dtype=wide, device=self.device)
            for value in values
        ]
        sums = torch.stack(filled)
        if not self.alone:
            with self._together():
                torch.distributed.all_reduce(sums)
        return sums

    def from_first(self, value):
        """The first process's `value` (anything that can be pickled), for all."""
        if self.alone:
            return value
        from accelerate.utils import broadcast_object_list

        with self._together():
            return broadcast_object_list([value])[0]

    @contextlib.contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Around work that leaves files behind: a machine's first process does it, then the others."""
        with contextlib.nullcontext() if self.alone else self.accelerator.local_main_process_first():
            yield

    def close(self) -> None:
        """Nothing is shared any more: the others may end while the first goes on."""
        if not self.alone:
            torch.distributed.destroy_process_group()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in ("gloo", "NCCL"))
            if self.alone or not lost:
                raise
            raise RuntimeError(
                f"process {self.rank} of {self.size}: another process of this training has ended, its own error says "
                "why; the same command goes on from the last saved state"
            ) from error


def _accelerator(device: torch.device):
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    if os.environ.get("MASTER_ADDR") in ("127.0.0.1", "localhost"):
        # one machine: gloo, left to itself, listens where the host's name leads
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0] if loopback else "lo")
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), InitProcessGroupKwargs(timeout=PATIENCE)]
    # the precision is the run's own `dtype`, whatever Accelerate's config says
    made = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=handlers)
    if not made.distributed_type.value.startswith("MULTI_"):
        raise ValueError(
            f"Accelerate is configured for {made.distributed_type.value}; only DDP (MULTI_GPU) can train here: Muon "
            "needs whole matrices, and the first process validates, samples and saves with the whole model between "
            "steps. The models of this project fit one device; launch with --multi_gpu, or run `accelerate config` again"
        )
    if device.type != "cpu" and device.index is not None and made.device != device:
        raise ValueError(f"the model is on {device}, this process's device is {made.device}: use device='auto'")
    return made
