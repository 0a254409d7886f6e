"""The look, against hand-made traces: what is drawn equals the record, and text of a model stays text."""

import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dllm_core import show, widgets
from dllm_core.schedules import BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show_html import width
from dllm_core.show_live import _smoothed
from dllm_core.show_player import STATIC_STEPS, record
from dllm_core.show_results import times, trace_labels
from dllm_core.show_strip import chosen_steps
from dllm_core.trace import Commit, DecodeStep, Trace

MASK, EOS = 9, 2
HOSTILE = '<img src=x onerror="window.hit=1">'
WORDS = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 3: "你", 4: "好", 5: "</script><script>window.hit=1//",
         6: HOSTILE, 7: "\u202eabc", 8: "😀", 9: "<|mask|>"}  # fmt: skip


def step(index, commits, masked, block, draft=(), reason="threshold", forwards=1, seconds=None, held=0):
    made = tuple(Commit(p, t, c, reason, ((3, 0.25), (6, 0.125))) for p, t, c in commits)
    return DecodeStep(index, 0, forwards, 0.25 * (index + 1) if seconds is None else seconds, block, made, masked,
                      0.5, 0.75, tuple(draft), held)  # fmt: skip


def ar():
    steps = [step(i, [(2 + i, token, 0.9)], 3 - i, (2 + i, 3 + i), reason="ar") for i, token in enumerate((4, 3, EOS))]
    return Trace("ar", [1, 3], [1, 3] + [MASK] * 4, MASK, EOS, steps, {"temperature": 0.0}, WORDS, "好你")


def llada1():
    steps = [
        step(0, [(5, EOS, 0.99), (3, 6, 0.8)], 2, (2, 6), [(2, 3, 0.4), (4, 3, 0.1)], "schedule", forwards=2),
        step(1, [(2, 5, 0.7), (4, 7, 0.6)], 0, (2, 6), (), "schedule", forwards=2),
    ]
    return Trace("llada1", [1, 3], [1, 3] + [MASK] * 4, MASK, EOS, steps, {"steps": 2}, WORDS, "hostile")


def llada2():
    steps = [
        step(0, [(2, 4, 0.95), (3, 8, 0.91)], 4, (0, 4), reason="threshold"),
        step(1, [(4, 3, 0.5)], 3, (4, 8), [(5, 3, 0.3), (6, 4, 0.2), (7, 4, 0.1)], "fallback"),
        step(2, [(5, 6, 0.97)], 2, (4, 8), [(6, 4, 0.2), (7, EOS, 0.6)], "budget", held=1),
        step(3, [(6, EOS, 0.99), (4, 5, 0.8)], 1, (4, 8), [(7, EOS, 0.8)], "edit"),
    ]
    return Trace("llada2", [1, 3], [1, 3] + [MASK] * 6, MASK, EOS, steps, {"threshold": 0.9}, WORDS, "")


ALL = (ar, llada1, llada2)


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
    assert width(rule) == width(head) or width(head.rstrip()) <= width(rule)
    assert width(first[: first.index("1.235")]) == width(second[: second.index("–")]) - len("1.235") + len("–")
    assert made._repr_mimebundle_()["text/plain"] == made.text
    assert show.table([]).text is not None


def test_masked_row_and_its_twin_partition_the_tokens():
    made = show.masked_row(["你", "好", HOSTILE], [True, False, True], twin=True)
    first, second = made.text.splitlines()
    assert first.count("░") == 2 and second.count("░") == 1
    assert HOSTILE not in made.html
    with pytest.raises(ValueError, match="2 entries for 3 tokens"):
        show.masked_row(["a", "b", "c"], [True, False])


def test_source_shows_the_installed_code():
    made = show.source(learning_rate)
    assert "schedules.py, line " in made.text and "def learning_rate(" in made.text and 'style="color' in made.html
    assert "def alpha(" in show.source(NoiseSchedule.alpha).text
    assert "def scores(" in show.source(show.scores).text  # through its decorator
    with pytest.raises(TypeError, match="no Python source"):
        show.source(len)


# figures -----------------------------------------------------------------------------------------------------------


