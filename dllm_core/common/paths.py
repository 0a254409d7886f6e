"""Where the project lies, so that relative paths mean the same in a shell, in papermill and in JupyterLab."""

import os
from pathlib import Path

from dllm_core.common.errors import RunError, UsageError


def root() -> Path:
    """The project's root: the nearest folder at or above the working directory that holds `pyproject.toml` and
    `notebooks/`, otherwise the one above this file, otherwise the working directory. Raises UsageError where that was
    deleted."""
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the working directory was deleted: change to a folder that exists (cd)") from error
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
                return folder
    return here


def resolve(path: str | Path) -> Path:
    """An absolute path unchanged except that `~` is expanded; a relative one below `root()`.

    The environment variable DLLM_WEIGHTS, where set, names the folder that replaces `weights/`. So the notebooks can be
    run again, with other seeds or on another disk, beside the first runs. Raises UsageError where it is a file.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    weights = os.environ.get("DLLM_WEIGHTS")
    if weights and path.parts[:1] == ("weights",):
        folder = root() / Path(weights).expanduser()
        if folder.is_file():
            raise UsageError(f"DLLM_WEIGHTS={weights}: is a file; name a folder, or unset the variable")
        return folder / Path(*path.parts[1:])
    return root() / path


def run_path(name: str | Path, weights: Path | None = None) -> Path:
    """The folder of the run `name`: `x`, `sub/x` and `weights/x` lie below `weights` (default: `resolve("weights")`);
    an absolute path, also one with `~/`, is the folder itself.

    Raises RunError for a name that leaves weights/ (`..`), means it or a folder above it, ends as a file of weights
    does (.pt) or holds blanks at its ends.
    """
    text = str(name)
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    parts = path.parts[1:] if path.parts[:1] == ("weights",) else path.parts
    home = Path(os.path.abspath(weights or resolve("weights")))
    folder = home.joinpath(*parts)
    leaves = ".." in parts or str(path).startswith("~")  # ~somebody, whose home may be anywhere
    is_odd = path.suffix in (".pt", ".pth") or text != text.strip() or not text.isprintable()
    if leaves or is_odd or folder in (home, *home.parents):
        raise RunError(
            f"run_name={text!r}: must name a folder of its own: my_run or sub/my_run (under weights/) or an absolute "
            "path, without `..` and .pt"
        )
    return folder
