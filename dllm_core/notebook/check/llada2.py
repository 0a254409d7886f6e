"""The exercises of notebooks 03, 05 and 06: the mask, the merge, the two views and the threshold of LLaDA 2."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core import patterns, policies
from dllm_core.checkpoints.tensors import mean_weights
from dllm_core.notebook.check.exercise import Exercise, seeded
from dllm_core.schedules import NoiseSchedule

# --- 03: the mask of block diffusion ----------------------------------------------------------------------------------


def block_mask_by(rule: Callable) -> Callable:
    """block_mask by a rule over `MaskTerms`, [2L, 2L] bool each; clean: [1, 2L]."""

    def mask(length, block_size):
        document, position = torch.zeros(1, length, dtype=torch.long), torch.arange(length)[None]
        terms = patterns.block_diffusion(document, position, block_size).terms()
        return rule(patterns.MaskTerms(*(term[0] for term in terms)))

    return mask


def name_pair(index: list[int], arguments: dict) -> str:
    length, size = arguments.values()
    query, key = (f"{'x_0' if i >= length else 'x_t'}[{i % length}] of block {i % length // size}" for i in index)
    return f" ({query} looks at {key})"


block_mask = Exercise(
    "block_mask",
    "[2L, 2L] booleans, True where the row's token may see the column's; x_t comes first, then x_0",
    block_mask_by(lambda m: m.open),
    cases={
        f"{length} tokens in blocks of {size}": lambda length=length, size=size: {"length": length, "block_size": size}
        for length, size in ((8, 4), (6, 2), (5, 1), (4, 4), (7, 3))
    },
    mistakes={
        "the clean copy leaks: x_t sees its own clean block": block_mask_by(lambda m: m.open | m.same_block & m.clean),
        "the halves are not told apart in a token's own block": block_mask_by(lambda m: m.same_block | m.earlier_clean),
        "x_t sees earlier noisy blocks": block_mask_by(lambda m: m.open | m.earlier_clean.roll(len(m.open) // 2, 1)),
        "x_t sees all of x_t, not its own block alone": block_mask_by(lambda m: m.open | ~(m.clean | m.clean.mT)),
        "x_t does not see the clean blocks before it": block_mask_by(lambda m: m.open & (m.clean.mT | ~m.clean)),
        "x_0 does not see the clean blocks before it": block_mask_by(lambda m: m.own_block | m.open & ~m.clean.mT),
        "attention within a block is causal": block_mask_by(lambda m: m.own_block.tril() | m.earlier_clean),
        "rows and columns are exchanged; a row is a query": block_mask_by(lambda m: m.open.T),
        "True and False are exchanged": block_mask_by(lambda m: ~m.open),
    },
    place=name_pair,
)

# --- 03: the top-k merge ----------------------------------------------------------------------------------------------


def merge_by(choose: Callable, change: Callable = lambda mean, k: mean) -> Callable:
    """choose: (state dicts, best first, k) → those to average. change: (a mean, k) → the tensor of the result."""

    def merge(checkpoints, k):
        states = [state for _, state in sorted(checkpoints, key=lambda checkpoint: checkpoint[0])]
        return {name: change(mean, k) for name, mean in mean_weights(choose(states, k)).items()}

    return merge


def best_k(states: list, k: int) -> list:
    return states[:k]


def merge_case(k: int, *bounds: float) -> dict:
    checkpoints = []
    for seed, bound in enumerate(bounds):
        state = {"weight": torch.randn(2, 3, generator=seeded(seed)), "positions": torch.arange(4)}
        checkpoints.append((bound, state))
    return {"checkpoints": checkpoints, "k": k}


top_k_merge = Exercise(
    "top_k_merge",
    "a state dict: under each name the mean of its tensors, of their type",
    merge_by(best_k),
    cases={
        "the best 2 of 4": lambda: merge_case(2, 2.5, 1.0, 3.0, 1.5),
        "the best 3 of 4": lambda: merge_case(3, 1.0, 4.0, 2.0, 3.0),
        "the best alone": lambda: merge_case(1, 2.0, 1.0),
    },
    mistakes={
        "the weights are summed, not averaged": merge_by(best_k, lambda mean, k: mean * k),
        "an integer buffer is averaged into floats": merge_by(best_k, lambda mean, k: mean.float()),
        "the k worst are merged; the lowest bound is best": merge_by(lambda states, k: states[-k:]),
        "the first k are merged; sort by the bound": lambda checkpoints, k: mean_weights(
            [s for _, s in checkpoints[:k]]
        ),
        "all are merged, not the best k": merge_by(lambda states, k: states),
        "the best alone is returned, not the mean of k": merge_by(lambda states, k: states[:1]),
    },
)

# --- 05: complementary views ------------------------------------------------------------------------------------------


def right_views(drawn, maskable, t):
    schedule, time = NoiseSchedule(), torch.tensor(t)
    view = drawn & maskable, float(schedule.weight(time))
    return view, (~drawn & maskable, float(schedule.complement_weight(time)))


def views_case(prompt: int, t: float) -> dict:
    """12 tokens, the first of them a prompt that must not be masked."""
    return {"drawn": torch.rand(12, generator=seeded(prompt)) < t, "maskable": torch.arange(12) >= prompt, "t": t}


complementary_views = Exercise(
    "complementary_views",
    "(masked, weight), (complement, its weight): two pairs of [L] booleans and a number",
    right_views,
    cases={
        "no prompt, t = 0.3": lambda: views_case(0, 0.3),
        "a prompt of 4, t = 0.8": lambda: views_case(4, 0.8),
    },
    mistakes={
        "both views have the same mask": lambda d, m, t: ((d & m, 1 / t), (d & m, 1 / (1 - t))),
        "the weights are exchanged": lambda d, m, t: ((d & m, 1 / (1 - t)), (~d & m, 1 / t)),
        "both weights are 1/t; the complement's is 1/(1 − t)": lambda d, m, t: ((d & m, 1 / t), (~d & m, 1 / t)),
        "the weights are t and 1 − t, not one over them": lambda d, m, t: ((d & m, t), (~d & m, 1 - t)),
        "the complement masks the prompt": lambda d, m, t: ((d & m, 1 / t), (~(d & m), 1 / (1 - t))),
        "both views mask the prompt": lambda d, m, t: ((d, 1 / t), (~d, 1 / (1 - t))),
    },
)

# --- 06: commit above a threshold -------------------------------------------------------------------------------------


def right_commit(confidence, masked, threshold):
    least = torch.ones(len(confidence), dtype=torch.long)
    return policies.commit_above_threshold(confidence, masked, threshold, least).commit


def best(confidence: Tensor) -> Tensor:
    """[B, N] bool: the most confident position of each row."""
    return F.one_hot(confidence.argmax(dim=1), confidence.shape[1]).bool()


def commit_by(rule: Callable) -> Callable:
    """rule: (confidence, masked, threshold, the most confident masked position of each row) → [B, N] bool."""
    return lambda c, masked, threshold: rule(c, masked, threshold, masked & best(c.masked_fill(~masked, -1)))


def commit_case(threshold: float, rows: list, written: list = ()) -> dict:
    """written: (row, position) of those that are not masked any more."""
    confidence = torch.tensor(rows)
    masked = torch.ones_like(confidence, dtype=torch.bool)
    for position in written:
        masked[position] = False
    return {"confidence": confidence, "masked": masked, "threshold": threshold}


ROW, LOW = [0.99, 0.3, 0.95, 0.6, 0.91, 0.2], [0.1, 0.5, 0.4, 0.3, 0.2, 0.05]
commit_above_threshold = Exercise(
    "commit_above_threshold",
    "[B, N] booleans, True where a position is written in this step",
    right_commit,
    cases={
        "three above the threshold": lambda: commit_case(0.9, [ROW]),
        "none above the threshold": lambda: commit_case(0.9, [LOW]),
        "one exactly at the threshold": lambda: commit_case(0.75, [[0.75, 0.8, 0.5, 0.25]]),
        "the most confident are written already": lambda: commit_case(0.9, [ROW, LOW], [(0, 0), (1, 1)]),
        "a row is finished": lambda: commit_case(0.9, [ROW, LOW, LOW], [(2, i) for i in range(6)]),
    },
    mistakes={
        "≥ in place of >": commit_by(lambda c, m, tau, top: m & (c >= tau) | top),
        "nothing is committed where none is above": commit_by(lambda c, m, tau, top: m & (c > tau)),
        "positions already written are committed again": commit_by(lambda c, m, tau, top: (c > tau) | top),
        "the most confident is sought among written ones, too": commit_by(
            lambda c, m, tau, top: m & ((c > tau) | best(c))
        ),
        "the fallback is for each row, not for the whole batch": commit_by(
            lambda c, m, tau, top: m & (c > tau) if (m & (c > tau)).any() else top
        ),
        "a finished row commits again": commit_by(lambda c, m, tau, top: m & (c > tau) | best(c.masked_fill(~m, -1))),
        "the most confident alone is committed": commit_by(lambda c, m, tau, top: top),
        "those below the threshold are committed": commit_by(lambda c, m, tau, top: m & (c < tau)),
    },
)
