"""Who may train in a run's folder: one process at a time, and only where the folder is empty or holds a run."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from dllm_core.common.errors import RunError
from dllm_core.common.files import display_path, read_json

NAME = ".lock"

_held: dict[tuple[int, int], FileLock] = {}  # (device, inode) of a lock file → its lock; the folder may be renamed


def take_lock(folder: Path, keep: bool = True) -> None:
    """Hold the lock of an existing folder until this process ends, or without `keep` only look whether it is free.

    A process may take its lock again; a forked child does not inherit it. Raises RunError that names the process which
    holds it.
    """
    file = folder / NAME
    if file.is_file() and _identity(file) in _held and _held[_identity(file)].is_locked:
        return
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(
            f"{display_path(folder)}: process {file.read_text() or '(starting)'} trains in this folder: wait until it "
            "has ended (a notebook's: until its kernel is shut down), or choose another run_name"
        ) from error
    if keep:
        file.write_text(str(os.getpid()))
        _held[_identity(file)] = lock
    else:
        lock.release()


def read_run(folder: Path) -> dict:
    """The config.json of the run in a folder; {} where nothing is. Raises RunError for anything but a run."""
    for above in folder.parents:
        if (above / NAME).is_file() and (above / "config.json").is_file():  # which may be set aside
            raise RunError(f"{display_path(folder)}: lies in the folder of another run; choose another run_name")
    file, advice = folder / "config.json", "choose another run_name, or move the folder away"
    entries = folder.iterdir() if folder.is_dir() else ([folder] if folder.exists() else [])
    if all(entry.name == NAME or entry.suffix == ".partial" for entry in entries):
        return {}
    try:
        config = read_json(file, RunError) if file.is_file() else {}
    except RunError as error:
        raise RunError(f"{error}: {advice}") from error
    record = config.get("dllm")
    parts = [record.get(name, {}) for name in ("settings", "starts_from")] if isinstance(record, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise RunError(f"{display_path(folder)}: holds files, but no run of this project: {advice}")
    return config


def check_free(folder: Path) -> None:
    """Raises RunError when no training can begin in a folder: not a run, another process trains there, read-only."""
    above = next(above for above in (folder, *folder.parents) if above.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise RunError(f"{display_path(folder)}: cannot be written, {above} is a file or read-only")
    if read_run(folder):
        take_lock(folder, keep=False)


def _identity(file: Path) -> tuple[int, int]:
    return file.stat().st_dev, file.stat().st_ino
