"""Chat files of today, with tools, calls, tool turns and reasoning: what is read, what is scored, what is counted."""

import json
import warnings
from pathlib import Path

import pytest
from chats import ASKED, CALL, CALLED, OUTPUT, SAID, TALK, TOOL, words
from published_tokenizers import PUBLISHED
from small import write

from dllm_core.data.jsonl import chat_documents, read_texts
from dllm_core.data.report import reading_report
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.notebook.grading import load_questions

pytestmark = pytest.mark.filterwarnings("ignore:.*leaves open", "ignore:.*More than 1 %")
CALL_TEXT = '<tool_call>\nclock {"zone": "东八区"}\n</tool_call>'


def published(name: str):
    return load_tokenizer(PUBLISHED[name].write(Path(name).absolute()))


@pytest.fixture
def minimind(workspace):
    return published("minimind")


def minimind_turns() -> list[dict]:
    """As MiniMind's files write them: every key in every turn, calls and tools as strings."""
    system = {"role": "system", "content": "s", "tools": json.dumps([TOOL])}
    turns = [system, ASKED, {**CALLED, "tool_calls": json.dumps([CALL])}, OUTPUT, SAID]
    return [{"reasoning_content": None, "tools": None, "tool_calls": None, **turn} for turn in turns]


def test_tools_calls_and_tool_turns_go_through_the_template(minimind):
    read = chat_documents(write("x.jsonl", {"conversations": minimind_turns()}), minimind, 500)
    text, scored = words(minimind, read)
    assert text.startswith("<|im_start|>system\ns\n" + json.dumps(TOOL, ensure_ascii=False) + "<|im_end|>\n")
    assert "<|im_start|>user\n<tool_response>\n八点\n</tool_response><|im_end|>\n" in text
    assert scored == [CALL_TEXT + "<|im_end|>", "八点。<|im_end|>"]  # a call is learned, what the tool says is not
    assert reading_report(read).endswith("lost: nothing")
    turns = [{"role": "system", "content": "s"}, ASKED, {**CALLED, "content": None}, OUTPUT, SAID]
    again = chat_documents(write("y.jsonl", {"messages": turns, "tools": [TOOL]}), minimind, 500)
    assert again.tokens.tolist() == read.tokens.tolist() and again.scored.tolist() == read.scored.tolist()
    assert list(read_texts("y.jsonl")) == ["s", "几点", "", "八点", "八点。"]


def test_reasoning_is_learned_and_an_empty_thought_belongs_to_the_prompt(minimind):
    thought = {**SAID, "reasoning_content": "想"}
    read = chat_documents(write("x.jsonl", {"messages": [ASKED, thought, ASKED, SAID]}), minimind, 500)
    text, scored = words(minimind, read)
    assert scored == ["想\n</think>\n\n八点。<|im_end|>", "八点。<|im_end|>"]
    assert text.count("<think>\n\n</think>") == 1 and read.info["unwritten"] == 0
    assert list(read_texts("x.jsonl")) == ["几点", "八点。", "想", "几点", "八点。"]


def test_control_tokens_in_calls_tools_and_reasoning_are_plain_text(minimind):
    forged = "<|im_end|>"
    call = {"name": "clock", "arguments": {"zone": forged}}
    tool = {"function": {"name": "clock", "description": forged}}
    thought = {**CALLED, "tool_calls": [call], "reasoning_content": forged}
    row = {"messages": [ASKED, thought, {**OUTPUT, "content": forged}, SAID], "tools": [tool]}
    read = chat_documents(write("x.jsonl", row), minimind, 800)
    assert words(minimind, read)[0].count(forged) == 9 and (read.tokens == minimind.eos_token_id).sum() == 5
    assert read.info["control"] == 4


def test_a_template_that_leaves_reasoning_tools_and_calls_out_is_counted(workspace):
    """ChatML has no place for them: a call with nothing beside it is then a blank answer, not one that says nothing."""
    tokenizer = published("qwen2.5")
    thought = {**SAID, "reasoning_content": "想"}
    path = write("x.jsonl", {"conversations": minimind_turns()}, {"messages": [ASKED, thought]}, {"messages": TALK})
    read = chat_documents(path, tokenizer, 500)
    assert [words(tokenizer, read, i)[1] for i in (0, 1)] == [["八点。<|im_end|>"], ["八点。<|im_end|>"]]
    assert (read.info["turns"], read.info["unwritten"]) == (5 + 2 + 4, 3)  # the tools, the call, the thought
    report = reading_report(read)
    assert "3 of 11 turns without their reasoning, tools or calls, which the chat template does not write" in report


ODD = [
    {"conversations": [ASKED, {"role": "critic", "content": "a"}, SAID]},
    {"conversations": [SAID]},
    {"messages": [ASKED, {**CALLED, "tool_calls": "clock()"}]},
    {"messages": []},
]


def test_two_hundred_lines_of_every_schema_are_counted(minimind):
    """By hand: 200 lines, of which 4 are odd, 5 have a null answer and nothing else, 191 are kept."""
    kinds = [
        {"conversations": TALK},
        {"messages": TALK[:2]},
        {"conversations": minimind_turns()},
        {"messages": [ASKED, {**SAID, "reasoning_content": "想"}]},
    ]
    silent = {"messages": [ASKED, {"role": "assistant", "content": None}]}
    rows = [kinds[i % 4] for i in range(191)] + ODD + [silent] * 5
    rows[0], rows[191] = rows[191], rows[0]  # an odd line first
    with pytest.warns(UserWarning, match="More than 1 %: look at the file; look at the one that is named"):
        read = chat_documents(write("x.jsonl", *rows), minimind, 500)
    info = {name: read.info[name] for name in ("kept", "blank", "odd", "cut", "dropped", "unwritten")}
    assert info == {"kept": 191, "blank": 5, "odd": 4, "cut": 0, "dropped": 0, "unwritten": 0}
    assert read.info["turns"] == 48 * 4 + 48 * 2 + 48 * 5 + 47 * 2 + 5 * 2
    report = reading_report(read)
    assert "191 of 200 examples" in report and "4 of 200 conversations left out, odd or refused" in report
    assert "x.jsonl:1: turn 2 has role 'critic', not system, user, assistant, tool" in report
    each = chat_documents("x.jsonl", minimind, 500, turns="each")
    assert (each.info["kept"], each.info["odd"]) == (48 * 2 + 48 + 48 * 2 + 47, 4)


def test_a_conversation_that_the_template_refuses_is_left_out_alone(workspace):
    tokenizer = published("gemma")
    with_system = [{"role": "system", "content": "s"}, *TALK]
    path = write("x.jsonl", {"messages": TALK}, {"messages": with_system}, {"messages": TALK[:2]})
    read = chat_documents(path, tokenizer, 500)
    assert (len(read), read.info["odd"]) == (2, 1)
    assert "x.jsonl:2: the chat template refuses it: no system role" in reading_report(read)


def test_questions_are_read_under_either_name(workspace):
    two = TALK[:2]
    write("x.jsonl", {"group": "a", "messages": two}, {"group": "a", "conversations": two}, {"messages": two})
    assert len(load_questions("x.jsonl")) == 2


def test_the_report_of_a_cached_file_names_the_odd_line_too(minimind):
    path = write("x.jsonl", {"messages": TALK}, ODD[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert reading_report(chat_documents(path, minimind, 500)) == reading_report(chat_documents(path, minimind, 500))
