"""One process at a time trains in a run's folder."""

import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest

from dllm_core.checkpoints.run_lock import take_lock
from dllm_core.common.errors import RunError

HOLD = """
import os, sys, time
from pathlib import Path
from dllm_core.checkpoints.run_lock import take_lock
take_lock(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:
    print("held", os.getppid(), flush=True)
    time.sleep(60)
if sys.argv[2] != "fork":
    print("held", os.getpid(), flush=True)
time.sleep(60)
"""


def holder(folder, mode: str = "") -> tuple[subprocess.Popen, int]:
    """A process that holds the folder's lock, and its id."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), mode], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline().split()[1])


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    process, pid = holder(tmp_path)
    try:
        for keep in (True, False):
            with pytest.raises(RunError, match=f"{tmp_path}: process {pid} trains in this folder: wait .*another run_name"):
                take_lock(tmp_path, keep)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    take_lock(tmp_path, keep=False)
    take_lock(tmp_path)
    assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process(tmp_path):
    process, _ = holder(tmp_path, "fork")
    process.kill()
    process.wait()
    take_lock(tmp_path)  # its child still sleeps
    process.stdout.close()


def test_a_process_may_take_its_lock_again_also_after_a_rename(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    take_lock(folder)
    take_lock(folder)
    folder.rename(tmp_path / "run.old")
    folder.mkdir()
    take_lock(folder)
    take_lock(tmp_path / "run.old")


def test_a_folder_that_was_deleted_and_made_again_is_locked_anew(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    take_lock(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    take_lock(folder)
    assert _refused_elsewhere(folder)


def test_a_forked_process_has_no_lock_of_its_parent(tmp_path):
    take_lock(tmp_path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_is_refused, (tmp_path,))


def _is_refused(folder) -> bool:
    try:
        take_lock(folder)
    except RunError as error:
        return f"process {os.getppid()} trains" in str(error)
    return False


def _refused_elsewhere(folder) -> bool:
    code = f"from pathlib import Path; from dllm_core.checkpoints.run_lock import take_lock; take_lock(Path({str(folder)!r}))"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 1
