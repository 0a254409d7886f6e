"""Where the project lies, so that relative paths mean the same from a shell, papermill and JupyterLab."""

import os
from pathlib import Path


def root() -> Path:
    """The project's root: the nearest folder at or above the working directory, else above this file, that is the
    project (holds both `pyproject.toml` and `notebooks/`); the working directory when there is none."""
    here = Path.cwd()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
                return folder
    return here


def resolve(path: str | Path) -> Path:
    """An absolute path as it is, `~` expanded; a relative one counted from `root()`.

    The environment variable DLLM_WEIGHTS, where set, names the folder that stands for `weights/`: so a chain can be
    run again (other seeds, other machines' disks) beside the first.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    elsewhere = os.environ.get("DLLM_WEIGHTS")
    if elsewhere and path.parts[:1] == ("weights",):
        return root() / Path(elsewhere).expanduser() / Path(*path.parts[1:])
    return root() / path
