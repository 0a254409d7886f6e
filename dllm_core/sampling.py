"""From logits to a chosen token with its confidence, and from a step's tensors to its records."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core import policies
from dllm_core.config import DecodeConfig
from dllm_core.trace import Commit, DecodeStep


@dataclass(frozen=True)
class SpecialTokens:
    """The token ids that decoding needs."""

    mask: int
    eos: int
    pad: int

    @classmethod
    def of(cls, tokenizer) -> "SpecialTokens":
        return cls(tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


@dataclass(frozen=True)
class Prediction:
    """token: [n], or [B, N] once placed; measures: [2, n] or [2, B, N], its confidence and the entropy (nats); top:
    runners-up (ids, probabilities) of the token's shape and k more, or None."""

    token: Tensor
    measures: Tensor
    top: tuple[Tensor, Tensor] | None

    @property
    def confidence(self) -> Tensor:
        return self.measures[0]

    @property
    def entropy(self) -> Tensor:
        return self.measures[1]

    def placed(self, masked: Tensor) -> "Prediction":
        """The guesses [n] of the n True places of `masked` [B, N], put there; 0 elsewhere."""

        put = lambda values: values.new_zeros(*values.shape[:-1], *masked.shape).masked_scatter_(masked, values)
        top = self.top and tuple(put(part.T).movedim(0, -1) for part in self.top)
        return Prediction(put(self.token), put(self.measures), top)


LOWEST = -1e30  # a logit for "never": finite, so that a probability of 0 adds 0 · LOWEST = 0 to the entropy


def predict_tokens(logits: Tensor, config: DecodeConfig, ids: SpecialTokens, generator: torch.Generator) -> Prediction:
    """logits [..., V] → choice of a token everywhere. The logits, if float32, are written over.

    Confidence is the chosen token's probability after guidance, before temperature and filtering. Sampling is
    Gumbel-max in float64 (float32 noise lowers the temperature by truncation; LLaDA's `add_gumbel_noise`).
    """
    logits = logits.float().clamp_(min=LOWEST)
    logits.select(-1, ids.mask).fill_(LOWEST)
    p = logits.softmax(dim=-1)  # one fused pass: measured faster than the maximum's logit − logsumexp
    best, token = max_with_index(logits)
    confidence = p.gather(-1, token[..., None])[..., 0]
    log_sum = best - confidence.log()  # logsumexp = logit − log p of any token: of the likeliest here
    if config.temperature:
        scaled = filtered(logits, config.top_k, config.top_p, config.temperature)
        scaled = (scaled.cpu() if scaled.device.type == "mps" else scaled).double()  # Apple's GPUs have no float64
        uniform = torch.rand(scaled.shape, generator=generator, dtype=torch.float64).to(scaled.device)
        token = (
            (scaled / config.temperature - (-uniform.clamp_min(1e-300).log()).log()).argmax(dim=-1).to(logits.device)
        )
        confidence = p.gather(-1, token[..., None])[..., 0]
    top = None
    if config.alternatives:
        probabilities, ids_of_top = p.topk(min(config.alternatives + 1, p.shape[-1]), dim=-1)
        top = (ids_of_top, probabilities)
    entropy = log_sum - p.mul_(logits).sum(dim=-1)  # H = −Σ p log p = logsumexp − Σ p · logit
    return Prediction(token, torch.stack([confidence, entropy]), top)


CHUNK = 128  # logits looked through at once in `max_with_index`


def max_with_index(logits: Tensor) -> tuple[Tensor, Tensor]:
    """`logits.max(dim=-1)` of [..., V], (value, index), the first of equals.

    On a CPU PyTorch looks for an index one number after the other, for a value alone many at once: so the chunk of the
    greatest value is found first, and the index within it.
    """
    if logits.device.type != "cpu" or logits.shape[-1] % CHUNK or logits.numel() < 2**16:
        return tuple(logits.max(dim=-1))
    chunks = logits.unflatten(-1, (-1, CHUNK))
    value, first = chunks.amax(dim=-1).max(dim=-1)
    inside = chunks.gather(-2, first[..., None, None].expand(*first.shape, 1, CHUNK)).argmax(dim=-1)[..., 0]
    return value, inside.add_(first, alpha=CHUNK)


def filtered(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    """logits [..., V] with all but the `top_k` most probable, and all beyond the `top_p` nucleus, set to −inf."""
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        p = (ordered / temperature).softmax(dim=-1)
        beyond = p.cumsum(dim=-1) - p >= top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: un + (s + 1)(cond − un)."""
    return unconditional + (scale + 1) * (conditional - unconditional)


@dataclass
class Recorder:
    """Turns tensors of a step into `DecodeStep`s, one per row."""

    config: DecodeConfig
    began: float
    counts: list[int]

    def steps(self, rows, first, guess: Prediction, masked, choice: policies.Commits, left, blocks) -> list[DecodeStep]:
        """rows: batch row of each line; first: [B] position of column 0; left: [B] masked after the step."""
        seconds = time.perf_counter() - self.began
        forwards = 2 if self.config.cfg_scale else 1
        # few transfers in all: each waits for the device
        whole = torch.stack([guess.token, choice.reasons, choice.commit, masked], dim=1).tolist()
        confidences, entropies = guess.measures.tolist()
        of_rows = torch.stack([first, left, choice.held_back], dim=1).tolist()
        top = guess.top and [part.tolist() for part in guess.top]
        made = []
        for i, row in enumerate(rows):
            (token, reason, commit, was_open), confidence, entropy = whole[i], confidences[i], entropies[i]
            start, still_masked, held = of_rows[i]
            candidates = [n for n, is_open in enumerate(was_open) if is_open]
            commits = tuple(
                Commit(start + n, token[n], confidence[n], policies.REASONS[reason[n]], self._others(top, i, n, token[n]))
                for n in candidates
                if commit[n]
            )
            draft = ()
            if self.config.draft:
                draft = tuple((start + n, token[n], confidence[n]) for n in candidates if not commit[n])
            mean, unsure = (
                sum(share[n] for n in candidates) / max(len(candidates), 1) for share in (confidence, entropy)
            )
            made.append(
                DecodeStep(
                    self.counts[row],
                    row,
                    forwards,
                    seconds,
                    blocks[i],
                    commits,
                    still_masked,
                    mean,
                    unsure,
                    draft,
                    held,
                )
            )
            self.counts[row] += 1
        return made

    def _others(self, top: list | None, row: int, column: int, chosen: int) -> tuple[tuple[int, float], ...]:
        """top: ids and probabilities, each [B][N][k + 1]."""
        if top is None:
            return ()
        pairs = zip(top[0][row][column], top[1][row][column], strict=True)
        return tuple(pair for pair in pairs if pair[0] != chosen)[: self.config.alternatives]
