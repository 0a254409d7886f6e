"""Where the project lies, so that relative paths mean the same from a shell, papermill and JupyterLab."""

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
    """An absolute path as it is, `~` expanded; a relative one counted from `root()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else root() / path
