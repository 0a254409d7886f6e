"""From logits to a chosen token with its confidence, and from a step's tensors to its records."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core import policies
from dllm_core.config import DecodeConfig
from dllm_core.trace import Commit, DecodeStep


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that decoding needs."""

    mask: int
    eos: int
    pad: int

    @classmethod
    def of(cls, tokenizer) -> "Vocabulary":
        return cls(tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


@dataclass(frozen=True)
class Guess:
    """token, confidence, entropy (nats): [B, N]; top: runners-up (ids, probabilities) [B, N, k] or None."""

    token: Tensor
    confidence: Tensor
    entropy: Tensor
    top: tuple[Tensor, Tensor] | None


def guess(logits: Tensor, config: DecodeConfig, ids: Vocabulary, generator: torch.Generator) -> Guess:
    """logits [B, N, V] → choice of a token everywhere.

    Confidence is the chosen token's probability after guidance, before temperature and filtering. Sampling is
    Gumbel-max in float64 (float32 noise lowers the temperature by truncation; LLaDA's `add_gumbel_noise`).
    """
    logits = logits.float().index_fill(-1, torch.tensor([ids.mask], device=logits.device), -torch.inf)
    log_p = logits.log_softmax(dim=-1)
    p = log_p.exp()
    if config.temperature == 0:
        token = logits.argmax(dim=-1)
    else:
        scaled = filtered(logits, config.top_k, config.top_p, config.temperature)
        scaled = (scaled.cpu() if scaled.device.type == "mps" else scaled).double()  # Apple's GPUs have no float64
        uniform = torch.rand(scaled.shape, generator=generator, dtype=torch.float64).to(scaled.device)
        token = (scaled / config.temperature - (-uniform.clamp_min(1e-300).log()).log()).argmax(dim=-1).to(logits.device)
    confidence = p.gather(-1, token[..., None])[..., 0]
    entropy = -(p * log_p.clamp_min(-1e4)).sum(dim=-1)
    top = None
    if config.alternatives:
        probabilities, best = p.topk(min(config.alternatives + 1, p.shape[-1]), dim=-1)
        top = (best, probabilities)
    return Guess(token, confidence, entropy, top)


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

    def steps(self, rows, first, guess: Guess, masked, choice: policies.Choice, left, blocks) -> list[DecodeStep]:
        """rows: batch row of each line; first: [B] position of column 0; left: [B] masked after the step."""
        seconds = time.perf_counter() - self.began
        first, left, commit, reasons = first.tolist(), left.tolist(), choice.commit.tolist(), choice.reasons.tolist()
        token, confidence, held = guess.token.tolist(), guess.confidence.tolist(), choice.held.tolist()
        candidates = masked.sum(dim=1).clamp(min=1)
        mean = ((guess.confidence * masked).sum(dim=1) / candidates).tolist()
        entropy = ((guess.entropy * masked).sum(dim=1) / candidates).tolist()
        open_after = masked.tolist()
        made = []
        for i, row in enumerate(rows):
            commits = tuple(
                Commit(
                    first[i] + n,
                    token[i][n],
                    confidence[i][n],
                    policies.NAMES[reasons[i][n]],
                    self._others(guess, i, n),
                )
                for n, chosen in enumerate(commit[i])
                if chosen
            )
            draft = ()
            if self.config.draft:
                draft = tuple(
                    (first[i] + n, token[i][n], confidence[i][n])
                    for n, is_open in enumerate(open_after[i])
                    if is_open and not commit[i][n]
                )
            forwards = 2 if self.config.cfg_scale else 1
            made.append(
                DecodeStep(
                    self.counts[row],
                    row,
                    forwards,
                    seconds,
                    blocks[i],
                    commits,
                    left[i],
                    mean[i],
                    entropy[i],
                    draft,
                    held[i],
                )
            )
            self.counts[row] += 1
        return made

    def _others(self, guess: Guess, row: int, column: int) -> tuple[tuple[int, float], ...]:
        if guess.top is None:
            return ()
        chosen = int(guess.token[row, column])
        pairs = zip(guess.top[0][row, column].tolist(), guess.top[1][row, column].tolist(), strict=True)
        return tuple(pair for pair in pairs if pair[0] != chosen)[: self.config.alternatives]
