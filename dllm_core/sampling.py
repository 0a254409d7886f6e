"""From logits to a token with its confidence: guidance, temperature, filters and Gumbel-max sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.compute.cpu import max_with_index, top_k
from dllm_core.config import DecodeConfig

LOWEST = -1e30  # a logit for "never": finite, so that a probability of 0 adds 0 · LOWEST = 0 to the entropy


@dataclass(frozen=True)
class SpecialTokens:
    """The token ids that decoding needs, under a tokenizer's names: it stands in for one where no text is written."""

    mask_token_id: int
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True)
class Prediction:
    """The predicted tokens of n masked positions, or of [B, N] positions after `scatter`."""

    token: Tensor  # [n] int64
    measures: Tensor  # [2, n] float32, the confidence (a probability) and the entropy (nats) of each
    top: tuple[Tensor, Tensor] | None  # [n, k + 1] int64 and float32, the most probable tokens and their probabilities

    @property
    def confidence(self) -> Tensor:
        """[n]: probability of the chosen token."""
        return self.measures[0]

    @classmethod
    def cat(cls, parts: list["Prediction"]) -> "Prediction":
        """The predictions of all parts, in order."""
        top = parts[0].top and tuple(torch.cat(of_parts) for of_parts in zip(*(part.top for part in parts), strict=True))
        return cls(torch.cat([part.token for part in parts]), torch.cat([part.measures for part in parts], dim=1), top)

    def scatter(self, masked: Tensor) -> "Prediction":
        """The n predictions at the n True elements of `masked` [B, N], in row-major order; 0 elsewhere."""

        def put(values: Tensor) -> Tensor:
            return values.new_zeros(*values.shape[:-1], *masked.shape).masked_scatter_(masked, values)

        top = self.top and tuple(put(part.T).movedim(0, -1) for part in self.top)
        return Prediction(put(self.token), put(self.measures), top)


def predict_tokens(logits: Tensor, config: DecodeConfig, mask_token_id: int, generator: torch.Generator) -> Prediction:
    """logits [..., V] → a token at each position. Float32 logits are overwritten.

    The confidence is the chosen token's probability after guidance, before temperature and filtering; the mask is never
    chosen. Sampling is Gumbel-max in float64 (float32 noise lowers the temperature by truncation; LLaDA's
    `add_gumbel_noise`).
    """
    # 1. probabilities without the mask token
    logits = logits.float().clamp_(min=LOWEST)
    logits.select(-1, mask_token_id).fill_(LOWEST)
    p = logits.softmax(dim=-1)  # one fused pass: measured faster than the maximum's logit − logsumexp
    # 2. the most probable token and its confidence
    best, token = max_with_index(logits)
    confidence = p.gather(-1, token[..., None])[..., 0]
    log_sum = best - confidence.log()  # logsumexp = logit − log p of any token, here of the most probable
    # 3. or a sampled token: argmax of logit / temperature + Gumbel noise
    if config.temperature:
        scores = filter_logits(logits, config.top_k, config.top_p, config.temperature)
        scores = (scores.cpu() if scores.device.type == "mps" else scores).double()  # Apple's GPUs have no float64
        uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64).to(scores.device)
        gumbel = -(-uniform.clamp_min(1e-300).log()).log()
        token = (scores / config.temperature + gumbel).argmax(dim=-1).to(logits.device)
        confidence = p.gather(-1, token[..., None])[..., 0]
    # 4. what the trace records beside it
    top = None
    if config.alternatives:
        probabilities, top_tokens = top_k(p, min(config.alternatives + 1, p.shape[-1]))
        top = (top_tokens, probabilities)
    entropy = log_sum - p.mul_(logits).sum(dim=-1)  # H = −Σ p log p = logsumexp − Σ p · logit
    return Prediction(token, torch.stack([confidence, entropy]), top)


def filter_logits(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
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


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (LLaDA, `generate.py`): un + (s + 1)(cond − un), logits [..., V] each; s = 0 is off."""
    return unconditional + (scale + 1) * (conditional - unconditional)
