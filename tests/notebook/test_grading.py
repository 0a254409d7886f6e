"""Scores, intervals, statistics of texts and speeds by hand; and answers that do not depend on their batch."""

import random
from statistics import mean, quantiles

import pytest
from small import BOS, EOS, MASK, tiny

from dllm_core.config import DecodeConfig
from dllm_core.notebook import grading as answers
from dllm_core.notebook import setup as notebook
from dllm_core.notebook.grading import answer_all, exact_match, paired, speed, summary, text_statistics, wilson
from dllm_core.trace import Commit, DecodeStep, Trace
from dllm_core.workshop.corpus.generator import Item


class Words:
    """A tokenizer of which only ids and decoding are asked."""

    mask_token_id, eos_token_id, pad_token_id = MASK, EOS, 0

    def decode(self, tokens, skip_special_tokens=False):
        return " ".join(str(t) for t in tokens if not (skip_special_tokens and t <= EOS))


def test_wilson_interval():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_exact_match_per_group():
    scores = exact_match(["copy", "sort", "copy", "copy"], ["ab", "12", "c d", "e"], [" ab\n", "21", "c  d", "e"])
    assert [(s.group, s.right, s.count) for s in scores] == [("copy", 2, 3), ("sort", 0, 1)]
    assert scores[0].share == pytest.approx(2 / 3) and scores[0].interval == wilson(2, 3)
    with pytest.raises(ValueError):
        exact_match(["copy"], ["a", "b"], ["a"])


def test_answers_come_back_in_the_order_asked():
    prompts = [[1, 5, 6, 7, 8, 9], [1], [1, 5, 6], [1, 5], [1, 9, 9, 9]]
    config = DecodeConfig("ar", max_new_tokens=3)
    traces = answer_all(tiny(), prompts, config, Words(), batch_size=2)
    assert [trace.prompt for trace in traces] == prompts
    alone = [answer_all(tiny(), [prompt], config, Words())[0].final for prompt in prompts]
    assert [trace.final for trace in traces] == alone


def test_speed_sums_what_its_traces_say(monkeypatch):
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

    def fake(model, prompts, config, tokenizer, label_shift):
        assert len(prompts) == 1 and not config.draft and not config.alternatives
        return [Counted("ar", prompts[0], [], MASK, EOS)]

    monkeypatch.setattr(answers, "generate", fake)
    found = speed(None, [[6, 3, 0.5], [4, 7, 1.5]], DecodeConfig("llada2", alternatives=2, draft=True), None)
    assert found == {"tokens": 10, "forwards": 10, "seconds": 2.0, "tokens_per_forward": 1.0, "tokens_per_second": 5.0}


def test_a_measured_speed():
    found = speed(tiny(), [[BOS, 5, 6]], DecodeConfig("ar", max_new_tokens=4, eos_early_stop=False), Words())
    assert found["forwards"] == 4 and 1 <= found["tokens"] <= 4 and found["seconds"] > 0


# --- the same answers whatever the batch ----------------------------------------------------------------------------

QUESTIONS = (
    "你是谁？", "Hello, how big are you? I want to know.", "请倒写：天地人", "Who are you?",
    "请把下面的话重复一遍：今天的天气很好，我们去公园。", "Please repeat: one two three four", "嗨", "请介绍一下你自己，不要着急。",
)  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        ("tiny-ar", DecodeConfig("ar", 24)),
        ("tiny-llada1", DecodeConfig("llada1", 24, steps=12, block_length=8)),
        ("tiny-llada2", DecodeConfig("llada2", 24, block_length=16, threshold=0.8)),
    ],
)
def test_batch_size_changes_no_answer(project, weights, config):
    """Chinese and English questions of many lengths: the same tokens, in the same steps, for the same reasons."""
    loaded = notebook.open_checkpoint(project / "weights" / weights)
    items = [Item("en" if question.isascii() else "zh", question, "?") for question in QUESTIONS]
    runs = {size: notebook.grade(loaded, items, config, size)[1] for size in (1, 3, 8)}
    what = lambda trace: [[(c.position, c.token, c.reason) for c in step.commits] for step in trace.steps]
    sure = lambda traces: [c.confidence for trace in traces for step in trace.steps for c in step.commits]
    assert len({trace.text for trace in runs[1]}) > 4  # different questions, different answers
    for size in (3, 8):
        assert [what(trace) for trace in runs[size]] == [what(trace) for trace in runs[1]]
        assert sure(runs[size]) == pytest.approx(sure(runs[1]), abs=1e-4)
    assert summary(items, runs[1]) == summary(items, runs[3]) == summary(items, runs[8])


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
    found = text_statistics([trace_of(5, 6, EOS, 7, 7, 7), trace_of(5, 5, MASK)])
    # 5 6 and 5 5: two different of four tokens; two pairs, both new; one of two ended
    assert found == {"distinct_1": 0.5, "distinct_2": 1.0, "repetition": 0.25, "ended": 0.5, "length": 2.0}


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
    found = text_statistics([trace_of(5, 6), trace_of(5, 6), trace_of(6, 5)])
    assert found["distinct_1"] == pytest.approx(2 / 6) and found["distinct_2"] == pytest.approx(2 / 3)


