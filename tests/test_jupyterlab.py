"""Notebook 06 in a real JupyterLab, driven in a browser as a person drives it; and as papermill and nbconvert leave it.

The models are random and tiny, made here; the server listens on 127.0.0.1 only; every other address is refused and noted.
"""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import HANG_LIMIT

from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.model import Transformer
from dllm_core.workshop.screenshots import environment, jupyterlab

NOTEBOOK = "06_parallel_decoding"
VIEWS = {  # cell → its source: what notebooks 01 to 05 show, on data made here
    "imports": "import sys; sys.path.insert(0, {tests!r})\n"
               "from traces import llada2, packing_explorer\nfrom dllm_core import show\n"
               "from dllm_core.show.widgets import explorers as widgets",
    "noise": "widgets.noise_explorer()",
    "schedule": "widgets.schedule_explorer()",
    "block": "widgets.block_explorer()",
    "packing": "packing_explorer()",
    "attention": "show.attention(lengths=(8,), block_sizes=(2, 4), documents=(1,))",
    "player": "show.player(llada2())",
    "picture": "show.mask_picture([[1, 0], [1, 1]])",
}  # fmt: skip
LENGTH = 16
QUIET = {
    "prompts": "你是谁？", "max_new_tokens": LENGTH, "base_max_new_tokens": 4, "likelihood_draws": 2, "valid_data": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(project, tmp_path_factory):
    """A project with two untrained runs, and the notebook with small parameters put in by papermill."""
    from papermill import execute_notebook

    folder = tmp_path_factory.mktemp("lab") / "project"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(project / "pyproject.toml", folder)
    shutil.copytree(project / "figures", folder / "figures")
    shutil.copy(project / "RESULTS.md", folder)  # 06 shows its sections of sweeps
    tokenizer = load_tokenizer(project / "data/tokenizer")
    for name, info in (
        ("diffusion_llada2_sft", CheckpointInfo("llada2", block_size=8, chat=True)),
        ("minimind_sft", CheckpointInfo("ar", label_shift=True, chat=True)),
    ):
        torch.manual_seed(0)
        model = Transformer(ModelConfig(len(tokenizer), 32, 2, 2, max_position_embeddings=256, initializer_range=0.3))
        RunFolder.open(str(folder / "weights" / name), model, info, tokenizer, {}).finish(model)
    execute_notebook(
        str(project / f"notebooks/{NOTEBOOK}.ipynb"), str(folder / f"notebooks/{NOTEBOOK}.ipynb"), QUIET,
        kernel_name="python3", prepare_only=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def lab(folder):
    """The address of a JupyterLab server in that project."""
    with jupyterlab(folder) as address:
        yield address


def watched_page(browser, **options):
    """A page whose requests to any other machine are refused; `outside` and `problems` note them and the errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, **options)
    page.set_default_timeout(HANG_LIMIT * 1000)
    page.problems, page.outside = [], []

    def judge(route):
        if route.request.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
            return route.continue_()
        page.outside.append(route.request.url)
        return route.abort()

    page.route("**/*", judge)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    return page


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """The notebook, opened in JupyterLab and run from top to bottom."""
    page = watched_page(browser)
    run_all(page, f"{lab}/lab/tree/notebooks/{NOTEBOOK}.ipynb?reset")
    yield page
    page.close()


@pytest.fixture(scope="module")
def views(browser, lab, folder):
    """A notebook with every other view, run likewise."""
    import nbformat

    v4 = nbformat.v4
    sources = {name: source.format(tests=str(Path(__file__).parent)) for name, source in VIEWS.items()}
    cells = [v4.new_code_cell(source, id=name) for name, source in sources.items()]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks/views.ipynb")
    page = watched_page(browser)
    run_all(page, f"{lab}/lab/tree/notebooks/views.ipynb?reset")
    yield page
    page.close()


def run_all(page, address: str) -> None:
    """Open a notebook in JupyterLab and run its cells, as with the double arrow."""
    page.goto(address)
    panel = "jupyterapp.shell.currentWidget"
    page.wait_for_function(f"window.jupyterapp && {panel}?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"{panel}.content.widgets.every(cell => cell.model.type !== 'code' || cell.model.executionCount)"
        f" && {panel}.sessionContext.session.kernel.status === 'idle'"
    )


def scroll_to(page, cell_id: str):
    """The cell of that id, brought on the screen as by scrolling."""
    page.evaluate(
        """async (id) => {
            const content = jupyterapp.shell.currentWidget.content;
            const index = content.widgets.findIndex((cell) => cell.model.id === id);
            content.activeCellIndex = index;
            await content.scrollToItem(index, "start");
            content.widgets[index].node.setAttribute("data-test", id);
        }""",
        cell_id,
    )
    return page.locator(f"[data-test='{cell_id}']")


def test_everything_ran(notebook):
    failed = notebook.evaluate(
        "jupyterapp.shell.currentWidget.content.widgets.flatMap(cell => cell.model.type !== 'code' ? [] :"
        " cell.model.outputs.toJSON().filter(output => output.output_type === 'error').map(o => o.evalue))"
    )
    assert failed == []


def test_the_player_plays_steps_by_key_and_gives_reasons(notebook):
    player = scroll_to(notebook, "player").locator(".dllm-player")
    plays_steps_and_explains(notebook, player)


def plays_steps_and_explains(page, player) -> None:
    player.wait_for()
    filled = player.locator(".dllm-cells .now, .dllm-cells .before")
    player.press("Home")
    assert filled.count() == 0
    player.press("ArrowRight")
    assert player.locator(".dllm-cells .now").count() >= 1 and "step 1 of" in player.locator(".dllm-state").inner_text()
    player.locator(".dllm-cells .now").first.hover()
    reason = player.locator(".dllm-why").inner_text()
    assert "filled in step 1" in reason and "fallback" in reason and "confidence" in reason.lower()
    page.mouse.move(0, 0)
    player.get_by_role("button", name="play", exact=True).click()
    # Played by the clock on the wall: a browser kept waiting passes over steps, so no single one is sure to be seen.
    player.locator(".dllm-state").get_by_text(re.compile("step ([2-9]|[1-9][0-9]+) of|finished")).wait_for()
    player.press("End")
    player.locator(".dllm-state").get_by_text("finished").wait_for()
    assert filled.count() >= LENGTH // 2 and player.locator(".dllm-cells .masked").count() <= LENGTH


def rows(panel) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]


def test_a_decoding_is_watched_stopped_and_restarted(notebook):
    panel = scroll_to(notebook, "live").locator(".dllm-explorer")
    decode, stop, status = (panel.get_by_role("button", name="Decode"), panel.get_by_role("button", name="Stop"),
                            panel.locator(".dllm-status"))  # fmt: skip
    notebook.set_viewport_size({"width": 1280, "height": 720})
    panel.evaluate("(panel) => panel.scrollIntoView({ block: 'start' })")
    decode.click()
    panel.locator(".dllm-player").wait_for()
    notebook.evaluate("window.watched = document.querySelector('.dllm-explorer .dllm-player')")
    masked = panel.locator(".dllm-cells .masked")
    notebook.wait_for_function("document.querySelectorAll('.dllm-explorer .dllm-cells .before').length >= 3")
    seen = panel.locator(".dllm-cells").bounding_box()  # without anybody scrolling
    assert decode.bounding_box()["y"] > 0 and seen["y"] > 0 and seen["y"] + seen["height"] <= 720
    assert "so far" in panel.locator(".dllm-clock").inner_text()
    panel.get_by_label("size", exact=True).select_option("1.4")
    stop.click()
    status.get_by_text("stopped").wait_for()
    assert masked.count() >= 1 and len(rows(panel)) == 1 and "(stopped)" in rows(panel)[0][-1]
    plays = panel.locator(".dllm-player")
    plays.press("Home")
    assert masked.count() >= LENGTH  # what was written so far can be stepped through
    decode.click()
    status.get_by_text("finished").wait_for()
    decodings = rows(panel)
    assert len(decodings) == 2 and int(decodings[0][5]) > int(decodings[1][5]) and "(stopped)" not in decodings[0][-1]
    assert "finished" in panel.locator(".dllm-state").inner_text()
    assert notebook.evaluate("watched.isConnected && watched.style.getPropertyValue('--size')") == "1.4"
    panel.get_by_label("size", exact=True).select_option("1")
    panel.get_by_role("textbox", name="prompt").fill("你好")
    decode.click()
    panel.locator(".dllm-name").get_by_text("3: LLaDA 2").wait_for()
    decode.click()  # during a run
    panel.locator(".dllm-name").get_by_text("4: LLaDA 2").wait_for()
    status.get_by_text("finished").wait_for()
    assert len(rows(panel)) == 4 and "(stopped)" in rows(panel)[1][-1]
    notebook.set_viewport_size({"width": 1280, "height": 1000})


def test_a_token_is_changed_by_hand_and_the_branch_stands_beside(notebook):
    panel, keys = scroll_to(notebook, "live").locator(".dllm-explorer"), notebook.keyboard
    decodings = len(rows(panel))
    panel.get_by_role("button", name="Decode").click()
    notebook.wait_for_function(f"document.querySelectorAll('.dllm-explorer tbody tr').length > {decodings}")
    player, form = panel.locator(".dllm-player"), panel.locator(".dllm-form")
    player.press("Home")
    player.press("ArrowRight")
    cell = player.locator(".dllm-cells .now").first
    position = cell.evaluate("(cell) => cell.position")
    cell.click()
    player.get_by_role("button", name="change it by hand after step 1").click()
    form.get_by_text(f"Change position {position} of {decodings + 1}: LLaDA 2, after step 1.").wait_for()
    notebook.wait_for_function("document.activeElement.matches('.dllm-form select')")
    assert form.locator("option").count() == 20
    for _ in range(3):
        keys.press("ArrowDown")
    token = form.locator("option").nth(3).inner_text().split()[1]
    form.get_by_label("reason").fill("<b>why</b>")
    form.get_by_role("button", name="take").click()
    panel.locator(".dllm-differs").get_by_text(f"after step 1, position {position}, ").wait_for()
    panel.locator(".dllm-status").get_by_text("finished").wait_for()
    assert panel.locator(".dllm-side").count() == 2 and panel.locator(".dllm-side .hand").inner_text() == token
    panel.locator(".dllm-side .hand").hover()
    assert "taken by hand from what the model had ranked: <b>why</b>." in panel.locator(".dllm-why").inner_text()
    assert rows(panel)[0][3].endswith("1 by hand") and not form.is_visible()


def test_the_panel_works_by_keyboard_and_shows_errors(notebook):
    panel, keys = scroll_to(notebook, "live").locator(".dllm-explorer"), notebook.keyboard
    panel.get_by_label("style").focus()
    keys.press("ArrowUp")  # LLaDA 2 → LLaDA 1
    panel.get_by_text("threshold (probability)").wait_for(state="hidden")
    panel.get_by_role("button", name="more settings").focus()
    keys.press("Enter")
    readout = panel.locator(".widget-slider").filter(has_text="slow motion").locator(".widget-readout")
    for typed in ("5", "0"):  # the first is beyond the slider's end
        readout.click()
        keys.press("ControlOrMeta+a")
        keys.type(typed)
        keys.press("Enter")
        panel.locator(".dllm-status").get_by_text("slow motion (s/step): 5 is not within 0 and 1").wait_for()
    panel.get_by_label("steps").focus()
    keys.press("ControlOrMeta+a")
    keys.type("5")
    keys.press("Tab")
    panel.get_by_text("steps=5: must be a multiple of the 2 blocks").wait_for()
    panel.get_by_label("steps").focus()
    keys.press("ControlOrMeta+a")
    keys.type("4")
    for _ in range(24):
        keys.press("Tab")
        if notebook.evaluate("document.activeElement.textContent.trim()") == "Decode":
            break
    count = len(rows(panel))
    keys.press("Enter")
    notebook.wait_for_function(f"document.querySelectorAll('.dllm-explorer tbody tr').length > {count}")
    assert panel.get_by_text("must be a multiple").count() == 0 and rows(panel)[0][5] == "4"


# keyboard alone: from a cell in command mode, where JupyterLab's own keys move, copy and delete cells


def tab_to(page, cell_id: str, *names: str):
    """From the cell, Tab until the control of each of `names` in turn (label or text) has the focus."""
    cell = scroll_to(page, cell_id)
    page.evaluate(
        """async () => { await jupyterapp.commands.execute('notebook:enter-command-mode');
        jupyterapp.shell.currentWidget.content.activeCell.node.focus(); }"""
    )
    for name in names:
        tab_on(page, name)
    return cell


def tab_on(page, name: str) -> None:
    focused = []
    for _ in range(24):
        page.keyboard.press("Tab")
        focused.append(page.evaluate(
            """() => { const now = document.activeElement, text = now.getAttribute('aria-label') || now.labels?.[0]?.textContent
            || (now.closest('.jp-OutputArea-output') ? now.textContent : ''); return text.trim(); }"""
        ))  # fmt: skip
        if focused[-1].startswith(name):
            return
    raise AssertionError(f"Tab does not come to {name!r}: {focused}")


def cells_of(page) -> list[str]:
    """The notebook's cells in order, and which one is active: nothing typed into a control may touch them."""
    return page.evaluate(
        """() => { const { widgets, activeCell } = jupyterapp.shell.currentWidget.content;
        return [...widgets.map((cell) => cell.model.id + cell.model.sharedModel.source.length), activeCell.model.id]; }"""
    )


def changes(page, locator, keys: list[str], untouched: bool = True) -> None:
    """These keys change what `locator` shows, and with `untouched` no cell of the notebook."""
    before, cells = locator.inner_html(), cells_of(page)
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function("([node, was]) => node.innerHTML !== was", arg=[locator.element_handle(), before])
    assert not untouched or cells_of(page) == cells


@pytest.mark.parametrize(
    "cell_id, control, keys",
    [
        ("noise", "noise level t", ["ArrowRight", "ArrowRight"]),
        ("noise", "alpha(t)", ["ArrowDown"]),
        ("noise", "complementary view", [" "]),
        ("schedule", "mask ratio", ["ArrowRight"]),
        ("schedule", "weight", ["ArrowDown"]),
        ("block", "training steps", ["ArrowRight"]),
        ("block", "share of warm-up", ["ArrowLeft"]),
        ("packing", "layout", ["ArrowDown"]),
        ("packing", "rows", ["ArrowRight"]),
    ],
)
def test_every_explorer_works_by_keyboard(views, cell_id, control, keys):
    stage = tab_to(views, cell_id, control).locator(".jp-OutputArea-output .widget-vbox .widget-vbox").last
    changes(views, stage, keys)


def test_text_is_typed_and_its_error_shown_by_keyboard(views):
    cell = tab_to(views, "block", "sizes going up")
    cells = cells_of(views)
    views.keyboard.press("ControlOrMeta+a")
    views.keyboard.type("a, d, d, x")  # the letters of JupyterLab's commands: add, delete, cut
    views.keyboard.press("Enter")
    cell.get_by_role("alert").get_by_text("whole numbers").wait_for()
    assert cells_of(views) == cells
    views.keyboard.press("ControlOrMeta+a")
    views.keyboard.type("32, 64")
    views.keyboard.press("Enter")
    cell.get_by_role("alert").wait_for(state="detached")


def test_attention_explorer_by_keyboard(views):
    cell = tab_to(views, "attention", "block size (tokens)")
    changes(views, cell.locator("[role=application]"), ["ArrowUp"])
    tab_on(views, "token")
    changes(views, cell.locator(".sees"), ["Enter"])
    tab_on(views, "attention picture")
    for key in ("ArrowDown", "ArrowRight", "Home"):
        changes(views, cell.locator(".why"), [key])
    tab_to(views, "attention", "pattern")
    changes(views, cell.locator("[role=application]"), ["End"])  # the last: LLaDA 2, cached blocks
    tab_on(views, "attention picture")
    changes(views, cell.locator(".bar").last, ["."])
    assert "forward 2 of" in cell.locator(".bar").last.inner_text()


def test_player_by_keyboard_only(views):
    cell = tab_to(views, "player", "decoding player")
    cells, clock, why = cells_of(views), cell.locator(".dllm-clock"), cell.locator(".dllm-why")
    for key, at in (("End", 4), ("ArrowLeft", 3), (",", 2), ("c", 2), ("z", 2), ("g", 2), ("Home", 0), (".", 1)):
        views.keyboard.press(key)
        assert clock.inner_text() == f"{at} of 4 forward passes", key
    tab_on(views, "one step on")
    views.keyboard.press("Enter")
    assert clock.inner_text() == "2 of 4 forward passes"
    tab_on(views, "position 2")
    for key, position in (("ArrowRight", 3), ("ArrowDown", None), ("Enter", None)):
        views.keyboard.press(key)
        assert position is None or f"position {position}" in why.inner_text()
    assert cell.locator(".picked").count() == 1
    views.keyboard.press("Escape")  # lets the token go; JupyterLab's cell keeps its mode
    assert cell.locator(".picked").count() == 0 and cells_of(views) == cells


def test_pictures_follow_the_theme(views):
    """A picture on white paper is dark in the dark theme; axe says nothing of pictures, so the pixels are read."""
    picture = scroll_to(views, "picture").locator(".jp-RenderedImage img")
    papers = []
    for theme in ("Dark", "Light"):
        views.evaluate(
            "(name) => jupyterapp.commands.execute('apputils:change-theme', { theme: name })", f"JupyterLab {theme}"
        )
        views.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
        papers.append(Image.open(io.BytesIO(picture.screenshot())).convert("L").getpixel((3, 3)))
    assert papers[0] < 40 and papers[1] > 240


def test_no_error_and_no_word_to_other_machines(notebook, views):
    for page in (notebook, views):
        assert page.outside == []
        assert page.problems == []


def test_a_panel_without_its_kernel_says_so_in_one_line(notebook):
    kernel = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    notebook.evaluate(f"async () => {{ await {kernel}.restart(); }}")
    notebook.wait_for_function(f"{kernel}.status === 'idle'")
    notebook.locator(".dllm-status.jupyter-widgets-disconnected").wait_for()
    said = notebook.evaluate(
        """() => [...document.querySelectorAll('.dllm-explorer, .dllm-explorer .jupyter-widgets-disconnected')]
        .map((node) => getComputedStyle(node, '::before').content).filter((content) => content !== 'none')"""
    )
    assert len(said) == 1 and "lost its kernel" in said[0]


def test_the_executed_notebook_as_a_page(browser, folder):
    """papermill runs it, nbconvert turns it into HTML; the page is opened with the network off."""
    env = environment(folder)
    executed = folder / "notebooks/made.ipynb"  # where its pictures are found
    for command in (
        ["papermill", "-k", "python3", folder / f"notebooks/{NOTEBOOK}.ipynb", executed, "--cwd", folder],
        ["nbconvert", "--to", "html", executed],
    ):
        subprocess.run([sys.executable, "-m", *map(str, command)], cwd=folder, env=env, check=True, capture_output=True)
    cells = {cell["id"]: cell for cell in json.loads(executed.read_text("utf-8"))["cells"]}
    kinds = {mime for output in cells["live"]["outputs"] for mime in output.get("data", {})}
    assert kinds == {"text/html", "text/plain"}  # nobody looks on: no widget, but a decoding to step through
    page = watched_page(browser)
    page.goto(executed.with_suffix(".html").as_uri())
    for cell_id in ("player", "live"):
        plays_steps_and_explains(page, page.locator(f"[id='cell-id={cell_id}'] .dllm-player"))
    assert not [text for text in page.problems if "ERR_FAILED" not in text]
    page.close()


def test_names_of_controls_and_their_arrows_in_the_dark(views, axe):
    for cell_id, title in (("schedule", "noise schedule"), ("noise", "noisy view"), ("block", "block size")):
        cell = scroll_to(views, cell_id)
        box = cell.locator(".dllm-live")
        views.wait_for_function("node => node.getAttribute('role') === 'group'", arg=box.element_handle())
        assert title in box.get_attribute("aria-label")
        names = cell.locator("[role=slider]").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
        assert names and all(names) and len(set(names)) == len(names)
    views.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    views.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    arrow = views.locator("[data-test=block] select").first.evaluate("(node) => getComputedStyle(node).backgroundImage")
    assert "white" in arrow
    views.evaluate(axe)
    for cell_id in ("schedule", "noise", "block"):
        found = views.evaluate(f"() => axe.run('[data-test={cell_id}] .dllm-live')")["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in ("serious", "critical")] == []
    views.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")


def test_a_saved_notebook_shows_its_still_form_without_a_kernel(views, browser, lab, folder):
    """Saved, and opened again with another kernel that ran nothing: no widget, no error, but what stood there and why."""
    still = "[id^=dllm-still]"
    assert views.locator(f"[data-test=noise] {still}").is_hidden()  # the controls are there
    views.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save') }")
    shutil.copy(folder / "notebooks/views.ipynb", folder / "notebooks/saved.ipynb")
    page = watched_page(browser)
    page.goto(f"{lab}/lab/tree/notebooks/saved.ipynb?reset")
    page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel")
    cell = scroll_to(page, "noise")
    cell.locator(still).get_by_text("░").first.wait_for()
    assert "Controls need a kernel" in cell.inner_text() and "Error displaying widget" not in cell.inner_text()
    page.close()
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", folder / "notebooks/saved.ipynb"], check=True, capture_output=True
    )
    page = watched_page(browser)
    page.goto((folder / "notebooks/saved.html").as_uri())
    shown = page.locator("[id='cell-id=noise']")
    assert "░" in shown.inner_text() and "Controls need a kernel" in shown.inner_text() and "VBox" not in shown.inner_text()
    page.close()
