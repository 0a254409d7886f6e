"""Schedules, attention, packing and training as pictures: what is drawn equals what the library says."""

import base64
import itertools
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from small import batch_of
from traces import EOS, HOSTILE, llada2

from dllm_core import show
from dllm_core.cli.main import main
from dllm_core.data.token_cache import TokenDataset
from dllm_core.schedules import ALPHAS, NoiseSchedule
from dllm_core.show.attention.scenes import (
    DECODERS,
    PATTERNS,
    POEM,
    RULES,
    decoding_scene,
    training_pattern,
    training_scene,
)
from dllm_core.show.rows import TokenRow, _states, draw_token_rows
from dllm_core.show.schedules import shares
from dllm_core.show.widgets import explorers as widgets
from dllm_core.train import TrainStep
from dllm_core.workshop import pictures

FIGURES = Path(__file__).resolve().parents[2] / "figures"


def is_png(picture) -> bool:
    return picture._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")


def trained(number: int, loss: float = 1.0, **more) -> TrainStep:
    return TrainStep(number, loss, 1e-3, 100, 1.0, 1.0, **more)


# attention: training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATTERNS)
def test_open_cells_are_those_of_the_pattern(name):
    for length, size, documents in itertools.product((6, 8), (1, 2, 4), (1, 2)):
        cells = training_scene(name, POEM[:length], size, documents)["frames"][0]["cells"]
        drawn = torch.tensor([[RULES[code][0] for code in row] for row in cells])
        assert torch.equal(drawn, training_pattern(name, length, size, documents).mask()[0])


def test_the_rule_of_a_cell_is_named():
    cells = training_scene(PATTERNS[4], POEM[:8], 2, documents=2)["frames"][0]["cells"]  # x_t 0–7, twin 8–15, x_0 16–23
    named = lambda q, k: RULES[cells[q][k]][1]
    assert named(2, 3) == "own block" and named(2, 16) == "earlier clean" and named(2, 18) == "own answer"
    assert named(2, 0) == named(18, 2) == "noise from outside" and named(2, 10) == "other noisy view"
    assert named(0, 18) == named(16, 18) == "later block" and named(4, 0) == named(20, 0) == "other document"


def test_a_prediction_stands_where_the_pattern_reads_it():
    causal = training_scene("causal", "abcd", 1)["elements"]
    assert [element["says"] for element in causal] == [["b"], ["c"], ["d"], []]  # labels shifted by one
    noisy = training_scene(PATTERNS[3], POEM[:8], 4)["elements"]
    assert any(element["hidden"] for element in noisy[:8]) and not any(element["hidden"] for element in noisy[8:])
    for element in noisy[:8]:
        assert element["says"] == ([POEM[element["token"]]] if element["hidden"] else [])
        assert (element["text"] == "░") == element["hidden"]
    twins = training_scene(PATTERNS[4], POEM[:8], 4)["elements"]
    assert [one["hidden"] for one in twins[:8]] == [not one["hidden"] for one in twins[8:16]]


# attention: decoding -----------------------------------------------------------------------------------------------


