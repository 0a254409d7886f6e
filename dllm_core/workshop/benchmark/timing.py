"""Timing of jobs that take turns, so that a slow moment of the machine affects all of them; and their peak memory.

Memory is on a CPU that of a child process, on a GPU that of PyTorch's allocator.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from dllm_core.config import ModelConfig

SHAPES = {
    "tiny": ModelConfig(6400, 128, 4, 4, intermediate_size=384, max_position_embeddings=4096),  # the laptop's
    "26m": ModelConfig(6400, 512, 8, 8, max_position_embeddings=4096),  # MiniMind's
    "100m": ModelConfig(6400, 768, 16, 8, max_position_embeddings=4096),  # MiniMind's larger one
}
RUNS = 3  # of a job whose memory is measured
SAMPLE = 0.4  # seconds between two samples, each of which takes milliseconds of the child's time


@dataclass(frozen=True)
class Setting:
    """What a record measures. part: "train", "decode" or "feed"; dtype: "" for feeding; threads: of PyTorch on the CPU;
    rounds: turns of every job; quick: little work, to check that it runs."""

    part: str
    shape: str
    dtype: str
    threads: int
    rounds: int
    quick: bool = False

    @property
    def words(self) -> str:
        return f"{self.shape} {self.dtype}, {plural(self.threads, 'thread')}"


def plural(count: int, noun: str) -> str:
    """1, "thread" → "1 thread"; 2, "process" → "2 processes"."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}es" if noun.endswith("s") else f"{count} {noun}s"


def take_turns(
    jobs: dict[str, Callable[[], float | None]], rounds: int = 5, warm: int = 1, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Seconds of each job in each round, after `warm` rounds that do not count; every round reverses the order.

    A job that returns a number has timed itself (to leave out what must not count). A CUDA device is synchronized
    before and after each job.
    """
    synchronize = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(warm + rounds):
        for name in list(jobs) if number % 2 else list(reversed(jobs)):
            synchronize()
            began = time.perf_counter()
            by_itself = jobs[name]()
            synchronize()
            elapsed = time.perf_counter() - began
            if number >= warm:
                seconds[name].append(elapsed if by_itself is None else by_itself)
    return seconds


def compare(
    part: str,
    case: str,
    name: str,
    against: str,
    seconds: dict[str, list[float]],
    target: str = "",
    **more: float | str,
) -> dict:
    """A comparison of two jobs of `take_turns`, a row of a record: how many times as fast `name` is as `against`.

    part: the setting's, or "PART along AXIS" for a point of a curve. case: the shape of the work in words, as "26m
    float32, 1 thread, batch 1, prompt 32". target: the aim in words ("at least 2.2"), or "". more: further figures by
    name, each name with its unit. The row holds these under their names, "ratio", taken within each round, and the
    "seconds" of both jobs; each as `spread` over the rounds.
    """
    ratio = spread([other / own for own, other in zip(seconds[name], seconds[against], strict=True)])
    both = {job: spread(seconds[job]) for job in (name, against)}
    return {
        "part": part, "case": case, "name": name, "against": against,
        "ratio": ratio, "seconds": both, "target": target, "more": more,
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def run_child(function: Callable, *arguments, cores: int | None = None) -> tuple[object, int]:
    """Call a function in a new Python process: (its result, peak bytes of the process and its children).

    cores: most cores that the process may use (Linux only). The peak is sampled; a page that several processes share
    counts once on Linux, elsewhere in each. Raises what the function raises.
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
    with contextlib.suppress(psutil.Error):
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
    torch.set_num_threads(threads)
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
