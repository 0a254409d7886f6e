"""Decoding side by side on the same weights: this project's, a plain loop, diffusers, Hugging Face, the matmuls alone.

Random weights: an `Oracle` decides how many tokens each forward commits, the same number for everyone, and its own time
is subtracted. All jobs write the same number of tokens.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from dllm_core import benchmark_peak, plain
from dllm_core.config import DecodeConfig, ModelConfig
from dllm_core.decode import decode, generate
from dllm_core.decode_peers import Matmuls, Oracle, Qwen3, diffusers_pipeline, hugging_face
from dllm_core.devices import pick_device
from dllm_core.model import Transformer
from dllm_core.notebook import graded, open_checkpoint, prompt_ids
from dllm_core.paths import root
from dllm_core.prepacked import prepacked
from dllm_core.replay import fastest
from dllm_core.sampling import Vocabulary
from dllm_core.timing import Row, compared, take_turns, torch_threads

SHAPES = {  # the laptop's model, and MiniMind's
    "tiny": ModelConfig(6400, 128, 4, 4, intermediate_size=384, max_position_embeddings=4096),
    "26m": ModelConfig(6400, 512, 8, 8, max_position_embeddings=4096),
    "100m": ModelConfig(6400, 768, 16, 8, max_position_embeddings=4096),  # MiniMind's larger one
}
OURS, PLAIN, OURS_AR, FLOOR = "LLaDA 2, cached", "plain loop", "AR, cached", "matmuls alone"
OURS_PLAIN, FLOOR_PLAIN = "LLaDA 2, cached, weights not prepacked", "matmuls alone, weights not prepacked"
PIPELINE, PIPELINE_QWEN3, THEIR_AR = "diffusers", "diffusers, Qwen3", "Hugging Face AR, cached"
THRESHOLD = 0.9


@dataclass(frozen=True)
class Case:
    """One shape of the work: `new` tokens for each of `batch` prompts of `prompt` tokens, `accept` per forward."""

    batch: int
    prompt: int
    new: int = 128
    block: int = 32
    accept: int = 4


class Bench:
    """The jobs of one case, ready to take turns; each leaves the tokens it wrote in `written[name]` [B, new]."""

    def __init__(self, model: Transformer, case: Case):
        self.model, self.case = model, case
        vocab = model.config.vocab_size
        self.ids = Vocabulary(mask=vocab - 1, eos=vocab - 2, pad=0)
        seeded = torch.Generator().manual_seed(0)
        self.prompts = torch.randint(1, vocab - 2, (case.batch, case.prompt), generator=seeded).to(model.device)
        self.written: dict[str, Tensor] = {}
        self.sampler: list[float] = []  # seconds per forward beside the forwards, of each run of ours

    def oracle(self, model=None) -> Oracle:
        exact = self.model.lm_head.weight.dtype == torch.float32
        return Oracle(model or self.model, self.case.block, self.case.accept, self.ids.mask, own_tokens=exact)

    def ours(self, name: str, oracle: Oracle, style: str, plainly: bool = False) -> float:
        """Seconds of this project's decoder, the oracle's own left out. plainly: by the model as it is."""
        case = self.case
        config = DecodeConfig(
            style, max_new_tokens=case.new, block_length=case.block, threshold=THRESHOLD, eos_early_stop=False
        )
        oracle.reset()
        prompts = self.prompts.tolist()
        began = time.perf_counter()
        with nullcontext(self.model) if plainly else fastest(self.model) as oracle.model:  # as `decode` itself would
            ready = time.perf_counter()
            steps = list(decode(oracle, prompts, config, self.ids))
        ended = time.perf_counter() - oracle.seconds
        if style == "llada2" and not plainly:
            self.sampler.append((ended - ready - oracle.inside) / len(oracle.calls))
        self.written[name] = torch.full((case.batch, case.prompt + case.new + case.block), -1)
        for step in steps:
            for commit in step.commits:
                self.written[name][step.row, commit.position] = commit.token
        self.written[name] = self.written[name][:, case.prompt : case.prompt + case.new]
        return ended - began

    def plain(self, oracle: Oracle) -> float:
        case = self.case
        oracle.reset()
        began = time.perf_counter()
        tokens = plain.decode_llada2(oracle, self.prompts, case.new, case.block, THRESHOLD, self.ids.mask)
        seconds = time.perf_counter() - began - oracle.seconds
        self.written[PLAIN] = tokens[:, case.prompt : case.prompt + case.new].cpu()
        return seconds

    def pipeline(self, name: str, pipeline, oracle: Oracle) -> float:
        oracle.reset()
        began = time.perf_counter()
        made = pipeline(
            input_ids=self.prompts, gen_length=self.case.new, block_length=self.case.block, threshold=THRESHOLD,
            num_inference_steps=self.case.block, temperature=0.0, editing_threshold=None, eos_early_stop=False,
            mask_token_id=self.ids.mask, output_type="seq",
        )  # fmt: skip
        seconds = time.perf_counter() - began - oracle.seconds
        self.written[name] = made.sequences.cpu()
        return seconds

    def generate(self, theirs) -> None:
        tokens = theirs.generate(
            self.prompts, attention_mask=torch.ones_like(self.prompts), max_new_tokens=self.case.new, do_sample=False
        )
        self.written[THEIR_AR] = tokens[:, self.case.prompt :].cpu()

    def jobs(self, peers: bool) -> dict:
        """Every job by name. peers: also the libraries of others."""
        oracle, own = self.oracle(), self.oracle()
        self.ours(OURS, own, "llada2")
        self.calls = list(own.calls)
        made = {
            OURS: partial(self.ours, OURS, own, "llada2"), FLOOR: Matmuls(self.model, self.calls),
            PLAIN: partial(self.plain, oracle), OURS_AR: partial(self.ours, OURS_AR, own, "ar"),
        }  # fmt: skip
        if self.model.device.type == "cpu" and (quicker := prepacked(self.model)) is not self.model:
            made |= {
                FLOOR: Matmuls(quicker, self.calls), FLOOR_PLAIN: made[FLOOR],
                OURS_PLAIN: partial(self.ours, OURS_PLAIN, own, "llada2", plainly=True),
            }  # fmt: skip
        return made | (self.peers(oracle) if peers else {})

    def peers(self, oracle: Oracle) -> dict:
        """The jobs of other libraries."""
        theirs = hugging_face(self.model)
        made, around = {THEIR_AR: partial(self.generate, theirs)}, {PIPELINE: oracle}
        if self.case.batch == 1:  # once is enough to see what the model beneath the pipeline matters
            around[PIPELINE_QWEN3] = self.oracle(Qwen3(theirs, self.model.config))
        try:
            for name, of in around.items():
                made[name] = partial(self.pipeline, name, diffusers_pipeline(of, self.case.block), of)
        except ImportError as error:
            warnings.warn(f"rows against diffusers are left out: {error}", stacklevel=2)
        return made

    def single(self, name: str) -> Callable[[], object]:
        """One job by itself, nothing run or kept for others, and without graphs, whose memory is not seen."""
        oracle, styles = self.oracle(), {OURS: "llada2", OURS_AR: "ar"}
        if name in styles:
            return partial(self.ours, name, oracle, styles[name], plainly=self.model.device.type == "cuda")
        return partial(self.plain, oracle) if name == PLAIN else self.peers(oracle)[name]

    def prepacking(self) -> float:
        """Seconds that a model's first decoding takes to lay out the weights; later ones look whether they changed."""
        taken = []
        for _ in range(3):
            for weight in self.model.parameters():
                weight.detach().mul_(1)  # written to
            began = time.perf_counter()
            prepacked(self.model)
            taken.append(time.perf_counter() - began)
        return median(taken)

    def equal(self, one: str, other: str) -> float:
        """Share of the tokens that both wrote alike."""
        return float((self.written[one] == self.written[other]).double().mean())

    def positions_per_token(self) -> float:
        """Positions run per answer token; the prompt, run once, does not count."""
        return (sum(width for _, width, _, _ in self.calls) - self.case.prompt) / self.case.new


