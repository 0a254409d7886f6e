"""How probable a text is under a model: exact or bounded negative log-likelihood in nats, with its standard error."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import patterns
from dllm_core.common.errors import NOT_FINITE, DataError
from dllm_core.common.limits import Count, check
from dllm_core.compute.cpu import logits_rows
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.noise import corrupt, corrupt_exactly, flatten_groups, generator_for
from dllm_core.schedules import NoiseSchedule


@dataclass(frozen=True)
class Estimate:
    """mean and its standard error in `unit`; tokens: number scored; draws: Monte-Carlo draws (0: exact)."""

    mean: float
    error: float
    tokens: int
    draws: int
    unit: str = "nats/token"

    def __post_init__(self):
        if not math.isfinite(self.mean):
            raise FloatingPointError(f"the likelihood is {self.mean}: {NOT_FINITE}")

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f} {self.unit}"


def _mean(values: list[float]) -> tuple[float, float]:
    """(mean, standard error) of some values."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return float(tensor.mean()), float(tensor.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _check_scored(tokens: float) -> None:
    """Raises DataError where an evaluation has nothing to score."""
    if not tokens:
        raise DataError("evaluation: no token is scored; take longer rows (seq_len) or other data")


@torch.inference_mode()
def ar_nll(model, batches: Iterable) -> Estimate:
    """Exact negative log-likelihood of an AR model, nats per scored token; the error is over batches."""
    sums = [(float(loss.total), loss.count) for loss in (ar_loss(model, batch.to(model.device)) for batch in batches)]
    tokens = sum(count for _, count in sums)
    _check_scored(tokens)
    _, error = _mean([total / count for total, count in sums if count])
    return Estimate(sum(total for total, _ in sums) / tokens, error, int(tokens), 0)


@torch.inference_mode()
def nll_bound(
    model, batches: Iterable, mask_token_id: int, *, block_size: int | None = None, draws: int = 8, seed: int = 0,
    label_shift: bool = False, kind: str = "linear", first_given: bool = False, estimator: str = "iid_t",
    grid: str = "start",
) -> Estimate:  # fmt: skip
    """Upper bound on the negative log-likelihood (LLaDA Eq. 4; LLaDA 2.0 Eq. 1 at `block_size`), nats per token.

    estimator, for each block of a document (block_size None: each document) with n scored tokens:
      "iid_t"        draw a time t, mask each token with probability 1 − alpha(t), Σ CE · w(t); `kind` is the schedule
      "exact_masks"  mask exactly l of the n tokens, Σ CE · n / l (LLaDA Eq. 6): the same mean with less variance
    t covers the full range (the loss within a bandwidth is not the bound). t and l follow from one number u per block,
    spread evenly over the blocks of a batch and over the draws (`spread_over_draws`); each draw masks anew. The noise
    depends on (seed, draw, batch) alone, so that checkpoints are compared on the same masks.
    The error is the standard error over draws. With iid t the error is itself uncertain: a small t is rare and weighs 1/t.
    first_given: leave the first token of each document unmasked and unscored, as an AR model must; then the bound and
    `ar_nll` score the same tokens. grid: of `CheckpointInfo`; with "answer" a block begins at each document's first
    scored token, and a later answer of a conversation is on that grid, too. Raises ValueError for another estimator or fewer than one draw.
    """
    check("draws", draws, Count)
    if estimator not in ("iid_t", "exact_masks"):
        raise ValueError(f"estimator={estimator!r}: must be 'iid_t' or 'exact_masks'")
    schedule = NoiseSchedule(kind, t_min=1e-3)
    objective = Diffusion(schedule, mask_token_id, label_shift, one_t_per="block", grid=grid)
    sums, tokens = [0.0] * draws, 0.0
    for index, batch in enumerate(batches):
        batch = batch.to(model.device)
        pattern, groups = objective.pattern(batch, block_size), objective.groups(batch, block_size)
        if first_given:
            batch = replace(batch, scored=batch.scored & (batch.position > 0))
        maskable = batch.scored & pattern.scorable
        tokens += float(maskable.sum())
        if not maskable.any():
            continue
        # 1. u of every block and draw
        numbers = spread_over_draws(groups, maskable, draws, generator_for(seed, draws, index))
        for draw, u in enumerate(numbers):
            # 2. one noisy view
            generator = generator_for(seed, draw, index)
            if estimator == "iid_t":
                view = corrupt(batch.tokens, maskable, schedule, mask_token_id, generator, groups, u)[0]
            else:
                view = corrupt_exactly(batch.tokens, maskable, mask_token_id, groups, u, generator)
            # 3. its weighted cross entropy
            sums[draw] += float(objective.score(model, batch, (view,), pattern).total)
    _check_scored(tokens)
    constant = schedule.constant if estimator == "iid_t" else 1.0
    mean, error = _mean([total / tokens / constant for total in sums])
    return Estimate(mean, error, int(tokens), draws)


def spread_over_draws(groups: Tensor, maskable: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """[draws, groups]: numbers u in [0, 1), each uniform, of low discrepancy along both dimensions.

    In one draw, the G groups with a maskable token take one number from each of G equal strata, in random order. From
    draw to draw every number moves on by 1 / draws, modulo 1, so that each group covers the whole range.
    groups: [B, L] int64 as in `noise.flatten_groups`; maskable: [B, L] bool.
    """
    group, count = flatten_groups(groups)
    used = torch.zeros(count, dtype=torch.bool)
    used[group[maskable].cpu()] = True
    amount = int(used.sum())
    start = torch.zeros(count)
    start[used] = (torch.randperm(amount, generator=generator) + torch.rand(amount, generator=generator)) / amount
    return (start + torch.arange(draws)[:, None] / draws) % 1


@torch.inference_mode()
def conditional_nll(
    model, prompt: list[int], answer: list[int], mask_token_id: int, *, draws: int = 128, seed: int = 0,
    batch_size: int = 32, label_shift: bool = False,
) -> Estimate:  # fmt: skip
    """Monte-Carlo bound on −log p(answer | prompt), nats in all, for full diffusion (LLaDA Eq. 6, `get_log_likelihood`).

    Each draw masks exactly l of the L' answer tokens, l stratified over 1..L', and scores Σ CE · L'/l: less variance
    than an iid t. `tokens` is L'; `mean` is the sum over the answer, not per token. Raises ValueError for no draw.
    """
    check("draws", draws, Count)
    _check_scored(len(answer))
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
        rows = torch.arange(len(chunk), device=model.device)[:, None].expand_as(chosen)
        hidden = model(x_t, position, pattern.mask(), read=(rows[chosen], pattern.predicted_at[:, 0][chosen]))
        targets, size = row.expand(len(chunk), -1)[chosen], logits_rows(model.config.vocab_size, model.device)
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        losses = torch.cat([F.cross_entropy(model.logits(h).float(), target, reduction="none") for h, target in parts])
        # 3. Σ CE · L'/l
        losses = losses.new_zeros(chosen.shape).masked_scatter_(chosen, losses).sum(dim=1)
        values += (losses * length / chunk.to(model.device)).tolist()
    mean, error = _mean(values)
    return Estimate(mean, error, length, draws, "nats")
