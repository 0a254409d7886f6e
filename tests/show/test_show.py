"""The look, against hand-made traces: what is drawn equals the record, and text of a model stays text."""

import html
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len
from traces import ALL, HOSTILE

from dllm_core import show
from dllm_core.schedules import BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show.training import _smoothed

# text --------------------------------------------------------------------------------------------------------------


def test_visible_leaves_nothing_hidden_or_reordering():
    assert show.visible("<|im_end|>") == "⟨eos⟩"
    assert show.visible("\n") == "↵" and show.visible("  ") == "␣␣" and show.visible(" a b ") == "␣a b␣"
    assert show.visible("\u202eabc") == "⟨U+202E⟩abc" and show.visible("\x00") == "⟨U+0000⟩"
    assert show.visible("👩\u200d💻") == "👩\u200d💻"
    assert show.visible("") != ""


def test_table_aligns_and_escapes():
    made = show.table([{"style": "扩散", "loss": 1.23456}, {"style": HOSTILE, "loss": None, "n": 12345}])
    assert HOSTILE not in made.html and html.escape(HOSTILE) in made.html
    head, rule, first, second = made.text.splitlines()
    assert "1.235" in first and "12,345" in second and "–" in second
    assert cell_len(rule) == cell_len(head) or cell_len(head.rstrip()) <= cell_len(rule)
    assert cell_len(first[: first.index("1.235")]) == cell_len(second[: second.index("–")]) - len("1.235") + len("–")
    assert made._repr_mimebundle_()["text/plain"] == made.text
    assert show.table([]).text is not None


def test_table_as_markdown():
    made = show.table([{"a_b": "x|y", "n": 1234}, {"n": 0.5}], columns=["n", "a_b"], caption="two rows")
    assert made.markdown == "two rows\n\n| n | a b |\n|---:|---|\n| 1,234 | x\\|y |\n| 0.5 | – |"


def test_masked_row_and_its_twin_partition_the_tokens():
    made = show.masked_row(["你", "好", HOSTILE], [True, False, True], twin=True)
    first, second = made.text.splitlines()
    assert first.count("░") == 2 and second.count("░") == 1
    asked = show.masked_row(["你", "好", "x"], [False, True, False], given=[True, False, False])
    assert "1 of 2 hidden" in asked.html and asked.html.count("border-color:transparent") == 1
    prompt = show.masked_row(["你", "好", "x"], [False, True, False], twin=True, given=[True, False, False])
    assert [line.count("░") for line in prompt.text.splitlines()] == [1, 1]
    with pytest.raises(ValueError, match="given has 1 entries for 2 tokens"):
        show.masked_row(["a", "b"], [True, False], given=[True])
    assert HOSTILE not in made.html
    with pytest.raises(ValueError, match="2 entries for 3 tokens"):
        show.masked_row(["a", "b", "c"], [True, False])


def test_source_shows_the_installed_code():
    made = show.source(learning_rate)
    assert "schedules.py, line " in made.text and "def learning_rate(" in made.text and 'style="color' in made.html
    assert re.search(r'<pre style="[^"]*color:#1a1a1a;font-family:monospace', made.html)  # dark pages say otherwise
    assert "def alpha(" in show.source(NoiseSchedule.alpha).text
    assert "def scores(" in show.source(show.scores).text  # through its decorator
    with pytest.raises(TypeError, match="no Python source"):
        show.source(len)


# figures -----------------------------------------------------------------------------------------------------------


def is_png(picture):
    made, about = picture._repr_mimebundle_()
    return made["image/png"].startswith(b"\x89PNG") and made["text/plain"] and about == {"needs_background": "light"}


def test_figures_draw():
    blocks = BlockSchedule(64, 50, up=(8, 16), down=(16, 8))
    rates = [learning_rate(i, 50) for i in range(50)]
    score = [{"group": "复制", "right": 3, "count": 4}]
    pictures = [
        show.noise_schedules([NoiseSchedule(), NoiseSchedule.band(0.05, 0.95, "cosine")]),
        show.block_schedule(blocks, 50, rates),
        show.mask_picture([[1, 0], [1, 1]], ["床", "░"], "causal", {"x": (0, 1)}),
        show.scores({"AR": score, "LLaDA 2": []}),
        show.scores(score),
        show.compare([make() for make in ALL], clock="seconds"),
        show.quality_speed([{"style": "ar", "exact_match": 0.5, "tokens_per_forward": 1.0, "low": 0.4, "high": 0.6}]),
    ]
    assert all(map(is_png, pictures))
    assert "8 → 16 → 64 → 16 → 8" in repr(pictures[1]) and "3 cells open" in repr(pictures[2])
    assert "3/4" in repr(pictures[4])


