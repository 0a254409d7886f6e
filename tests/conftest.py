"""What all tests share: small jobs on few threads, no network, and the real text where there is some."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
