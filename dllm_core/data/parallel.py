"""A function over the lines of a text file on all cores: results in order, memory bounded, with a progress bar.

Each process parses and tokenizes chunks of lines on one thread; the parent process only reads and collects. So the work
in Python (JSON, chat templates) is parallel too; the tokenizer's threads would leave it on one core. At most two chunks
per process are in memory, for a file of any size.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from dllm_core.common.errors import DataError
from dllm_core.common.progress_bar import progress_bar

CHUNK = 2**18  # bytes of text per chunk: large enough to make the transfer cheap, small enough for the caches
LARGE = 4e6  # bytes from which starting processes pays off
MAX_PROCESSES = 32  # about as many as one process can feed
THREADS = "TOKENIZERS_PARALLELISM"
BOM = b"\xef\xbb\xbf"  # the byte order mark that some editors write

Lines = list[tuple[int, bytes]]  # (line number from 1, bytes of the line), without blank lines
Result = TypeVar("Result")


def chunks_of_lines(path: Path) -> Iterator[tuple[Lines, int]]:
    """(lines, bytes read so far) for each `CHUNK` of the file.

    Raises DataError when the file has no line.
    """
    read, number, empty = 0, 1, True
    with open(path, "rb") as file:
        while raw := file.readlines(CHUNK):
            read += sum(map(len, raw))
            if number == 1:
                raw[0] = raw[0].removeprefix(BOM)
            lines = [(n, line) for n, line in enumerate(raw, number) if line and not line.isspace()]
            number += len(raw)
            if lines:
                empty = False
                yield lines, read
    if empty:
        raise DataError(f"{path}: the file is empty; expected one JSON object per line")


def map_lines(path: Path, work: Callable[[Lines], Result]) -> Generator[Result, None, None]:
    """`work(lines)` for each chunk of the file, in the file's order.

    On Linux a large file is divided among one process per core; the first error in the file's order is raised here. On
    other systems a new process would run the user's script again, so only the tokenizer's threads are used.
    Raises DataError when the file has no line, or when the system kills one of the processes.
    """
    size = path.stat().st_size
    processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0))) if sys.platform == "linux" and size >= LARGE else 1
    chunks = chunks_of_lines(path)
    if processes > 1:
        results = _in_processes(path, work, chunks, processes)
    else:
        results = ((work(lines), read) for lines, read in chunks)
    # delay: no bar for work of less than two seconds
    with progress_bar(size, f"Tokenizing {path.name}", unit="B", unit_scale=True, delay=2) as bar:
        for result, read in results:
            bar.update(read - bar.n)
            yield result


def _in_processes(path: Path, work: Callable, chunks, processes: int) -> Iterator[tuple[object, int]]:
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "false"  # set before the processes start, otherwise the tokenizer warns in each
    # By fork, so that `work` need not be pickled; it touches neither torch nor the tokenizer's threads.
    pool = ProcessPoolExecutor(processes, get_context("fork"), _start_process, (work,))
    pending: deque = deque()
    try:
        for lines, read in chunks:
            pending.append((pool.submit(_work_on, lines), read))
            if len(pending) == 2 * processes:
                future, reached = pending.popleft()
                yield future.result(), reached
        for future, reached in pending:
            yield future.result(), reached
    except BrokenProcessPool as error:
        raise DataError(
            f"{path}: the system ended a process that tokenized this file, probably because memory ran out; nothing was "
            "kept. Free some memory and run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop(THREADS)
        if before is not None:
            os.environ[THREADS] = before


_work: Callable | None = None  # in a process of the pool: the function that it calls on lines


def _start_process(work: Callable) -> None:
    """Prepare a process of the pool: it ignores Ctrl-C, which its parent handles, and exits when the parent is gone."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work_on(lines: Lines) -> object:
    return _work(lines)
