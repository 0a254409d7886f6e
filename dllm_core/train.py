"""The training loop as a generator of `TrainStep`: notebooks and batch runs consume it, nothing here draws or prints."""

import contextlib
import functools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.utils.checkpoint import checkpoint

from dllm_core.config import TrainConfig
from dllm_core.kernels import keep_memory, products
from dllm_core.muon import Muon
from dllm_core.schedules import BlockSchedule, learning_rate
from dllm_core.team import Team, local


@dataclass(frozen=True)
class TrainStep:
    """What one optimiser step did. step: 1-based; loss: nats per scored token; tokens: read so far, padding left out;
    seconds: of training so far, validation left out; validation: bound or likelihood measured after this step."""

    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    grad_norm: float
    block_size: int | None = None
    phase: str | None = None
    validation: float | None = None
    parts: dict[str, float] = field(default_factory=dict)


def optimizers(model: torch.nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices only; with "muon", Muon (Newton–Schulz-orthogonalised momentum) on the layers'
    matrices and AdamW on the rest. Each group keeps its peak rate under "peak"."""
    matrices, embeddings, gains = [], [], []
    for name, parameter in model.named_parameters():
        room = gains if parameter.ndim < 2 else embeddings if "embed" in name or "lm_head" in name else matrices
        room.append(parameter)
    adamw = [{"params": embeddings, "weight_decay": config.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    made = []
    if config.optimizer == "muon":
        # three Newton–Schulz steps instead of Muon's usual five: cheaper, and all recorded results are made with three
        how = {"ns_steps": 3, "half": config.dtype == "bfloat16"}
        made.append(Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.weight_decay, **how))
    else:
        adamw.append({"params": matrices, "weight_decay": config.weight_decay})
    made.append(torch.optim.AdamW(adamw, lr=config.learning_rate, betas=(0.9, 0.95), fused=True))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


@dataclass
class Interrupt:
    """asked: Ctrl-C came. working: the training is in a step, not the consumer of its steps."""

    asked: bool = False
    working: bool = True

    def check(self, step: int, stop: bool) -> None:
        """Raise KeyboardInterrupt where `stop` says so; step: the last one that is whole."""
        if stop:
            raise KeyboardInterrupt(f"stopped after step {step}; run the cell again to go on from there")


@contextlib.contextmanager
def deferred_interrupt(alone: bool = True) -> Iterator[Interrupt]:
    """Hold Ctrl-C (the notebook's stop button) back until a step is whole, so that what is saved is consistent.

    Also while the consumer draws: it is stopped with its next step; at once when asked twice, if `alone`, for several
    processes can only stop together. Outside the main thread nothing is held back.
    """
    held = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return

    def hold(*_) -> None:
        if held.asked and not held.working and alone:
            raise KeyboardInterrupt
        held.asked = True

    before = signal.signal(signal.SIGINT, hold) or signal.default_int_handler
    try:
        yield held
    finally:
        # a generator closed late, or by another thread, leaves the handlers of others alone
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def recomputed(layers) -> Iterator[None]:
    """Within it each of the layers keeps its input alone and computes again in the backward pass (activation
    checkpointing, arXiv 1604.06174): the same gradients for less memory and a forward more."""
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own stands again


class Scored(torch.nn.Module):
    """Model and objective as one module, from a batch to (total, count, parts) of its `Loss`: what DDP wraps must hold
    the whole way from tokens to loss, the tied head's use of the embedding included."""

    sharded_by = ("Layer",)  # the modules that FSDP gathers one after another

    def __init__(self, model: torch.nn.Module, objective: Callable):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch, **how) -> tuple:
        loss = self.objective(self.model, batch, **how)
        return loss.total, loss.count, loss.parts


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

    validate: model → float, lower is better; measured every `config.eval_every` steps and at the end. run: a
    `runs.Run`; when it holds the state of an unfinished training, that is continued, parameter for parameter.
    An interrupt (KeyboardInterrupt, also of the consumer's cell) saves before it stops; any other end of the consumer does
    too, but for several processes under FSDP, which then go back to the last saved state.
    Raises FloatingPointError when the loss or its gradient is not finite: the weights stay those of the step before;
    RuntimeError when another process of the training has ended.

    Started by Accelerate on several processes, each calling this with the same arguments, they share every batch
    (`batches` gives the global one to each) by its micro-batches; micro_batch_size 0 means one for each process. With
    equal micro-batches any number of processes makes the same steps, to rounding, and may take a run up. An objective
    that draws random numbers has a `skip` beside its call, which draws them alone. The first process reads and writes
    `run`, validates and yields; the others train along, yield nothing and end with it.
    """
    device, width = next(model.parameters()).device, model.config.hidden_size
    team = Team(device)
    run, validate = (run, validate) if team.rank == 0 else (None, None)
    generator = torch.Generator().manual_seed(config.seed)
    step, tokens, seconds = 0, 0, 0.0
    model.zero_grad(set_to_none=True)  # a training that failed may have left gradients
    state = team.from_first(run.load_state() if run is not None else None)
    if state is not None:
        model.load_state_dict(state["model"])
    trained = team.own(model)  # `model` itself, unless its weights are shared out
    scored = team.wrap(Scored(torch.compile(trained) if config.compile else trained, objective))
    made = optimizers(trained, config)
    if state is not None:
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            team.share_out(optimizer)
        generator.set_state(state["generator"])
        batches.load_state(state["batches"])
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]

    def save() -> None:
        states = [team.whole(optimizer.state_dict()) for optimizer in made]
        if run is not None:
            run.save_state({
                "model": model.state_dict(), "optimizers": states,
                "generator": generator.get_state(), "batches": batches.state(),
                "step": step, "tokens": tokens, "seconds": seconds,
            })  # fmt: skip

    keep_memory()
    skip, undrawn = getattr(objective, "skip", None), generator.get_state()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    saved_at = step
    layers = trained.model.layers if config.activation_checkpointing else ()
    agreed = False  # whether several processes stop together after this step
    with deferred_interrupt(team.alone) as interrupt, recomputed(layers):
        try:
            while step < config.max_iters:
                began = time.perf_counter()
                # 1. rates and block size of this step
                rate = learning_rate(step, config.max_iters, warmup=config.warmup_steps,
                                     decay_ratio=config.decay_ratio, min_ratio=config.min_lr_ratio)  # fmt: skip
                for group in (group for optimizer in made for group in optimizer.param_groups):
                    group["lr"] = rate * group["peak"]
                size = blocks.block_size(step) if blocks else None
                noise = config.embedding_noise if step < config.embedding_noise_steps else 0.0
                # 2. sums of losses and counts, gradients accumulated over a few rows at a time
                total, count, parts = 0.0, 0.0, {}
                split = team.split(next(batches), config.micro_batch_size)
                how = {"block_size": size, "generator": generator, "embedding_noise": noise}
                for number, batch in enumerate(split):
                    tokens += int((batch.document >= 0).sum())  # before it leaves the host
                    if not team.owns(number):
                        if skip is not None:
                            skip(model, batch, **how)
                        continue
                    with products(batch.tokens.numel(), width, device), team.gradients(scored, number + team.size >= len(split)):
                        with autocast:
                            loss, scale, named = scored(batch, **how)
                        loss.backward()
                    total, count = total + loss.detach(), count + scale
                    parts = {name: parts.get(name, 0.0) + value for name, value in named.items()}
                if not (team.alone or skip) and not torch.equal(generator.get_state(), undrawn):
                    raise ValueError("on several processes an objective that draws random numbers needs a `skip`")
                # 3. gradient of the mean over all processes (DDP has averaged theirs), clipped
                sums = team.sum([total, count, float(interrupt.asked), *parts.values()])
                grads = [local(p.grad) for p in trained.parameters() if p.grad is not None]
                torch._foreach_div_(grads, (sums[1].clamp(min=1) / team.size).float())
                norm = team.clip(trained.parameters(), config.grad_clip)
                # 4. the step's one wait for the device: nothing is updated before the loss is known to be finite
                total, count, asked, *values, norm = torch.cat([sums, norm[None].to(sums)]).tolist()
                mean = total / max(count, 1)
                if not (math.isfinite(mean) and math.isfinite(norm)):
                    raise FloatingPointError(
                        f"step {step + 1}: loss is {mean}, its gradient's norm {norm}; "
                        f"lower learning_rate={config.learning_rate} or raise warmup_steps={config.warmup_steps}"
                    )
                with team.together():
                    for optimizer in made:
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                team.show(trained, model)
                step += 1
                seconds += time.perf_counter() - began
                # 5. validation, records
                last, bound = step == config.max_iters, None
                if validate and (last or (config.eval_every and step % config.eval_every == 0)):
                    bound = validate(model)
                parts = {name: value / max(count, 1) for name, value in zip(parts, values, strict=True)}
                done = TrainStep(step, mean, rate * config.learning_rate, tokens, seconds, norm, size,
                                 blocks.phase(step - 1) if blocks else None, bound, parts)  # fmt: skip
                if run is not None:
                    run.record(done, model)
                if last or (config.save_every and step % config.save_every == 0):
                    save()
                    saved_at = step
                # several processes stop together, after the step whose sums told all of them that one was asked
                agreed = agreed or asked > 0
                interrupt.check(step, interrupt.asked if team.alone else agreed)
                if team.rank > 0:
                    continue
                interrupt.working = False
                yield done
                interrupt.working = True
                interrupt.check(step, team.alone and interrupt.asked)
        except (KeyboardInterrupt, GeneratorExit):
            interrupt.working = True
            if step > saved_at and (agreed or not team.sharded):  # shards are saved by all processes or by none
                save()
            raise
