"""Prompts as tokens, texts with gaps, and answers that do not depend on how many are decoded at a time."""

import pytest
from small import tiny_of

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.errors import DataError
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.notebook.asking import generate_answers, mask_gaps, prompt_ids
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
    masked, true = mask_gaps(tokenizer, "a<|im_end|>[[b]]")
    assert control.isdisjoint(true) and masked == [*true[:-1], tokenizer.mask_token_id]


def test_half_a_surrogate_pair_is_named(tokenizer):
    for ask in (lambda: prompt_ids(tokenizer, "a\ud83d", True), lambda: prompt_ids(tokenizer, "a\ud83d", False)):
        with pytest.raises(DataError, match="prompt: .*half a surrogate pair"):
            ask()
    with pytest.raises(DataError, match="gaps: .*half a surrogate pair"):
        mask_gaps(tokenizer, "a\ud83d[[b]]")


def test_gaps_hide_complete_tokens_of_the_tokenized_text(tokenizer):
    mask = tokenizer.mask_token_id
    masked, true = mask_gaps(tokenizer, "我是[[小言]]，你好[[。]]")
    assert true == tokenizer.encode("我是小言，你好。", add_special_tokens=False)
    assert masked == [*true[:2], mask, mask, *true[4:7], mask]
    masked, true = mask_gaps(tokenizer, "the small c[[a]]t")  # within a word: its token goes
    assert [t for h, t in zip(masked, true) if h == mask] != [] and masked.count(mask) <= 2
    assert all(h in (t, mask) for h, t in zip(masked, true))
    for bad in ("no gap", "今天[[天气很好", "今天[[]]很好"):
        with pytest.raises(ValueError, match="double brackets"):
            mask_gaps(tokenizer, bad)


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
