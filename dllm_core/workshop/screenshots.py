"""Screenshots for the pages: the player and the explorers in JupyterLab, in the light and the dark theme.

`dllm figures see_player see_live see_attention see_schedules`. They need Chromium (the one that DLLM_CHROMIUM names,
else on the path) and Playwright (the `dev` extra), and take about a minute. The server listens on 127.0.0.1.
"""

import contextlib
import importlib.util
import io
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

from dllm_core.common.errors import UsageError
from dllm_core.common.files import write_whole
from dllm_core.common.paths import resolve, root
from dllm_core.show.figures import palette_png
from dllm_core.show.strip import stacked

WINDOW = {"width": 1260, "height": 1500}  # of the browser, pixels; tall enough that no cell has to be scrolled
THEMES = ("JupyterLab Light", "JupyterLab Dark")
SETUP = """from dllm_core import show
from dllm_core.config import DecodeConfig
from dllm_core.data.jsonl import chat_documents
from dllm_core.notebook.asking import generate_answers
from dllm_core.notebook.setup import open_checkpoint
from dllm_core.show.widgets.decoding import decoding_explorer
from dllm_core.show.widgets.explorers import block_explorer, packing_explorer
def answer(name, config):
    return generate_answers(open_checkpoint(name, shipped=True), ["你是谁？"], config)[0]
llada2 = open_checkpoint("weights/diffusion_llada2_sft_best.pt", shipped=True)
config = DecodeConfig("llada2", 48, block_length=llada2.info.block_size, threshold=0.9, alternatives=3, draft=True)"""
PLAYERS = """llada1_config = DecodeConfig("llada1", 32, block_length=16, alternatives=3, draft=True)
show.player(
    answer("weights/minimind_sft_best.pt", DecodeConfig("ar", 32, alternatives=3)),
    answer("weights/diffusion_llada1_sft_best.pt", llada1_config),
    generate_answers(llada2, ["你是谁？"], config)[0],
)"""
PACKING = """data = chat_documents("data/sft_tiny.jsonl", llada2.tokenizer, 128)
packing_explorer(data, 128, 8)"""
CELLS = {
    "setup": SETUP, "player": PLAYERS, "live": 'decoding_explorer(llada2, "你是谁？", config)',
    "attention": "show.attention()", "block": "block_explorer()", "packing": PACKING,
}  # fmt: skip
VIEWS = {  # picture → the cells it shows
    "see_player": ["player"],
    "see_live": ["live"],
    "see_attention": ["attention"],
    "see_schedules": ["block", "packing"],
}


def take(names: list[str]) -> list[Path]:
    """Write figures/NAME.png for each of `names` (of `VIEWS`). Raises UsageError when Chromium or Playwright is missing,
    and RuntimeError when a cell fails."""
    chromium = os.environ.get("DLLM_CHROMIUM") or shutil.which("chromium")
    if not chromium or not importlib.util.find_spec("playwright"):
        raise UsageError("screenshots need Chromium and Playwright: apt-get install chromium, pip install -e '.[dev]'")
    from PIL import Image, ImageOps
    from playwright.sync_api import sync_playwright

    cells = list(dict.fromkeys(cell for name in names for cell in VIEWS[name]))
    shots: dict[tuple[str, str], Image.Image] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_project(Path(folder), cells)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with jupyterlab(Path(folder)) as address:
            page = browser.new_page(viewport=WINDOW)
            run_notebook(page, f"{address}/lab/tree/notebooks/views.ipynb?reset")
            for theme in THEMES:
                page.evaluate("(theme) => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
                for cell in cells:
                    shots[cell, theme] = Image.open(io.BytesIO(screenshot(page, cell))).convert("RGB")
            browser.close()
    paths = []
    for name in names:
        light, dark = (stacked([shots[cell, theme] for cell in VIEWS[name]]) for theme in THEMES)
        both = ImageOps.expand(light, (0, 0, light.width, 0), "white")
        both.paste(dark, (light.width, 0))
        alt = f"{name.removeprefix('see_')} in light and dark"
        paths.append(write_whole(resolve(f"figures/{name}.png"), palette_png(both, alt)))
    return paths


def write_project(folder: Path, cells: list[str]) -> None:
    """A project in `folder` with this one's data and weights and the notebook notebooks/views.ipynb of these cells."""
    import nbformat

    for name in ("data", "weights"):
        (folder / name).symlink_to(resolve(name))
    shutil.copy(root() / "pyproject.toml", folder)
    (folder / "notebooks").mkdir()
    sources = [nbformat.v4.new_code_cell(CELLS[name], id=name) for name in ("setup", *cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=sources, metadata=kernel), folder / "notebooks/views.ipynb")


def environment(folder: Path) -> dict[str, str]:
    """Environment variables for Jupyter in the project at `folder`: this package, and no settings of the user."""
    jupyter = folder / ".jupyter"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("DLLM_", "JUPYTER"))}
    env |= {f"JUPYTER_{name}_DIR": str(jupyter / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    env |= {f"JUPYTERLAB_{name}_DIR": str(jupyter / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    env |= {"IPYTHONDIR": str(folder / ".ipython"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return env | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab server in the project at `folder`. Raises RuntimeError with the end of the server's log
    when it exits before it answers."""
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
    # no question about news over what is looked at
    settings = folder / ".jupyter/settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    write_whole(settings, '{"fetchNews": "false"}')
    log = folder / "jupyterlab.log"
    with open(log, "w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=output, stderr=output)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}: {log.read_text()[-3000:]}")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def run_notebook(page, address: str) -> None:
    """Open a notebook in JupyterLab and run it from top to bottom. Raises RuntimeError when a cell fails."""
    panel = "jupyterapp.shell.currentWidget"
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_function(f"window.jupyterapp && {panel}?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("async () => { await jupyterapp.commands.execute('notebook:run-all-cells') }")
    errors = page.evaluate(
        f"{panel}.content.widgets.flatMap((cell) => cell.model.outputs.toJSON())"
        ".filter((output) => output.evalue).map((output) => output.evalue)"
    )
    if errors:
        raise RuntimeError(f"a cell of the notebook failed: {errors[0]}")
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")


def screenshot(page, cell: str) -> bytes:
    """PNG of a cell's output; a player is shown some steps after the start."""
    page.evaluate(
        """async (id) => {
            const content = jupyterapp.shell.currentWidget.content;
            const index = content.widgets.findIndex((widget) => widget.model.id === id);
            await content.scrollToItem(index, "start");
            content.widgets[index].node.dataset.shot = id;
        }""",
        cell,
    )
    output = page.locator(f"[data-shot='{cell}'] .jp-Cell-outputArea")
    if cell == "live":
        output = output.locator(".dllm-explorer")
    if cell == "live" and not output.locator(".dllm-player").count():
        output.get_by_role("button", name="Decode").click()
        output.locator(".dllm-status").get_by_text("finished").wait_for()
    if cell in ("live", "player"):
        player = output.locator(".dllm-player")
        player.press("Home")
        player.press("Escape")
        for _ in range(9 if cell == "player" else 3):
            player.press("ArrowRight")
        output.locator(".dllm-cells .now").nth(0).click()  # its explanation stays below
    page.wait_for_timeout(500)
    return output.screenshot()
