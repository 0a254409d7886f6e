"""A decoding in a terminal: steps, reasons, hostile texts, and the command."""


import pytest
from traces import WORDS, ar, branched, llada1, llada2

from dllm_core.cli.main import main
from dllm_core.show.terminal import terminal


def drawn(what, **options) -> str:
    import io

    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=200, **options).print(what)
    return out.getvalue()


def test_terminal_lists_the_steps():
    text = drawn(terminal(llada2(), drafts=True, prompt=True))
    lines = text.splitlines()
    assert lines[0].startswith("LLaDA 2: 5 tokens, 4 forward passes, 1.25 tokens per forward pass")
    assert lines[1].endswith("0 forward passes, 6 masked") and lines[2].startswith("  ⟨bos⟩你░░░")
    assert "‹1 fallback›: too few were above the threshold 0.9: it was among the most confident" in text
    assert "‹1 budget›: above the threshold 0.9, and let through by the step's budget, which held 1 more back" in text
    assert "⟨bos⟩你好😀‹你›░你░好" in text  # the guesses behind their masks
    assert "\u202e" not in drawn(terminal(llada1())) and "⟨U+202E⟩abc" in drawn(terminal(llada1()))
    assert (
        "░你" not in drawn(terminal(llada2(), steps=[2]))
        and drawn(terminal(llada2(), steps=[2])).count("forward passes") == 2
    )
    assert "\x1b[" in drawn(terminal(llada2()), force_terminal=True)


def test_terminal_shows_what_was_changed_by_hand():
    text = drawn(terminal(branched(), steps=[1, 2, 4]))
    assert text.count("by hand» ") == 4 and "好😀░«" in text and "2 forward passes, 3 masked" in text
    assert "«by hand» mask at position 4: masked again by hand" in text
    assert "«你»" in text.splitlines()[-1]


def test_terminal_takes_markup_for_letters():
    trace = ar()
    trace.vocabulary = {**WORDS, 4: "[bold red]x[/]", 3: "[link=y]"}
    assert "[bold red]x[/]" in drawn(terminal(trace)) and "[link=y]" in drawn(terminal(trace))


def test_playing_keeps_the_recorded_pace(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    assert main(["play", str(llada2().save(tmp_path / "x.json")), "--play", "--speed", "0.5"]) == 0
    assert pauses == [0.0, *[0.5] * 4]  # a quarter of a second per step was recorded


def test_terminal_errors_name_the_argument(tmp_path, capsys):
    with pytest.raises(ValueError, match="from 0 to 4"):
        terminal(llada2(), steps=[5])
    with pytest.raises(TypeError, match="expected a Trace, got list"):
        terminal([llada2()])
    path = llada2().save(tmp_path / "x.json")
    assert main(["play", str(path), "--steps", "4"]) == 0
    shown = capsys.readouterr().out
    assert "step 4 of 4" in shown and "step 3" not in shown
    assert main(["play", str(path), "--play", "--speed", "50"]) == 0
    assert "step 4 of 4" in capsys.readouterr().out
    path.write_text("{}", "utf-8")
    for wrong in ([path], [path, "--speed", "0"], [tmp_path / "no.json"]):
        assert main(["play", *map(str, wrong)]) == 2
        assert "dllm: " in capsys.readouterr().err
