"""The training loop as a generator of `TrainStep`: notebooks and batch runs consume it, nothing here draws or prints."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dllm_core.common.interrupt import deferred_interrupt
from dllm_core.compute.cpu import keep_memory, onednn_matmul
from dllm_core.compute.muon import Muon
from dllm_core.compute.processes import ProcessGroup, local
from dllm_core.compute.transfer import Fetched
from dllm_core.config import TrainConfig
from dllm_core.schedules import BlockSchedule, learning_rate

AHEAD = ("cuda",)  # devices that compute while the host goes on: their next step is begun before this one is looked at


@dataclass(frozen=True)
class TrainStep:
    """What one optimiser step did. step: 1-based; loss: nats per scored token; tokens: read so far, padding left out;
    seconds: of training so far, validation left out, and what a GPU computes while the consumer works; validation: bound
    or likelihood measured after this step."""

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


@contextlib.contextmanager
def activation_checkpointing(layers) -> Iterator[None]:
    """Within it each of the layers keeps its input alone and computes again in the backward pass (activation
    checkpointing, arXiv 1604.06174): the same gradients for less memory and a forward more."""
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own stands again


@dataclass(frozen=True)
class PendingStep:
    """A step whose gradients are computed or, on a GPU, will be. values: [n] on the device: summed loss, its count, the
    processes that were asked to stop, the summed `parts`, the gradient's norm. tokens: it read."""

    values: Tensor
    parts: list[str]
    tokens: int
    block_size: int | None


