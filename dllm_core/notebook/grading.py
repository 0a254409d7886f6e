"""How good and how fast answers are: exact match and its interval, paired differences, properties of texts, speed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.errors import DataError
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import validation_batches
from dllm_core.data.jsonl import read_jsonl
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.turns import list_of_turns
from dllm_core.likelihood import ar_nll
from dllm_core.notebook.asking import Prompt, generate_answers
from dllm_core.trace import Trace

Z = 1.96  # standard errors on each side of a 95 % interval

# --- exact match ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A question with its only right answer. The prompt is a text, or token ids with the chat template around them.
    length: tokens of the answer, where a model wrote it."""

    group: str
    prompt: str | tuple[int, ...]
    answer: str
    length: int | None = None

    def is_answered(self, text: str) -> bool:
        """Whether `text` is the answer; blanks around either do not count."""
        return text.strip() == self.answer.strip()


def load_questions(path: str, per_group: int = 0) -> list[Question]:
    """The single-turn conversations of `path` that carry a "group": their answer is the only right one.

    per_group: the first so many of each group, 0 = all. The list is empty when no line carries a group.
    """
    questions: list[Question] = []
    counts: dict[str, int] = {}
    for number, row in read_jsonl(path) if path else ():
        group, turns = row.get("group"), list_of_turns(row)
        if group is None or not isinstance(turns, list) or len(turns) != 2:
            continue
        if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
            raise DataError(f'{path}:{number}: a turn has no string under "content"')
        if not isinstance(group, str):
            raise DataError(f'{path}:{number}: expected a string under "group", found {type(group).__name__}')
        counts[group] = counts.get(group, 0) + 1
        if not per_group or counts[group] <= per_group:
            questions.append(Question(group, turns[0]["content"], turns[1]["content"]))
    return questions


def wilson(right: float, count: int) -> tuple[float, float]:
    """95 % Wilson interval of the share right / count: where it would lie with other questions.

    right: with several seeds their mean, because a question answered three times does not count as three questions.
    """
    if count == 0:
        return 0.0, 1.0
    share, shrinkage = right / count, Z * Z / count
    center = share + shrinkage / 2
    half_width = Z * math.sqrt(share * (1 - share) / count + shrinkage / (4 * count))
    return max(0.0, (center - half_width) / (1 + shrinkage)), min(1.0, (center + half_width) / (1 + shrinkage))


@dataclass(frozen=True)
class Score:
    """Exact match of a group: right of count."""

    group: str
    right: int
    count: int


def exact_match(questions: Sequence[Question], traces: Sequence[Trace]) -> list[Score]:
    """Score per group, in order of first appearance."""
    hits: dict[str, list[bool]] = {}
    for question, trace in zip(questions, traces, strict=True):
        hits.setdefault(question.group, []).append(question.is_answered(trace.text))
    return [Score(group, sum(right), len(right)) for group, right in hits.items()]


def grade(
    loaded: LoadedCheckpoint, questions: Sequence[Question], config: DecodeConfig, batch_size: int = 32
) -> tuple[list[Score], list[Trace]]:
    """(exact match per group, the traces) of a checkpoint's answers to `questions`."""
    traces = generate_answers(loaded, [question.prompt for question in questions], config, batch_size)
    return exact_match(questions, traces), traces


def summary(questions: Sequence[Question], traces: Sequence[Trace]) -> dict:
    """One row of numbers, for JSON, about the answers to graded questions.

    exact_match: share right; right: list of bool, question by question; groups: [{"group", "right", "count"}, …];
    items, tokens (through eos), forwards: totals; tokens_per_forward: their ratio; and all of `text_statistics`.
    """
    right = [question.is_answered(trace.text) for question, trace in zip(questions, traces, strict=True)]
    tokens, forwards = (sum(getattr(trace, name) for trace in traces) for name in ("tokens", "forwards"))
    return {
        "items": len(right), "exact_match": sum(right) / max(len(right), 1), "right": right,
        "groups": [asdict(score) for score in exact_match(questions, traces)], "tokens": tokens, "forwards": forwards,
        "tokens_per_forward": tokens / max(forwards, 1), **text_statistics(traces),
    }  # fmt: skip


