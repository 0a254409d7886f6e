"""What all tests share: small jobs on few threads, no network, and the real text where there is some."""

import os
import shutil
import signal
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

for name in ("DLLM_WEIGHTS", "DLLM_HEADLESS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_FSDP"):
    os.environ.pop(name, None)  # a person's own settings: no test is to write into their runs
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup, too, see a terminal close

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with tang_pretrain.jsonl, alpaca_zh_sft.jsonl and minimind_tokenizer, named by DLLM_REAL_DATA."""
    folder = os.environ.get("DLLM_REAL_DATA")
    if not folder:
        pytest.skip("DLLM_REAL_DATA names no folder with real text")
    assert Path(folder).is_dir(), f"DLLM_REAL_DATA={folder} is no folder"
    return Path(folder)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty project to work in: relative paths, and the cache, count from here."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the one that DLLM_CHROMIUM names, else `chromium` on the path.

    Of one module only: while it is open, nothing else in this process can run an event loop.
    """
    chromium = os.environ.get("DLLM_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium here (apt-get install chromium, or name one in DLLM_CHROMIUM)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        engine = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield engine
        engine.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core: the file that DLLM_AXE names, else the copy in axe-playwright-python."""
    named = os.environ.get("DLLM_AXE")
    if named:
        return Path(named).read_text("utf-8")
    if not find_spec("axe_playwright_python"):
        pytest.skip("no axe-core here (pip install axe-playwright-python, or name an axe.min.js in DLLM_AXE)")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
