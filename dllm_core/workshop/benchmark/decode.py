"""The decoding benchmark: the jobs of `jobs` in turns, and time against prompt and block length.

Random weights decode with a fixed number of accepted tokens per forward.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch

from dllm_core.compute.devices import pick_device
from dllm_core.model import Transformer
from dllm_core.workshop.benchmark.jobs import (
    AR,
    DIFFUSERS,
    HUGGING_FACE_AR,
    LLADA2,
    MATMULS,
    PLAIN_LOOP,
    SHAPES,
    Case,
    DecodeJobs,
)
from dllm_core.workshop.benchmark.memory import child_peaks, device_peaks
from dllm_core.workshop.benchmark.timing import Setting, compare, take_turns, torch_threads

PAIRS = (  # (job, the job it is compared with)
    (LLADA2, DIFFUSERS), (LLADA2, PLAIN_LOOP), (MATMULS, LLADA2), (LLADA2, AR), (LLADA2, HUGGING_FACE_AR),
    (AR, HUGGING_FACE_AR),
)  # fmt: skip
# the aims, by shape and precision, and by (batch, prompt) and the two jobs
TARGETS = {
    ("26m", "float32"): {
        (1, 32, LLADA2, DIFFUSERS): "at least 2.2", (8, 32, LLADA2, DIFFUSERS): "at least 3.5",
        (1, 480, LLADA2, DIFFUSERS): "at least 6", (1, 32, MATMULS, LLADA2): "at most 1.3",
    },
    ("26m", "bfloat16"): {(1, 32, LLADA2, HUGGING_FACE_AR): "at least 2.8 (with AMX)"},
}  # fmt: skip


def measure(setting: Setting) -> Iterator[dict]:
    """Rows of the comparison, then of time along the prompt and the block; on CUDA where there is a device."""
    with torch_threads(setting.threads):
        model = random_model(setting).to(pick_device())
        cases = [Case(1, 32), Case(8, 32), Case(1, 480), Case(8, 480, new=32)]  # the last: else a round takes minutes
        if model.device.type == "cuda":
            cases.append(Case(64, 32))
        points = [("prompt", Case(1, prompt, new=64)) for prompt in (32, 128, 512, 2048)]
        points += [("block", Case(1, 128, block=block)) for block in (8, 16, 32, 64, 128)]
        if setting.quick:
            cases = [Case(1, 8, new=16, block=8)]
            points = [("prompt", Case(1, prompt, new=8, block=8)) for prompt in (8, 16)]
            points += [("block", Case(1, 16, new=16, block=block)) for block in (4, 8)]
        for case in cases:
            bench = DecodeJobs(model, case)
            jobs, peaks = bench.jobs(), {}
            measured = [name for name in jobs if name != MATMULS]
            if model.device.type == "cuda":
                peaks = device_peaks(model.device, {name: bench.job(name, graphs=False) for name in measured})
            elif case is cases[-1] and not setting.quick:  # the largest alone: each job needs a child process
                peaks = child_peaks(partial(new_job, setting, case), measured, setting.threads)
            yield from comparison(bench, jobs, setting, peaks)
        for axis, case in points:
            yield from growth(model, case, setting, axis)


def random_model(setting: Setting) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPES[setting.shape]).eval().to(getattr(torch, setting.dtype))


def new_job(setting: Setting, case: Case, name: str) -> Callable:
    """A job with a newly built model, for a child process."""
    return DecodeJobs(random_model(setting), case).job(name)


def comparison(
    bench: DecodeJobs, jobs: dict[str, Callable], setting: Setting, peaks: dict[str, float]
) -> Iterator[dict]:
    """Every job of one case in turns. peaks: GiB that a job needs besides the weights, where measured.

    Raises RuntimeError where two jobs that must write the same tokens do not."""
    case, device = bench.case, bench.model.device
    bench.sampler_seconds.clear()
    seconds = take_turns(jobs, setting.rounds, device=device)
    words = f"{setting.words}, batch {case.batch}, prompt {case.prompt}, answer {case.new}"
    targets = TARGETS.get((setting.shape, setting.dtype), {})
    for name, against in PAIRS:
        if name not in jobs or against not in jobs:
            continue
        target = targets.get((case.batch, case.prompt, name, against), "")
        more = {"ms per token": 1e3 * median(seconds[name]) / case.new / case.batch}
        if against in (PLAIN_LOOP, DIFFUSERS):
            share = bench.equal(name, against)
            if share < (1 if device.type == "cpu" else 0.99):  # on a GPU other shapes round a near tie otherwise
                raise RuntimeError(f"{words}: {name} and {against} wrote different tokens ({share:.1%} equal)")
            scripted = "" if bench.model.lm_head.weight.dtype == torch.float32 else " (scripted tokens)"
            more["outputs"] = _equal(share) + scripted
        elif (name, against) == (AR, HUGGING_FACE_AR):  # the libraries round differently, which may decide a near tie
            more["outputs"] = _equal(bench.equal(name, against))
        elif (name, against) == (MATMULS, LLADA2):
            more["positions per token" + " (aim: at most 9)" * bool(target)] = bench.positions_per_token()
            more["sampler, ms per forward" + " (aim: at most 0.7)" * bool(target)] = 1e3 * median(bench.sampler_seconds)
        more |= {f"{job}, peak GiB": round(peaks[job], 3) for job in (name, against) if job in peaks}
        yield compare("decode", words, name, against, seconds, target=target, **more)


def _equal(share: float) -> str:
    return "equal" if share == 1 else f"{share:.2%} equal"


def growth(model: Transformer, case: Case, setting: Setting, axis: str) -> Iterator[dict]:
    """The cached decoder against the plain loop and against AR at one length. axis: "prompt" or "block"."""
    bench = DecodeJobs(model, case)
    jobs = {name: bench.job(name) for name in (LLADA2, PLAIN_LOOP, AR)}
    seconds = take_turns(jobs, min(setting.rounds, 3), device=model.device)
    words = f"{setting.words}, along the {axis}: {getattr(case, axis)}"
    for against in (PLAIN_LOOP, AR):
        point = {axis: getattr(case, axis), "tokens": case.new}
        yield compare(f"decode along {axis}", words, LLADA2, against, seconds, **point)
