"""The training losses: next-token cross entropy (AR) and masked diffusion (LLaDA 1.0 and 2.0).

Each objective maps (model, batch, …) to a `Loss`: a sum and the count that divides it. Sums and counts, not means, so
that gradient accumulation, packing and the number of processes leave the value unchanged. Sources: LLaDA Eq. 3 and its
SFT (arXiv 2502.09992); LLaDA 2.0 Eq. 1, 2, 5, 6 (arXiv 2512.15745).
"""

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import patterns
from dllm_core.common.limits import Choice, Count, NotNegative, Positive, Share
from dllm_core.compute.forward import predict
from dllm_core.compute.transfer import to_device
from dllm_core.compute.trimming import trim_unscored
from dllm_core.compute.work import Work
from dllm_core.config import Settings
from dllm_core.noise import Noised, corrupt
from dllm_core.patterns import AttentionPattern
from dllm_core.schedules import NoiseSchedule


@dataclass(frozen=True)
class Loss:
    """total: scalar tensor, a sum over tokens; count: its divisor for the mean; work: of its forward and backward pass;
    parts: named sums for the curves, scalar tensors without gradient. With the batch on the host, computing it never
    waits for a GPU."""

    total: Tensor
    count: float
    work: Work = field(default_factory=Work)
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)


def ar_loss(model, batch, **_) -> Loss:
    """Next-token cross entropy on the scored tokens. batch: `Batch` of [B, L], on the host or the model's device."""
    pattern = patterns.causal(batch.document, batch.position)
    scored = batch.scored & pattern.scorable
    logits, work = predict(model, batch.tokens, pattern, prediction_elements(pattern, scored[None]))
    targets = to_device(batch.tokens[scored], logits.device)
    losses = F.cross_entropy(logits, targets, reduction="none")
    return Loss(losses.sum(), losses.numel(), work)


def prediction_elements(pattern: AttentionPattern, selected: Tensor) -> tuple[Tensor, Tensor]:
    """The elements whose logits predict the tokens `selected` [views, B, L] bool: (row, element) [n] int64 each, view
    after view and row after row."""
    views, rows, columns = selected.nonzero(as_tuple=True)
    return rows, pattern.predicted_at[rows, views, columns]


