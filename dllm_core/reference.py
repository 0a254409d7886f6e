"""Noise, losses, training loop and decoders as the papers write them: one equation, one forward after another.

Slow, and meant to be read first. `losses`, `train` and `samplers` compute the same for packed rows, prompts, several views
and all blocks in one pass and from a cache; tests hold them against these. Shapes: L tokens, V entries of the vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core.noise import generator_for


def corrupt(x_0: Tensor, t: float | Tensor, mask_token_id: int, generator: torch.Generator | None = None) -> Tensor:
    """The forward process q(x_t | x_0) of one document: x_0 [L] int64 → x_t [L], each token masked with probability t."""
    u = torch.rand(len(x_0), generator=generator).to(x_0.device)
    masked = u < t
    return x_0.masked_fill(masked, mask_token_id)


def ar_loss(model, x: Tensor) -> Tensor:
    """Next-token cross entropy of one document x [L] int64, in nats per token: −Σ log p(x^i | x^<i) / (L − 1)."""
    logits = forward(model, x, block_size=1)
    # row i − 1 predicts token i
    return F.cross_entropy(logits[:-1], x[1:])


def llada1_loss(
    model, x_0: Tensor, mask_token_id: int, t: float | Tensor | None = None, masked: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """LLaDA Eq. 3 (arXiv 2502.09992) for one document x_0 [L] int64, in nats per token: −1/t Σ_masked log p(x_0^i | x_t) / L.

    t and masked [L] bool are drawn unless given.
    """
    # 1. t ~ U(0, 1]; each token is masked with probability t
    t = 1 - torch.rand((), generator=generator).item() if t is None else t
    masked = torch.rand(len(x_0), generator=generator).to(x_0.device) < t if masked is None else masked
    x_t = x_0.masked_fill(masked, mask_token_id)
    # 2. one forward, in which every token sees every other
    logits = forward(model, x_t, block_size=len(x_0))
    # 3. the sum over the masked tokens, divided by t and by the length
    losses = F.cross_entropy(logits, x_0, reduction="none")
    return losses[masked].sum() / t / len(x_0)


def llada2_loss(
    model, x_0: Tensor, masked: Tensor, weight: Tensor | float, block_size: int, mask_token_id: int,
    label_shift: bool = False,
) -> Tensor:  # fmt: skip
    """LLaDA 2.0 Eq. 1 (arXiv 2512.15745) for one document and one draw of the noise, a sum in nats:
    Σ_k Σ_masked w · −log p(x_0,k^i | x_0,<k, x_t,k).

    x_0: [L] int64; masked: [L] bool; weight: w = −alpha'/(1 − alpha) at the t that drew the mask, one number or [L].
    With a prompt that is never masked it is Eq. 5; with a block_size of L or more, Eq. 2. label_shift: masked[0] must be
    False.
    """
    x_t = x_0.masked_fill(masked, mask_token_id)
    logits = block_logits(model, x_0, x_t, block_size, label_shift)
    losses = F.cross_entropy(logits, x_0, reduction="none")
    return (losses * weight)[masked].sum()


def train(
    model, documents: Iterable[Tensor], mask_token_id: int, learning_rate: float = 4e-4, seed: int = 0,
    loss_of: Callable = llada1_loss,
) -> Iterator[float]:  # fmt: skip
    """Train `model` in place, one document x_0 [L] int64 a step; yield the loss of each step, nats per token.

    loss_of: (model, x_0, mask_token_id, t, masked) → scalar tensor; `llada1_loss` makes it LLaDA Eq. 3.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step, x_0 in enumerate(documents):
        # 1. draw t, mask each token with probability t
        generator = generator_for(seed, step)
        t = 1e-3 + (1 - 1e-3) * torch.rand((), generator=generator)
        masked = torch.rand(len(x_0), generator=generator) < t
        # 2. forward, loss
        loss = loss_of(model, x_0, mask_token_id, t, masked)
        # 3. backward, step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def block_logits(model, x_0: Tensor, x_t: Tensor, block_size: int, label_shift: bool = False) -> Tensor:
    """x_0, x_t [L] int64 → [L, V]: each token's prediction, by one forward per block over what it may see: the clean
    blocks before it and the noisy block itself. With `label_shift` token i is read at row i − 1 and [0] is of no use."""
    blocks = []
    for start in range(0, len(x_0), block_size):
        visible = torch.cat([x_0[:start], x_t[start : start + block_size]])
        logits = forward(model, visible, block_size)
        logits = logits.roll(1, dims=0) if label_shift else logits
        blocks.append(logits[start:])
    return torch.cat(blocks)