# --- the same questions, two models -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """mean of (first − second), a share, with its interval low..high, over `items` questions and `seeds` trainings.
    only_first, only_second: (question, seed) pairs that only one of the two got right; least, most: the smallest and
    largest mean difference of a single seed."""

    mean: float
    low: float
    high: float
    items: int
    seeds: int
    only_first: int
    only_second: int
    least: float
    most: float


def paired(first: list[list[bool]], second: list[list[bool]]) -> Difference:
    """Paired interval of the mean of `first` − `second`: right or not, one list per seed, the same questions in the same
    order.

    Both models answered the same questions, so the difficulty of a question cancels in its difference. The sampled unit
    is the question, not the (question, seed) pair: the differences of a question are averaged over the seeds, d_i in
    [−1, 1], and the interval is mean(d) ± `Z` · std(d) / √items (normal, 95 %). It covers the choice of
    questions, not of the training seed; `least` and `most` show how far single seeds lie apart. Where no question
    differs the interval has no width: no evidence of a difference, and with few questions no proof of none.
    Raises ValueError where the lists do not pair up, or for fewer than two questions.
    """
    shapes = [[len(hits) for hits in side] for side in (first, second)]
    if shapes[0] != shapes[1] or len(set(shapes[0])) != 1:
        raise ValueError(
            f"paired: items of each seed {shapes[0]} and {shapes[1]}: the same items are needed in every list"
        )
    seeds, items = len(first), shapes[0][0]
    if items < 2:
        raise ValueError(f"paired: {items} item(s); an interval needs two or more")
    differences = np.array(first, int) - np.array(second, int)  # [seeds, items]
    mean = float(differences.mean())
    error = float(differences.mean(axis=0).std(ddof=1)) / math.sqrt(items)
    of_seed = differences.mean(axis=1)
    return Difference(
        mean, mean - Z * error, mean + Z * error, items, seeds,
        only_first=int((differences > 0).sum()), only_second=int((differences < 0).sum()),
        least=float(of_seed.min()), most=float(of_seed.max()),
    )  # fmt: skip


# --- texts and speed --------------------------------------------------------------------------------------------------


def text_statistics(traces: Sequence[Trace]) -> dict[str, float]:
    """Properties of the answers as texts, right or not; of their tokens up to and without eos (`Trace.answer`).

    distinct_1, distinct_2: different n-grams over all n-grams, pooled over the answers (after Li et al., arXiv 1510.03055,
    who divide by all tokens).
    repetition: share of n-grams that occurred earlier in the same answer, pooled. n is 4, or half the length of an answer
    of fewer than eight tokens (at least 1), so that every answer has n-grams that could repeat.
    ended: share of answers that end with eos; length: mean tokens. All are 0 without answers.
    """
    answers = [trace.answer for trace in traces]
    pooled = [[gram for answer in answers for gram in _grams(answer, n)] for n in (1, 2)]
    of_answer = [_grams(answer, max(1, min(4, len(answer) // 2))) for answer in answers]
    repeated = sum(len(grams) - len(set(grams)) for grams in of_answer)
    share = lambda part, total: part / max(total, 1)
    return {
        **{f"distinct_{n}": share(len(set(grams)), len(grams)) for n, grams in enumerate(pooled, 1)},
        "repetition": share(repeated, sum(map(len, of_answer))),
        "ended": share(sum(trace.ended for trace in traces), len(traces)),
        "length": share(sum(map(len, answers)), len(answers)),
    }


def _grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def probability_under(judge: LoadedCheckpoint, traces: Sequence[Trace]) -> float | None:
    """Geometric mean of the probabilities that an AR model gives to the decoded tokens, each after its prefix.

    A substitute for quality where no answer is the only right one; it favors dull and repeated text. None when
    nothing was decoded.
    """
    rows = [(trace.prompt + trace.answer, len(trace.prompt)) for trace in traces if trace.answer]
    if not rows:
        return None
    scored = [[i >= prompt_length for i in range(len(tokens))] for tokens, prompt_length in rows]
    ids = {"pad_token_id": judge.tokenizer.pad_token_id, "eos_token_id": judge.tokenizer.eos_token_id}
    answers = TokenDataset.of([tokens for tokens, _ in rows], scored, **ids)
    longest = int(answers.lengths.max())
    batches = validation_batches(answers, batch_size=len(rows), seq_len=longest, pack="whole")
    return math.exp(-ar_nll(judge.model, batches).mean)


def speed(loaded: LoadedCheckpoint, prompts: Sequence[Prompt], config: DecodeConfig) -> dict[str, float]:
    """Batch 1: answer tokens through eos over all prompts per forward and per second, and the totals they come from."""
    traces = generate_answers(loaded, prompts, replace(config, alternatives=0, draft=False), batch_size=1)
    tokens, forwards, seconds = (sum(getattr(t, name) for t in traces) for name in ("tokens", "forwards", "seconds"))
    return {
        "tokens": tokens, "forwards": forwards, "seconds": seconds,
        "tokens_per_forward": tokens / max(forwards, 1), "tokens_per_second": tokens / max(seconds, 1e-9),
    }  # fmt: skip