def is_png(picture):
    return picture._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")


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
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_show_imports_without_the_drawing_libraries():
    code = (
        "import sys\nfor name in ('matplotlib', 'ipywidgets', 'IPython', 'PIL', 'pygments', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from dllm_core import show\nassert show.table([{'a': 1}]).text and show.source(show.table).text"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


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
    monkeypatch.setattr(show.Live, "_draw", lambda self: drawn.append(len(self.steps)))
    with show.Live(every=0, watched=False) as live:
        for i in range(5):
            live.update(Step(i + 1, 1.0))
    live.close()
    assert drawn == [5]
    watched = show.Live(every=0, watched=True)
    watched.update(Step(1, 1.0))
    assert drawn[1:] == [1]
    watched.cost = 1e9  # a picture dearer than its share of the time waits
    watched.update(Step(2, 1.0))
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
    live = show.Live(watched=False)
    source = (Step(i + 1, 1.0) for i in range(4))
    seen = [s.step for s in show.progress(source, 4, live, sample=lambda s: f"text{s.step}", every=2)]
    assert seen == [1, 2, 3, 4] and live.closed and len(live.steps) == 4
    out = capsys.readouterr()
    assert re.findall(r"step \d: text\d", out.out) == ["step 2: text2", "step 4: text4"] and out.err == ""

    def failing():
        yield Step(1, 1.0)
        raise FloatingPointError("nan")

    live = show.Live(watched=False)
    with pytest.raises(FloatingPointError):
        list(show.progress(failing(), 2, live))
    assert live.closed
    with pytest.raises(ValueError, match="every"):
        show.progress([], 1, sample=str)


# traces ------------------------------------------------------------------------------------------------------------


def test_clock_and_labels():
    assert times(llada1()) == [0, 2, 4] and times(ar(), "seconds") == [0, 0.25, 0.5, 0.75]
    assert trace_labels([ar(), llada2(), llada2()]) == ["AR", "LLaDA 2 (1)", "LLaDA 2 (2)"]
    assert chosen_steps(3, 24) == [0, 1, 2, 3] and len(chosen_steps(512, 24)) == 24
    assert chosen_steps(512, 24)[0] == 0 and chosen_steps(512, 24)[-1] == 512


def test_player_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="one to 3"):
        show.player()
    with pytest.raises(ValueError, match="2 for 1 traces"):
        show.player(ar(), labels=["a", "b"])
    with pytest.raises(ValueError, match="'forwards' or 'seconds'"):
        show.player(ar(), clock="hours")
    with pytest.raises(TypeError, match="expected a Trace, got list"):
        show.player([ar()])


def test_record_keeps_every_commit_and_only_changed_drafts():
    made = record(llada2(), "x")
    assert [[c[:4] for c in s["commits"]] for s in made["steps"]][1] == [[4, 3, 0.5, "fallback"]]
    assert [s["drafts"] for s in made["steps"]][1:] == [
        [[5, 3, 0.3], [6, 4, 0.2], [7, 4, 0.1]], [[7, EOS, 0.6]], [[7, EOS, 0.8]],
    ]  # fmt: skip
    assert made["steps"][2]["held"] == 1 and made["forwards"] == [0, 1, 2, 3, 4]


def test_html_holds_hostile_text_as_data_and_no_address():
    made = show.player(*(make() for make in ALL))._repr_mimebundle_()
    page = made["text/html"]
    assert "<img" not in page and page.count("<script") == 1 and page.count("</script") == 1
    assert "\u202e" not in page
    assert [
        hit for hit in re.findall(r"(?:https?:)?//[\w.]+", page) if "w3.org" not in hit and not hit.startswith("// ")
    ] == []
    data = re.search(r"start\(root, (\{.*\})\);\n\}\)", page).group(1)
    assert "<" not in data and len(json.loads(data)["traces"]) == 3
    assert "LLaDA 2" in made["text/plain"] and "░" in made["text/plain"]