def forward(model, tokens: Tensor, block_size: int, offset: int = 0) -> Tensor:
    """tokens [S] int64 of one document → [S, V]; or of several as long, [B, S] → [B, S, V]. A token sees its own block
    and all before it: block_size 1 is causal, S (or more) is full attention. offset: by how many tokens the first block
    is shorter."""
    rows = torch.atleast_2d(tokens)
    position = torch.arange(rows.shape[1], device=tokens.device)
    block = (position + offset) // block_size
    mask = block[None, :] <= block[:, None]
    hidden = model(rows, position.expand_as(rows), mask.expand(len(rows), -1, -1))
    return model.logits(hidden).view(*tokens.shape, -1).float()


@torch.inference_mode()
def decode_ar(model, prompts: Tensor, new_tokens: int, mask_token_id: int) -> Tensor:
    """Greedy decoding token by token without a cache: prompts [B, P] int64 → [B, P + new_tokens]."""
    x = prompts
    for _ in range(new_tokens):
        logits = forward(model, x, block_size=1)[:, -1]
        logits[:, mask_token_id] = -torch.inf
        x = torch.cat([x, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return x


@torch.inference_mode()
def decode_llada1(model, prompts: Tensor, new_tokens: int, block_size: int, steps: int, mask_token_id: int) -> Tensor:
    """Greedy decoding of LLaDA (arXiv 2502.09992, Algorithm 5 and `generate.py`), block after block.

    prompts: [B, P] int64 → [B, P + new_tokens]. block_size divides new_tokens, the number of blocks divides steps.
    """
    batch, length = prompts.shape
    x = torch.cat([prompts, prompts.new_full((batch, new_tokens), mask_token_id)], dim=1)
    steps_per_block = steps * block_size // new_tokens
    for start in range(length, length + new_tokens, block_size):
        block = x[:, start : start + block_size]  # a view: x changes with it
        for step in range(steps_per_block):
            # 1. one forward over the whole sequence; the mask itself is never predicted
            logits = forward(model, x, block_size=x.shape[1])[:, start : start + block_size]
            logits[..., mask_token_id] = -torch.inf
            # 2. the most probable token of each masked position, and its probability
            confidence, token = logits.softmax(dim=-1).max(dim=-1)
            confidence = confidence.masked_fill(block != mask_token_id, -1)
            # 3. keep the step's share of the most confident, mask the rest again
            count = block_size // steps_per_block + (step < block_size % steps_per_block)
            kept = confidence.topk(count, dim=1).indices
            block.scatter_(1, kept, token.gather(1, kept))
    return x


@torch.inference_mode()
def decode_llada2(
    model, prompts: Tensor, new_tokens: int, block_size: int, threshold: float, mask_token_id: int, grid: str = "start"
) -> Tensor:
    """Greedy decoding of LLaDA 2 (arXiv 2512.15745 §5) without a cache: every forward runs all that is written so far.

    prompts: [B, P] int64 → [B, P + new_tokens]; the last block is completed, and cut where the answer ends.
    grid: of `CheckpointInfo`.
    """
    batch, length = prompts.shape
    offset = -length % block_size if grid == "answer" else 0
    end = -(-(length + new_tokens + offset) // block_size) * block_size - offset
    x = torch.cat([prompts, prompts.new_full((batch, end - length), mask_token_id)], dim=1)
    for start in range((length + offset) // block_size * block_size - offset, end, block_size):
        block = x[:, start : start + block_size]  # a view: x changes with it
        while (masked := block == mask_token_id).any():
            # 1. one forward over everything up to the block's end; the mask itself is never predicted
            logits = forward(model, x[:, : start + block_size], block_size, offset)[:, start:]
            logits[..., mask_token_id] = -torch.inf
            # 2. the most probable token of each masked position, and its probability
            confidence, token = logits.softmax(dim=-1).max(dim=-1)
            confidence = confidence.masked_fill(~masked, -1)
            # 3. commit every one above the threshold, at least the most confident
            best = torch.zeros_like(masked).scatter(1, confidence.argmax(dim=1, keepdim=True), True)
            commit = masked & ((confidence > threshold) | best)
            block[commit] = token[commit]
    return x[:, : length + new_tokens]
