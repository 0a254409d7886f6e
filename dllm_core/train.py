"""The training loop: micro-batches in, one `TrainStep` out per optimizer step. It draws and prints nothing.

`reference.train` is the same loop in a few lines, without accumulation, resuming, several processes and GPU queues.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field, replace

import torch
from torch import Tensor

from dllm_core.common.interrupt import deferred_interrupt
from dllm_core.compute.activation_checkpointing import activation_checkpointing
from dllm_core.compute.cpu import keep_memory, onednn_matmul
from dllm_core.compute.muon import optimizers
from dllm_core.compute.processes import LossModule, ProcessGroup, explain_lost_peer, local
from dllm_core.compute.transfer import Fetched
from dllm_core.compute.work import Work
from dllm_core.config import TrainConfig
from dllm_core.noise import generator_for
from dllm_core.schedules import BlockSchedule, learning_rate

ASYNC_DEVICES = ("cuda",)  # they compute while the host goes on: the next step is queued before this one is read


@dataclass(frozen=True)
class TrainStep:
    """What one optimizer step did."""

    step: int  # counted from 1
    loss: float  # nats per scored token
    learning_rate: float
    tokens: int  # read so far, without padding
    seconds: float  # of training so far, without validation and without what a GPU computes while the consumer works
    grad_norm: float
    block_size: int | None = None
    phase: str | None = None
    validation: float | None = None  # bound or likelihood measured after this step
    parts: dict[str, float] = field(default_factory=dict)
    positions: int = 0  # computed so far, clean halves, noisy views and padding included
    flops: float = 0.0  # model FLOP so far (`compute.work.training_work`)


def train(
    model: torch.nn.Module,
    batches,
    objective: Callable,
    config: TrainConfig,
    *,
    blocks: BlockSchedule | None = None,
    validate: Callable | None = None,
    run=None,
) -> Iterator[TrainStep]:
    """Train `model` in place on `batches` (an endless iterator of `Batch` with `state()` and `load_state()`).

    objective: (model, batch, block_size=, generator=, embedding_noise=) → `Loss`; generator: `noise.generator_for`.
    validate: model → float, lower is better; measured every `config.eval_every` steps and at the end.
    run: a `RunFolder`; if it holds the state of an unfinished training, that training goes on, bit for bit; the weights
    of a finished one are loaded into `model`, and nothing is yielded.

    KeyboardInterrupt (also in the consumer's cell) saves the state before it stops the loop. So does any other end of the
    consumer, except under FSDP with several processes: those go back to the last saved state.
    On a GPU the gradients of the next step are queued before the numbers of this one are read; what is yielded, validated
    and saved is this step's. The consumer must leave weights, gradients and `batches` alone.
    Raises FloatingPointError when the loss or its gradient is not finite, with the weights of the step before;
    RuntimeError when another process of the training has ended.

    Several processes, started by Accelerate and calling this with the same arguments, share the micro-batches of every
    step (`compute.processes`). With equal micro-batches any number of them makes the same steps, to rounding, and may
    continue a run. The first reads and writes `run`, validates and yields; the others yield nothing and end with it.
    """
    with explain_lost_peer():
        yield from TrainingLoop(model, batches, objective, config, blocks, validate, run).steps()


@dataclass(frozen=True)
class PendingStep:
    """A step whose gradients are computed or, on a GPU, queued."""

    # [n] on the device: summed loss, its count, interrupted processes, positions, FLOP, summed `parts`, gradient's norm
    values: Tensor
    parts: list[str]  # their names
    tokens: int  # read by the step
    block_size: int | None


class TrainingLoop:
    """One training as named steps: `gradients`, `update`, `read` and `save`, in the order in which `steps` calls them.

    step: optimizer steps done; tokens, work, seconds: used so far; queued: the next step, when its gradients are queued already.
    """

    def __init__(self, model, batches, objective, config, blocks, validate, run):
        self.model, self.batches, self.config, self.blocks = model, batches, config, blocks
        self.device = next(model.parameters()).device
        self.processes = ProcessGroup(self.device)
        self.validates = validate is not None  # the same on all processes
        is_first = self.processes.rank == 0
        self.run, self.validate = (run, validate) if is_first else (None, None)
        self.step, self.tokens, self.work, self.seconds = 0, 0, Work(), 0.0
        self.queued: PendingStep | None = None
        self.stop_agreed = False  # several processes stop together, after the step whose sums told them to
        model.zero_grad(set_to_none=True)  # a failed training may have left gradients
        state = self.processes.broadcast_object(self.run.load_state() if self.run else None)
        if state is not None:
            model.load_state_dict(state["model"])
        self.trained = self.processes.sharded_copy(model)  # the model itself, except under FSDP
        compiled = torch.compile(self.trained) if config.compile else self.trained
        self.loss_module = self.processes.wrap(LossModule(compiled, objective))
        self.optimizers = optimizers(self.trained, config)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
        if state is not None:
            self.restore(state)
        self.position, self.saved_at = batches.state(), self.step

    def steps(self) -> Iterator[TrainStep]:
        """The loop."""
        config, layers = self.config, self.trained.model.layers if self.config.activation_checkpointing else ()
        keep_memory()
        with deferred_interrupt(self.processes.is_single) as self.interrupt, activation_checkpointing(layers):
            try:
                while self.step < config.max_iters:
                    began = time.perf_counter()
                    # 1. gradients over all micro-batches, one update of the weights
                    pending = self.queued or self.gradients(self.step)
                    self.update(pending)
                    numbers, self.position = Fetched(pending.values), self.batches.state()
                    self.step, self.tokens = self.step + 1, self.tokens + pending.tokens
                    is_last = self.step == config.max_iters
                    validates = self.validates and (is_last or is_due(self.step, config.eval_every))
                    saves = is_last or is_due(self.step, config.save_every)
                    # 2. a GPU gets its next step before it is waited for; not before other work, which would be timed
                    queues = self.device.type in ASYNC_DEVICES and not (validates or saves)
                    self.queued = self.gradients(self.step) if queues else None
                    done = self.read(pending, numbers.read(), began)
                    # 3. validation and metrics; the consumer
                    if validates and self.validate:
                        done = replace(done, validation=self.validate(self.model))
                    if self.run:
                        self.run.record(done, self.model)
                    if self.processes.rank == 0:
                        self.interrupt.working = False
                        yield done
                        self.interrupt.working = True
                    # 4. the state, once the consumer has done its part of the step; an end, if somebody asked for it
                    if saves:
                        self.save()
                    self.check_interrupt()
            except (KeyboardInterrupt, GeneratorExit):
                self.interrupt.working = True
                if self.step > self.saved_at and (self.stop_agreed or not self.processes.sharded):
                    self.save()  # shards are saved by all processes or by none
                raise
            finally:
                if self.queued is not None:  # give its batch back
                    self.batches.load_state(self.position)
                    self.trained.zero_grad(set_to_none=True)

    def gradients(self, index: int) -> PendingStep:
        """Accumulate the gradients of step `index` (from 0) over its micro-batches: computed on a CPU, queued on a GPU."""
        config, processes = self.config, self.processes
        block_size = self.blocks.block_size(index) if self.blocks else None
        sigma = config.embedding_noise if index < config.embedding_noise_steps else 0.0
        # 1. sums of losses and counts over the micro-batches of this process
        total, count, work, parts, tokens = 0.0, 0.0, Work(), {}, 0
        micro_batches = processes.split(next(self.batches), config.micro_batch_size)
        for part, batch in enumerate(micro_batches):
            tokens += int((batch.document >= 0).sum())  # while the batch is on the host
            if part % processes.size != processes.rank:  # another process computes it
                continue
            generator = generator_for(config.seed, index, part)
            is_last = part + processes.size >= len(micro_batches)
            matmuls = onednn_matmul(batch.tokens.numel(), self.model.config.hidden_size, self.device)
            with matmuls, processes.gradients(self.loss_module, is_last):
                with self.autocast:
                    loss, loss_count, loss_work, loss_parts = self.loss_module(
                        batch, block_size=block_size, generator=generator, embedding_noise=sigma
                    )
                loss.backward()
            total, count, work = total + loss.detach(), count + loss_count, work + loss_work
            parts = {name: parts.get(name, 0.0) + value for name, value in loss_parts.items()}
        # 2. the gradient of the mean over all processes (DDP has averaged theirs), clipped
        interrupted = float(self.interrupt.requested)
        sums = processes.sum([total, count, interrupted, work.positions, work.flops, *parts.values()])
        gradients = [local(parameter.grad) for parameter in self.trained.parameters() if parameter.grad is not None]
        torch._foreach_div_(gradients, (sums[1].clamp(min=1) / processes.size).float())
        norm = processes.clip(self.trained.parameters(), config.grad_clip)
        return PendingStep(torch.cat([sums, norm[None].to(sums)]), list(parts), tokens, block_size)

    def update(self, pending: PendingStep) -> None:
        """Let the optimizers take the pending step, unless its loss or gradient is not finite."""
        loss, norm = pending.values[0], pending.values[-1]
        not_finite = (~(loss + norm).isfinite()).float()
        on_device = self.device.type in ASYNC_DEVICES
        if not on_device and not_finite:
            return
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.step) * group["peak"]
            # as with a GradScaler, the device itself leaves the step out, and nobody waits for it
            optimizer.found_inf = not_finite if on_device else None
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.processes.gather_weights_into(self.trained, self.model)

    def rate(self, index: int) -> float:
        """The learning rate of step `index` (from 0) as a factor of the peak."""
        config = self.config
        shape = {"warmup": config.warmup_steps, "decay_ratio": config.decay_ratio, "min_ratio": config.min_lr_ratio}
        return learning_rate(index, config.max_iters, **shape)

    def read(self, pending: PendingStep, numbers: list[float], began: float) -> TrainStep:
        """The record of a step from its numbers on the host. Raises FloatingPointError when they are not finite."""
        config, index = self.config, self.step - 1
        total, count, interrupted, positions, flops, *parts, norm = numbers
        mean = total / max(count, 1)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise FloatingPointError(
                f"step {self.step}: loss is {mean}, its gradient's norm {norm}; "
                f"lower learning_rate={config.learning_rate} or raise warmup_steps={config.warmup_steps}"
            )
        self.stop_agreed = self.stop_agreed or interrupted > 0
        self.work += Work(int(positions), flops)
        self.seconds += time.perf_counter() - began
        return TrainStep(
            step=self.step,
            loss=mean,
            learning_rate=self.rate(index) * config.learning_rate,
            tokens=self.tokens,
            seconds=self.seconds,
            grad_norm=norm,
            block_size=pending.block_size,
            phase=self.blocks.phase(index) if self.blocks else None,
            parts={name: value / max(count, 1) for name, value in zip(pending.parts, parts, strict=True)},
            positions=self.work.positions,
            flops=self.work.flops,
        )

    def save(self) -> None:
        """Write the state that `restore` continues from. All processes call it together."""
        optimizer_states = [self.processes.gather(optimizer.state_dict()) for optimizer in self.optimizers]
        if self.run:
            used = {"tokens": self.tokens, "work": astuple(self.work), "seconds": self.seconds}
            trained = {"model": self.model.state_dict(), "optimizers": optimizer_states}
            self.run.save_state({**trained, "batches": self.position, "step": self.step, **used})
        self.saved_at = self.step

    def restore(self, state: dict) -> None:
        """Continue from a saved state; the weights are loaded already. A finished training has no step left."""
        self.step = state["step"]
        if self.step == math.inf:
            return
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            self.processes.shard_optimizer_state(optimizer)
        self.batches.load_state(state["batches"])
        self.tokens, self.seconds = state["tokens"], state["seconds"]
        self.work = Work(*state.get("work", ()))  # older states have none

    def check_interrupt(self) -> None:
        """Raise KeyboardInterrupt if the training has to stop after this step: one process at once, several together."""
        stops = self.interrupt.requested if self.processes.is_single else self.stop_agreed
        if stops:
            raise KeyboardInterrupt(f"stopped after step {self.step}; run the cell again to go on from there")


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps (0: never) is done after `step`, counted from 1."""
    return every > 0 and step % every == 0
