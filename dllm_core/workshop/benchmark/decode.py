"""The decoding benchmark: decoders on the same weights in turns, and time against prompt and block length.

This project's, a plain loop, diffusers', Hugging Face's. The weights are random: an `Oracle` decides how many tokens each
forward commits, the same number for every decoder, and its own time is subtracted. All jobs write as many tokens.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from dllm_core import reference
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.compute.devices import pick_device
from dllm_core.compute.prepacked import prepacked
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.model import Transformer
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens
from dllm_core.workshop.benchmark.peers import Matmuls, Oracle, diffusers_pipeline, hugging_face
from dllm_core.workshop.benchmark.timing import SHAPES, Setting, child_peaks, compare, device_peaks, take_turns

# the jobs' names, as the records keep them
LLADA2, AR, PLAIN_LOOP, MATMULS = "LLaDA 2, cached", "AR, cached", "plain loop", "matmuls alone"
DIFFUSERS, HUGGING_FACE_AR = "diffusers", "Hugging Face AR, cached"
THRESHOLD = 0.9
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


@dataclass(frozen=True)
class Case:
    """The work of a decoding: `new` tokens in blocks of `block` for each of `batch` prompts of `prompt` tokens. Each
    forward commits `accept` tokens of a row."""

    batch: int
    prompt: int
    new: int = 128
    block: int = 32
    accept: int = 4


class DecodeJobs:
    """The jobs of one case, ready to take turns; each leaves the tokens it wrote in `written[name]` [B, new]."""

    def __init__(self, model: Transformer, case: Case):
        self.model, self.case = model, case
        vocab = model.config.vocab_size
        self.ids = SpecialTokens(mask_token_id=vocab - 1, eos_token_id=vocab - 2, pad_token_id=0)
        generator = torch.Generator().manual_seed(0)
        self.prompts = torch.randint(1, vocab - 2, (case.batch, case.prompt), generator=generator).to(model.device)
        self.written: dict[str, Tensor] = {}
        self.sampler_seconds: list[float] = []  # a forward, that the sampler adds: one entry for each run of LLaDA 2

    def jobs(self) -> dict[str, Callable]:
        """Every job by its name; a warning says when diffusers is missing."""
        jobs = {name: self.job(name) for name in (LLADA2, MATMULS, PLAIN_LOOP, AR, HUGGING_FACE_AR)}
        try:
            jobs[DIFFUSERS] = self.job(DIFFUSERS)
        except ImportError as error:
            warnings.warn(f"rows against diffusers are left out: {error}", stacklevel=2)
        return jobs

    def job(self, name: str, graphs: bool = True) -> Callable[[], float | None]:
        """The job of this name. graphs: whether it may use CUDA graphs, whose memory the allocator does not show."""
        if name == MATMULS:
            return Matmuls(prepacked(self.model), self.calls)
        if name == HUGGING_FACE_AR:
            return partial(self.hugging_face_ar, hugging_face(self.model))
        oracle = self.oracle()
        if name == PLAIN_LOOP:
            return partial(self.plain_loop, oracle)
        if name == DIFFUSERS:
            return partial(self.diffusers, diffusers_pipeline(oracle, self.case.block), oracle)
        return partial(self.decode, name, oracle, as_it_is=self.model.device.type == "cuda" and not graphs)

    @cached_property
    def calls(self) -> list[tuple[int, int, int, int]]:
        """(rows, window, keys, elements read) of each forward of this project's LLaDA 2 decoder."""
        oracle = self.oracle()
        self.decode(LLADA2, oracle)
        return oracle.calls

    def oracle(self) -> Oracle:
        exact = self.model.lm_head.weight.dtype == torch.float32
        return Oracle(self.model, self.case.block, self.case.accept, self.ids.mask_token_id, own_tokens=exact)

    def decode(self, name: str, oracle: Oracle, as_it_is: bool = False) -> float:
        """Seconds of this project's decoder without the oracle's. as_it_is: without graphs and prepacked weights."""
        case, style = self.case, "ar" if name == AR else "llada2"
        config = DecodeConfig(
            style, max_new_tokens=case.new, block_length=case.block, threshold=THRESHOLD, eos_early_stop=False
        )
        oracle.reset()
        checkpoint = LoadedCheckpoint(oracle, CheckpointInfo(style), self.ids, Path())
        began = time.perf_counter()
        # `decode` itself would prepare the model, not the oracle around it
        with nullcontext(self.model) if as_it_is else for_inference(self.model) as oracle.model:
            ready = time.perf_counter()
            steps = list(decode(checkpoint, self.prompts.tolist(), config))
        ended = time.perf_counter() - oracle.seconds
        if style == "llada2" and not as_it_is:
            self.sampler_seconds.append((ended - ready - oracle.inside) / len(oracle.calls))
        tokens = torch.full((case.batch, case.prompt + case.new + case.block), -1)
        for step in steps:
            for commit in step.commits:
                tokens[step.row, commit.position] = commit.token
        self.written[name] = tokens[:, case.prompt : case.prompt + case.new]
        return ended - began

    def plain_loop(self, oracle: Oracle) -> float:
        case = self.case
        oracle.reset()
        began = time.perf_counter()
        tokens = reference.decode_llada2(oracle, self.prompts, case.new, case.block, THRESHOLD, self.ids.mask_token_id)
        seconds = time.perf_counter() - began - oracle.seconds
        self.written[PLAIN_LOOP] = tokens[:, case.prompt : case.prompt + case.new].cpu()
        return seconds

    def diffusers(self, pipeline, oracle: Oracle) -> float:
        oracle.reset()
        began = time.perf_counter()
        output = pipeline(
            input_ids=self.prompts, gen_length=self.case.new, block_length=self.case.block, threshold=THRESHOLD,
            num_inference_steps=self.case.block, temperature=0.0, editing_threshold=None, eos_early_stop=False,
            mask_token_id=self.ids.mask_token_id, output_type="seq",
        )  # fmt: skip
        seconds = time.perf_counter() - began - oracle.seconds
        self.written[DIFFUSERS] = output.sequences.cpu()
        return seconds

    def hugging_face_ar(self, qwen3) -> None:
        tokens = qwen3.generate(
            self.prompts, attention_mask=torch.ones_like(self.prompts), max_new_tokens=self.case.new, do_sample=False
        )
        self.written[HUGGING_FACE_AR] = tokens[:, self.case.prompt :].cpu()

    def equal(self, name: str, other: str) -> float:
        """Share of the tokens that both jobs wrote alike."""
        return float((self.written[name] == self.written[other]).double().mean())

    def positions_per_token(self) -> float:
        """Positions run per answer token; the prompt, run once, does not count."""
        return (sum(width for _, width, _, _ in self.calls) - self.case.prompt) / self.case.new


def measure(setting: Setting) -> Iterator[dict]:
    """Rows of the comparison, then of time along the prompt and the block; on CUDA where there is a device."""
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
    """Every job of one case in turns. peaks: GiB that a job needs besides the weights, where measured. Raises
    RuntimeError where two jobs that must write the same tokens do not."""
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