def test_figures_say_what_is_wrong():
    with pytest.raises(ValueError, match="mask\\[0\\]"):
        show.mask_picture([[[True]]])
    with pytest.raises(ValueError, match="1 for 2 columns"):
        show.mask_picture([[1, 0]], ["a"])
    with pytest.raises(ValueError, match="row 0 has no 'exact_match'"):
        show.quality_speed([{"style": "ar", "tokens_per_forward": 1}])
    with pytest.raises(ValueError, match="49 entries for total_steps=50"):
        show.block_schedule(BlockSchedule.constant(8, 50, 4), 50, [1.0] * 49)
    for call in (show.noise_schedules, show.compare, show.scores):
        with pytest.raises(ValueError, match="empty"):
            call([])


def test_figures_leave_matplotlib_as_it_was():
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams); from dllm_core import show;"
        "show.mask_picture([[1]]).png(); assert dict(matplotlib.rcParams) == before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_show_imports_without_the_drawing_libraries():
    code = (
        "import sys\nfor name in ('matplotlib', 'ipywidgets', 'IPython', 'PIL', 'pygments', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from dllm_core import show\nassert show.table([{'a': 1}]).text and show.source(show.table).text"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, dllm_core.show as show\nassert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "import dllm_core.show.player.page, dllm_core.show.terminal, dllm_core.show.attention.explorer\n"
        "assert [callable(getattr(show, name)) for name in show.__all__] == [True] * len(show.__all__)\n"
        "assert 'matplotlib' not in sys.modules and set(show.__all__) <= set(dir(show))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        show.nothing  # noqa: B018


def test_save_figure_stays_in_its_folder(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert show.save_figure(show.mask_picture([[1]]), "one") == tmp_path / "figures" / "one.png"
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["one.png"]
    with pytest.raises(ValueError, match="plain file name"):
        show.save_figure(show.mask_picture([[1]]), "../one")


# training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    step: int
    loss: float
    learning_rate: float = 1e-3
    tokens: int = 100
    seconds: float = 1.0
    grad_norm: float = 1.0
    block_size: int | None = None
    phase: str | None = None
    validation: float | None = None


def test_live_draws_only_at_the_end_when_nobody_looks_on(monkeypatch):
    drawn = []
    monkeypatch.setattr(show.LiveLossCurve, "_draw", lambda self: drawn.append(len(self.steps)))
    with show.LiveLossCurve(every=0, interactive=False) as live:
        for i in range(5):
            live.update(Step(i + 1, 1.0))
    live.close()
    assert drawn == [5]
    live = show.LiveLossCurve(every=0, interactive=True)
    live.update(Step(1, 1.0))
    assert drawn[1:] == [1]
    live.cost = 1e9  # a picture dearer than its share of the time waits
    live.update(Step(2, 1.0))
    assert drawn[1:] == [1]


def test_live_picture_and_phases():
    steps = [Step(i + 1, 3 - i / 10, block_size=4 if i < 5 else 8, phase="up", validation=2.0 if i == 4 else None)
             for i in range(10)]  # fmt: skip
    picture = show.training_curve(steps, "diffusion")
    assert is_png(picture) and "10 steps" in repr(picture)
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["4", "8"]
    with pytest.raises(ValueError, match="empty"):
        show.training_curve([])


def test_smoothing_is_a_mean():
    import numpy as np

    assert np.allclose(_smoothed(np.full(100, 2.5)), 2.5)
    assert _smoothed(np.array([1.0, 3.0]))[-1] == 3.0  # a short run is not smoothed


def test_progress_yields_on_samples_and_closes(capsys):
    live = show.LiveLossCurve(interactive=False)
    source = (Step(i + 1, 1.0) for i in range(4))
    seen = [s.step for s in show.progress(source, 4, live, sample=lambda s: f"text{s.step}", every=2)]
    assert seen == [1, 2, 3, 4] and live.closed and len(live.steps) == 4
    out = capsys.readouterr()
    assert re.findall(r"step \d: text\d", out.out) == ["step 2: text2", "step 4: text4"] and out.err == ""

    def failing():
        yield Step(1, 1.0)
        raise FloatingPointError("nan")

    live = show.LiveLossCurve(interactive=False)
    with pytest.raises(FloatingPointError):
        list(show.progress(failing(), 2, live))
    assert live.closed
    with pytest.raises(ValueError, match="every"):
        show.progress([], 1, sample=str)


# where is it shown -----------------------------------------------------------------------------------------------


def test_interactive_follows_the_wish(monkeypatch):
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "0")
    assert show.interactive()
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "1")
    assert not show.interactive()
    monkeypatch.delenv("DLLM_HEADLESS")
    assert not show.interactive()  # no kernel here
