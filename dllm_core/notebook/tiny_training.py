"""A tiny model, trained for a few steps with any loss: what a bug in the loss does to the curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import reference
from dllm_core.config import ModelConfig
from dllm_core.data.batches import Batch
from dllm_core.likelihood import nll_bound
from dllm_core.model import Transformer

LETTERS = 5  # of the made-up documents
BLOCK_SIZE = 8  # of `block_loss`


@dataclass(frozen=True)
class Curves:
    """training: the loss of each step, as the loss function has it. bound: before the first step and after each, the
    bound on the negative log-likelihood of documents held out, by the library. Both in nats per token."""

    training: list[float]
    bound: list[float]


def train_tiny(
    loss_of: Callable, documents: Sequence[Tensor], *, steps: int = 40, block_size: int | None = None, seed: int = 0
) -> Curves:
    """Train a new tiny model by `reference.train` on the first `steps` documents, one a step; the others are held out.

    loss_of: (model, x_0, mask_token_id, t, masked) → scalar tensor, as `reference.llada1_loss`. documents: [L] int64
    each, of one length; the mask's id is their largest token + 1. block_size: of the bound; None is full diffusion.
    Raises ValueError when there are not more documents than steps.

    What five bugs do to the curves, beside those of the right loss with the same seed:
    - the weight of a second, independent t: the training loss jumps by orders of magnitude, since 1/t does not fit the
      number of masked tokens any more.
    - 1/t on a mean over the masked tokens: the training loss is about 1/t times too high. It jumps at every small t,
      and the few masked tokens of those steps rule the gradient. Where no token is masked it is nan.
    - 1/t²: nearly the same curve. The sum of the masked tokens over t · L is about their mean.
    - the label off by one: the training loss falls like the right one, the model learns another task, the bound rises.
    - the leak of the clean copy: no model can predict `random_letters` better than log V. The training loss falls below
      that, the model copies, and the bound rises.
    """
    if len(documents) <= steps:
        raise ValueError(f"{len(documents)} documents for {steps=}: give more, the bound is measured on the others")
    mask_token_id = int(max(x_0.max() for x_0 in documents)) + 1
    model = tiny_model(mask_token_id + 1, seed)
    held_out = torch.stack(list(documents[steps:]))
    position = torch.arange(held_out.shape[1]).expand_as(held_out)
    batch = Batch(held_out, torch.zeros_like(held_out), position, torch.ones_like(held_out, dtype=torch.bool))

    def bound() -> float:
        options = {"block_size": block_size, "draws": 2, "estimator": "exact_masks"}
        return nll_bound(model, [batch], mask_token_id, **options).mean

    training, bounds = [], [bound()]
    for loss in reference.train(model, documents[:steps], mask_token_id, 0.015, seed, loss_of):
        training.append(loss)
        bounds.append(bound())
    return Curves(training, bounds)


def block_loss(mask_of: Callable[[int, int], Tensor]) -> Callable:
    """LLaDA 2.0 Eq. 1 in blocks of `BLOCK_SIZE`, in one pass over [x_t ; x_0], as a loss for `train_tiny`.

    mask_of: (L, block size) → [2L, 2L] bool, True where the row's token may see the column's.
    """

    def loss_of(model, x_0: Tensor, mask_token_id: int, t: float | Tensor, masked: Tensor) -> Tensor:
        # 1. the noisy copy, then the clean one, at the same positions
        both = torch.cat([x_0.masked_fill(masked, mask_token_id), x_0])
        position = torch.arange(len(x_0)).repeat(2)
        # 2. one forward; the noisy half predicts
        hidden = model(both[None], position[None], mask_of(len(x_0), BLOCK_SIZE)[None])
        losses = F.cross_entropy(model.logits(hidden[0, : len(x_0)]), x_0, reduction="none")
        # 3. the sum over the masked tokens, divided by t and by the length
        return losses[masked].sum() / t / len(x_0)

    return loss_of


def tiny_model(vocab_size: int, seed: int = 0) -> Transformer:
    """One layer, 48 wide, whose first predictions are nearly uniform; it learns to count in some 40 steps. The global
    random state stays as it is."""
    config = ModelConfig(
        vocab_size, 48, 1, 4, rope_theta=5.0, qk_norm_init=2.0, initializer_range=0.1, tie_word_embeddings=False
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Transformer(config)


def counting(count: int = 48, length: int = 128, seed: int = 0) -> list[Tensor]:
    """Documents [length] int64 that count in a circle from a random letter, 3 4 0 1 …: each token tells all others."""
    start = torch.randint(LETTERS, (count, 1), generator=torch.Generator().manual_seed(seed))
    return list((start + torch.arange(length)) % LETTERS)


def random_letters(count: int = 48, length: int = 128, seed: int = 0) -> list[Tensor]:
    """Documents [length] int64 of independent, uniform letters: no model is better than log LETTERS nats per token."""
    return list(torch.randint(LETTERS, (count, length), generator=torch.Generator().manual_seed(seed)))
