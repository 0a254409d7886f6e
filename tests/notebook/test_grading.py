"""Scores, intervals, statistics of texts and speeds by hand; and answers that do not depend on their batch."""

import json
import math
import random
from statistics import mean, quantiles

import pytest
import torch
from small import BOS, EOS, MASK, tiny_of

from dllm_core import reference
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.errors import DataError
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.model import Transformer
from dllm_core.notebook import grading
from dllm_core.notebook.asking import generate_answers
from dllm_core.notebook.grading import (
    Question,
    exact_match,
    grade,
    load_questions,
    paired,
    probability_under,
    speed,
    summary,
    text_statistics,
    wilson,
)
from dllm_core.trace import Commit, DecodeStep, Trace


@pytest.fixture(scope="module")
def tokenizer(project):
    return load_tokenizer(project / "data/tokenizer")


def test_wilson_interval():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_exact_match_per_group():
    answers = {"ab": " ab\n", "12": "21", "c d": "c  d", "e": "e"}  # the right one: what was written
    questions = [Question(group, "?", right) for group, right in zip(["copy", "sort", "copy", "copy"], answers)]
    scores = exact_match(questions, [trace_of(5, text=text) for text in answers.values()])
    assert [(s.group, s.right, s.count) for s in scores] == [("copy", 2, 3), ("sort", 0, 1)]
    with pytest.raises(ValueError):
        exact_match(questions, [])


def test_speed_sums_over_its_traces(monkeypatch):
    class Counted(Trace):
        @property
        def tokens(self):
            return self.prompt[0]

        @property
        def forwards(self):
            return self.prompt[1]

        @property
        def seconds(self):
            return self.prompt[2]

    def fake(loaded, prompts, config, batch_size):
        assert batch_size == 1 and not config.draft and not config.alternatives
        return [Counted("ar", prompt, [], MASK, EOS) for prompt in prompts]

    monkeypatch.setattr(grading, "generate_answers", fake)
    result = speed(None, [[6, 3, 0.5], [4, 7, 1.5]], DecodeConfig("llada2", alternatives=2, draft=True))
    assert result == {"tokens": 10, "forwards": 10, "seconds": 2.0, "tokens_per_forward": 1.0, "tokens_per_second": 5.0}


def test_a_measured_speed(tokenizer):
    loaded = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("ar", label_shift=True), tokenizer, None)
    result = speed(loaded, [[BOS, 5, 6]], DecodeConfig("ar", max_new_tokens=4, eos_early_stop=False))
    assert result["forwards"] == 4 and 1 <= result["tokens"] <= 4 and result["seconds"] > 0


# --- graded questions --------------------------------------------------------------------------------------------------


def line(*contents: str, **more) -> str:
    roles = ("user", "assistant") * 2
    return json.dumps({"conversations": [{"role": r, "content": c} for r, c in zip(roles, contents)], **more})


def test_only_single_questions_with_a_group_are_graded(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join([
        line("1", "a", group="x"), line("2", "b"), line("3", "c", group="x"), line("4", "d", group="y"),
        line("5", "e", "6", "f", group="y"),
    ]))  # fmt: skip
    assert [(item.group, item.prompt, item.answer) for item in load_questions(str(file))] == [
        ("x", "1", "a"), ("x", "3", "c"), ("y", "4", "d"),
    ]  # fmt: skip
    assert [item.prompt for item in load_questions(str(file), 1)] == ["1", "4"]
    assert load_questions("") == []
    file.write_text('{"group": "x", "conversations": [{"role": "user"}, {"role": "assistant", "content": "a"}]}')
    with pytest.raises(DataError, match=r'test.jsonl:1: a turn has no string under "content"'):
        load_questions(str(file))


def test_a_group_that_is_no_name_is_refused(tmp_path):
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    (tmp_path / "x.jsonl").write_text(json.dumps({"group": ["a"], "conversations": turns}))
    with pytest.raises(DataError, match=r'x\.jsonl:1: expected a string under "group", found list'):
        load_questions(str(tmp_path / "x.jsonl"))


