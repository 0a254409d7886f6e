"""The exercises of notebook 02: the forward process and the loss of LLaDA 1."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import noise, reference
from dllm_core.notebook.check.exercise import Exercise, seeded
from dllm_core.notebook.tiny_training import tiny_model
from dllm_core.schedules import NoiseSchedule

MASK = 9  # the mask's id in all cases; the tokens are 1 to 8
ALL, FIRST, LAST = slice(None), slice(None, -1), slice(1, None)  # all tokens, all but the last, all but the first


def tokens(length: int) -> Tensor:
    return torch.randint(1, MASK, (length,), generator=seeded(length))


# --- 02: the forward process ------------------------------------------------------------------------------------------


def right_corrupt(x_0, t, mask_token_id, generator):
    schedule, maskable = NoiseSchedule(t_min=t - 1e-6, t_max=t), torch.ones(1, len(x_0), dtype=torch.bool)
    return noise.corrupt(x_0[None], maskable, schedule, mask_token_id, generator)[0].x_t[0]


def corrupt_by(rule: Callable, token: int = MASK) -> Callable:
    """corrupt by another rule than u < t. rule: (u [L] uniform numbers, t, one more uniform number) → [L] bool."""

    def wrong(x_0, t, mask_token_id, generator):
        u, other = torch.rand(len(x_0), generator=generator), torch.rand((), generator=generator)
        return x_0.masked_fill(rule(u, t, other), token)

    return wrong


def statistics(function: Callable, make: Callable) -> dict[str, Tensor]:
    """What 1,000 draws have in common."""
    x_0, *others = make().values()
    draws = torch.stack([function(x_0.clone(), *others) for _ in range(1000)])
    masked = draws == MASK
    return {
        "the share of masked tokens": masked.double().mean(),
        "the standard deviation of the number of masked tokens": masked.sum(dim=1).double().std(),
        "the share of tokens that are neither masked nor those of x_0": (~masked & (draws != x_0)).double().mean(),
    }


corrupt = Exercise(
    "corrupt",
    "x_t, [L] whole numbers",
    right_corrupt,
    cases={
        f"{t = }": lambda t=t: {"x_0": tokens(20), "t": t, "mask_token_id": MASK, "generator": seeded(0)}
        for t in (0.25, 0.6, 1.0)
    },
    mistakes={
        "a token is masked with probability 1 − t, not t": corrupt_by(lambda u, t, other: u < 1 - t),
        "a second, independent t is drawn": corrupt_by(lambda u, t, other: u < other),
        "t · L is rounded to a fixed count": corrupt_by(lambda u, t, other: u.argsort().argsort() < round(t * len(u))),
        "one random number decides for all tokens": corrupt_by(lambda u, t, other: other < t),
        "masked tokens become 0, not mask_token_id": corrupt_by(lambda u, t, other: u < t, token=0),
        "x_0 is returned; masked_fill makes a new tensor": corrupt_by(lambda u, t, other: u < 0),
    },
    unsteady="draw every random number from the generator, as in torch.rand(…, generator=generator)",
    measure=statistics,
    tolerance=(0.12, 0.03),  # at least four standard errors
)

# --- 02: the loss -----------------------------------------------------------------------------------------------------


def weighted_sum(ce: Tensor, masked: Tensor, t: float, L: int) -> Tensor:
    return ce[masked].sum() / t / L


def loss_by(total=weighted_sum, *, sees_x_0=False, causal=False, rows=ALL, labels=ALL, counted=ALL) -> Callable:
    """llada1_loss with another sum, input, attention or choice of rows, labels and masked tokens."""

    def wrong(model, x_0, mask_token_id, t, masked):
        x_t = x_0 if sees_x_0 else x_0.masked_fill(masked, mask_token_id)
        logits = reference.forward(model, x_t, block_size=1 if causal else len(x_0))
        ce = F.cross_entropy(logits[rows], x_0[labels], reduction="none")
        return total(ce, masked[counted], t, len(x_0))

    return wrong


def loss_case(length: int, t: float) -> dict:
    masked = torch.rand(length, generator=seeded(3)) < t
    return {"model": tiny_model(MASK + 1), "x_0": tokens(length), "mask_token_id": MASK, "t": t, "masked": masked}


llada1_loss = Exercise(
    "llada1_loss",
    "the loss in nats per token, a tensor without dimensions",
    reference.llada1_loss,
    cases={
        "12 tokens, t = 0.4": lambda: loss_case(12, 0.4),
        "9 tokens, t = 0.8": lambda: loss_case(9, 0.8),
        "no token masked": lambda: loss_case(9, 0.001),
    },
    mistakes={
        "the weight 1/t is left out": loss_by(lambda ce, masked, t, L: ce[masked].sum() / L),
        "the weight is 1/t², not 1/t": loss_by(lambda ce, masked, t, L: ce[masked].sum() / t**2 / L),
        "1/t on a mean, not on the sum divided by L": loss_by(lambda ce, masked, t, L: ce[masked].mean() / t),
        "a mean over the masked tokens, without 1/t": loss_by(lambda ce, masked, t, L: ce[masked].mean()),
        "the sum is not divided by the length L": loss_by(lambda ce, masked, t, L: ce[masked].sum() / t),
        "the weight is 1/(1 − t), not 1/t": loss_by(lambda ce, masked, t, L: ce[masked].sum() / (1 - t) / L),
        "unmasked tokens are counted, too": loss_by(lambda ce, masked, t, L: ce.sum() / t / L),
        "the sign; a loss is minus the log probability": loss_by(lambda *parts: -weighted_sum(*parts)),
        "the label is off by one: row i predicts token i + 1": loss_by(rows=FIRST, labels=LAST, counted=FIRST),
        "the label is off by one: row i − 1 predicts token i": loss_by(rows=FIRST, labels=LAST, counted=LAST),
        "the model sees x_0, which shows the answers, not x_t": loss_by(sees_x_0=True),
        "attention is causal; each token must see all others": loss_by(causal=True),
    },
    unsteady="1/t must be of the t that is given, which drew the mask, not of a second, independent one",
)
