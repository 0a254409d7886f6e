"""A text file through the tokenizer on all cores, in order, in bounded memory, with a progress_bar that says how far.

Each process takes a chunk of lines, parses and tokenises it on one thread; this process only reads and collects. So the
parts in Python (JSON, chat templates) are done in parallel as well, which the tokenizer's own threads would leave to
one core, and at most two chunks a process are in memory however large the file is.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.progress_bar import progress_bar

CHUNK = 2**18  # bytes of text tokenised together: enough that handing over costs nothing, little enough for the caches
LARGE = 4e6  # bytes from which a file is worth starting processes for
MOST = 32  # processes at most: about as many as one can feed
THREADS = "TOKENIZERS_PARALLELISM"
BOM = b"\xef\xbb\xbf"  # the mark some editors write

Lines = list[tuple[int, bytes]]  # (line number from 1, bytes of the line), blank lines left out


def chunks_of_lines(path: Path, limit: int | None = None) -> Iterator[tuple[Lines, int]]:
    """(lines, bytes read so far) for each `CHUNK` of the file; limit: at most so many lines that are not blank.

    Raises DataError when the file holds no line.
    """
    read, number, found = 0, 1, 0
    most = sys.maxsize if limit is None else limit
    with open(path, "rb") as file:
        while found < most and (raw := file.readlines(CHUNK)):
            read += sum(map(len, raw))
            if number == 1:
                raw[0] = raw[0].removeprefix(BOM)
            lines = [(n, line) for n, line in enumerate(raw, number) if line and not line.isspace()][: most - found]
            number += len(raw)
            found += len(lines)
            if lines:
                yield lines, read
    if not found and most > 0:
        raise DataError(f"{path}: the file is empty; expected one JSON object a line")


def in_order(path: Path, work: Callable, limit: int | None) -> Iterator:
    """`work(lines)` of each chunk of the file, in the file's order.

    On Linux a large file is shared out to one process a core, whose first error is raised here, that of the earliest
    line; elsewhere (starting processes there runs the user's script anew) the tokenizer's own threads must do.
    Raises DataError when the file holds no line, or when the system ends one of the processes.
    """
    size = path.stat().st_size
    processes = min(MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" and size >= LARGE else 1
    chunks = chunks_of_lines(path, limit)
    told = f"Tokenising {path.name}"
    # Two seconds' grace: what is done by then needs no progress_bar.
    with progress_bar(size if limit is None else None, told, unit="B", unit_scale=True, delay=2) as shown:
        for result, read in _shared_out(path, work, chunks, processes) if processes > 1 else _alone(work, chunks):
            shown.update(read - shown.n)
            yield result


def _alone(work: Callable, chunks: Iterator[tuple[Lines, int]]) -> Iterator[tuple[object, int]]:
    for lines, read in chunks:
        yield work(lines), read


def _shared_out(path: Path, work: Callable, chunks, processes: int) -> Iterator[tuple[object, int]]:
    given = os.environ.get(THREADS)
    os.environ[THREADS] = "false"  # said before the processes begin, else the tokenizer warns of each
    # By fork, so that `work` need not be pickled; it touches neither torch nor the tokenizer's threads.
    pool = ProcessPoolExecutor(processes, get_context("fork"), _begin, (work,))
    under_way: deque = deque()
    try:
        for lines, read in chunks:
            under_way.append((pool.submit(_do, lines), read))
            if len(under_way) == 2 * processes:
                future, reached = under_way.popleft()
                yield future.result(), reached
        for future, reached in under_way:
            yield future.result(), reached
    except BrokenProcessPool as error:
        raise DataError(
            f"{path}: a process that tokenised it was ended by the system, mostly for want of memory; nothing of it "
            "was kept. Free some memory and run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop(THREADS)
        if given is not None:
            os.environ[THREADS] = given


_work: Callable | None = None  # of a process that tokenises


def _begin(work: Callable) -> None:
    """A process begins: Ctrl-C is its parent's affair, and it does not outlive a parent that was killed."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _do(lines: Lines) -> object:
    return _work(lines)