def test_grading_grades_each_answer_in_the_order_of_the_questions(tokenizer):
    loaded = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("ar", label_shift=True, chat=True), tokenizer, None)
    config = DecodeConfig("ar", max_new_tokens=4)
    questions = [Question("g", prompt, "") for prompt in ("你好", "请重复：一二三", "好")]
    _, traces = grade(loaded, questions, config, batch_size=2)
    singly = [generate_answers(loaded, [item.prompt], config)[0] for item in questions]
    assert [trace.final for trace in traces] == [trace.final for trace in singly]
    right = [Question("gh"[i % 2], item.prompt, trace.text) for i, (item, trace) in enumerate(zip(questions, singly))]
    scores, _ = grade(loaded, right, config)
    assert [(score.group, score.right, score.count) for score in scores] == [("g", 2, 2), ("h", 1, 1)]


def test_probability_under_an_even_judge_is_one_in_the_vocabulary(tokenizer):
    even = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, initializer_range=0.0))
    judge = LoadedCheckpoint(even, CheckpointInfo("ar", label_shift=True), tokenizer, None)
    writer = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("ar", label_shift=True), tokenizer, None)
    traces = generate_answers(writer, ["你好", "今天"], DecodeConfig("ar", max_new_tokens=5, eos_early_stop=False))
    assert probability_under(judge, traces) == pytest.approx(1 / len(tokenizer), rel=1e-4)
    assert probability_under(judge, []) is None
    # a judge with opinions: the geometric mean over the answers' tokens, each after all that stands before it
    torch.manual_seed(1)
    sure = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, initializer_range=0.3))
    costs = []
    for trace in traces:
        ids = [*trace.prompt, *trace.answer]
        with torch.no_grad():
            log_p = reference.forward(sure, torch.tensor(ids), 1).log_softmax(dim=-1)
        costs += [log_p[i - 1, ids[i]].item() for i in range(len(trace.prompt), len(ids))]
    judge = LoadedCheckpoint(sure, CheckpointInfo("ar", label_shift=True), tokenizer, None)
    wanted = math.exp(sum(costs) / len(costs))
    assert probability_under(judge, traces) == pytest.approx(wanted, rel=1e-4)
    assert abs(wanted * len(tokenizer) - 1) > 0.2


# --- what answers are like ------------------------------------------------------------------------------------------


def trace_of(*tokens: int, text: str = "") -> Trace:
    """A trace that wrote `tokens` after one prompt token, one a step; MASK: left unwritten."""
    steps = [
        DecodeStep(i, 0, 1, 0.1, (1 + i, 2 + i), (Commit(1 + i, token, 0.9, "ar"),), 0, 0.9, 0.1)
        for i, token in enumerate(tokens)
        if token != MASK
    ]
    return Trace("ar", [BOS], [BOS] + [MASK] * len(tokens), MASK, EOS, steps, text=text)


def test_statistics_stop_at_eos():
    result = text_statistics([trace_of(5, 6, EOS, 7, 7, 7), trace_of(5, 5, MASK)])
    # 5 6 and 5 5: two different of four tokens; two pairs, both new; one of two ended
    assert result == {"distinct_1": 0.5, "distinct_2": 1.0, "repetition": 0.25, "ended": 0.5, "length": 2.0}


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([5] * 12, 8 / 9),  # nine 4-grams, one of them new
        ([5, 6, 7, 8] * 3, 5 / 9),  # four new ones, then the same again
        (list(range(3, 15)), 0.0),
        ([5, 6] * 3, 1 / 2),  # six tokens: the 3-grams 565, 656, and both again
        ([5, 5], 0.5),  # two tokens: single ones
        ([5], 0.0),
        ([], 0.0),
    ],
)
def test_repetition_by_hand(tokens, share):
    assert text_statistics([trace_of(*tokens)])["repetition"] == pytest.approx(share)


