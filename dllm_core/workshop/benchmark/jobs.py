"""The jobs of the decoding benchmark: this project's decoder, a plain loop, diffusers, Hugging Face, the matmuls alone, all
on the same weights.

Random weights: an `Oracle` decides how many tokens each forward commits, the same number for everyone, and its own time
is subtracted. All jobs write the same number of tokens.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from dllm_core import reference as plain
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.compute.prepacked import prepacked
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.model import Transformer
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens
from dllm_core.workshop.benchmark.peers import Matmuls, Oracle, Qwen3, diffusers_pipeline, hugging_face

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
        self.ids = SpecialTokens(mask_token_id=vocab - 1, eos_token_id=vocab - 2, pad_token_id=0)
        seeded = torch.Generator().manual_seed(0)
        self.prompts = torch.randint(1, vocab - 2, (case.batch, case.prompt), generator=seeded).to(model.device)
        self.written: dict[str, Tensor] = {}
        self.sampler: list[float] = []  # seconds per forward beside the forwards, of each run of ours

    def oracle(self, model=None) -> Oracle:
        exact = self.model.lm_head.weight.dtype == torch.float32
        return Oracle(model or self.model, self.case.block, self.case.accept, self.ids.mask_token_id, own_tokens=exact)

    def ours(self, name: str, oracle: Oracle, style: str, plainly: bool = False) -> float:
        """Seconds of this project's decoder, the oracle's own left out. plainly: by the model as it is."""
        case = self.case
        config = DecodeConfig(
            style, max_new_tokens=case.new, block_length=case.block, threshold=THRESHOLD, eos_early_stop=False
        )
        oracle.reset()
        prompts = self.prompts.tolist()
        checkpoint = LoadedCheckpoint(oracle, CheckpointInfo(style), self.ids, Path())
        began = time.perf_counter()
        with nullcontext(self.model) if plainly else for_inference(self.model) as oracle.model:  # as `decode` itself would
            ready = time.perf_counter()
            steps = list(decode(checkpoint, prompts, config))
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
        tokens = plain.decode_llada2(oracle, self.prompts, case.new, case.block, THRESHOLD, self.ids.mask_token_id)
        seconds = time.perf_counter() - began - oracle.seconds
        self.written[PLAIN] = tokens[:, case.prompt : case.prompt + case.new].cpu()
        return seconds

    def pipeline(self, name: str, pipeline, oracle: Oracle) -> float:
        oracle.reset()
        began = time.perf_counter()
        made = pipeline(
            input_ids=self.prompts, gen_length=self.case.new, block_length=self.case.block, threshold=THRESHOLD,
            num_inference_steps=self.case.block, temperature=0.0, editing_threshold=None, eos_early_stop=False,
            mask_token_id=self.ids.mask_token_id, output_type="seq",
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
