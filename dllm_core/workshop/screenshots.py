"""Photographs of what moves, for README: the player and the explorers in a real JupyterLab, light beside dark.

`dllm figures see_player see_live see_attention see_schedules`. They need Chromium (the one that
DLLM_CHROMIUM names, else on the path) and Playwright (the `dev` extra), and take about a minute. The server listens on 127.0.0.1.
"""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dllm_core.common.files import write_whole
from dllm_core.common.paths import resolve, root
from dllm_core.show.figures import packed

WIDE, HIGH = 1260, 1500  # of the browser's window, pixels; tall enough that no cell has to be scrolled
SETUP = """from dllm_core import show, widgets
from dllm_core.config import DecodeConfig
from dllm_core.data.jsonl import chat_documents
from dllm_core.notebook.asking import generate_answers
from dllm_core.notebook.setup import open_checkpoint
from dllm_core.show.widgets.decoding import decoding_explorer
open_ = lambda name: open_checkpoint(name, shipped=True)
two = open_("weights/diffusion_llada2_sft_best.pt")
way = DecodeConfig("llada2", 48, block_length=16, threshold=0.9, alternatives=3, draft=True)
ask = lambda model, how: generate_answers(model, ["你是谁？"], how)[0]"""
PLAYERS = """traces = [ask(open_("weights/minimind_sft_best.pt"), DecodeConfig("ar", 32, alternatives=3)),
          ask(open_("weights/diffusion_llada1_sft_best.pt"),
              DecodeConfig("llada1", 32, block_length=16, alternatives=3, draft=True)), ask(two, way)]
show.player(*traces)"""
PACKING = """data = chat_documents("data/sft_tiny.jsonl", two.tokenizer, 128)
widgets.packing_explorer(data, 128, 16)"""
CELLS = {
    "setup": SETUP, "player": PLAYERS, "live": 'decoding_explorer(two, "你是谁？", way)',
    "attention": "show.attention()", "block": "widgets.block_explorer()", "packing": PACKING,
}  # fmt: skip
VIEWS = {
    "see_player": ["player"],
    "see_live": ["live"],
    "see_attention": ["attention"],
    "see_schedules": ["block", "packing"],
}


def take(names: list[str]) -> list[Path]:
    """Write figures/NAME.png for each of `names` (of `VIEWS`). Raises RuntimeError when Chromium or Playwright is missing,
    or a cell fails."""
    chromium = os.environ.get("DLLM_CHROMIUM") or shutil.which("chromium")
    if not chromium or not importlib.util.find_spec("playwright"):
        raise RuntimeError(
            "photographs need Chromium and Playwright: apt-get install chromium, pip install -e '.[dev]'"
        )
    from PIL import Image
    from playwright.sync_api import sync_playwright

    wanted = list(dict.fromkeys(cell for name in names for cell in VIEWS[name]))
    shots: dict[tuple[str, str], Image.Image] = {}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), wanted) as address, sync_playwright() as play:
        engine = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = engine.new_page(viewport={"width": WIDE, "height": HIGH})
        opened(page, address)
        for theme in ("Light", "Dark"):
            page.evaluate(
                "(name) => jupyterapp.commands.execute('apputils:change-theme', { theme: name })", f"JupyterLab {theme}"
            )
            for cell in wanted:
                shots[cell, theme] = Image.open(io.BytesIO(photographed(page, cell))).convert("RGB")
        engine.close()
    made = []
    for name in names:
        halves = [[shots[cell, theme] for cell in VIEWS[name]] for theme in ("Light", "Dark")]
        whole = Image.new(
            "RGB", (2 * max(shot.width for shot in halves[0]), sum(shot.height for shot in halves[0])), "white"
        )
        for i, half in enumerate(halves):
            y = 0
            for shot in half:
                whole.paste(shot, (i * whole.width // 2, y))
                y += shot.height
        made.append(write_whole(resolve(f"figures/{name}.png"), packed(whole, f"{name[4:]} in light and dark")))
    return made


@contextlib.contextmanager
def served(folder: Path, wanted: list[str]) -> Iterator[str]:
    """The address of a notebook with the wanted cells, in a JupyterLab that works in a project of its own in `folder`."""
    for name in ("data", "weights"):
        (folder / name).symlink_to(resolve(name))
    shutil.copy(root() / "pyproject.toml", folder)
    (folder / "notebooks").mkdir()
    cells = [{"cell_type": "code", "id": name, "metadata": {}, "outputs": [], "execution_count": None, "source": CELLS[name]}
             for name in ("setup", *wanted)]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks/views.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DLLM_", "JUPYTER"))}
    env |= {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    env |= {"PYTHONPATH": os.pathsep.join([str(root()), env.get("PYTHONPATH", "")])}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
         f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"],
        cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            time.sleep(0.5)
        yield f"{address}/lab/tree/notebooks/views.ipynb?reset"
    finally:
        server.terminate()
        server.wait(timeout=30)


def opened(page, address: str) -> None:
    """The notebook run from top to bottom, nothing else on the screen. Raises RuntimeError when a cell fails."""
    panel = "jupyterapp.shell.currentWidget"
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_function(f"window.jupyterapp && {panel}?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"{panel}.content.widgets.every((cell) => cell.model.executionCount)"
        f" && {panel}.sessionContext.session.kernel.status === 'idle'"
    )
    failed = page.evaluate(
        f"{panel}.content.widgets.flatMap((cell) => cell.model.outputs.toJSON().filter((out) => out.evalue)).map((out) => out.evalue)"
    )
    if failed:
        raise RuntimeError(f"a cell of the photographed notebook failed: {failed[0]}")
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")


def photographed(page, cell: str) -> bytes:
    """PNG of a cell's output, in the middle of its work."""
    page.evaluate(
        """async (id) => {
            const content = jupyterapp.shell.currentWidget.content;
            const index = content.widgets.findIndex((one) => one.model.id === id);
            await content.scrollToItem(index, "start");
            content.widgets[index].node.dataset.shot = id;
        }""",
        cell,
    )
    shown = page.locator(f"[data-shot='{cell}'] .jp-Cell-outputArea")
    if cell == "live" and not shown.locator(".dllm-player").count():
        shown.get_by_role("button", name="Decode").click()
        shown.locator(".dllm-status").get_by_text("finished").wait_for()
    if cell in ("live", "player"):
        player = shown.locator(".dllm-player")
        player.press("Home")
        player.press("Escape")
        for _ in range(9 if cell == "player" else 3):
            player.press("ArrowRight")
        shown.locator(".dllm-cells .now").nth(0).click()  # what it tells stays below
    page.wait_for_timeout(500)
    return shown.screenshot()
