"""Where the project lies, so that relative paths mean the same in a shell, in papermill and in JupyterLab."""

import os
from pathlib import Path


def root() -> Path:
    """The project's root: the nearest folder at or above the working directory that holds `pyproject.toml` and
    `notebooks/`, otherwise the one above this file, otherwise the working directory."""
    here = Path.cwd()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
                return folder
    return here


def resolve(path: str | Path) -> Path:
    """An absolute path unchanged except that `~` is expanded; a relative one below `root()`.

    The environment variable DLLM_WEIGHTS, where set, names the folder that replaces `weights/`. So the notebooks can be
    run again, with other seeds or on another disk, beside the first runs.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    weights = os.environ.get("DLLM_WEIGHTS")
    if weights and path.parts[:1] == ("weights",):
        return root() / Path(weights).expanduser() / Path(*path.parts[1:])
    return root() / path
