"""The decoders of the benchmark, on the same weights: this project's, a plain loop, diffusers', Hugging Face's.

The weights are random: an `Oracle` decides how many tokens each forward commits, the same number for every decoder, and
its own time is subtracted. All jobs write the same number of tokens.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from dllm_core import reference
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.compute.prepacked import prepacked
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.model import Transformer
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens
from dllm_core.workshop.benchmark.peers import Matmuls, Oracle, diffusers_pipeline, hugging_face

SHAPES = {
    "tiny": ModelConfig(6400, 128, 4, 4, intermediate_size=384, max_position_embeddings=4096),  # the laptop's
    "26m": ModelConfig(6400, 512, 8, 8, max_position_embeddings=4096),  # MiniMind's
    "100m": ModelConfig(6400, 768, 16, 8, max_position_embeddings=4096),  # MiniMind's larger one
}
# the jobs' names, as the records keep them
LLADA2, AR, PLAIN_LOOP, MATMULS = "LLaDA 2, cached", "AR, cached", "plain loop", "matmuls alone"
DIFFUSERS, HUGGING_FACE_AR = "diffusers", "Hugging Face AR, cached"
THRESHOLD = 0.9


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
