"""Noise and losses. Each objective maps (model, batch, …) to a `Loss`: a sum and the count it is to be divided by.

Sums and counts instead of means: then gradient accumulation, packing and the number of processes leave the value as
it is. Sources: LLaDA Eq. 3 and its SFT (arXiv 2502.09992); LLaDA 2.0 Eq. 1, 2, 5, 6 (arXiv 2512.15745).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import patterns
from dllm_core.compute.attention import labels_to, last_layer, prepared
from dllm_core.compute.transfer import to_device
from dllm_core.compute.trimming import trim_unscored
from dllm_core.patterns import AttentionPattern
from dllm_core.schedules import NoiseSchedule

# States are read in multiples of so many: for every new shape of a matrix product oneDNN makes code, which takes
# time and is kept, and a compiled model may compile anew.
READS = 64


@dataclass(frozen=True)
class Noised:
    """A noisy view. x_t: [B, L] int64; masked: [B, L] bool; weight: [B, L] float32, of each token's loss."""

    x_t: Tensor
    masked: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Loss:
    """total: scalar tensor, a sum over tokens; count: what a mean divides by; parts: named sums for the curves, scalar
    tensors without gradient. Nothing of it waits for a GPU, if the batch is on the host."""

    total: Tensor
    count: float
    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.count, 1)


def corrupt(
    x_0: Tensor,
    maskable: Tensor,
    schedule: NoiseSchedule,
    mask_token_id: int,
    generator: torch.Generator | None = None,
    groups: Tensor | None = None,
    u: Tensor | None = None,
) -> tuple[Noised, Noised]:
    """The forward process: each maskable token of x_0 [B, L] is masked with probability 1 − alpha(t).

    One t per row, or per value of `groups` [B, L] int64 (numbered from 0 within a row: documents, or blocks).
    u: the numbers in [0, 1) behind the t's, one per group in the order of `flatten_groups`; None: the schedule draws them.
    Returns the view and its complement (the same draw, masked where the first is clean). The weight belongs to the t
    that drew the mask.
    """
    # 1. t ~ U[t_min, t_max)
    batch, length = x_0.shape
    if groups is None:
        t = schedule.draw((batch, 1), generator).to(x_0.device).expand(batch, length)
    else:
        number, count = flatten_groups(groups)
        t = (schedule.draw((count,), generator) if u is None else schedule.time(u)).to(x_0.device)[number]
    # 2. mask independently with probability 1 − alpha(t)
    chance = torch.rand(batch, length, generator=generator).to(x_0.device)
    drawn = chance < 1 - schedule.alpha(t)
    masked, complement = drawn & maskable, ~drawn & maskable
    # 3. both views, each with its own weight: −alpha'/(1 − alpha) and −alpha'/alpha
    first = Noised(x_0.masked_fill(masked, mask_token_id), masked, schedule.weight(t))
    second = Noised(x_0.masked_fill(complement, mask_token_id), complement, schedule.complement_weight(t))
    return first, second


def corrupt_exactly(
    x_0: Tensor,
    maskable: Tensor,
    mask_token_id: int,
    groups: Tensor,
    u: Tensor,
    generator: torch.Generator | None = None,
) -> Noised:
    """Exactly l of each group's n maskable tokens masked, any l of them alike, with weight n / l (LLaDA Eq. 6).

    x_0, maskable, groups: [B, L] as in `corrupt`; u: one number in [0, 1) per group, and l = 1 + ⌊u·n⌋. In the mean
    over a uniform u this is the loss of an iid t: a share t of n masked and 1 / t its weight, without t's own scatter.
    """
    number, count = flatten_groups(groups)
    flat = number.flatten()
    # 1. l of n
    n = torch.zeros(count, device=x_0.device).index_add_(0, flat, maskable.flatten().float())
    amount = (1 + (u.to(n) * n).floor()).clamp(max=n.clamp(min=1))
    # 2. the group's tokens in random order, those that may not be masked behind the others
    chance = torch.rand(x_0.shape, generator=generator).to(x_0.device)
    order = torch.where(maskable, chance, 2).flatten().argsort()
    order = order[flat[order].argsort(stable=True)]
    size = flat.bincount(minlength=count)
    rank = torch.empty_like(flat).scatter_(0, order, torch.arange(len(flat), device=flat.device))
    rank = rank - (size.cumsum(0) - size)[flat]
    # 3. the first l of them
    masked = maskable & (rank.view_as(x_0) < amount[number])
    return Noised(x_0.masked_fill(masked, mask_token_id), masked, (n / amount)[number])


