"""Text, tables and source code: what is shown equals what was given, and text of a model stays text."""

import html
import re

import pytest
from rich.cells import cell_len
from traces import HOSTILE

from dllm_core import show
from dllm_core.schedules import NoiseSchedule, learning_rate


def test_a_very_long_token_is_shortened():
    shown = show.visible("a" * 10_000)
    assert len(shown) <= 40 and shown.startswith("aaa") and shown.endswith("aaa") and "more" in shown


def test_cells_heads_and_caption_of_a_table_are_safe():
    table = show.table([{"k\x1b[2J": "\u202e\x1b[31mx\ny"}], caption="\x1b]0;t\x07")
    for form in (table.text, table.html, table.markdown):
        assert not set(form) & set("\x1b\x07\u202e") and "x↵y" in form
    assert table.markdown.count("\n") == 4


def test_visible_leaves_nothing_hidden_or_reordering():
    assert show.visible("<|im_end|>") == "⟨eos⟩"
    assert show.visible("\n") == "↵" and show.visible("  ") == "␣␣" and show.visible(" a b ") == "␣a b␣"
    assert show.visible("\u202eabc") == "⟨U+202E⟩abc" and show.visible("\x00") == "⟨U+0000⟩"
    assert show.visible("👩\u200d💻") == "👩\u200d💻"
    assert show.visible("") != ""


def test_table_aligns_and_escapes():
    table = show.table([{"style": "扩散", "loss": 1.23456}, {"style": HOSTILE, "loss": None, "n": 12345}])
    assert HOSTILE not in table.html and html.escape(HOSTILE) in table.html
    head, rule, first, second = table.text.splitlines()
    assert "1.235" in first and "12,345" in second and "–" in second
    assert cell_len(rule) == cell_len(head) or cell_len(head.rstrip()) <= cell_len(rule)
    assert cell_len(first[: first.index("1.235")]) == cell_len(second[: second.index("–")]) - len("1.235") + len("–")
    assert table._repr_mimebundle_()["text/plain"] == table.text
    assert show.table([]).text is not None


def test_table_as_markdown():
    table = show.table([{"a_b": "x|y", "n": 1234}, {"n": 0.5}], columns=["n", "a_b"], caption="two rows")
    assert table.markdown == "two rows\n\n| n | a b |\n|---:|---|\n| 1,234 | x\\|y |\n| 0.5 | – |"


def test_source_shows_the_installed_code():
    listing = show.source(learning_rate)
    assert "schedules.py, line " in listing.text and "def learning_rate(" in listing.text
    assert 'style="color' in listing.html
    assert re.search(r'<pre style="[^"]*color:#1a1a1a;font-family:monospace', listing.html)  # dark pages say otherwise
    assert "def alpha(" in show.source(NoiseSchedule.alpha).text
    assert "def scores(" in show.source(show.scores).text  # through its decorator
    with pytest.raises(TypeError, match="no Python source"):
        show.source(len)