def test_decoders_forwards_are_what_the_cache_says():
    ar = decoding_scene(DECODERS[0], POEM[:8], 0)["frames"]
    assert [frame["fed"] for frame in ar] == [[0, 1], [2], [3], [4], [5], [6]]
    assert ar[2]["cells"][3] == "cccfwwww" and ar[2]["cells"][2] == "k" * 8 and ar[2]["cells"][4] == "r" * 8
    full = decoding_scene(DECODERS[1], POEM[:8], 0)["frames"]
    assert all(row == "f" * 8 for frame in full for row in frame["cells"])
    for frame in decoding_scene(DECODERS[2], POEM[:12], 4)["frames"]:
        fed, last = frame["fed"], max(frame["fed"])
        assert last % 4 == 3 and min(fed) % 4 == 0
        for q in fed:
            seen = [k for k, code in enumerate(frame["cells"][q]) if RULES[code][0]]
            assert seen == [k for k in range(12) if k // 4 <= q // 4]
            assert all((frame["cells"][q][k] == "f") == (k in fed) for k in seen)
        assert all(frame["known"][:4])


def test_every_answer_token_is_written_once():
    for name in DECODERS:
        written = [place for frame in decoding_scene(name, POEM[:12], 4)["frames"]
                   for place, said in enumerate(frame["says"]) if said]  # fmt: skip
        assert sorted(written) == list(range(4, 12))


def test_attention_says_what_is_wrong():
    with pytest.raises(ValueError, match="the text has 3 tokens"):
        show.attention("abc")
    with pytest.raises(ValueError, match="none of them divides the length 9"):
        show.attention(lengths=(9,), block_sizes=(2, 4))
    with pytest.raises(ValueError, match="pattern='x'"):
        show.attention(pattern="x")
    with pytest.raises(ValueError, match="9 documents do not fit"):
        show.attention_picture(POEM[:8], documents=9)


def test_attention_is_one_piece_with_a_picture_in_it():
    made = show.attention(POEM, lengths=(8,), block_sizes=(4,), documents=(1,))
    bare = re.sub(r"<(script|style).*?</\1>", "", made.html, flags=re.DOTALL)
    assert bare.count('src="data:image/png') == 1 and "causal" in made.text
    assert set(re.findall(r"\w+://[\w.]+", made.html)) == {"http://www.w3.org"}  # a name space, never asked for
    record = json.loads(re.search(r"start\(root, (\{.*\})\);", made.html).group(1))
    assert {key.split("|")[0] for key in record["scenes"]} == {*PATTERNS, *DECODERS}
    assert len(made.html) < 300_000
    packed = json.loads(re.search(r"start\(root, (\{.*\})\);", show.attention().html).group(1))["deflate"]
    assert set(json.loads(zlib.decompress(base64.b64decode(packed)))) == set(record)


# schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALPHAS)
def test_loss_shares_are_the_drops_of_alpha(kind):
    for schedule in (NoiseSchedule(kind, t_min=0.0), NoiseSchedule.band(0.1, 0.9, kind)):
        edges = torch.linspace(0, 1, 11, dtype=torch.float64).clamp(schedule.t_min, schedule.t_max)
        drops = -schedule.alpha(edges).diff().numpy()  # with the bound's weight w(t)·(1 − alpha) = −alpha'
        assert np.allclose(shares(schedule), drops / drops.sum(), atol=3e-3)


def test_loss_shares_follow_a_measured_loss():
    plain, easy = shares(NoiseSchedule(t_min=0.0)), shares(NoiseSchedule(t_min=0.0), {0.0: 0.0, 1.0: 2.0})
    assert np.allclose(plain, 0.1, atol=1e-3) and np.allclose(easy, (np.arange(10) + 0.5) / 50, atol=1e-3)
    picture = show.loss_shares([NoiseSchedule(), NoiseSchedule.band(0.05, 0.95)], {0.1: 1.0, 0.9: 3.0})
    assert is_png(picture) and len(picture.figure.axes) == 2
    with pytest.raises(ValueError, match="empty"):
        show.loss_shares([])


# rows --------------------------------------------------------------------------------------------------------------


def test_packing_tells_prompt_scored_filling_and_padding():
    batch = batch_of([4, 3], [5], prompt=2, width=8)
    batch.tokens[0, 5:7] = EOS
    assert _states(batch, 0, EOS) == [0, 0, 1, 1, 0, 0, 2, 3]
    batch.tokens[0, 3:5] = EOS  # an eos that ends a document, and one that begins the next: no filling
    assert _states(batch, 0, EOS)[3:5] == [1, 0]
    batch.tokens[0, 3:7] = 5
    picture = show.packing({"a": batch}, EOS, 2)
    assert is_png(picture) and repr(picture) == "a: 38 % scored, 38 % prompt, 0 % filling, 25 % padding"
    with pytest.raises(ValueError, match="no batch"):
        show.packing({}, EOS)


def test_token_rows_wrap_and_keep_every_token():
    boxes = [("你", "prompt", 0), ("░", "masked", 0), (HOSTILE, "filled", 0.5), ("⟨eos⟩", "end", 1.0)] * 8
    picture = draw_token_rows([TokenRow("x_t", "8 of 32 hidden", boxes)], "title")
    drawn = [text.get_text() for text in picture.figure.axes[0].texts]
    assert is_png(picture) and [text for text in drawn if text in ("你", "░", HOSTILE, "⟨eos⟩")] == [box[0] for box in boxes]
    assert len({round(text.get_position()[1], 2) for text in picture.figure.axes[0].texts}) > 4  # several lines
    assert repr(picture).splitlines() == ["title", "x_t: " + "".join(box[0] for box in boxes)]


# training ----------------------------------------------------------------------------------------------------------


def test_film_keeps_samples_beside_the_run(tmp_path):
    file = tmp_path / "run" / "samples.jsonl"
    film = show.SampleFilm(file, "learning")
    assert "none were kept" in film._repr_mimebundle_()["text/plain"]
    with pytest.raises(ValueError, match="no samples"):
        film.picture()
    for number in (1, 10, 20):
        film.add(trained(number, 3.0 / number, block_size=4), llada2())
    again = show.SampleFilm(file)
    assert [frame["step"] for frame in again.frames] == [1, 10, 20]
    sure = {c.position: c.confidence for s in llada2().steps for c in s.commits}
    assert again.frames[0]["tokens"][0] == ["好", sure[2]] and again.frames[0]["tokens"][-1][0] == "⟨eos⟩"
    again.add(10, "text")  # taken up again from an earlier state
    assert [frame["step"] for frame in show.SampleFilm(file).frames] == [1, 10] and again.frames[1]["text"] == "text"
    assert is_png(again.picture()) and "step 10: text" in repr(again.picture())
    with open(file, "a", encoding="utf-8") as lines:
        lines.write('{"step": 30, "tok')  # killed while writing
    assert len(show.SampleFilm(file)) == 2


def test_film_shows_first_and_last():
    film = show.SampleFilm()
    for number in range(40):
        film.add(number, "x")
    chosen = [frame["step"] for frame in film.chosen(6)]
    assert len(chosen) == 6 and (chosen[0], chosen[-1]) == (0, 39)


def test_progress_fills_the_film_and_prints_texts(capsys):
    film = show.SampleFilm()
    steps = (trained(i + 1) for i in range(4))
    list(show.progress(steps, 4, None, lambda step: llada2(), 2, film=film))
    assert [frame["step"] for frame in film.frames] == [1, 2, 4] and "step 4: " in capsys.readouterr().out


def test_merged_checkpoints_are_ringed_on_the_validation_curve():
    steps = [trained(i + 1, 3.0, block_size=4 if i < 5 else 8, phase="warm-up" if i < 5 else "stable",
                  validation=2.0 - i / 10 if i % 2 else None) for i in range(10)]  # fmt: skip
    upper = show.training_curve(steps, "run", merged=[8, 10]).figure.axes[0]
    rings = next(line for line in upper.lines if "merge of 2" in line.get_label())
    assert rings.get_xydata() == pytest.approx(np.array([[8, 1.3], [10, 1.1]]))
    assert {"warm-up", "stable"} <= {text.get_text() for text in upper.texts}
    with pytest.raises(ValueError, match="step 3 has no validation"):
        show.training_curve(steps, merged=[3])


# explorers ---------------------------------------------------------------------------------------------------------


def some_documents():
    rows = [[1, 5, 6, 7, EOS], [1, 8, EOS], [1, 9, 10, 11, 12, 13, EOS]] * 8
    return TokenDataset.of(rows, [[False, False] + [True] * (len(row) - 2) for row in rows], pad_token_id=0, eos_token_id=EOS)


def packing_explorer(interactive=None):
    return widgets.packing_explorer(some_documents(), length=32, block_size=4, interactive=interactive)


EXPLORERS = (widgets.schedule_explorer, widgets.block_explorer, widgets.noise_explorer, packing_explorer)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_explorers_are_static_when_nobody_looks_on(explorer):
    made = explorer(interactive=False)._repr_mimebundle_()
    made = made[0] if isinstance(made, tuple) else made
    assert made.get("image/png", b"").startswith(b"\x89PNG") or "<img" in made["text/html"] or "░" in made["text/html"]
    assert made["text/plain"] and "<script" not in made.get("text/html", "")


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_controls_are_named_and_explained(explorer):
    controls, _, stage = explorer(interactive=True).children
    assert all(control.description and control.tooltip for control in controls.children) and stage.children


def test_explorers_say_what_is_wrong_and_recover():
    controls, complaint, stage = widgets.block_explorer(interactive=True).children
    up = controls.children[4]
    up.value = "3, 5"
    assert "must divide the length 256" in complaint.value
    up.value = "<b>"
    assert "&lt;b&gt;" in complaint.value
    up.value = "16, 32"
    assert complaint.value == "" and 'alt="block size' in stage.children[0].value


def test_raising_t_only_hides_more_and_the_twin_is_the_rest():
    texts, maskable = list("abcdefgh"), [False, False] + [True] * 6
    controls, _, stage = widgets.noise_explorer(texts, maskable, interactive=True).children
    hidden_of = lambda child: [sign == "░" for sign in re.findall(r">([^<>])</span>", child.value)]
    last = [False] * 8
    for t in (0.1, 0.4, 0.7, 0.99):
        controls.children[0].value = t
        first, twin = map(hidden_of, stage.children)
        assert all(now or not before for before, now in zip(last, first, strict=True))
        assert [a != b for a, b in zip(first, twin, strict=True)] == maskable
        last = first
    controls.children[2].value = False
    assert len(stage.children) == 1


def test_packing_explorer_draws_every_layout():
    controls, complaint, stage = packing_explorer(interactive=True).children
    for name in widgets.LAYOUTS:
        controls.children[0].value = name
        assert complaint.value == "" and f"{name}:" in stage.children[0].value.replace("&amp;", "&")
    controls.children[0].value = widgets.FILLED
    assert re.search(r"whole, packed: \d+ % scored, \d+ % prompt, 0 % filling", stage.children[0].value)
    assert re.search(r"LLaDA 2\): \d+ % scored, \d+ % prompt, [1-9]\d* % filling", stage.children[0].value)


# pictures ----------------------------------------------------------------------------------------------------------


def test_pictures_are_drawn_by_name(workspace, capsys):
    assert main(["figures", "attention", "loss_shares"]) == 0
    assert sorted(path.name for path in (workspace / "figures").iterdir()) == ["attention.png", "loss_shares.png"]
    assert capsys.readouterr().out.split() == ["figures/attention.png", "figures/loss_shares.png"]
    assert main(["figures", "no_such_picture"]) == 2
    assert "no picture 'no_such_picture'; there are decoding, race" in capsys.readouterr().err


def test_notebooks_show_pictures_that_are_there(project):
    shown = {}
    for notebook in sorted((project / "notebooks").glob("0*.ipynb")):
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        shown[notebook.name] = re.findall(r"!\[[^\]]+\]\(\.\./figures/([\w.]+)\)", text)
    assert [name for name in shown if not shown[name] and name < "06"] == []
    for name in itertools.chain(*shown.values()):
        assert (FIGURES / name).is_file() and name.split(".")[0] in pictures.NAMES, name


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_every_picture_of_the_readme_has_a_name_that_makes_it(project, page):
    shown = re.findall(r"\(figures/([\w.]+)\)", (project / page).read_text("utf-8"))
    swept = {f"sweep_{path.stem}" for path in (project / "notebooks/sweeps").glob("*.yaml")}  # made by dllm results
    assert {name.split(".")[0] for name in shown} <= {*pictures.NAMES, *swept} and len(shown) >= 6
    assert [name for name in shown if not (FIGURES / name).is_file()] == []


def test_screenshots_say_what_they_need(workspace, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("DLLM_CHROMIUM", raising=False)
    assert main(["figures", "see_player"]) == 2
    assert "Chromium and Playwright: apt-get install chromium" in capsys.readouterr().err
    assert not (workspace / "figures").exists()


def test_committed_pictures_are_small():
    assert [path.name for path in FIGURES.glob("*.*") if path.stat().st_size > pictures.MOST] == []


def test_race_runs_on_a_common_clock(tmp_path):
    from PIL import Image

    fast, slow = llada2(), llada2()
    slow.steps = [*slow.steps[:2]]
    moving = Image.open(pictures.race([fast, slow], tmp_path / "x.gif", pause=50))
    assert moving.n_frames == 5  # four forwards and the start


# in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(browser):
    return browser.new_page(viewport={"width": 1200, "height": 900})


def opened(page, tmp_path, **options):
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    made = show.attention(**options).html
    path = tmp_path / "x.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title><main><h1>x</h1>{made}</main></html>',
        "utf-8",
    )
    page.goto(path.as_uri())
    page.wait_for_selector(".dllm-attention .why b")
    return page


def test_every_cell_tells_its_rule_by_mouse_and_by_keyboard(page, tmp_path):
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,), documents=(1,))
    assert page.locator(".dllm-still").count() == 0
    cells = training_scene(PATTERNS[3], POEM[:8], 4)["frames"][0]["cells"]
    grid, why = page.locator("[role=application]"), page.locator(".why")
    grid.focus()
    for key in ["ArrowUp"] * 16 + ["Home"]:
        page.keyboard.press(key)
    for q in range(16):
        for k in range(16):
            open_, name, _ = RULES[cells[q][k]]
            assert f"{'✓ open' if open_ else '✗ closed'}: {name}" == why.locator("b").inner_text()
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowDown")
    box = page.locator("[role=application] svg").bounding_box()
    unit = box["width"] / (24 * 2.4 + 16 * 24 + 4)
    at = lambda place: unit * (24 * 2.4 + 24 * place + 12)
    page.mouse.move(box["x"] + at(11), box["y"] + at(1))  # x_t, first block → its own clean copy
    assert (
        "own answer" in why.inner_text()
        and "(token 2, x_t" in why.inner_text()
        and "(token 4, x_0)" in why.inner_text()
    )
    assert page.locator(".chip.seen").count() == sum(RULES[code][0] for code in cells[1])
    assert page.problems == [] and [url for url in page.asked if not url.startswith("file:")] == []