def test_distinct_pools_the_answers_but_no_pair_crosses_from_one_to_the_next():
    result = text_statistics([trace_of(5, 6), trace_of(5, 6), trace_of(6, 5)])
    assert result["distinct_1"] == pytest.approx(2 / 6) and result["distinct_2"] == pytest.approx(2 / 3)


def test_statistics_of_nothing():
    nothing = {"distinct_1": 0, "distinct_2": 0, "repetition": 0, "ended": 0, "length": 0}
    assert text_statistics([]) == text_statistics([trace_of(MASK)]) == nothing
    assert text_statistics([trace_of(EOS)]) == {**nothing, "ended": 1}


def test_a_summary_counts_over_its_traces():
    questions = [Question("copy", "?", "ab"), Question("sort", "?", "12"), Question("copy", "?", "cd")]
    row = summary(questions, [trace_of(5, EOS, text=" ab"), trace_of(5, 6, text="21"), trace_of(7, text="c")])
    assert row["right"] == [True, False, False] and row["exact_match"] == pytest.approx(1 / 3)
    assert row["groups"] == [{"group": "copy", "right": 1, "count": 2}, {"group": "sort", "right": 0, "count": 1}]
    assert (row["items"], row["tokens"], row["forwards"], row["tokens_per_forward"]) == (3, 5, 5, 1.0)
    assert row["length"] == pytest.approx(4 / 3) and row["ended"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError):
        summary(questions, [])


# --- paired differences ---------------------------------------------------------------------------------------------


def test_a_paired_difference_by_hand():
    """Four items, one seed: differences 1, 0, 0, -1 → mean 0, std sqrt(2/3), error sqrt(1/6)."""
    result = paired([[True, True, False, False]], [[False, True, False, True]])
    assert (result.mean, result.items, result.seeds, result.only_first, result.only_second) == (0, 4, 1, 1, 1)
    assert (result.low, result.high) == pytest.approx((-1.96 / 6**0.5, 1.96 / 6**0.5))
    assert result.least == result.most == 0


def test_seeds_of_one_item_are_no_further_items():
    """The same answers in three seeds tell no more than in one; the seeds' range is told apart."""
    first, second = [True, True, True, False, True], [True, False, True, False, False]
    once, thrice = paired([first], [second]), paired([first] * 3, [second] * 3)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high)) and thrice.seeds == 3
    assert (once.only_first, thrice.only_first) == (2, 6)
    mixed = paired([first, second], [second, first])
    assert mixed.mean == 0 and mixed.low == mixed.high == 0  # every item cancels over the seeds
    assert (mixed.least, mixed.most) == pytest.approx((-0.4, 0.4))


def test_the_difficulty_of_the_items_cancels():
    """Both fail the same half: no width at all, where two Wilson intervals would be wide."""
    hits = [True, False] * 10
    result = paired([hits], [hits])
    assert (result.mean, result.low, result.high) == (0, 0, 0) and wilson(10, 20)[1] - wilson(10, 20)[0] > 0.4


def test_the_interval_is_what_a_bootstrap_over_items_gives():
    draw = random.Random(0)
    hard = [draw.random() for _ in range(300)]
    answers_of = lambda skill: [[draw.random() < skill * (1 - h) for h in hard] for _ in range(3)]
    first, second = answers_of(1.2), answers_of(0.9)
    result = paired(first, second)
    each = [mean(a[i] - b[i] for a, b in zip(first, second)) for i in range(300)]
    means = [mean(draw.choices(each, k=300)) for _ in range(3000)]
    low, *_, high = quantiles(means, n=40)  # 2.5 % and 97.5 %
    assert 0.05 < result.high - result.low < 0.15
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(
    ("first", "second"),
    [([[True, False]], [[True]]), ([[True, False]] * 2, [[True, False]]), ([], []), ([[True]], [[True]]),
     ([[True, False], [True, False, True]], [[True, False], [True, False, True]])],
)  # fmt: skip
def test_lists_that_do_not_pair_up_are_refused(first, second):
    with pytest.raises(ValueError, match="paired: "):
        paired(first, second)
