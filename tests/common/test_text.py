"""What others wrote is shown without its power over a terminal or a page, and without losing what can be read."""

import pickle

import pytest

from dllm_core.common.errors import DataError, RunError, UsageError
from dllm_core.common.text import safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "⟨U+001B⟩[31mred⟨U+001B⟩]0;title⟨U+0007⟩"),
        ("a\rb\x08\x9b", "a⟨U+000D⟩b⟨U+0008⟩⟨U+009B⟩"),
        ("\u202egnp.exe\u2069\u200f", "⟨U+202E⟩gnp.exe⟨U+2069⟩⟨U+200F⟩"),
        ("\ud83d\ue000\ufeff\u2028", "⟨U+D83D⟩⟨U+E000⟩⟨U+FEFF⟩⟨U+2028⟩"),
    ],
)
def test_controls_and_direction_marks_become_code_points(text, shown):
    assert safe(text) == shown and safe(shown) == shown


@pytest.mark.parametrize(
    "text", ["今天天气很好，\u3000你好！", "👩\u200d💻 🏳\ufe0f", "שלום עולם", "مرحبا", "می\u200cخواهم", "क्\u200dष", "two\n\tlines", ""]
)
def test_what_can_be_read_stays(text):
    assert safe(text) == text


def test_a_long_text_loses_its_middle():
    shown = safe("a" * 50_000 + "end", 100)
    assert len(shown) <= 100 and shown.startswith("aaa") and shown.endswith("end") and "49,941 more" in shown
    assert len(safe("\x1b" * 50_000, 100)) <= 100
    assert safe("a" * 100, 100) == "a" * 100


@pytest.mark.parametrize("error", [DataError, RunError, UsageError])
def test_every_error_is_safe_to_print(error):
    raised = error(f"file.jsonl:1: this line has: \x1b[31m{'k' * 100_000}; expected text")
    assert len(str(raised)) < 2000 and "\x1b" not in str(raised)
    assert str(raised).startswith("file.jsonl:1: ") and str(raised).endswith("; expected text")
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)
