"""How good and how fast: exact match with its interval, paired differences, text statistics, tokens per forward and second."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import stdev

from dllm_core.config import DecodeConfig
from dllm_core.samplers import generate
from dllm_core.trace import Trace


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson interval of a share: what other questions would have given. right: of several seeds their mean, for a
    question asked three times is not three questions."""
    if count == 0:
        return 0.0, 1.0
    share, spread = right / count, z * z / count
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


@dataclass(frozen=True)
class Score:
    """Exact match of a group: right of count, with its Wilson interval."""

    group: str
    right: int
    count: int

    @property
    def share(self) -> float:
        return self.right / max(self.count, 1)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.count)


def exact_match(groups: list[str], answers: list[str], texts: list[str]) -> list[Score]:
    """Score per group, in order of first appearance: a text counts when it is its answer (`is_right`)."""
    right: dict[str, list[bool]] = {}
    for group, answer, text in zip(groups, answers, texts, strict=True):
        right.setdefault(group, []).append(is_right(answer, text))
    return [Score(group, sum(hits), len(hits)) for group, hits in right.items()]


def is_right(answer: str, text: str) -> bool:
    """Whether a text equals the answer asked for, blanks around them aside."""
    return answer.strip() == text.strip()


def summary(items: Sequence, traces: Sequence[Trace]) -> dict:
    """One row of numbers, for JSON, about the answers to graded questions. items: `corpus.Item`s; traces: their answers.

    exact_match: share right; right: list of bool, item by item; groups: [{"group", "right", "count"}, …];
    items, tokens (through eos), forwards: totals; tokens_per_forward: their ratio; and all of `text_statistics`.
    """
    right = [is_right(item.answer, trace.text) for item, trace in zip(items, traces, strict=True)]
    groups = exact_match([i.group for i in items], [i.answer for i in items], [t.text for t in traces])
    tokens, forwards = (sum(getattr(trace, name) for trace in traces) for name in ("tokens", "forwards"))
    return {
        "items": len(right), "exact_match": sum(right) / max(len(right), 1), "right": right,
        "groups": [asdict(score) for score in groups], "tokens": tokens, "forwards": forwards,
        "tokens_per_forward": tokens / max(forwards, 1), **text_statistics(traces),
    }  # fmt: skip


def text_statistics(traces: Sequence[Trace]) -> dict[str, float]:
    """What the answers are like as texts, whatever was asked; tokens up to and without eos (`Trace.answer`).

    distinct_1, distinct_2: different n-grams over all n-grams, pooled over the answers (after Li et al., arXiv 1510.03055,
    who divide by all tokens).
    repetition: share of n-grams that stood earlier in the same answer, pooled; n = 4 from eight tokens on, in a shorter
    answer half its length (at least 1), so that there are always n-grams to be repeated.
    ended: share of answers that end with eos; length: mean tokens. A share of nothing is 0.
    """
    answers = [trace.answer for trace in traces]
    pooled = [[gram for answer in answers for gram in _grams(answer, n)] for n in (1, 2)]
    inside = [_grams(answer, max(1, min(4, len(answer) // 2))) for answer in answers]
    repeated = sum(len(grams) - len(set(grams)) for grams in inside)
    share = lambda part, whole: part / max(whole, 1)
    return {
        **{f"distinct_{n}": share(len(set(grams)), len(grams)) for n, grams in enumerate(pooled, 1)},
        "repetition": share(repeated, sum(map(len, inside))),
        "ended": share(sum(trace.ended for trace in traces), len(traces)),
        "length": share(sum(map(len, answers)), len(answers)),
    }


def _grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


@dataclass(frozen=True)
class Difference:
    """mean of (first − second), a share, with its interval low..high; items and seeds it is of; only_first, only_second:
    (item, seed) pairs that only one got right; least, most: the smallest and largest mean difference of a single seed."""

    mean: float
    low: float
    high: float
    items: int
    seeds: int
    only_first: int
    only_second: int
    least: float
    most: float

    def __str__(self) -> str:
        return (
            f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}], {self.items} items × {self.seeds} seed(s) "
            f"(single seeds {self.least:+.4f} to {self.most:+.4f}; only the first right {self.only_first}, only the second "
            f"{self.only_second})"
        )


def paired(first: list[list[bool]], second: list[list[bool]], z: float = 1.96) -> Difference:
    """Paired interval of the mean of `first` − `second`: right or not, a list a seed, the same items in the same order.

    Both answered the same questions, so the questions' own difficulty cancels in the difference of each item; and one
    question answered by three seeds is not three questions. So the item is the unit that is sampled: an item's
    differences are averaged over the seeds, d_i in [−1, 1], and the interval is mean(d) ± z · std(d) / √items (normal;
    z = 1.96: 95 %). It speaks of other items for these trainings; what another training's seed would change is told
    apart, as the range of the single seeds' differences. Where no item differs the interval has no width: no evidence
    of a difference, and from few items no proof of none.
    Raises ValueError where the lists do not pair up, or for fewer than two items.
    """
    shapes = [[len(hits) for hits in side] for side in (first, second)]
    if shapes[0] != shapes[1] or len(set(shapes[0])) != 1:
        raise ValueError(
            f"paired: items of each seed {shapes[0]} and {shapes[1]}: the same items are needed in every list"
        )
    seeds, items = len(first), shapes[0][0]
    if items < 2:
        raise ValueError(f"paired: {items} item(s); an interval needs two or more")
    pairs = [list(zip(one, two)) for one, two in zip(first, second)]
    each = [sum(a - b for a, b in pair) / items for pair in pairs]
    mean_of_item = [sum(pair[i][0] - pair[i][1] for pair in pairs) / seeds for i in range(items)]
    mean, error = sum(mean_of_item) / items, stdev(mean_of_item) / math.sqrt(items)
    alone = [sum(a > b for pair in pairs for a, b in pair), sum(b > a for pair in pairs for a, b in pair)]
    return Difference(mean, mean - z * error, mean + z * error, items, seeds, *alone, min(each), max(each))


def answer_all(
    model, prompts: list[list[int]], config: DecodeConfig, tokenizer, batch_size: int = 32, label_shift=False
) -> list[Trace]:
    """Decode many prompts in batches of like lengths; traces come back in the order of `prompts`."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    traces: dict[int, Trace] = {}
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        for index, trace in zip(
            chunk, generate(model, [prompts[i] for i in chunk], config, tokenizer, label_shift), strict=True
        ):
            traces[index] = trace
    return [traces[i] for i in range(len(prompts))]


def speed(model, prompts: list[list[int]], config: DecodeConfig, tokenizer, label_shift=False) -> dict[str, float]:
    """Batch 1: answer tokens through eos over all prompts per forward and per second, and the totals they come from."""
    config = replace(config, alternatives=0, draft=False)
    traces = [generate(model, [prompt], config, tokenizer, label_shift)[0] for prompt in prompts]
    tokens, forwards, seconds = (sum(getattr(t, name) for t in traces) for name in ("tokens", "forwards", "seconds"))
    return {
        "tokens": tokens, "forwards": forwards, "seconds": seconds,
        "tokens_per_forward": tokens / max(forwards, 1), "tokens_per_second": tokens / max(seconds, 1e-9),
    }  # fmt: skip
