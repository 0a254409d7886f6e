"""Peak memory of a benchmark's job: on a CPU that of a child process, on a GPU that of PyTorch's allocator."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from dllm_core.workshop.benchmark.timing import torch_threads

RUNS = 3  # of a job whose memory is measured
SAMPLE = 0.4  # seconds between two samples, each of which takes milliseconds of the child's time


def run_child(function: Callable, *arguments, cores: int | None = None) -> tuple[object, int]:
    """Call a function in a new Python process: (its result, peak bytes of the process and its children).

    cores: most cores that the process may use (Linux only). The peak is sampled; a page that several processes share counts once on
    Linux, elsewhere in each. Raises what the function raises.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_use_cores, initargs=(cores,)) as pool:
        process, peak = psutil.Process(pool.submit(os.getpid).result()), 0
        result = pool.submit(function, *arguments)
        while not result.done():
            wait([result], timeout=SAMPLE)
            peak = max(peak, held_memory(process))
        return result.result(), peak


def _use_cores(cores: int | None) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def held_memory(process: psutil.Process) -> int:
    """Bytes used by a process and its children together; 0 when it has ended."""
    held = 0
    with suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            memory = each.memory_full_info()
            held += getattr(memory, "pss", memory.rss)
    return held


def child_peaks(make_job: Callable[[str], Callable], names: Iterable[str], threads: int) -> dict[str, float]:
    """GiB that each job adds to an otherwise empty child process; {} on systems other than Linux.

    make_job: name → job, as a function that can be pickled. threads: of PyTorch.
    """
    if not Path("/proc/self/status").exists():
        return {}
    return {name: run_child(_added_memory, make_job, name, threads)[0] / 2**30 for name in names}


def _added_memory(make_job: Callable[[str], Callable], name: str, threads: int) -> int:
    """Peak bytes that `RUNS` runs of a job add to this process; it must not have used more memory before."""
    with torch_threads(threads):
        job, before = make_job(name), _status("VmRSS")
        for _ in range(RUNS):
            job()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Bytes by /proc/self/status. Not `ru_maxrss`, which a process inherits from the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def device_peaks(device: torch.device, jobs: dict[str, Callable]) -> dict[str, float]:
    """Peak GiB of GPU memory that a run of each job adds to what is allocated before it (weights, optimizer states)."""
    peaks = {}
    for name, job in jobs.items():
        job()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        peaks[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    return peaks
