"""How good and how fast: exact and bounded likelihood, exact match per group, tokens per forward and per second."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from dllm_core import patterns
from dllm_core.config import DecodeConfig
from dllm_core.decode import generate
from dllm_core.objectives import Diffusion, ar_loss
from dllm_core.schedules import NoiseSchedule
from dllm_core.trace import Trace


@dataclass(frozen=True)
class Estimate:
    """mean and standard error in `unit`; tokens: how many were scored; draws: Monte-Carlo draws (0: exact)."""

    mean: float
    error: float
    tokens: int
    draws: int
    unit: str = "nats/token"

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f} {self.unit}"


def _mean(values: list[float]) -> tuple[float, float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


@torch.inference_mode()
def ar_nll(model, batches: Iterable) -> Estimate:
    """Exact negative log-likelihood of an AR model, nats per scored token; the error is over batches."""
    sums = [(float(loss.total), loss.count) for loss in (ar_loss(model, batch.to(model.device)) for batch in batches)]
    tokens = sum(count for _, count in sums)
    _, error = _mean([total / count for total, count in sums if count])
    return Estimate(sum(total for total, _ in sums) / tokens, error, int(tokens), 0)


@torch.inference_mode()
def bound(
    model, batches: Iterable, mask_token_id: int, *, block_size: int | None = None, draws: int = 8, seed: int = 0,
    label_shift: bool = False, kind: str = "linear", first_given: bool = False,
) -> Estimate:  # fmt: skip
    """Upper bound on the negative log-likelihood (LLaDA Eq. 4; LLaDA 2.0 Eq. 1 at `block_size`), nats per token.

    t is drawn per document over the full range (a bandwidth's loss is not the bound), stratified within a batch; each
    draw's masks come from (seed, draw, batch) alone, so that checkpoints are compared on shared masks. The error is
    the standard error over draws. first_given: leave each document's first token unmasked and unscored, as an AR model
    must, so that the bound and `ar_nll` are of the same tokens.
    """
    objective = Diffusion(
        NoiseSchedule(kind, t_min=1e-3, draw_method="stratified"), mask_token_id, label_shift, one_t_per="document"
    )
    batches = [batch.to(model.device) for batch in batches]
    if first_given:
        batches = [replace(batch, scored=batch.scored & (batch.position > 0)) for batch in batches]
    means, tokens = [], 0.0
    for draw in range(draws):
        total, tokens = 0.0, 0.0
        for index, batch in enumerate(batches):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + draw) * 1_000_003 + index)
            loss = objective(model, batch, block_size=block_size, generator=generator)
            total, tokens = total + float(loss.total), tokens + loss.count
        means.append(total / tokens / objective.schedule.constant)
    mean, error = _mean(means)
    return Estimate(mean, error, int(tokens), draws)


@torch.inference_mode()
def conditional_nll(
    model, prompt: list[int], answer: list[int], mask_token_id: int, *, draws: int = 128, seed: int = 0,
    batch_size: int = 32, label_shift: bool = False,
) -> Estimate:  # fmt: skip
    """Monte-Carlo bound on −log p(answer | prompt), nats in all, for full diffusion (LLaDA Eq. 6, `get_log_likelihood`).

    Each draw masks exactly l of the L' answer tokens, l stratified over 1..L', and scores Σ CE · L'/l: less variance
    than an iid t. `tokens` is L'; `mean` is the sum over the answer, not per token.
    """
    generator = torch.Generator().manual_seed(seed)
    length, start = len(answer), len(prompt)
    row = torch.tensor(prompt + answer, device=model.device)
    # 1. l: evenly spaced from a random start (low discrepancy)
    offset = torch.randint(1, length + 1, (), generator=generator)
    lengths = ((offset + torch.arange(draws) * length // draws) % length) + 1
    values = []
    for chunk in lengths.split(batch_size):
        # 2. exactly l positions masked
        order = torch.rand(len(chunk), length, generator=generator).argsort(dim=1).argsort(dim=1)
        chosen = F.pad(order < chunk[:, None], (start, 0)).to(model.device)
        x_t = row.expand(len(chunk), -1).masked_fill(chosen, mask_token_id)
        position = torch.arange(len(row), device=model.device).expand(len(chunk), -1)
        pattern = patterns.bidirectional(torch.zeros_like(position), position, label_shift)
        hidden = model(x_t, position, pattern.mask())
        logits = model.logits(hidden[torch.arange(len(chunk))[:, None], pattern.read[:, 0]])
        losses = F.cross_entropy(logits.float().transpose(1, 2), row.expand(len(chunk), -1), reduction="none")
        # 3. Σ CE · L'/l
        values += ((losses * chosen).sum(dim=1) * length / chunk.to(model.device)).tolist()
    mean, error = _mean(values)
    return Estimate(mean, error, length, draws, "nats")


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson interval of a share."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


@dataclass(frozen=True)
class Score:
    """Exact match of a group: right of count, with its Wilson interval."""

    group: str
    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / max(self.count, 1)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.count)


def exact_match(groups: list[str], answers: list[str], texts: list[str]) -> list[Score]:
    """Score per group, in order of first appearance: a text counts when it equals its answer, outer blanks aside."""
    right: dict[str, list[bool]] = {}
    for group, answer, text in zip(groups, answers, texts, strict=True):
        right.setdefault(group, []).append(answer.strip() == text.strip())
    return [Score(group, sum(hits), len(hits)) for group, hits in right.items()]


def answer_all(
    model, prompts: list[list[int]], config: DecodeConfig, tokenizer, batch_size: int = 32, label_shift=False
) -> list[Trace]:
    """Decode many prompts in batches of like lengths; traces come back in the order of `prompts`."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    traces: dict[int, Trace] = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        for index, trace in zip(
            chunk, generate(model, [prompts[i] for i in chunk], config, tokenizer, label_shift), strict=True
        ):
            traces[index] = trace
    return [traces[i] for i in range(len(prompts))]


def speed(model, prompts: list[list[int]], config: DecodeConfig, tokenizer, label_shift=False) -> dict[str, float]:
    """Batch 1: answer tokens through eos over all prompts per forward and per second, and the totals they come from."""
    config = replace(config, alternatives=0, draft=False)
    traces = [generate(model, [prompt], config, tokenizer, label_shift)[0] for prompt in prompts]
    tokens, forwards, seconds = (sum(getattr(t, name) for t in traces) for name in ("tokens", "forwards", "seconds"))
    return {
        "tokens": tokens, "forwards": forwards, "seconds": seconds,
        "tokens_per_forward": tokens / max(forwards, 1), "tokens_per_second": tokens / max(seconds, 1e-9),
    }  # fmt: skip
