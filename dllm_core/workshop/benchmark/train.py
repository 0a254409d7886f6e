"""The training benchmark: whole steps of the three objectives, of plain implementations and of Hugging Face's Qwen3.

Every job runs packed rows of the same size through forward, backward, clipping and AdamW; tokens are those of the rows,
independent of how many positions a job computes for them.
"""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.transfer import to_device
from dllm_core.config import TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.model import Transformer
from dllm_core.noise import corrupt
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.train import optimizers, train
from dllm_core.workshop.benchmark.peers import hugging_face
from dllm_core.workshop.benchmark.timing import SHAPES, Setting, child_peaks, compare, device_peaks, plural, take_turns

training = importlib.import_module("dllm_core.train")  # the module: `from dllm_core import train` gives the function
LENGTHS = {"tiny": 128, "26m": 512, "100m": 512}  # shape → tokens a row
TOKENS = 1024  # of a step on a CPU; sixteen times as many on a GPU
ROWS = [128, 512, 1024, 2048, 4096]  # row lengths along which time is measured; a step has the tokens of the longest
GPU_STEPS = 16  # steps of a job on a GPU, where a step begins before the last one has ended; on a CPU a job is one step
BLOCK = 32
BAND = NoiseSchedule.band(0.05, 0.95)
# the jobs' names, as the records keep them
AR, LLADA1, LLADA2, BOTH_VIEWS = "AR", "LLaDA 1", "LLaDA 2", "LLaDA 2, both views"
HUGGING_FACE_AR, HUGGING_FACE_DIFFUSION = "Hugging Face AR", "Hugging Face, full diffusion"
HUGGING_FACE_AR_ONEDNN = "Hugging Face AR, matrix products by our library"
# within it a step begins only after the last one's numbers are read: time and memory are those of one step
no_step_ahead = partial(patch.object, training, "ASYNC_DEVICES", ())
IN_FLOAT32 = " in float32"  # suffix of a job's name when the setting is bfloat16 and this job runs in float32
COMPILED = ", compiled"  # suffix of the name of a job that torch.compile compiles

OBJECTIVES = {  # name → (mask token id → objective, block size)
    AR: (lambda mask: ar_loss, None),
    LLADA1: (lambda mask: Diffusion(NoiseSchedule(), mask), None),
    LLADA2: (lambda mask: Diffusion(BAND, mask), BLOCK),
    BOTH_VIEWS: (lambda mask: Diffusion(BAND, mask, complementary=True), BLOCK),
}
HUGGING_FACE = {  # name → (whether causal, whether its float32 products run in this project's library)
    HUGGING_FACE_AR: (True, False),
    HUGGING_FACE_DIFFUSION: (False, False),
    HUGGING_FACE_AR_ONEDNN: (True, True),
}


