"""Decoding measured side by side: the jobs of `benchmark_jobs` in turns, as rows; how time grows with prompt and block; the
trained weights at their own acceptance."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
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
from dllm_core.workshop.benchmark import peak as benchmark_peak
from dllm_core.workshop.benchmark.jobs import (
    FLOOR,
    FLOOR_PLAIN,
    OURS,
    OURS_AR,
    OURS_PLAIN,
    PIPELINE,
    PIPELINE_QWEN3,
    PLAIN,
    SHAPES,
    THEIR_AR,
    THRESHOLD,
    Bench,
    Case,
)
from dllm_core.workshop.benchmark.peers import hugging_face
from dllm_core.workshop.benchmark.timing import MeasuredRow, compared, take_turns, torch_threads


def measure(shape: str, dtype: str, threads: int, rounds: int, quick: bool) -> Iterator[MeasuredRow]:
    """Rows of the comparison, then of how time grows with the prompt and with the block; on CUDA where there is one.

    shape: of `SHAPES`; dtype: "float32" or "bfloat16"; threads: of PyTorch while it is measured. quick: a few tokens,
    to see that everything runs. Raises ValueError for another shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r}: must be one of {', '.join(SHAPES)}")
    with torch_threads(threads):
        torch.manual_seed(0)
        model = Transformer(SHAPES[shape]).eval().to(pick_device(), getattr(torch, dtype))
        of = f"{shape} {dtype}, {threads} thread{'s' if threads > 1 else ''}"
        cases = [Case(1, 32), Case(8, 32), Case(1, 480), Case(8, 480, new=32)]  # the last: else a round takes minutes
        if model.device.type == "cuda":
            cases.append(Case(64, 32))
        if quick:
            cases = [Case(1, 8, new=16, block=8)]
        targets = TARGETS.get((shape, dtype), {})
        for case in cases:
            # memory, where a process of its own is needed to see it, for the largest case alone
            apart = {} if quick or case is not cases[-1] else {"shape": shape, "dtype": dtype, "threads": threads}
            yield from comparison(model, case, of, rounds, targets, apart)
        if shape == "tiny" and dtype == "float32":
            yield from trained(of, rounds)
        prompts, blocks = ((8, 16), (4, 8)) if quick else ((32, 128, 512, 2048), (8, 16, 32, 64, 128))
        for prompt in prompts:
            case = Case(1, prompt, new=8, block=8) if quick else Case(1, prompt, new=64)
            yield from growth(model, case, of, rounds, "prompt")
        for block in blocks:
            case = Case(1, 16, new=16, block=block) if quick else Case(1, 128, block=block)
            yield from growth(model, case, of, rounds, "block")


# what is aimed at, by shape and precision, and by (batch, prompt) and the two jobs
TARGETS = {
    ("26m", "float32"): {
        (1, 32, OURS, PIPELINE): "at least 2.2", (8, 32, OURS, PIPELINE): "at least 3.5",
        (1, 480, OURS, PIPELINE): "at least 6", (1, 32, FLOOR, OURS): "at most 1.3",
    },
    ("26m", "bfloat16"): {(1, 32, OURS, THEIR_AR): "at least 2.8 (with AMX)"},
}  # fmt: skip


def alone(job: str, shape: str, dtype: str, case: dict) -> Callable[[], object]:
    """A job of a `Bench` on the CPU, for `benchmark_peak`. case: the fields of a `Case`."""
    torch.manual_seed(0)
    model = Transformer(SHAPES[shape]).eval().to(getattr(torch, dtype))
    return Bench(model, Case(**case)).single(job)


def _peaks(bench: "Bench", jobs: dict, apart: dict) -> dict[str, float]:
    """GiB that each decoder takes beside the weights, see `benchmark_peak`."""
    names = [name for name in (OURS, OURS_AR, PLAIN, PIPELINE, THEIR_AR) if name in jobs]
    if bench.model.device.type == "cuda":
        return benchmark_peak.on_device(bench.model.device, {name: bench.single(name) for name in names})
    if not apart:
        return {}
    asked = {name: [name, apart["shape"], apart["dtype"], asdict(bench.case)] for name in names}
    return benchmark_peak.apart("decode", asked, apart["threads"])


