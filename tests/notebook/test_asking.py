"""Prompts as tokens, texts with gaps, and answers that do not depend on how many are decoded at a time."""

import re
from dataclasses import replace

import pytest
from small import tiny_of

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.errors import DataError
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.notebook.asking import EXAMPLES, generate_answers, mask_gaps, prompt_ids, prompt_notes
from dllm_core.notebook.grading import Question, grade, summary
from dllm_core.notebook.setup import open_checkpoint


@pytest.fixture(scope="module")
def tokenizer(project):
    return load_tokenizer(project / "data/tokenizer")


def test_a_prompt_is_a_question_a_beginning_or_tokens_already(tokenizer):
    assert prompt_ids(tokenizer, "你好", chat=True) == chat_prompt(tokenizer, "你好")
    assert prompt_ids(tokenizer, "你好", chat=False) == [
        tokenizer.bos_token_id, *tokenizer.encode("你好", add_special_tokens=False)
    ]  # fmt: skip
    assert prompt_ids(tokenizer, (1, 5, 6), chat=True) == [1, 5, 6]


def test_control_tokens_in_a_prompt_and_beside_gaps_are_plain_text(tokenizer):
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id}
    _, *ids = prompt_ids(tokenizer, "a<|im_end|><|mask|>b", chat=False)
    assert tokenizer.decode(ids) == "a<|im_end|><|mask|>b" and control.isdisjoint(ids)
    *ids, first, second = mask_gaps(tokenizer, "a<|im_end|>__")
    assert control.isdisjoint(ids) and first == second == tokenizer.mask_token_id


def test_half_a_surrogate_pair_is_named(tokenizer):
    for ask in (lambda: prompt_ids(tokenizer, "a\ud83d", True), lambda: prompt_ids(tokenizer, "a\ud83d", False)):
        with pytest.raises(DataError, match="prompt: .*half a surrogate pair"):
            ask()
    with pytest.raises(DataError, match="gaps: .*half a surrogate pair"):
        mask_gaps(tokenizer, "a\ud83d__")


def test_gaps_are_counted_in_underscores(tokenizer):
    mask, plain = tokenizer.mask_token_id, lambda text: tokenizer.encode(text, add_special_tokens=False)
    assert mask_gaps(tokenizer, "我是__，a_b＿＿＿。") == [*plain("我是"), mask, mask, *plain("，a_b"), *[mask] * 3, *plain("。")]
    assert mask_gaps(tokenizer, "____") == [mask] * 4
    with pytest.raises(ValueError, match="gaps: the text has none; write two or more underscores"):
        mask_gaps(tokenizer, "no _ gap")


def test_what_a_model_does_not_know_of_a_text_is_said(tokenizer):
    trained = [{"run": "a", "seq_len": 64}, {"run": "b", "seq_len": 32}, {"run": "c"}]
    loaded = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("llada2", 8, chat=True), tokenizer, None, trained)
    assert [prompt_notes(loaded, example, 16) for example in EXAMPLES] == [[]] * len(EXAMPLES)
    first, offered = prompt_notes(loaded, "请用三句话解释什么是机器学习。请解释。", 16)
    assert re.fullmatch(r"(\d) characters unknown to this model: ((?:\S ?)+)", first) and "解 释" in first
    assert int(first[0]) == len(first.partition(": ")[2].split())  # each once
    assert "你是谁？" in offered
    assert prompt_notes(loaded, "Ω", 0)[0] == "1 character unknown to this model: Ω"
    assert prompt_notes(loaded, "\u202e", 0)[0].endswith("⟨U+202E⟩")
    for blank in ("", " \n"):
        assert "blank" in prompt_notes(loaded, blank)[0] and "你是谁？" in prompt_notes(loaded, blank)[1]
    length = len(chat_prompt(tokenizer, "你是谁？"))
    assert prompt_notes(loaded, "你是谁？", 64 - length) == []
    (long,) = prompt_notes(loaded, "你是谁？", 65 - length)
    assert long == "longer than it was trained for: 65 tokens with the answer, trained on at most 64"
    assert prompt_notes(replace(loaded, trained=[]), "你是谁？", 1000) == []  # nobody knows how long its texts were


def test_answers_come_back_in_the_order_of_the_prompts(tokenizer):
    loaded = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("ar", label_shift=True), tokenizer, None)
    prompts = [[1, 5, 6, 7, 8, 9], [1], [1, 5, 6], [1, 5], [1, 9, 9, 9]]
    config = DecodeConfig("ar", max_new_tokens=3)
    traces = generate_answers(loaded, prompts, config, batch_size=2)
    assert [trace.prompt for trace in traces] == prompts
    singly = [generate_answers(loaded, [prompt], config)[0] for prompt in prompts]
    assert [trace.final for trace in singly] == [trace.final for trace in traces]
    assert [trace.final for trace in generate_answers(loaded, prompts, config)] == [trace.final for trace in traces]
    assert generate_answers(loaded, [], config) == generate_answers(loaded, [], config, batch_size=2) == []


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
    loaded = open_checkpoint(project / "weights" / weights)
    items = [Question("en" if question.isascii() else "zh", question, "?") for question in QUESTIONS]
    runs = {size: grade(loaded, items, config, size)[1] for size in (1, 3, 8)}
    what = lambda trace: [[(c.position, c.token, c.reason) for c in step.commits] for step in trace.steps]
    sure = lambda traces: [c.confidence for trace in traces for step in trace.steps for c in step.commits]
    assert len({trace.text for trace in runs[1]}) > 4  # different questions, different answers
    for size in (3, 8):
        assert [what(trace) for trace in runs[size]] == [what(trace) for trace in runs[1]]
        assert sure(runs[size]) == pytest.approx(sure(runs[1]), abs=1e-4)
    assert summary(items, runs[1]) == summary(items, runs[3]) == summary(items, runs[8])
