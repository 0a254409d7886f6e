"""Lines of chat files: both names of the turns, tools and calls in both layouts, and which lines are odd and why."""

import json

import pytest
from chats import ASKED, CALL, CALLED, OUTPUT, SAID, TALK, TOOL

from dllm_core.common.errors import DataError
from dllm_core.data.turns import read_conversation


@pytest.mark.parametrize("name", ["conversations", "messages"])
def test_turns_have_either_name(name):
    talk = read_conversation({name: TALK}, "x:1")
    assert (talk.turns, talk.tools, talk.answers, talk.scored, talk.problem) == (TALK, None, [1, 3], [True, True], "")


def test_what_follows_the_last_answer_is_not_read():
    assert read_conversation({"messages": TALK[:3]}, "x:1").turns == TALK[:2]


def test_calls_and_tools_are_lists_or_the_json_of_one():
    """MiniMind writes strings and puts the tools into the system turn; OpenAI writes lists, the tools beside the turns."""
    turns = [ASKED, CALLED, OUTPUT, SAID]
    system = {"role": "system", "content": "s"}
    minimind = [{**system, "tools": json.dumps([TOOL])}, ASKED, {**CALLED, "tool_calls": json.dumps([CALL])}, OUTPUT, SAID]
    minimind = [{"reasoning_content": None, "tools": None, "tool_calls": None, **turn} for turn in minimind]
    of_openai = read_conversation({"messages": [system, *turns], "tools": [TOOL]}, "x:1")
    of_minimind = read_conversation({"conversations": minimind}, "x:1")
    for talk in (of_openai, of_minimind):
        assert (talk.turns, talk.tools, talk.answers) == ([system, *turns], [TOOL], [2, 4])
        assert talk.scored == [True, True] and not talk.problem
    assert read_conversation({"messages": [*turns], "tools": ""}, "x:1").tools is None


def test_null_content_is_empty_and_reasoning_is_an_answer():
    thought = {"role": "assistant", "content": None, "reasoning_content": "想"}
    talk = read_conversation({"messages": [ASKED, {"role": "assistant", "content": None}, ASKED, thought]}, "x:1")
    assert talk.turns[1] == {"role": "assistant", "content": ""}
    assert talk.turns[3] == {"role": "assistant", "content": "", "reasoning_content": "想"} and talk.scored == [False, True]


@pytest.mark.parametrize(("turns", "problem"), [
    ([], "no assistant's turn answers another"),
    ([SAID], "no assistant's turn answers another"),
    ([ASKED], "no assistant's turn answers another"),
    ([["user", "a"], SAID], "turn 1 is no object"),
    ([ASKED, SAID, {"role": "critic", "content": "a"}], "turn 3 has role 'critic', not system, user, assistant, tool"),
    ([{"from": "human", "value": "a"}, SAID], "turn 1 has role None"),
    ([{"role": "user"}, SAID], 'turn 1 has no "content"'),
    ([{"role": "user", "content": [{"type": "text"}]}, SAID], 'turn 1 has list, no string, under "content"'),
    ([ASKED, {**SAID, "reasoning_content": 3}], 'turn 2 has int, no string, under "reasoning_content"'),
    ([ASKED, {**CALLED, "tool_calls": "clock()"}], "tool_calls of turn 2 is not valid JSON"),
    ([ASKED, {**CALLED, "tool_calls": "[3]"}], "tool_calls of turn 2 is no list of objects"),
    ([{**ASKED, "tools": "{"}, SAID], "tools of turn 1 is not valid JSON"),
])  # fmt: skip
def test_an_odd_conversation_says_why(turns, problem):
    talk = read_conversation({"messages": turns}, "x.jsonl:7")
    assert talk.problem.startswith(f"x.jsonl:7: {problem}") and not talk.turns and not talk.answers


def test_a_line_without_turns_is_of_another_kind():
    with pytest.raises(DataError, match="x:1: no list of turns .*this line has: text"):
        read_conversation({"text": "a"}, "x:1")