def comparison(model: Transformer, case: Case, of: str, rounds: int, targets: dict, apart: dict) -> Iterator[MeasuredRow]:
    """Every job of one case in turns. apart: of `measure`, to see the memory of each in a process of its own, or {}.

    Raises RuntimeError where two that must write the same tokens do not."""
    bench = Bench(model, case)
    jobs = bench.jobs(peers=True)
    peak = _peaks(bench, jobs, apart)
    bench.sampler.clear()
    seconds = take_turns(jobs, rounds, device=model.device)
    words = f"{of}, batch {case.batch}, prompt {case.prompt}, answer {case.new}"
    pairs = [(OURS, PIPELINE), (OURS, PIPELINE_QWEN3), (OURS, PLAIN), (FLOOR, OURS), (FLOOR_PLAIN, OURS)]
    pairs += [(OURS, OURS_PLAIN), (OURS, OURS_AR), (OURS, THEIR_AR)]
    for name, against in [*pairs, (OURS_AR, THEIR_AR)]:
        if name not in jobs or against not in jobs:
            continue
        more = {"ms per token": 1e3 * median(seconds[name]) / case.new / case.batch}
        if against in (PLAIN, PIPELINE, PIPELINE_QWEN3):
            share = bench.equal(name, against)
            if share < (1 if model.device.type == "cpu" else 0.99):  # on a GPU other shapes round a near tie otherwise
                raise RuntimeError(f"{words}: {name} and {against} wrote different tokens ({share:.1%} equal)")
            scripted = "" if model.lm_head.weight.dtype == torch.float32 else " (scripted tokens)"
            more["outputs"] = _equal(share) + scripted
        if (name, against) == (OURS_AR, THEIR_AR):  # two libraries' rounding may part at a near tie
            more["outputs"] = _equal(bench.equal(name, against))
        if (name, against) == (FLOOR, OURS):
            aims = ("positions per token (aim: at most 9)", "sampler, ms per forward (aim: at most 0.7)")
            values = bench.positions_per_token(), 1e3 * median(bench.sampler)
            aimed = (case.batch, case.prompt, name, against) in targets
            more |= {aim if aimed else aim.partition(" (")[0]: value for aim, value in zip(aims, values, strict=True)}
        if against == OURS_PLAIN:
            more["to prepack once, ms"] = 1e3 * bench.prepacking()
        more |= {f"{job}, peak GiB": round(peak[job], 3) for job in (name, against) if job in peak}
        target = targets.get((case.batch, case.prompt, name, against), "")
        yield compared("decode", words, name, against, seconds, target=target, **more)


def _equal(share: float) -> str:
    return "equal" if share == 1 else f"{share:.2%} equal"


def growth(model: Transformer, case: Case, of: str, rounds: int, along: str) -> Iterator[MeasuredRow]:
    """The cached decoder against the plain loop and against AR at one length; along: "prompt" or "block", the axis."""
    jobs = Bench(model, case).jobs(peers=False)
    seconds = take_turns({name: jobs[name] for name in (OURS, PLAIN, OURS_AR)}, min(rounds, 3), device=model.device)
    words = f"{of}, along the {along}: {getattr(case, along)}"
    for against in (PLAIN, OURS_AR):
        at = {along: getattr(case, along), "tokens": case.new}
        yield compared(f"decode along {along}", words, OURS, against, seconds, **at)


def trained(of: str, rounds: int) -> Iterator[MeasuredRow]:
    """The small weights that come with the project, on graded questions one at a time, at whatever acceptance they
    reach: answer tokens (through eos) per second. Raises RunError where the weights are not there."""
    device = pick_device()
    ar, llada2 = (open_checkpoint(root() / "weights" / f"tiny-{name}", device=device) for name in ("ar", "llada2"))
    questions = [
        prompt_ids(ar.tokenizer, item.prompt, chat=True) for item in load_questions("data/sft_test.jsonl", per_group=2)
    ]
    theirs, eos = hugging_face(ar.model), ar.tokenizer.eos_token_id
    work: dict[str, float] = {}

    def ours(name: str, loaded, style: str) -> None:
        config = DecodeConfig(style, block_length=loaded.checkpoint.block_size, threshold=THRESHOLD)
        traces = [generate(loaded, [prompt], config)[0] for prompt in questions]
        work[name], work[f"{name}, forwards"] = (
            sum(getattr(t, what) for t in traces) for what in ("tokens", "forwards")
        )

    def generated() -> None:
        answers = {"max_new_tokens": DecodeConfig.max_new_tokens, "do_sample": False, "eos_token_id": eos}
        rows = [theirs.generate(torch.tensor([prompt], device=device), **answers) for prompt in questions]
        work[THEIR_AR] = sum(row.shape[1] - len(prompt) for row, prompt in zip(rows, questions, strict=True))

    jobs = {OURS: partial(ours, OURS, llada2, "llada2"), OURS_AR: partial(ours, OURS_AR, ar, "ar"), THEIR_AR: generated}
    seconds = take_turns(jobs, rounds, device=device)
    words = f"{of}, trained weights, {len(questions)} questions one by one, threshold {THRESHOLD}"
    more = {"tokens per forward": work[OURS] / work[f"{OURS}, forwards"]}
    for name, against in ((OURS, OURS_AR), (OURS, THEIR_AR), (OURS_AR, THEIR_AR)):
        yield compared("decode", words, name, against, seconds, work, **(more if name == OURS else {}))
