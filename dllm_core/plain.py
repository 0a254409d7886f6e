"""The diffusion losses as the papers write them: one document, one equation, one forward after another.

Slow, and meant to be read first. `objectives.Diffusion` computes the same for packed rows, prompts, several views and
all blocks in one pass; tests hold it against these on the same masks. Shapes: L tokens, V entries of the vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def llada1_loss(
    model, x_0: Tensor, mask_token_id: int, t: float | None = None, masked: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """LLaDA Eq. 3 (arXiv 2502.09992) for one document x_0 [L] int64, in nats per token: −1/t Σ_masked log p(x_0^i | x_t) / L.

    t and masked [L] bool are drawn unless given.
    """
    # 1. t ~ U(0, 1], and each token hidden with probability t
    t = 1 - torch.rand((), generator=generator).item() if t is None else t
    masked = torch.rand(len(x_0), generator=generator).to(x_0.device) < t if masked is None else masked
    x_t = x_0.masked_fill(masked, mask_token_id)
    # 2. one forward, in which every token sees every other
    logits = forward(model, x_t, block_size=len(x_0))
    # 3. the sum over hidden tokens, by the t that hid them and by the length
    losses = F.cross_entropy(logits, x_0, reduction="none")
    return losses[masked].sum() / t / len(x_0)


def llada2_loss(
    model, x_0: Tensor, masked: Tensor, weight: Tensor | float, block_size: int, mask_token_id: int,
    label_shift: bool = False,
) -> Tensor:  # fmt: skip
    """LLaDA 2.0 Eq. 1 (arXiv 2512.15745) for one document and one draw of the noise, a sum in nats:
    Σ_k Σ_masked w · −log p(x_0,k^i | x_0,<k, x_t,k).

    x_0: [L] int64; masked: [L] bool; weight: w = −alpha'/(1 − alpha) at the t that drew the mask, one number or [L].
    Where a prompt is never masked it is Eq. 5. block_size of L or more: Eq. 2. label_shift: masked[0] must be False.
    """
    x_t = x_0.masked_fill(masked, mask_token_id)
    logits = block_logits(model, x_0, x_t, block_size, label_shift)
    losses = F.cross_entropy(logits, x_0, reduction="none")
    return (losses * weight)[masked].sum()


def block_logits(model, x_0: Tensor, x_t: Tensor, block_size: int, label_shift: bool = False) -> Tensor:
    """x_0, x_t [L] int64 → [L, V]: each token's prediction, by one forward per block over what it may see: the clean
    blocks before it and the noisy block itself. With `label_shift` token i is read at row i − 1 and [0] is of no use."""
    found = []
    for start in range(0, len(x_0), block_size):
        seen = torch.cat([x_0[:start], x_t[start : start + block_size]])
        logits = forward(model, seen, block_size)
        logits = logits.roll(1, dims=0) if label_shift else logits
        found.append(logits[start:])
    return torch.cat(found)


def forward(model, tokens: Tensor, block_size: int) -> Tensor:
    """tokens [S] int64 of one document → [S, V]. A token sees its own block and all before it: block_size 1 is
    causal, S (or more) is full attention."""
    position = torch.arange(len(tokens), device=tokens.device)
    block = position // block_size
    mask = block[None, :] <= block[:, None]
    return model.logits(model(tokens[None], position[None], mask[None]))[0].float()