def measure(setting: Setting) -> Iterator[dict]:
    """Rows of the comparison, on the GPU if there is one; at the tiny shape also of time along the length of rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield from comparison(setting, device)
    if setting.shape == "tiny" and not setting.quick:  # where attention is the largest part of a step
        yield from growth(setting, device)


def comparison(setting: Setting, device: torch.device) -> Iterator[dict]:
    """Every job in turns, at one size of rows."""
    quick, shape, bfloat16 = setting.quick, setting.shape, setting.dtype == "bfloat16"
    length = LENGTHS[shape]
    tokens = 2 * length if quick else TOKENS * (16 if device.type == "cuda" else 1)
    train_jobs = TrainJobs(setting, length, tokens, device)
    jobs = {name: train_jobs.job(name) for name in (*OBJECTIVES, *HUGGING_FACE)}
    if bfloat16:
        float32 = TrainJobs(replace(setting, dtype="float32"), length, tokens, device)
        jobs |= {f"{name}{IN_FLOAT32}": float32.job(name) for name in (AR, LLADA1, LLADA2)}
    first_step = {}
    # a quick run skips compilation; on a CPU it takes a minute for each shape of a diffusion step at 26 M
    for name in () if quick or (device.type == "cpu" and shape != "tiny") else (AR, LLADA1, LLADA2):
        step, began = train_jobs.step(f"{name}{COMPILED}"), time.perf_counter()
        with no_step_ahead():
            step()
        first_step[name] = time.perf_counter() - began
        jobs[f"{name}{COMPILED}"] = train_jobs.job(name, step)
    peaks = {}
    if device.type == "cuda":
        with no_step_ahead():
            peaks = device_peaks(device, jobs)
    elif not quick:
        peaks = child_peaks(train_jobs.job, (*OBJECTIVES, *HUGGING_FACE), setting.threads)
    seconds = take_turns(jobs, setting.rounds, device=device)
    pairs = [
        (AR, HUGGING_FACE_AR, "at least 1.8 in bfloat16 with AMX" if bfloat16 else "at least 1"),
        (AR, HUGGING_FACE_AR_ONEDNN, ""),
        (LLADA1, HUGGING_FACE_DIFFUSION, "at least 1.8 in bfloat16 with AMX" if bfloat16 else "at least 1"),
        (LLADA2, AR, "at least 0.55" if shape == "26m" else ""),
        (BOTH_VIEWS, LLADA2, ""),
        *((name.removesuffix(IN_FLOAT32), name, "") for name in jobs if name.endswith(IN_FLOAT32)),
        *((f"{name}{COMPILED}", name, "") for name in first_step),
    ]
    case = f"{shape} {setting.dtype}, {train_jobs.rows} rows of {length}, {machine_words(setting, device)}"
    for name, against, target in pairs:
        more = {"tokens per second": round(tokens * train_jobs.steps / median(seconds[name]))}
        if device.type == "cuda":
            more["steps a turn"] = train_jobs.steps
        if name.endswith(COMPILED):
            more["first step, s"] = round(first_step[against], 1)
            saved = (median(seconds[against]) - median(seconds[name])) / train_jobs.steps
            more["steps until it has paid"] = round(first_step[against] / saved) if saved > 0 else "never"
        more |= {f"{job}, peak GiB": round(peaks[job], 2) for job in (name, against) if job in peaks}
        yield compare("train", case, name, against, seconds, target=target, **more)


def growth(setting: Setting, device: torch.device) -> Iterator[dict]:
    """Rows of increasing length with the same number of tokens per step: the cost of attention."""
    tokens = max(ROWS) * (16 if device.type == "cuda" else 1)
    case = f"{setting.shape} {setting.dtype}, {tokens} tokens a step, {machine_words(setting, device)}"
    for name in (AR, LLADA1, LLADA2):
        by_length = {length: TrainJobs(setting, length, tokens, device) for length in ROWS}
        jobs = {f"rows of {length}": train_jobs.job(name) for length, train_jobs in by_length.items()}
        seconds = take_turns(jobs, min(setting.rounds, 3), device=device)
        for length, train_jobs in by_length.items():
            point = {"line": name, "row length": length, "tokens": tokens * train_jobs.steps}
            yield compare("train along row length", case, f"rows of {length}", f"rows of {ROWS[0]}", seconds, **point)


def machine_words(setting: Setting, device: torch.device) -> str:
    return plural(setting.threads, "thread") if device.type == "cpu" else torch.cuda.get_device_name(device)


class TrainJobs:
    """Jobs of `steps` optimizer steps a call, with `tokens` tokens a step in rows of `length`."""

    def __init__(self, setting: Setting, length: int, tokens: int, device: torch.device):
        self.config, self.dtype, self.device = SHAPES[setting.shape], setting.dtype, device
        self.length, self.rows = length, max(tokens // length, 1)
        self.train_config = TrainConfig(10**6, self.rows, length, dtype=setting.dtype, learning_rate=1e-4)
        self.steps = GPU_STEPS if device.type == "cuda" else 1

    def job(self, name: str, step: Callable[[], None] | None = None) -> Callable[[], None]:
        """The job that repeats `step` (default: `step(name)`)."""
        step = step or self.step(name)

        def job() -> None:
            for _ in range(self.steps):
                step()

        return job

    def step(self, name: str) -> Callable[[], None]:
        """A step of `OBJECTIVES` (the name may end in `COMPILED`) or of `HUGGING_FACE`. Raises KeyError for another."""
        if name in HUGGING_FACE:
            return self.hugging_face_step(*HUGGING_FACE[name])
        objective_of, block = OBJECTIVES[name.removesuffix(COMPILED)]
        torch.manual_seed(0)
        model, objective = Transformer(self.config).to(self.device), objective_of(self.config.vocab_size - 1)
        config = replace(self.train_config, compile=name.endswith(COMPILED))
        blocks = BlockSchedule.constant(self.length, config.max_iters, block or self.length)
        steps = train(model, self.batches(), objective, config, blocks=blocks)
        return lambda: next(steps) and None

    def hugging_face_step(self, causal: bool, onednn: bool) -> Callable[[], None]:
        """Hugging Face's Qwen3 with the same initial weights and optimizer; it computes logits at all positions.
        onednn: float32 products in the library that this project chooses, see `cpu.onednn_matmul`."""
        torch.manual_seed(0)
        model = hugging_face(Transformer(self.config).to(self.device)).train()
        (optimizer,), batches, mask = optimizers(model, self.train_config), self.batches(), self.config.vocab_size - 1

        def step() -> None:
            batch = next(batches)
            if not causal:  # on the host, as in this project: drawing there for a GPU would wait for it
                noise, _ = corrupt(batch.tokens, batch.scored, NoiseSchedule(), mask)
                x_t, weight = (to_device(part, self.device) for part in (noise.x_t, noise.weight * noise.masked))
            batch = batch.to(self.device)
            tokens = batch.tokens
            with onednn_matmul(tokens.numel() if onednn else 0, self.config.hidden_size, self.device):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                    if causal:
                        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
                    else:
                        mask_2d = (batch.document[:, :, None] == batch.document[:, None, :])[:, None]
                        logits = model(input_ids=x_t, attention_mask=mask_2d, use_cache=False).logits.float()
                        losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
                        loss = (losses * weight.flatten()).mean()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def batches(self) -> PackedBatches:
        """Endless full rows of random tokens, documents of about half a row."""
        generator = np.random.default_rng(0)
        lengths = generator.integers(self.length // 4, self.length, 64)
        tokens = [generator.integers(1, self.config.vocab_size - 2, length) for length in lengths]
        documents = TokenDataset.of(tokens, pad_token_id=0, eos_token_id=self.config.vocab_size - 2)
        return PackedBatches(documents, batch_size=self.rows, seq_len=self.length)