@dataclass(frozen=True)
class Diffusion(Settings):
    """A masked-diffusion objective; called as `objective(model, batch, block_size=…, generator=…)`.

    block_size of the call: None or >= L is full diffusion without a clean half (LLaDA Eq. 3, LLaDA 2.0 Eq. 2); a smaller
    one is block diffusion over [x_t ; x_0] (Eq. 1; Eq. 5 where a prompt is not scored).
    Noisy views: `draws` masks, each with its logical inverse if `complementary`, and one with every scored token masked
    if `all_masked` (what a decoder meets first in each block); the loss is their mean. They share one clean half.
    cap_lambda: λ of CAP (Eq. 6). teacher: an AR model; a token's target is, to the share `teacher_share`, its
    distribution given all clean tokens before (Hinton et al., arXiv 1503.02531), else the token itself.
    one_t_per: "row", "document" or "block". random_length: share of batches cut to a random length (LLaDA: 1 %).
    per_answer: divide by the scored tokens of each document, then by the documents (LLaDA's SFT); else divide by all
    scored tokens.
    grid: where a document's blocks are counted from, its "start" or its "answer" (`CheckpointInfo`).
    CAP's mean, stratified times and random lengths belong to the batch of one call; all other terms are sums.
    Raises ValueError for a setting out of range, and for complementary views unless t < 1 and the band of mask
    probabilities is symmetric about 1/2.
    """

    schedule: NoiseSchedule
    mask_token_id: int
    label_shift: bool = False
    complementary: bool = False
    draws: Count = 1
    all_masked: bool = False
    cap_lambda: NotNegative = 0.0
    cap_temperature: Positive = 1.0
    one_t_per: Annotated[str, Choice(("row", "document", "block"))] = "document"
    random_length: Share = 0.0
    per_answer: bool = False
    teacher: torch.nn.Module | None = None
    teacher_share: Share = 0.0
    grid: Annotated[str, Choice(("start", "answer"))] = "start"

    def __post_init__(self):
        super().__post_init__()
        times = torch.tensor([self.schedule.t_min, self.schedule.t_max], dtype=torch.float64)
        low, high = (1 - self.schedule.alpha(times)).tolist()
        if self.complementary and (high >= 1 or abs(low + high - 1) > 1e-4):
            raise ValueError(
                f"complementary masking with mask probabilities in [{low:.4g}, {high:.4g}]: the band must end below 1 "
                "and be symmetric about 1/2, as NoiseSchedule.band(0.05, 0.95) is"
            )

    def __call__(self, model, batch, *, block_size: int | None = None, generator=None, embedding_noise=0.0) -> Loss:
        # 1. rarely: a random length (LLaDA, pretraining)
        if self.random_length and torch.rand((), generator=generator) < self.random_length:
            batch = batch.cut(int(torch.randint(1, batch.tokens.shape[1] + 1, (), generator=generator)))
        # 2. the attention pattern: full attention without a clean half, or [x_t ; (x̄_t ; …) x_0]
        pattern = self.pattern(batch, block_size, self.views)
        # 3. the noise
        maskable, groups = batch.scored & pattern.scorable, self.groups(batch, block_size)
        noised = []
        for _ in range(self.draws):
            both = corrupt(batch.tokens, maskable, self.schedule, self.mask_token_id, generator, groups)
            noised += both if self.complementary else both[:1]
        if self.all_masked:
            x_1 = batch.tokens.masked_fill(maskable, self.mask_token_id)
            noised.append(Noised(x_1, maskable, torch.ones(x_1.shape, device=x_1.device)))
        return self.score(model, batch, noised, pattern, embedding_noise, generator)

    @property
    def views(self) -> int:
        """Noisy views of each token."""
        return self.draws * (1 + self.complementary) + self.all_masked

    def score(self, model, batch, noised, pattern: AttentionPattern, embedding_noise=0.0, generator=None) -> Loss:
        """The loss of the noisy views `noised` of `batch` under `pattern`, their mean."""
        maskable, views = batch.scored & pattern.scorable, len(noised)
        # 4. targets and weights, sent to the device before the forward starts
        factor, count = self._normalizer(batch, maskable)
        targets = torch.cat([batch.tokens[view.masked] for view in noised])
        weights = torch.cat([(view.weight * factor)[view.masked] for view in noised])
        targets, weights = to_device(targets, model.device), to_device(weights, model.device)
        # 5. one forward, logits only of masked tokens; weighted cross entropy
        logits, work = self._predict(model, batch, noised, pattern, embedding_noise, generator)
        losses = F.cross_entropy(logits, targets, reduction="none")
        if self.teacher is not None and self.teacher_share:
            soft, teacher_work = self._soft_targets(batch, maskable, noised)
            losses = losses.lerp(F.cross_entropy(logits, soft, reduction="none"), self.teacher_share)
            work += teacher_work
        total = (losses * weights).sum() / views
        if not self.cap_lambda:
            return Loss(total, count, work)
        # 6. CAP: λ · mean entropy over the masked tokens that are already right
        entropy, right = correct_token_entropy(logits, targets, self.cap_temperature)
        cap = count * entropy / right.clamp(min=1)
        return Loss(total + self.cap_lambda * cap, count, work, {"diffusion": total.detach(), "cap": cap.detach()})

    def pattern(self, batch, block_size: int | None, views: int = 1) -> AttentionPattern:
        """Who attends to whom at this block size, without the blocks that no scored token depends on."""
        length = batch.tokens.shape[1]
        if block_size is None or block_size >= length:
            return patterns.bidirectional(batch.document, batch.position, self.label_shift)
        offset = self._offset(batch, block_size)
        pattern = patterns.block_diffusion(batch.document, batch.position, block_size, views, self.label_shift, offset)
        return trim_unscored(pattern, batch.scored)

    def groups(self, batch, block_size: int | None) -> Tensor | None:
        """Which tokens share one t: [B, L] int64, counted from 0 in each row; None: all tokens of a row."""
        if self.one_t_per == "row":
            return None
        if self.one_t_per == "document" or block_size is None:
            return batch.document
        starts = ((batch.position + self._offset(batch, block_size)) % block_size == 0) | (batch.position == 0)
        return (starts & (batch.document >= 0)).long().cumsum(dim=1) - 1  # padding starts no block

    def _offset(self, batch, block_size: int) -> Tensor | int:
        """By how many tokens the first block of each document is shorter than the others."""
        if self.grid == "start":
            return 0
        return patterns.answer_offset(batch.document, batch.position, batch.scored, block_size)

    def _predict(self, model, batch, noised, pattern: AttentionPattern, sigma: float, generator) -> tuple[Tensor, Work]:
        """(logits [n, V] of the masked tokens, view after view; the work). Without a clean half, two views double the batch."""
        masked = torch.stack([view.masked for view in noised])  # [views, B, L]
        has_clean_half = bool(pattern.view.any())
        if has_clean_half:
            copies = torch.stack([batch.tokens, *(view.x_t for view in noised)], dim=1)  # [B, 1 + views, L]
            rows = torch.arange(len(copies), device=copies.device)[:, None]
            tokens = copies[rows, pattern.view, pattern.source]
        else:
            tokens, masked = torch.cat([view.x_t for view in noised]), masked.flatten(0, 1)[None]
            pattern = pattern.repeat(len(noised))
        embeddings = self._noisy_embeddings(model, tokens, sigma, generator) if sigma else None
        return predict(model, tokens, pattern, prediction_elements(pattern, masked), embeddings)

    @torch.no_grad()
    def _soft_targets(self, batch, maskable: Tensor, noised) -> tuple[Tensor, Work]:
        """(the teacher's distributions [n, V] of the masked tokens, view after view; the work of its forward). A
        document's first token, which no AR model predicts, is its own target."""
        pattern = patterns.causal(batch.document, batch.position)
        logits, work = predict(self.teacher, batch.tokens, pattern, prediction_elements(pattern, maskable[None]))
        certain = F.one_hot(batch.tokens[maskable], logits.shape[-1]).to(logits)
        soft = logits.softmax(dim=-1).where(to_device(batch.position[maskable] > 0, logits.device)[:, None], certain)
        index = maskable.flatten().cumsum(0).sub(1).view_as(maskable)  # of each scored token among these rows
        masked = torch.cat([index[view.masked] for view in noised])
        return soft[to_device(masked, soft.device)], Work(work.positions, work.flops / 3)

    def _noisy_embeddings(self, model, tokens: Tensor, sigma: float, generator) -> Tensor:
        """Embeddings [B, S, D] of tokens [B, S], Gaussian noise of deviation σ on those of the mask (LLaDA 2.0 §7.1)."""
        embeddings = model.model.embed_tokens(to_device(tokens, model.device))
        noise = torch.randn(embeddings.shape, generator=generator) * (tokens == self.mask_token_id)[..., None].cpu()
        return embeddings + sigma * to_device(noise, model.device).to(embeddings.dtype)

    def _normalizer(self, batch, maskable: Tensor) -> tuple[Tensor, float]:
        """(factor [B, L] of each token, divisor of the sum): 1 and the number of tokens; with `per_answer` 1 / the
        document's tokens and the number of documents that have any."""
        ones = torch.ones(maskable.shape, device=maskable.device)
        if not self.per_answer:
            return ones, float(maskable.sum())
        document = batch.document.clamp(min=0)
        lengths = torch.zeros_like(ones).scatter_add_(1, document, maskable.float())
        return 1 / lengths.gather(1, document).clamp(min=1), float((lengths > 0).sum())


def correct_token_entropy(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """CAP's term (Eq. 6): the summed entropy (nats) of the predictions [n, V] whose argmax is right, and their number.

    No gradient flows through the choice of positions.
    """
    right = logits.detach().argmax(dim=-1) == targets
    log_p = F.log_softmax(logits / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).where(right, 0).sum(), right.sum()
