"""The project's root and what relative paths mean."""

from pathlib import Path

from dllm_core.common.paths import resolve, root


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
