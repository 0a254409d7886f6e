"""The decoding benchmark: the jobs of `jobs` in turns, time against prompt and block length, and the trained weights.

Random weights decode with a fixed number of accepted tokens per forward, trained weights with their own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch

from dllm_core.common.paths import root
from dllm_core.compute.devices import pick_device
from dllm_core.config import DecodeConfig
from dllm_core.model import Transformer
from dllm_core.notebook.asking import prompt_ids
from dllm_core.notebook.grading import load_questions
from dllm_core.notebook.setup import open_checkpoint
from dllm_core.samplers import generate
from dllm_core.workshop.benchmark.jobs import (
    AR,
    DIFFUSERS,
    DIFFUSERS_QWEN3,
    HUGGING_FACE_AR,
    LLADA2,
    LLADA2_NOT_PREPACKED,
    MATMULS,
    MATMULS_NOT_PREPACKED,
    PLAIN_LOOP,
    SHAPES,
    THRESHOLD,
    Case,
    DecodeJobs,
)
from dllm_core.workshop.benchmark.memory import child_peaks, device_peaks
from dllm_core.workshop.benchmark.peers import hugging_face
from dllm_core.workshop.benchmark.timing import Setting, compare, take_turns, torch_threads

PAIRS = (  # (job, the job it is compared with)
    (LLADA2, DIFFUSERS), (LLADA2, DIFFUSERS_QWEN3), (LLADA2, PLAIN_LOOP), (MATMULS, LLADA2),
    (MATMULS_NOT_PREPACKED, LLADA2), (LLADA2, LLADA2_NOT_PREPACKED), (LLADA2, AR), (LLADA2, HUGGING_FACE_AR),
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
    """Rows of the comparison, then of time along the prompt and the block; on CUDA where there is a device.

    Raises ValueError for a shape that is not in `SHAPES`.
    """
    if setting.shape not in SHAPES:
        raise ValueError(f"shape={setting.shape!r}: must be one of {', '.join(SHAPES)}")
    with torch_threads(setting.threads):
        model = random_model(setting).to(pick_device())
        cases = [Case(1, 32), Case(8, 32), Case(1, 480), Case(8, 480, new=32)]  # the last: else a round takes minutes
        if model.device.type == "cuda":
            cases.append(Case(64, 32))
        if setting.quick:
            cases = [Case(1, 8, new=16, block=8)]
        for case in cases:
            bench = DecodeJobs(model, case)
            jobs, peaks = bench.jobs(peers=True), {}
            measured = [name for name in (LLADA2, AR, PLAIN_LOOP, DIFFUSERS, HUGGING_FACE_AR) if name in jobs]
            if model.device.type == "cuda":
                peaks = device_peaks(model.device, {name: bench.job(name, graphs=False) for name in measured})
            elif case is cases[-1] and not setting.quick:  # only the largest case, because each job needs a child process
                peaks = child_peaks(partial(new_job, setting, case), measured, setting.threads)
            yield from comparison(bench, jobs, setting, peaks)
        if (setting.shape, setting.dtype) == ("tiny", "float32"):
            yield from trained(setting)
        prompts, blocks = ((8, 16), (4, 8)) if setting.quick else ((32, 128, 512, 2048), (8, 16, 32, 64, 128))
        for prompt in prompts:
            case = Case(1, prompt, new=8, block=8) if setting.quick else Case(1, prompt, new=64)
            yield from growth(model, case, setting, "prompt")
        for block in blocks:
            case = Case(1, 16, new=16, block=block) if setting.quick else Case(1, 128, block=block)
            yield from growth(model, case, setting, "block")


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
        if against in (PLAIN_LOOP, DIFFUSERS, DIFFUSERS_QWEN3):
            share = bench.equal(name, against)
            if share < (1 if device.type == "cpu" else 0.99):  # on a GPU other shapes round a near tie otherwise
                raise RuntimeError(f"{words}: {name} and {against} wrote different tokens ({share:.1%} equal)")
            scripted = "" if bench.model.lm_head.weight.dtype == torch.float32 else " (scripted tokens)"
            more["outputs"] = _equal(share) + scripted
        if (name, against) == (AR, HUGGING_FACE_AR):  # the libraries round differently, which may decide a near tie
            more["outputs"] = _equal(bench.equal(name, against))
        if (name, against) == (MATMULS, LLADA2):
            more["positions per token" + " (aim: at most 9)" * bool(target)] = bench.positions_per_token()
            more["sampler, ms per forward" + " (aim: at most 0.7)" * bool(target)] = 1e3 * median(bench.sampler_seconds)
        if against == LLADA2_NOT_PREPACKED:
            more["to prepack once, ms"] = 1e3 * bench.prepack_seconds()
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


def trained(setting: Setting) -> Iterator[dict]:
    """The small weights that come with the project, on graded questions one at a time, at the acceptance that they
    reach: answer tokens (through eos) per second. Raises RunError where the weights are not there."""
    device = pick_device()
    ar, llada2 = (open_checkpoint(root() / "weights" / f"tiny-{name}", device=device) for name in ("ar", "llada2"))
    items = load_questions("data/sft_test.jsonl", per_group=2)
    questions = [prompt_ids(ar.tokenizer, item.prompt, chat=True) for item in items]
    qwen3, eos = hugging_face(ar.model), ar.tokenizer.eos_token_id
    tokens: dict[str, float] = {}
    forwards: dict[str, float] = {}

    def library(name: str, loaded, style: str) -> None:
        config = DecodeConfig(style, block_length=loaded.info.block_size, threshold=THRESHOLD)
        traces = [generate(loaded, [prompt], config)[0] for prompt in questions]
        tokens[name] = sum(trace.tokens for trace in traces)
        forwards[name] = sum(trace.forwards for trace in traces)

    def hugging_face_ar() -> None:
        options = {"max_new_tokens": DecodeConfig.max_new_tokens, "do_sample": False, "eos_token_id": eos}
        rows = [qwen3.generate(torch.tensor([prompt], device=device), **options) for prompt in questions]
        tokens[HUGGING_FACE_AR] = sum(row.shape[1] - len(prompt) for row, prompt in zip(rows, questions, strict=True))

    jobs = {LLADA2: partial(library, LLADA2, llada2, "llada2"), AR: partial(library, AR, ar, "ar")}
    jobs[HUGGING_FACE_AR] = hugging_face_ar
    seconds = take_turns(jobs, setting.rounds, device=device)
    words = f"{setting.words}, trained weights, {len(questions)} questions one by one, threshold {THRESHOLD}"
    for name, against in ((LLADA2, AR), (LLADA2, HUGGING_FACE_AR), (AR, HUGGING_FACE_AR)):
        more = {"tokens per forward": tokens[LLADA2] / forwards[LLADA2]} if name == LLADA2 else {}
        yield compare("decode", words, name, against, seconds, tokens, **more)