def measure(shape: str, dtype: str, threads: int, rounds: int, quick: bool) -> Iterator[Row]:
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
    return benchmark_peak.apart("benchmark_decode", asked, apart["threads"])


def comparison(model: Transformer, case: Case, of: str, rounds: int, targets: dict, apart: dict) -> Iterator[Row]:
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


def growth(model: Transformer, case: Case, of: str, rounds: int, along: str) -> Iterator[Row]:
    """The cached decoder against the plain loop and against AR at one length; along: "prompt" or "block", the axis."""
    jobs = Bench(model, case).jobs(peers=False)
    seconds = take_turns({name: jobs[name] for name in (OURS, PLAIN, OURS_AR)}, min(rounds, 3), device=model.device)
    words = f"{of}, along the {along}: {getattr(case, along)}"
    for against in (PLAIN, OURS_AR):
        at = {along: getattr(case, along), "tokens": case.new}
        yield compared(f"decode along {along}", words, OURS, against, seconds, **at)


def trained(of: str, rounds: int) -> Iterator[Row]:
    """The small weights that come with the project, on graded questions one at a time, at whatever acceptance they
    reach: answer tokens (through eos) per second. Raises RunError where the weights are not there."""
    device = pick_device()
    ar, llada2 = (open_checkpoint(root() / "weights" / f"tiny-{name}", device=device) for name in ("ar", "llada2"))
    questions = [
        prompt_ids(ar.tokenizer, item.prompt, chat=True) for item in graded("data/sft_test.jsonl", per_group=2)
    ]
    theirs, eos = hugging_face(ar.model), ar.tokenizer.eos_token_id
    work: dict[str, float] = {}

    def ours(name: str, loaded, style: str) -> None:
        config = DecodeConfig(style, block_length=loaded.checkpoint.block_size, threshold=THRESHOLD)
        shift = loaded.checkpoint.label_shift
        traces = [generate(loaded.model, [prompt], config, loaded.tokenizer, shift)[0] for prompt in questions]
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