def flatten_groups(groups: Tensor) -> tuple[Tensor, int]:
    """groups [B, L] int64, numbered from 0 within a row (−1, padding, counts as 0) → ([B, L] numbered from 0 through
    the batch, how many there are)."""
    counts = groups.max(dim=1).values.clamp(min=0) + 1
    return groups.clamp(min=0) + (counts.cumsum(0) - counts)[:, None], int(counts.sum())


def read_places(pattern: AttentionPattern, view: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """chosen [B, L] bool → (row, element) [n] each: where the chosen tokens' predictions are read, in row-major order."""
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows, pattern.predicted_at[rows, view, columns]


def ar_loss(model, batch, **_) -> Loss:
    """Next-token cross entropy on the scored tokens. batch: `Batch` of [B, L], on the host or the model's device."""
    pattern = patterns.causal(batch.document, batch.position)
    chosen = batch.scored & pattern.scorable
    logits = predict(model, batch.tokens, pattern, read_places(pattern, 0, chosen))
    losses = F.cross_entropy(logits, to_device(batch.tokens[chosen], logits.device), reduction="none")
    return Loss(losses.sum(), losses.numel())


def predict(model, tokens: Tensor, pattern: AttentionPattern, read: tuple[Tensor, Tensor], embeddings=None) -> Tensor:
    """One forward of tokens [B, S] under `pattern`; float32 logits [n, V] of the states `read` (rows [n], elements [n]).

    What is on the host goes to the model's device here, where nothing else needs to be looked at."""
    put = lambda part: to_device(part, model.device)
    count = len(read[0])
    rows, elements = (F.pad(part, (0, -count % READS)) for part in read)  # a few more of element 0, which nobody looks at
    noisy = int((pattern.view[0] > 0).sum())  # the first elements; 0 where there is no clean half beside them
    clean_unread = 0 < noisy < pattern.view.shape[1] and bool((elements < noisy).all())
    if model.device.type != "cpu":  # there a forward does not look
        model.check(pattern.position)
    pattern = labels_to(pattern, model.device)
    mask = prepared(pattern)
    hidden = model(
        put(tokens), pattern.position, mask, embeddings=embeddings, read=(put(rows), put(elements)),
        last=last_layer(mask, pattern, noisy) if clean_unread else None,
    )  # fmt: skip
    return model.logits(hidden)[:count].float()


@dataclass(frozen=True)
class Diffusion:
    """A masked-diffusion objective; called as `objective(model, batch, block_size=…, generator=…)`.

    block_size of the call: None or >= L gives full diffusion without a clean half (LLaDA Eq. 3, LLaDA 2.0 Eq. 2), else
    block diffusion over [x_t ; x_0] (Eq. 1; with a prompt that is not scored, Eq. 5).
    complementary: also score the logical inverse of the mask; half the sum of both. cap_lambda: λ of CAP (Eq. 6).
    one_t_per: "row", "document" or "block". random_length: share of batches cut to a random length (LLaDA: 1 %).
    per_answer: divide by each document's scored tokens, then by documents (LLaDA's SFT), else by all scored tokens.
    One call sees one micro-batch: CAP's mean is over its right tokens, and stratified times and random lengths are drawn
    for it alone. Every other term is a sum, which accumulation leaves as it is.
    Raises ValueError for a setting out of range, and where complementary views would leave the band: t < 1 and a band
    symmetric about 1/2 are needed.
    """

    schedule: NoiseSchedule
    mask_token_id: int
    label_shift: bool = False
    complementary: bool = False
    cap_lambda: float = 0.0
    cap_temperature: float = 1.0
    one_t_per: str = "document"
    random_length: float = 0.0
    per_answer: bool = False

    def __post_init__(self):
        if self.one_t_per not in ("row", "document", "block"):
            raise ValueError(f"one_t_per={self.one_t_per!r}: must be 'row', 'document' or 'block'")
        if not 0 <= self.random_length <= 1:
            raise ValueError(f"random_length={self.random_length}: must be a share of the batches, from 0 to 1")
        if self.cap_lambda < 0:
            raise ValueError(
                f"cap_lambda={self.cap_lambda}: must be 0 (off) or more, below it CAP would teach doubt "
                "(llada2_cap_lambda of the notebooks)"
            )
        if self.cap_temperature <= 0:
            raise ValueError(f"cap_temperature={self.cap_temperature}: must be positive")
        times = torch.tensor([self.schedule.t_min, self.schedule.t_max], dtype=torch.float64)
        low, high = (1 - self.schedule.alpha(times)).tolist()
        if self.complementary and (high >= 1 or abs(low + high - 1) > 1e-4):
            raise ValueError(
                f"complementary masking with mask probabilities in [{low:.4g}, {high:.4g}]: the band must end below 1 "
                "and be symmetric about 1/2, as NoiseSchedule.band(0.05, 0.95) is"
            )

    def __call__(self, model, batch, *, block_size: int | None = None, generator=None, embedding_noise=0.0) -> Loss:
        batch = self._cut(batch, generator)
        views = 2 if self.complementary else 1
        # 1. pattern: full attention without a clean half, or [x_t ; (x̄_t ;) x_0]
        pattern = self.pattern(batch, block_size, views)
        # 2. noise
        maskable, groups = batch.scored & pattern.scorable, self.groups(batch, block_size)
        noised = corrupt(batch.tokens, maskable, self.schedule, self.mask_token_id, generator, groups)[:views]
        return self.score(model, batch, noised, pattern, embedding_noise, generator)

    def skip(self, model, batch, *, block_size: int | None = None, generator=None, embedding_noise=0.0) -> None:
        """Draw from `generator` exactly what a call would, and nothing else: these rows are another process's."""
        batch = self._cut(batch, generator)
        groups = self.groups(batch, block_size)
        self.schedule.draw((len(batch.tokens) if groups is None else flatten_groups(groups)[1],), generator)
        torch.rand(batch.tokens.shape, generator=generator)
        if embedding_noise:
            views = 2 if self.complementary else 1
            pattern = self.pattern(batch, block_size, views)
            copies = 1 if pattern.view.any() else views
            width = model.model.embed_tokens.embedding_dim
            torch.randn(copies * len(batch.tokens), pattern.view.shape[1], width, generator=generator)

    def _cut(self, batch, generator):
        """The batch, one in so many cut to a random length."""
        if not self.random_length or torch.rand((), generator=generator) >= self.random_length:
            return batch
        return batch.cut(int(torch.randint(1, batch.tokens.shape[1] + 1, (), generator=generator)))

    def score(self, model, batch, noised, pattern: AttentionPattern, embedding_noise=0.0, generator=None) -> Loss:
        """The loss of the noisy views `noised` (one, or a view and its complement) of `batch` under `pattern`."""
        maskable, views = batch.scored & pattern.scorable, len(noised)
        # 3. what is to be predicted, on the device before the forward is under way
        normal, count = self._normaliser(batch, maskable)
        targets = to_device(torch.cat([batch.tokens[noise.masked] for noise in noised]), model.device)
        weights = torch.cat([(noise.weight * normal)[noise.masked] for noise in noised])
        weights = to_device(weights, model.device)
        # 4. one forward; states only where a masked token is predicted; weighted cross entropy there
        logits = self._predict(model, batch, noised, pattern, embedding_noise, generator)
        losses = F.cross_entropy(logits, targets, reduction="none")
        total = (losses * weights).sum() / views
        if not self.cap_lambda:
            return Loss(total, count)
        # 5. CAP: λ · mean entropy over the masked tokens already right
        entropy, right = correct_token_entropy(logits, targets, self.cap_temperature)
        cap = count * entropy / right.clamp(min=1)
        return Loss(total + self.cap_lambda * cap, count, {"diffusion": total.detach(), "cap": cap.detach()})

    def pattern(self, batch, block_size: int | None, views: int = 1) -> AttentionPattern:
        length = batch.tokens.shape[1]
        if block_size is None or block_size >= length:
            return patterns.bidirectional(batch.document, batch.position, self.label_shift)
        pattern = patterns.block_diffusion(batch.document, batch.position, block_size, views, self.label_shift)
        return trim_unscored(pattern, batch.scored)

    def groups(self, batch, block_size: int | None) -> Tensor | None:
        """[B, L] int64, numbered from 0 in each row: which tokens share one t; None: all of a row."""
        if self.one_t_per == "row":
            return None
        if self.one_t_per == "document" or block_size is None:
            return batch.document
        starts = ((batch.position % block_size == 0) & (batch.document >= 0)).long()  # padding starts none
        return starts.cumsum(dim=1) - 1

    def _predict(self, model, batch, noised, pattern: AttentionPattern, sigma: float, generator) -> Tensor:
        """Logits [n, V] of the masked tokens, view after view. Without a clean half two views become twice the batch."""
        halves = bool(pattern.view.any())
        places = [read_places(pattern, view * halves, noise.masked) for view, noise in enumerate(noised)]
        if halves:
            copies = torch.stack([batch.tokens, *(noise.x_t for noise in noised)], dim=1)  # [B, 1 + views, L]
            tokens = copies[torch.arange(len(copies), device=copies.device)[:, None], pattern.view, pattern.source]
        else:
            places = [(rows + view * len(batch.tokens), columns) for view, (rows, columns) in enumerate(places)]
            tokens, pattern = torch.cat([noise.x_t for noise in noised]), pattern.repeat(len(noised))
        embeddings = None
        if sigma:
            embeddings = model.model.embed_tokens(to_device(tokens, model.device))
            noise = torch.randn(embeddings.shape, generator=generator) * (tokens == self.mask_token_id)[..., None].cpu()
            embeddings = embeddings + sigma * to_device(noise, model.device).to(embeddings.dtype)
        read = tuple(torch.cat(part) for part in zip(*places, strict=True))
        return predict(model, tokens, pattern, read, embeddings)

    def _normaliser(self, batch, maskable: Tensor) -> tuple[Tensor, float]:
        """([B, L] factor of each token, the count that the sum is divided by): 1 and all tokens, or, `per_answer`,
        1 / the document's tokens and all documents that have any."""
        ones = torch.ones(maskable.shape, device=maskable.device)
        if not self.per_answer:
            return ones, float(maskable.sum())
        document = batch.document.clamp(min=0)
        lengths = torch.zeros_like(ones).scatter_add_(1, document, maskable.float())
        return 1 / lengths.gather(1, document).clamp(min=1), float((lengths > 0).sum())


def correct_token_entropy(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """CAP's term (Eq. 6): summed entropy (nats) of the predictions [n, V] whose argmax is already right, and how many.

    No gradient flows through the choice of positions.
    """
    right = logits.detach().argmax(dim=-1) == targets
    log_p = F.log_softmax(logits / temperature, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1).where(right, 0).sum(), right.sum()