def test_decoding_steps_forward_by_forward(page, tmp_path):
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,), pattern=DECODERS[2])
    frames = decoding_scene(DECODERS[2], POEM[:8], 4)["frames"]
    page.locator("[role=application]").focus()
    for number, frame in enumerate(frames, 1):
        told = page.locator(".bar").nth(1).inner_text()
        assert f"forward {number} of {len(frames)}: computes {len(frame['fed'])} of 8 positions" in told
        assert all(said in told for said in frame["says"] if said)
        page.keyboard.press(".")
    page.keyboard.press("End")
    page.get_by_role("button", name="◀ forward").click()
    assert f"forward {len(frames) - 1} of" in page.locator(".bar").nth(1).inner_text()
    page.get_by_label("pattern").select_option("causal")
    assert page.get_by_label("block size (tokens)").is_hidden() and page.get_by_text("forward ▶").is_hidden()
    assert page.problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(page, axe, tmp_path, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,))
    page.evaluate(axe)
    for pattern in (PATTERNS[3], DECODERS[2]):
        page.get_by_label("pattern").select_option(pattern)
        found = page.evaluate("axe.run()")["violations"]
        assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []


def test_hostile_tokens_stay_letters(page, tmp_path):
    tokens = [HOSTILE, "</script><script>window.hit=1//", "\u202e", "😀", "a", "b", "c", "d"]
    opened(page, tmp_path, text=tokens, lengths=(8,), block_sizes=(4,), pattern="causal")
    assert HOSTILE in page.locator("svg").first.inner_html().replace("&lt;", "<").replace("&gt;", ">")
    assert page.evaluate("window.hit") is None and page.locator("img").count() == 0 and page.problems == []