def test_statistics_of_nothing():
    nothing = {"distinct_1": 0, "distinct_2": 0, "repetition": 0, "ended": 0, "length": 0}
    assert text_statistics([]) == text_statistics([trace_of(MASK)]) == nothing
    assert text_statistics([trace_of(EOS)]) == {**nothing, "ended": 1}


def test_a_summary_counts_what_its_traces_say():
    items = [Item("copy", "?", "ab"), Item("sort", "?", "12"), Item("copy", "?", "cd")]
    row = summary(items, [trace_of(5, EOS, text=" ab"), trace_of(5, 6, text="21"), trace_of(7, text="c")])
    assert row["right"] == [True, False, False] and row["exact_match"] == pytest.approx(1 / 3)
    assert row["groups"] == [{"group": "copy", "right": 1, "count": 2}, {"group": "sort", "right": 0, "count": 1}]
    assert (row["items"], row["tokens"], row["forwards"], row["tokens_per_forward"]) == (3, 5, 5, 1.0)
    assert row["length"] == pytest.approx(4 / 3) and row["ended"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError):
        summary(items, [])


# --- paired differences ---------------------------------------------------------------------------------------------


def test_a_paired_difference_by_hand():
    """Four items, one seed: differences 1, 0, 0, -1 → mean 0, std sqrt(2/3), error sqrt(1/6)."""
    found = paired([[True, True, False, False]], [[False, True, False, True]])
    assert (found.mean, found.items, found.seeds, found.only_first, found.only_second) == (0, 4, 1, 1, 1)
    assert (found.low, found.high) == pytest.approx((-1.96 / 6**0.5, 1.96 / 6**0.5))
    assert found.least == found.most == 0 and "4 items × 1 seed(s)" in str(found)


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
    found = paired([hits], [hits])
    assert (found.mean, found.low, found.high) == (0, 0, 0) and wilson(10, 20)[1] - wilson(10, 20)[0] > 0.4


def test_the_interval_is_what_a_bootstrap_over_items_gives():
    draw = random.Random(0)
    hard = [draw.random() for _ in range(300)]
    answers_of = lambda skill: [[draw.random() < skill * (1 - h) for h in hard] for _ in range(3)]
    first, second = answers_of(1.2), answers_of(0.9)
    found = paired(first, second)
    each = [mean(a[i] - b[i] for a, b in zip(first, second)) for i in range(300)]
    means = [mean(draw.choices(each, k=300)) for _ in range(3000)]
    low, *_, high = quantiles(means, n=40)  # 2.5 % and 97.5 %
    assert 0.05 < found.high - found.low < 0.15
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(
    ("first", "second"),
    [([[True, False]], [[True]]), ([[True, False]] * 2, [[True, False]]), ([], []), ([[True]], [[True]]),
     ([[True, False], [True, False, True]], [[True, False], [True, False, True]])],
)  # fmt: skip
def test_lists_that_do_not_pair_up_are_refused(first, second):
    with pytest.raises(ValueError, match="paired: "):
        paired(first, second)
