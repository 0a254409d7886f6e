"""Training measured side by side: whole steps of the three objectives, of Hugging Face's Qwen3, of the plain ways.

Every job runs packed rows of the same size through forward, backward, clipping and AdamW; tokens are those of the rows,
however many positions a job makes of them.
"""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from dllm_core import patterns
from dllm_core.compute.attention import labels_to
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.transfer import to_device
from dllm_core.config import ModelConfig, TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.losses import Diffusion, Loss, ar_loss
from dllm_core.model import Transformer
from dllm_core.noise import corrupt
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.train import optimizers, train
from dllm_core.workshop.benchmark import peak as benchmark_peak
from dllm_core.workshop.benchmark.jobs import SHAPES
from dllm_core.workshop.benchmark.peers import hugging_face
from dllm_core.workshop.benchmark.timing import MeasuredRow, compared, take_turns, torch_threads

training = importlib.import_module("dllm_core.train")  # the module: `from dllm_core import train` gives the function
LENGTHS = {"tiny": 128, "26m": 512, "100m": 512}
ROWS = [128, 512, 1024, 2048, 4096]  # lengths along which time is measured; a CPU's step has as many tokens as the longest
BLOCK, TOKENS = 32, 1024  # tokens of a step on a CPU; sixteen times as many on a GPU
TURN = 16  # steps of a turn on a GPU, where a step is begun before the last one has ended; one on a CPU
AR, LLADA1, LLADA2, VIEWS, TWICE = "AR", "LLaDA 1", "LLaDA 2", "LLaDA 2, both views", "LLaDA 2, one pass a view"
WHOLE, WHOLE_TWICE = "LLaDA 2, everything computed", "LLaDA 2, everything computed, one pass a view"
THEIR_AR, THEIR_FULL = "Hugging Face AR", "Hugging Face, full diffusion"
THEIR_AR_BY_OURS = "Hugging Face AR, matrix products by our library"
SINGLE = " in float32"  # of jobs beside those in bfloat16: whether it pays
COMPILED = ", compiled"  # of jobs by torch.compile: whether that does
BAND = NoiseSchedule.band(0.05, 0.95)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within it no step is begun before the last one's numbers are there: what one alone takes can be seen."""
    before, training.ASYNC_DEVICES = training.ASYNC_DEVICES, ()
    try:
        yield
    finally:
        training.ASYNC_DEVICES = before


class EverythingComputed:
    """Block diffusion as it is first written: both halves through every layer, under one mask of 2L × 2L, logits of all
    noisy positions. twice: then the inverse of the mask, beside a clean half of its own."""

    def __init__(self, mask_token_id: int, twice: bool = False):
        self.mask_token_id, self.views = mask_token_id, 1 + twice

    def __call__(self, model, batch, *, block_size, generator=None, embedding_noise=0.0) -> Loss:
        length, count = batch.tokens.shape[1], float(batch.scored.sum())
        views = corrupt(batch.tokens, batch.scored, BAND, self.mask_token_id, generator, batch.document)
        pattern = labels_to(patterns.block_diffusion(batch.document, batch.position, block_size), model.device)
        total, clean = torch.zeros((), device=model.device), to_device(batch.tokens, model.device)
        for view in views[: self.views]:
            noisy, weight = (to_device(part, model.device) for part in (view.x_t, view.weight * view.masked))
            hidden = model(torch.cat([noisy, clean], dim=1), pattern.position, pattern.mask())
            logits = model.logits(hidden[:, :length]).float().flatten(0, 1)
            losses = F.cross_entropy(logits, clean.flatten(), reduction="none").view_as(weight)
            total = total + (losses * weight).sum() / self.views
        return Loss(total, count)


class OnePassAView:
    """Complementary masking the straightforward way: each view beside a clean half of its own."""

    def __init__(self, mask_token_id: int):
        self.one = Diffusion(BAND, mask_token_id)

    def __call__(self, model, batch, *, block_size, generator=None, embedding_noise=0.0) -> Loss:
        pattern = self.one.pattern(batch, block_size)
        views = corrupt(batch.tokens, batch.scored, BAND, self.one.mask_token_id, generator, batch.document)
        losses = [self.one.score(model, batch, (view,), pattern) for view in views]
        return Loss(sum(loss.total for loss in losses) / 2, losses[0].count)


JOBS = {  # name → ("ours", objective of a mask token, block size) or ("theirs", causal, products by our library)
    AR: ("ours", lambda mask: ar_loss, None),
    LLADA1: ("ours", lambda mask: Diffusion(NoiseSchedule(), mask), None),
    LLADA2: ("ours", lambda mask: Diffusion(BAND, mask), BLOCK),
    VIEWS: ("ours", lambda mask: Diffusion(BAND, mask, complementary=True), BLOCK),
    TWICE: ("ours", OnePassAView, BLOCK),
    WHOLE: ("ours", EverythingComputed, BLOCK),
    WHOLE_TWICE: ("ours", lambda mask: EverythingComputed(mask, twice=True), BLOCK),
    THEIR_AR: ("theirs", True, False),
    THEIR_FULL: ("theirs", False, False),
    THEIR_AR_BY_OURS: ("theirs", True, True),
}