def test_static_form_survives_without_script_and_style():
    page = show.player(llada2()).html
    bare = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert bare.count("<details") == 5 and "style=" in bare
    assert "4 filled" not in bare and "step 2: 1 filled, 3 masked" in bare
    assert html.escape(HOSTILE) in bare
    long = ar()
    long.initial = [1, 3] + [MASK] * 300
    long.steps = [step(i, [(2 + i, 4, 0.9)], 299 - i, (2 + i, 3 + i), reason="ar") for i in range(300)]
    page = show.player(long).html
    assert page.count("<details") == STATIC_STEPS


def test_long_traces_are_packed_and_small():
    n, steps = 1024, 512
    long = Trace("llada1", [], [MASK] * n, MASK, EOS, vocabulary={i: chr(0x4E00 + i) for i in range(1000)})
    for k in range(steps):
        draft = [(p, (p * 7 + k // 8) % 999, ((p + k) % 97) / 97) for p in range(2 * k + 2, n)]
        long.steps.append(step(k, [(2 * k, 3, 0.9), (2 * k + 1, 4, 0.9)], n - 2 * k - 2, (0, n), draft, "schedule"))
    page = show.player(long).html
    assert '"deflate"' in page and len(page.encode()) < 3_000_000


def test_save_html_gif_png(tmp_path):
    from PIL import Image

    page = show.save_html(tmp_path / "a" / "x.html", ar(), llada2(), title=HOSTILE)
    assert HOSTILE not in page.read_text("utf-8") and "default-src 'none'" in page.read_text("utf-8")
    moving = Image.open(show.gif(llada2(), tmp_path / "x.gif"))
    assert moving.n_frames == 5
    strip = Image.open(show.png(llada2(), tmp_path / "x.png", steps=[0, 4], width=300))
    single = Image.open(show.png(llada2(), tmp_path / "y.png", steps=[4], width=300))
    assert strip.size == (600, 2 * single.height)
    with pytest.raises(ValueError, match="from 0 to 4"):
        show.png(llada2(), tmp_path / "z.png", steps=[5])
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "z.png").exists()


def test_frames_of_an_infilling_draw_the_whole_text(tmp_path):
    gaps = Trace(
        "llada1", [], [3, MASK, 4], MASK, EOS, [step(0, [(1, 8, 0.9)], 0, (0, 3), reason="schedule")], {}, WORDS
    )
    assert show.gif(gaps, tmp_path / "x.gif", prompt=False).stat().st_size > 0
    assert "你" in show.player(gaps).text


# explorers ---------------------------------------------------------------------------------------------------------

EXPLORERS = (widgets.schedule_explorer, widgets.block_explorer, widgets.mask_explorer)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_explorers_are_figures_when_nobody_looks_on(explorer):
    made = explorer(watched=False)._repr_mimebundle_()
    assert made.get("image/png", b"").startswith(b"\x89PNG") or "data:image/png" in made["text/html"]
    assert made["text/plain"]


def test_explorers_say_what_is_wrong_and_recover():
    controls, complaint, stage = widgets.block_explorer(watched=True).children
    up = controls.children[4]
    up.value = "3, 5"
    assert "must divide the length 256" in complaint.value
    up.value = "<b>"
    assert "&lt;b&gt;" in complaint.value
    up.value = "16, 32"
    assert complaint.value == "" and bytes(stage.children[0].value).startswith(b"\x89PNG")


def test_mask_explorer_draws_every_pattern():
    controls, complaint, stage = widgets.mask_explorer(watched=True).children
    pattern, controls.children[3].value = controls.children[0], 3
    for name in pattern.options:
        pattern.value = name
        assert complaint.value == "" and len(stage.children) == 2


# in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium here (apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        engine = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield engine
        engine.close()


def open_page(browser, path, **options):
    page = browser.new_page(**options)
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".dllm-bar")
    return page


def states(page, side):
    return page.evaluate(
        "(n) => [...document.querySelectorAll('.dllm-side')[n].querySelectorAll('.dllm-cell')]"
        ".map(cell => [cell.className, cell.textContent, cell.getAttribute('aria-label')])", side,
    )  # fmt: skip


def test_player_shows_the_trace_at_every_step(browser, tmp_path):
    traces = [make() for make in ALL]
    page = open_page(browser, show.save_html(tmp_path / "x.html", *traces))
    for time in range(5):
        for side, trace in enumerate(traces):
            k = max(i for i, forwards in enumerate(times(trace)) if forwards <= time)
            tokens = trace.tokens_at(k)
            now = {c.position: c for c in trace.steps[k - 1].commits} if k else {}
            for position, (kind, text, label) in enumerate(states(page, side)):
                if tokens[position] == MASK:
                    assert "masked" in kind
                    continue
                assert text == show.visible(WORDS[tokens[position]])
                assert ("now" in kind.split()) == (position in now)
                assert ("prompt" in kind.split()) == (position < 2)
                if position in now:
                    assert now[position].reason in label and f"{now[position].confidence:.2f}" in label
        page.locator(".dllm-player").press("ArrowRight")
    assert "edited" in states(page, 2)[4][0]
    assert page.evaluate("window.hit") is None and page.problems == []
    assert [url for url in page.asked if not url.startswith("file:")] == []
    page.close()


def test_player_keys_views_and_panel(browser, tmp_path):
    page = open_page(browser, show.save_html(tmp_path / "x.html", llada2()))
    player, panel = page.locator(".dllm-player"), page.locator(".dllm-why")
    player.press("End")
    page.locator(".dllm-cell").nth(5).hover()
    told = panel.inner_text()
    assert "step 3" in told and "budget" in told and "0.970" in told and "0.250" in told and HOSTILE in told
    assert "你 0.30 (step 2)" in told  # what it guessed before
    player.press("c")
    assert page.locator(".dllm-cell").nth(5).get_attribute("data-step") == "3"
    player.press("c")
    player.press("Home")
    assert "masked" in states(page, 0)[5][0]
    player.press(".")
    player.press(".")
    assert states(page, 0)[6][1] == "好" and "remasked" not in states(page, 0)[6][0]
    player.press("g")
    assert "remasked" in states(page, 0)[6][0]
    player.press("g")
    assert states(page, 0)[6][1] == "·"
    page.locator("select").first.select_option("seconds")
    assert "500 ms of 1.00 s" in page.locator(".dllm-clock").inner_text()
    page.locator(".dllm-cell[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert "position 3" in panel.inner_text()
    page.locator("select").nth(1).select_option("4")
    player.press(" ")
    page.get_by_text("finished").wait_for(timeout=20_000)
    assert page.problems == []
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_player_is_readable_in_both_themes(browser, tmp_path, theme):
    page = open_page(
        browser, show.save_html(tmp_path / "x.html", llada1()), color_scheme=theme, reduced_motion="reduce"
    )
    page.locator(".dllm-player").press("ArrowRight")
    contrasts = page.evaluate("""() => {
      const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
      const pen = canvas.getContext('2d', { willReadFrequently: true });
      const light = (colours) => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
          .map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const paper = getComputedStyle(document.querySelector('.dllm-player')).backgroundColor;
      return [...document.querySelectorAll('.dllm-cell, .dllm-state, .dllm-keys, figcaption')].map(node => {
        const style = getComputedStyle(node);
        const [a, b] = [light([paper, style.backgroundColor, style.color]), light([paper, style.backgroundColor])];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      });
    }""")
    assert min(contrasts) >= 4.5 and not math.isnan(min(contrasts))
    page.close()


def test_packed_trace_opens_in_the_browser(browser, tmp_path):
    long = ar()
    long.initial = [1, 3] + [MASK] * 1000
    long.steps = [step(i, [(2 + i, 4, 0.9)], 999 - i, (2 + i, 3 + i), reason="ar") for i in range(1000)]
    long.vocabulary = {**WORDS, **{i: "词" * 40 for i in range(100, 3000)}}
    path = show.save_html(tmp_path / "x.html", long)
    assert '"deflate"' in path.read_text("utf-8")
    page = open_page(browser, path)
    page.locator(".dllm-player").press("End")
    assert states(page, 0)[-1][1] == "好" and page.problems == []
    page.close()


def test_interactive_follows_the_wish(monkeypatch):
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "0")
    assert show.interactive()
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "1")
    assert not show.interactive()
    monkeypatch.delenv("DLLM_HEADLESS")
    assert not show.interactive()  # no kernel here
