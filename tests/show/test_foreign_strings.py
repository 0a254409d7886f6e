"""Labels, titles, reasons, settings and samples that others wrote: shown without escapes, and drawn as they are written."""

import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console
from traces import llada2

from dllm_core import show
from dllm_core.trace import Trace

ESCAPES = "\x1b]0;title\x07\x1b[31m\u202e"


def is_clean(text: str) -> bool:
    return not set(text) & set(ESCAPES) & {"\x1b", "\x07", "\u202e"} and "⟨U+001B⟩" in text


@pytest.fixture
def foreign(tmp_path) -> Trace:
    """A decoding from a file whose style, reasons and settings hold escapes."""
    record = llada2().to_json()
    record["style"], record["settings"] = ESCAPES, {"remasking": ESCAPES}
    for step in record["steps"]:
        for commit in step["commits"]:
            commit["reason"] = ESCAPES
    (tmp_path / "trace.json").write_text(json.dumps(record))
    return Trace.load(tmp_path / "trace.json")


def test_a_foreign_trace_in_the_terminal_and_in_the_player(foreign, tmp_path):
    out = io.StringIO()
    Console(file=out, width=100).print(show.terminal(foreign))
    assert is_clean(out.getvalue())
    player = show.player(foreign)
    assert is_clean(player.text) and is_clean(player.html)
    page = show.save_html(tmp_path / "page.html", foreign, title=ESCAPES).read_text("utf-8")
    assert is_clean(page.split("</title>")[0])


def test_names_in_rows_and_in_what_a_picture_says():
    assert is_clean(show.masked_row(["a"], [True], name=ESCAPES).text)
    assert is_clean(show.masked_row(["a"], [True], name=ESCAPES).html)
    assert is_clean(show.scores([{"group": ESCAPES, "right": 1, "count": 2}]).text)


def test_samples_that_are_printed_and_a_film_from_a_file(tmp_path, capsys):
    step = type("Step", (), {"step": 1, "loss": 1.0, "block_size": None})
    list(show.progress([step], 1, sample=lambda _: f"{ESCAPES} two\nlines", every=1))
    printed = capsys.readouterr().out
    assert "step 1: ⟨U+001B⟩]0;title⟨U+0007⟩" in printed and "two\nlines" in printed and "\u202e" not in printed
    frame = {"step": 1, "loss": None, "block_size": None, "text": "", "tokens": [["\x1b[31m", 0.5], ["好", None]]}
    (tmp_path / "film.jsonl").write_text(json.dumps(frame) + "\n")
    assert show.SampleFilm(tmp_path / "film.jsonl").picture().text.endswith("step 1: ⟨U+001B⟩[31m好")


def test_a_very_long_token_stays_within_the_picture_and_the_page(tmp_path):
    trace = replace(llada2(), vocabulary={**llada2().vocabulary, 4: "x" * 10_000})
    show.png(trace, tmp_path / "long.png")
    assert Image.open(tmp_path / "long.png").width == 1520
    film = show.SampleFilm()
    film.add(1, trace)
    assert max(len(text) for text, _ in film.frames[0]["tokens"]) <= 40
    assert len(show.player(trace).html) < len(show.player(llada2()).html) + 5000


def test_dollar_signs_are_drawn_as_letters():
    """Not as formulas, which raise where they are none."""
    trace = replace(llada2(), vocabulary={**llada2().vocabulary, 4: "$\\no{formula$"})
    film = show.SampleFilm()
    film.add(1, trace)
    for picture in (film.picture(), show.scores([{"group": "$^$", "right": 1, "count": 2}])):
        assert picture.png().startswith(b"\x89PNG")


def test_half_a_surrogate_pair_in_a_trace_or_a_film_is_saved_and_read_back(tmp_path):
    trace = replace(llada2(), text="a\ud83d")
    assert Trace.load(trace.save(tmp_path / "trace.json")) == trace
    show.SampleFilm(tmp_path / "film.jsonl").add(1, "a\ud83d")
    assert show.SampleFilm(tmp_path / "film.jsonl").frames[0]["text"] == "a\ud83d"
