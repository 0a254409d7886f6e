"""An empty project for the tests of checkpoints."""

import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project to stand in, so that relative names resolve there."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("DLLM_WEIGHTS", raising=False)
    return tmp_path