def measure(shape: str, dtype: str, threads: int, rounds: int, quick: bool) -> Iterator[MeasuredRow]:
    """Rows of the benchmark at a shape of `SHAPES` in "float32" or "bfloat16", on the GPU if there is one.

    quick: few tokens and none of the rows about length. Raises KeyError for another shape.
    """
    with torch_threads(threads):
        yield from _measured(shape, dtype, threads, rounds, quick)


def _measured(shape: str, dtype: str, threads: int, rounds: int, quick: bool) -> Iterator[MeasuredRow]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, length = SHAPES[shape], LENGTHS[shape]
    tokens = 2 * length if quick else TOKENS * (16 if device.type == "cuda" else 1)
    where = f"{threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else torch.cuda.get_device_name(device)
    case = f"{shape} {dtype}, {max(tokens // length, 1)} rows of {length}, {where}"
    jobs = Steps(config, length, tokens, dtype, device)
    made = {name: jobs.job(name) for name in JOBS}
    if dtype == "bfloat16":
        single = Steps(config, length, tokens, "float32", device)
        made |= {f"{name}{SINGLE}": single.job(name) for name in (AR, LLADA1, LLADA2)}
    first = {}
    # a quick run does not wait for the compiler; on a CPU each of a diffusion's shapes takes it a minute at 26 M
    for name in () if quick or (device.type == "cpu" and shape != "tiny") else (AR, LLADA1, LLADA2):
        step, began = jobs.step(f"{name}{COMPILED}"), time.perf_counter()
        with waiting():
            step()
        first[name] = time.perf_counter() - began
        made[f"{name}{COMPILED}"] = jobs.turn(step)
    peak = {}
    if device.type == "cuda":
        with waiting():
            peak = benchmark_peak.on_device(device, made)
    elif not quick:
        asked = {name: [name, shape, length, jobs.rows * length, dtype] for name in JOBS}
        peak = benchmark_peak.apart("train", asked, threads)
    seconds = take_turns(made, rounds, device=device)
    goals = [
        (AR, THEIR_AR, "at least 1.8 in bfloat16 with AMX" if dtype == "bfloat16" else "at least 1"),
        (AR, THEIR_AR_BY_OURS, ""),
        (LLADA1, THEIR_FULL, "at least 1.8 in bfloat16 with AMX" if dtype == "bfloat16" else "at least 1"),
        (LLADA2, AR, "at least 0.55" if shape == "26m" else ""),
        (LLADA2, WHOLE, ""),
        (VIEWS, TWICE, "at least 1.4" if shape == "26m" else ""),
        (VIEWS, WHOLE_TWICE, "at least 1.4" if shape == "26m" else ""),
        *((name.removesuffix(SINGLE), name, "") for name in made if name.endswith(SINGLE)),
        *((f"{name}{COMPILED}", name, "") for name in first),
    ]
    for name, against, target in goals:
        speed = tokens * jobs.steps / sorted(seconds[name])[rounds // 2]
        more = {"tokens per second": round(speed)}
        if device.type == "cuda":
            more |= {"share of bfloat16 peak": round(_used(config, name, speed, device), 3), "steps a turn": jobs.steps}
        if name.endswith(COMPILED):
            more["first step, s"] = round(first[against], 1)
            saved = (sorted(seconds[against])[rounds // 2] - sorted(seconds[name])[rounds // 2]) / jobs.steps
            more["steps until it has paid"] = round(first[against] / saved) if saved > 0 else "never"
        more |= {f"{job}, peak GiB": round(peak[job], 2) for job in (name, against) if job in peak}
        yield compared("train", case, name, against, seconds, target=target, **more)
    if not quick:
        yield from _by_length(shape, dtype, rounds, device, where)


def _by_length(shape: str, dtype: str, rounds: int, device: torch.device, where: str) -> Iterator[MeasuredRow]:
    """Rows of growing length, the tokens of a step kept: what attention adds. At the tiny shape alone, where it shows most."""
    lengths, most = ROWS, max(ROWS) * (16 if device.type == "cuda" else 1)
    if shape != "tiny":
        return
    for name in (AR, LLADA1, LLADA2):
        made = {n: Steps(SHAPES[shape], n, most, dtype, device) for n in lengths}
        jobs = {f"rows of {n}": steps.job(name) for n, steps in made.items()}
        seconds = take_turns(jobs, min(rounds, 3), device=device)
        for job, n in zip(jobs, lengths, strict=True):
            case = f"{shape} {dtype}, {most} tokens a step, {where}"
            at = {"line": name, "row length": n, "tokens": most * made[n].steps}
            yield compared("train along row length", case, job, f"rows of {lengths[0]}", seconds, **at)


class Steps:
    """Makes jobs that take `steps` optimiser steps a call, `tokens` tokens a step in rows of `length`."""

    def __init__(self, config: ModelConfig, length: int, tokens: int, dtype: str, device: torch.device):
        self.config, self.length, self.rows = config, length, max(tokens // length, 1)
        self.dtype, self.device = dtype, device
        self.steps = TURN if device.type == "cuda" else 1

    def batches(self) -> PackedBatches:
        """Endless full rows of random tokens, documents of about half a row."""
        draw = np.random.default_rng(0)
        lengths = draw.integers(self.length // 4, self.length, 64)
        documents = TokenDataset.of([draw.integers(1, self.config.vocab_size - 2, n) for n in lengths])
        ids = {"pad_token_id": 0, "eos_token_id": self.config.vocab_size - 2}
        return PackedBatches(documents, batch_size=self.rows, seq_len=self.length, **ids)

    def settings(self) -> TrainConfig:
        return TrainConfig(10**6, batch_size=self.rows, seq_len=self.length, dtype=self.dtype, learning_rate=1e-4)

    def job(self, name: str) -> Callable[[], None]:
        """The job of `JOBS` called `name`, which may end in `COMPILED` where it is ours. Raises KeyError for another."""
        return self.turn(self.step(name))

    def turn(self, step: Callable[[], None]) -> Callable[[], None]:
        """So many of these steps as one job."""

        def work() -> None:
            for _ in range(self.steps):
                step()

        return work

    def step(self, name: str) -> Callable[[], None]:
        """One step of the job called `name`."""
        kind, *rest = JOBS[name.removesuffix(COMPILED)]
        if kind == "theirs":
            return self.theirs(*rest)
        make, block = rest
        return self.ours(make(self.config.vocab_size - 1), block, name.endswith(COMPILED))

    def ours(self, objective: Callable, block: int | None = None, compiled: bool = False) -> Callable[[], None]:
        torch.manual_seed(0)
        model, config = Transformer(self.config).to(self.device), replace(self.settings(), compile=compiled)
        blocks = BlockSchedule.constant(self.length, config.max_iters, block or self.length)
        steps = train(model, self.batches(), objective, config, blocks=blocks)
        return lambda: next(steps) and None

    def theirs(self, causal: bool, ours: bool = False) -> Callable[[], None]:
        """Hugging Face's Qwen3 of the same first weights by its own forward: logits everywhere, the same optimiser.
        ours: with float32 products by the library that this project asks, see `cpu.onednn_matmul`."""
        torch.manual_seed(0)
        model = hugging_face(Transformer(self.config).to(self.device)).train()
        (optimizer,), batches, mask = optimizers(model, self.settings()), self.batches(), self.config.vocab_size - 1

        def step() -> None:
            batch = next(batches)
            if not causal:  # on the host, as ours: drawing there for a GPU would wait for it
                noise, _ = corrupt(batch.tokens, batch.scored, NoiseSchedule(), mask)
                x_t, weight = (to_device(part, self.device) for part in (noise.x_t, noise.weight * noise.masked))
            batch = batch.to(self.device)
            tokens = batch.tokens
            with onednn_matmul(tokens.numel() * ours, self.config.hidden_size, self.device):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                    if causal:
                        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
                    else:
                        may_see = (batch.document[:, :, None] == batch.document[:, None, :])[:, None]
                        logits = model(input_ids=x_t, attention_mask=may_see, use_cache=False).logits.float()
                        losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
                        loss = (losses * weight.flatten()).mean()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


def alone(name: str, shape: str, length: int, tokens: int, dtype: str) -> Callable[[], None]:
    """A job of `JOBS` on the CPU, for `benchmark_peak`."""
    return Steps(SHAPES[shape], length, tokens, dtype, torch.device("cpu")).job(name)


PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bfloat16 operations per second, dense, as NVIDIA states them


# noisy and clean positions of a training token, and how often its logits are computed
POSITIONS = {AR: (1, 0, 1), LLADA1: (1, 0, 0.5), LLADA2: (1, 1, 0.5), VIEWS: (2, 1, 1)}


def _used(config: ModelConfig, name: str, speed: float, device: torch.device) -> float:
    """Share of the card's bfloat16 peak, by matrix products with parameters alone: 6 operations for each of a layer's
    parameters and each position, and for the head where logits are; the clean half leaves out the last layer. 0.0 for a
    card that `PEAK` does not know."""
    noisy, clean, logits = POSITIONS[name.removesuffix(COMPILED).removesuffix(SINGLE)]
    head = config.vocab_size * config.hidden_size
    layers = Transformer(config).num_parameters - head
    per_token = 6 * (layers * (noisy + clean * (1 - 1 / config.num_hidden_layers)) + head * logits)
    peak = next((value for card, value in PEAK.items() if card in torch.cuda.get_device_name(device)), float("inf"))
    return speed * per_token / peak
