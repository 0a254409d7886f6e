"""Notebook 06 in a real JupyterLab, driven in a real browser as a person drives it; and as papermill and nbconvert leave it.

The models are random and tiny, made here; the server listens on 127.0.0.1 only; every other address is refused and noted.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from dllm_core.config import Checkpoint, ModelConfig
from dllm_core.model import Transformer
from dllm_core.runs import Run
from dllm_core.tokenizer import load_tokenizer

NOTEBOOK = "06_parallel_decoding"
LENGTH = 16
QUIET = {"prompts": "你是谁？", "max_new_tokens": LENGTH, "base_max_new_tokens": 4, "likelihood_draws": 2}


@pytest.fixture(scope="module")
def folder(project, tmp_path_factory):
    """A project with two untrained runs, and the notebook with small parameters put in by papermill."""
    from papermill import execute_notebook

    folder = tmp_path_factory.mktemp("lab") / "project"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(project / "pyproject.toml", folder)
    shutil.copytree(project / "figures", folder / "figures")
    tokenizer = load_tokenizer(project / "data/tokenizer")
    for name, kind in (
        ("diffusion_llada2_sft", Checkpoint("llada2", block_size=8, chat=True)),
        ("minimind_sft", Checkpoint("ar", label_shift=True, chat=True)),
    ):
        torch.manual_seed(0)
        model = Transformer(ModelConfig(len(tokenizer), 32, 2, 2, max_position_embeddings=256, initializer_range=0.3))
        Run.open(str(folder / "weights" / name), model, kind, tokenizer, {}).finish(model)
    execute_notebook(
        str(project / f"notebooks/{NOTEBOOK}.ipynb"), str(folder / f"notebooks/{NOTEBOOK}.ipynb"), QUIET,
        kernel_name="python3", prepare_only=True,
    )  # fmt: skip
    return folder


def environment(project: Path, folder: Path) -> dict:
    """No setting of this machine or of the person who runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DLLM_", "JUPYTER"))}
    env |= {f"JUPYTER_{kind}_DIR": str(folder / ".jupyter" / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".jupyter/settings")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / ".jupyter/workspaces"), "IPYTHONDIR": str(folder / ".ipython")}
    return env | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def lab(project, folder):
    """The address of a JupyterLab server in that project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    log = folder / "lab.log"
    with open(log, "w") as out:
        server = subprocess.Popen(command, cwd=folder, env=environment(project, folder), stdout=out, stderr=out)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def watched_page(browser, **options):
    """A page whose requests to any other machine are refused; `outside` and `problems` note them and the errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, **options)
    page.set_default_timeout(60_000)
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
    page.goto(f"{lab}/lab/tree/notebooks/{NOTEBOOK}.ipynb?reset")
    panel = "jupyterapp.shell.currentWidget"
    page.wait_for_function(f"window.jupyterapp && {panel}?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"{panel}.content.widgets.every(cell => cell.model.type !== 'code' || cell.model.executionCount)"
        f" && {panel}.sessionContext.session.kernel.status === 'idle'", timeout=180_000,
    )  # fmt: skip
    yield page
    page.close()


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
    told = player.locator(".dllm-why").inner_text()
    assert "filled in step 1" in told and "fallback" in told and "confidence" in told.lower()
    page.mouse.move(0, 0)
    player.get_by_role("button", name="play", exact=True).click()
    player.locator(".dllm-state").get_by_text("step 3 of").wait_for()
    player.press("End")
    player.locator(".dllm-state").get_by_text("finished").wait_for()
    assert filled.count() >= LENGTH // 2 and player.locator(".dllm-cells .masked").count() <= LENGTH


def rows(panel) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]


def test_a_decoding_is_watched_stopped_and_begun_again(notebook):
    panel = scroll_to(notebook, "live").locator(".dllm-explorer")
    decode, stop, status = (panel.get_by_role("button", name="Decode"), panel.get_by_role("button", name="Stop"),
                            panel.locator(".dllm-status"))  # fmt: skip
    decode.click()
    panel.locator(".dllm-player").wait_for()
    masked = panel.locator(".dllm-cells .masked")
    notebook.wait_for_function("document.querySelectorAll('.dllm-explorer .dllm-cells .before').length >= 3")
    stop.click()
    status.get_by_text("stopped").wait_for()
    assert masked.count() >= 1 and len(rows(panel)) == 1 and "(stopped)" in rows(panel)[0][-1]
    plays = panel.locator(".dllm-player")
    plays.press("Home")
    assert masked.count() >= LENGTH  # what was written so far can be stepped through
    decode.click()
    status.get_by_text("finished").wait_for()
    made = rows(panel)
    assert len(made) == 2 and int(made[0][5]) > int(made[1][5]) and "(stopped)" not in made[0][-1]
    assert "finished" in panel.locator(".dllm-state").inner_text()


def test_the_panel_works_by_keyboard_and_says_what_is_wrong(notebook):
    panel, keys = scroll_to(notebook, "live").locator(".dllm-explorer"), notebook.keyboard
    panel.get_by_label("style").focus()
    keys.press("ArrowUp")  # LLaDA 2 → LLaDA 1
    panel.get_by_text("threshold (probability)").wait_for(state="hidden")
    panel.get_by_label("steps").focus()
    keys.press("ControlOrMeta+a")
    keys.type("5")
    keys.press("Tab")
    panel.get_by_text("steps=5: must be a multiple of the 2 blocks").wait_for()
    panel.get_by_label("steps").focus()
    keys.press("ControlOrMeta+a")
    keys.type("4")
    for _ in range(12):
        keys.press("Tab")
        if notebook.evaluate("document.activeElement.textContent.trim()") == "Decode":
            break
    count = len(rows(panel))
    keys.press("Enter")
    notebook.wait_for_function(f"document.querySelectorAll('.dllm-explorer tbody tr').length > {count}")
    assert panel.get_by_text("must be a multiple").count() == 0 and rows(panel)[0][5] == "4"


def test_no_error_and_no_word_to_other_machines(notebook):
    assert notebook.outside == []
    assert notebook.problems == []


def test_the_executed_notebook_as_a_page(browser, project, folder, tmp_path):
    """papermill runs it, nbconvert turns it into HTML; the page is opened with the network off."""
    env = environment(project, folder)
    made = tmp_path / "made.ipynb"
    for command in (
        ["papermill", "-k", "python3", folder / f"notebooks/{NOTEBOOK}.ipynb", made, "--cwd", folder],
        ["nbconvert", "--to", "html", made],
    ):
        subprocess.run([sys.executable, "-m", *map(str, command)], cwd=folder, env=env, check=True, capture_output=True)
    cells = {cell["id"]: cell for cell in json.loads(made.read_text("utf-8"))["cells"]}
    kinds = {kind for output in cells["live"]["outputs"] for kind in output.get("data", {})}
    assert kinds == {"text/html", "text/plain"}  # nobody looks on: no widget, but a decoding to step through
    page = watched_page(browser)
    page.goto(made.with_suffix(".html").as_uri())
    for cell_id in ("player", "live"):
        plays_steps_and_explains(page, page.locator(f"[id='cell-id={cell_id}'] .dllm-player"))
    assert not [text for text in page.problems if "ERR_FAILED" not in text]
    page.close()
