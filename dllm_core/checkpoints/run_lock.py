"""The lock of a run's folder: one process at a time trains in it."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from dllm_core.common.errors import RunError
from dllm_core.common.files import display_path

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
            f"{display_path(folder)}: process {file.read_text() or '(starting)'} trains in this folder: wait until it has "
            "ended (a notebook's: until its kernel is shut down), or choose another run_name"
        ) from error
    if keep:
        file.write_text(str(os.getpid()))
        _held[_identity(file)] = lock
    else:
        lock.release()


def _identity(file: Path) -> tuple[int, int]:
    return file.stat().st_dev, file.stat().st_ino
