"""The table of answers: glosses beside Chinese texts, the columns that are asked for."""

import pytest
import traces

from dllm_core import show

NUMBERS = ("tokens", "tokens per forward pass", "ended")


def lines(table) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.markdown.splitlines()]


def test_answers_stand_beside_their_glosses():
    trace = traces.ar()
    trace.text = "我是小，"
    head, _, row = lines(show.answers([("你是谁？", trace)]))
    assert head == [*("prompt", "prompt in English", "answer", "answer in English"), *NUMBERS]
    assert row == ["你是谁？", "Who are you?", "我是小，", "I am 「小」,", "3", "1", "yes"]


def test_a_column_without_entries_is_left_out():
    assert lines(show.answers([("Who?", "Me.")])) == [["prompt", "answer"], ["---", "---"], ["Who?", "Me."]]
    assert lines(show.answers([traces.ar()], ("answer", "ended")))[2] == ["好你", "yes"]
    head, _, *rows = lines(show.answers([("你好", traces.ar()), ("Hi", "嗨")], ["prompt in English", "tokens"]))
    assert (head, rows) == (["prompt in English", "tokens"], [["Hello", "3"], ["", "–"]])


def test_other_columns_and_an_empty_list_are_errors():
    with pytest.raises(ValueError, match="no column .'promt'.; there are prompt"):
        show.answers([("你好", "你好")], columns=["promt"])
    with pytest.raises(ValueError, match="empty"):
        show.answers([])
