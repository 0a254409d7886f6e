"""The project's root and what relative paths mean."""

from pathlib import Path

import pytest

from dllm_core.common.errors import RunError, UsageError
from dllm_core.common.paths import resolve, root, run_path


def test_the_root_is_the_nearest_project_above(workspace, project, tmp_path_factory, monkeypatch):
    assert root() == workspace
    (workspace / "notebooks/deep").mkdir()
    monkeypatch.chdir(workspace / "notebooks/deep")
    assert root() == workspace
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert root() == project  # of the package's own files


def test_relative_paths_count_from_the_root_and_absolute_ones_stay(workspace, monkeypatch):
    monkeypatch.chdir(workspace / "notebooks")
    assert resolve("data/a.jsonl") == workspace / "data/a.jsonl"
    assert resolve("/a/b") == Path("/a/b") and resolve("~/a") == Path.home() / "a"


def test_another_folder_may_replace_weights(workspace, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", "seeds/1")
    assert resolve("weights/run") == workspace / "seeds/1/run" and resolve("weights") == workspace / "seeds/1"
    assert resolve("data/weights") == workspace / "data/weights"
    monkeypatch.setenv("DLLM_WEIGHTS", "/disk")
    assert resolve("weights/run") == Path("/disk/run")
    (workspace / "file").touch()
    monkeypatch.setenv("DLLM_WEIGHTS", "file")
    with pytest.raises(UsageError, match="DLLM_WEIGHTS=file: is a file; name a folder"):
        resolve("weights/run")


def test_a_run_lies_under_weights_or_at_an_absolute_path(workspace, monkeypatch):
    weights = workspace / "weights"
    for name in ("x", "weights/x", "x/", "./x"):
        assert run_path(name) == weights / "x", name
    assert run_path("sub/x") == run_path("weights/sub/x") == weights / "sub/x"
    assert run_path("/disk/x") == Path("/disk/x") and run_path("~/x") == Path.home() / "x"
    assert run_path("x", workspace / "seeds") == workspace / "seeds/x"
    monkeypatch.setenv("DLLM_WEIGHTS", "/disk")
    assert run_path("x") == run_path("weights/x") == Path("/disk/x")
    for name in ("../x", "sub/../../x", "weights/../x", "/disk", "/", "", "~else/x", "x ", "x.pt"):
        with pytest.raises(RunError, match="must name a folder of its own"):
            run_path(name)