class LossModule(torch.nn.Module):
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
    `run_folder.RunFolder`; when it holds the state of an unfinished training, that is continued, parameter for parameter.
    An interrupt (KeyboardInterrupt, also of the consumer's cell) saves before it stops; any other end of the consumer does
    too, but for several processes under FSDP, which then go back to the last saved state.
    On a GPU the next step's gradients are begun before a step's numbers are read: neither waits for the other, and what
    is yielded, measured and saved is that step's all the same. The consumer leaves weights, gradients and `batches` alone.
    Raises FloatingPointError when the loss or its gradient is not finite: the weights stay those of the step before;
    RuntimeError when another process of the training has ended.

    Started by Accelerate on several processes, each calling this with the same arguments, they share every batch
    (`batches` gives the global one to each) by its micro-batches; micro_batch_size 0 means one for each process. With
    equal micro-batches any number of processes makes the same steps, to rounding, and may take a run up. An objective
    that draws random numbers has a `skip` beside its call, which draws them alone. The first process reads and writes
    `run`, validates and yields; the others train along, yield nothing and end with it.
    """
    device, width = next(model.parameters()).device, model.config.hidden_size
    team = ProcessGroup(device)
    measured = validate is not None  # on all processes alike
    run, validate = (run, validate) if team.rank == 0 else (None, None)
    generator = torch.Generator().manual_seed(config.seed)
    step, tokens, seconds = 0, 0, 0.0
    model.zero_grad(set_to_none=True)  # a training that failed may have left gradients
    state = team.broadcast_object(run.load_state() if run is not None else None)
    if state is not None:
        model.load_state_dict(state["model"])
    trained = team.sharded_copy(model)  # `model` itself, unless its weights are shared out
    scored = team.wrap(LossModule(torch.compile(trained) if config.compile else trained, objective))
    made = optimizers(trained, config)
    if state is not None:
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            team.shard_optimizer_state(optimizer)
        generator.set_state(state["generator"])
        batches.load_state(state["batches"])
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]

    def position() -> dict:
        return {"generator": generator.get_state(), "batches": batches.state()}

    def save() -> None:
        states = [team.gather(optimizer.state_dict()) for optimizer in made]
        if run is not None:
            run.save_state({
                "model": model.state_dict(), "optimizers": states, **reached,
                "step": step, "tokens": tokens, "seconds": seconds,
            })  # fmt: skip

    skip, undrawn = getattr(objective, "skip", None), generator.get_state()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    ahead = lambda: device.type in AHEAD

    def gradients(index: int) -> PendingStep:
        """Those of step `index`, from 0, left in the parameters: computed on a CPU, under way on a GPU."""
        size = blocks.block_size(index) if blocks else None
        noise = config.embedding_noise if index < config.embedding_noise_steps else 0.0
        # 1. sums of losses and counts, gradients accumulated over a few rows at a time
        total, count, parts, read = 0.0, 0.0, {}, 0
        split = team.split(next(batches), config.micro_batch_size)
        how = {"block_size": size, "generator": generator, "embedding_noise": noise}
        for number, batch in enumerate(split):
            read += int((batch.document >= 0).sum())  # before it leaves the host
            if not team.computes(number):
                if skip is not None:
                    skip(model, batch, **how)
                continue
            with onednn_matmul(batch.tokens.numel(), width, device), team.gradients(scored, number + team.size >= len(split)):
                with autocast:
                    loss, scale, named = scored(batch, **how)
                loss.backward()
            total, count = total + loss.detach(), count + scale
            parts = {name: parts.get(name, 0.0) + value for name, value in named.items()}
        if not (team.is_single or skip) and not torch.equal(generator.get_state(), undrawn):
            raise ValueError("on several processes an objective that draws random numbers needs a `skip`")
        # 2. the gradient of the mean over all processes (DDP has averaged theirs), clipped
        sums = team.sum([total, count, float(interrupt.asked), *parts.values()])
        grads = [local(p.grad) for p in trained.parameters() if p.grad is not None]
        torch._foreach_div_(grads, (sums[1].clamp(min=1) / team.size).float())
        norm = team.clip(trained.parameters(), config.grad_clip)
        return PendingStep(torch.cat([sums, norm[None].to(sums)]), list(parts), read, size)

    def update(values: Tensor, index: int) -> float:
        """Step `index` of the optimisers, which is left out where loss or gradient is not finite; its rate, of 1."""
        rate = learning_rate(index, config.max_iters, warmup=config.warmup_steps,
                             decay_ratio=config.decay_ratio, min_ratio=config.min_lr_ratio)  # fmt: skip
        found_inf = (~(values[0] + values[-1]).isfinite()).float()
        if not ahead() and found_inf:
            return rate
        with team.explain_lost_peer():
            for optimizer in made:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["peak"]
                # as a GradScaler has it: the device itself decides, and nobody waits for it
                optimizer.found_inf = found_inf if ahead() else None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        team.gather_weights_into(trained, model)
        return rate

    keep_memory()
    saved_at, reached, following = step, position(), None
    layers = trained.model.layers if config.activation_checkpointing else ()
    agreed = False  # whether several processes stop together after this step
    with deferred_interrupt(team.is_single) as interrupt, activation_checkpointing(layers):
        try:
            while step < config.max_iters:
                began = time.perf_counter()
                # 1. gradients and update
                queued = following or gradients(step)
                rate, values, reached = update(queued.values, step), Fetched(queued.values), position()
                step, tokens = step + 1, tokens + queued.tokens
                last = step == config.max_iters
                due = measured and (last or (config.eval_every and step % config.eval_every == 0))
                saves = last or (config.save_every and step % config.save_every == 0)
                # 2. a GPU is given the next step before this one's numbers are waited for; not where other work comes
                # first, which would be timed and take its memory beside that step's gradients
                following = gradients(step) if ahead() and not (due or saves) else None
                total, count, asked, *named, norm = values.read()
                mean = total / max(count, 1)
                if not (math.isfinite(mean) and math.isfinite(norm)):
                    raise FloatingPointError(
                        f"step {step}: loss is {mean}, its gradient's norm {norm}; "
                        f"lower learning_rate={config.learning_rate} or raise warmup_steps={config.warmup_steps}"
                    )
                seconds += time.perf_counter() - began
                # 3. validation, records
                bound = validate(model) if due and validate else None
                parts = {name: value / max(count, 1) for name, value in zip(queued.parts, named, strict=True)}
                done = TrainStep(step, mean, rate * config.learning_rate, tokens, seconds, norm, queued.block_size,
                                 blocks.phase(step - 1) if blocks else None, bound, parts)  # fmt: skip
                if run is not None:
                    run.record(done, model)
                if saves:
                    save()
                    saved_at = step
                # several processes stop together, after the step whose sums told all of them that one was asked
                agreed = agreed or asked > 0
                interrupt.check(step, interrupt.asked if team.is_single else agreed)
                if team.rank > 0:
                    continue
                interrupt.working = False
                yield done
                interrupt.working = True
                interrupt.check(step, team.is_single and interrupt.asked)
        except (KeyboardInterrupt, GeneratorExit):
            interrupt.working = True
            if step > saved_at and (agreed or not team.sharded):  # shards are saved by all processes or by none
                save()
            raise
        finally:
            if following is not None:  # begun and not to be taken
                batches.load_state(reached["batches"])
                trained.zero_grad(set_to_none=True)
