"""Timing of jobs that take turns, so that a slow moment of the machine affects all of them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


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


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within it PyTorch uses `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    before and after each job. Raises ValueError for no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: must be at least 1")
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
    part: str, case: str, name: str, against: str, seconds: dict[str, list[float]],
    work: dict[str, float] | None = None, target: str = "", **more: float | str,
) -> dict:  # fmt: skip
    """A comparison of two jobs of `take_turns`, a row of a record: how many times as fast `name` is as `against`.

    part: the setting's, or "PART along AXIS" for a point of a curve. case: the shape of the work in words, as "26m
    float32, 1 thread, batch 1, prompt 32". work: the amount of work of each job (tokens), where the amounts differ.
    target: the aim in words ("at least 2.2"), or "". more: further figures by name, each name with its unit.
    The row holds these under their names, "ratio", of work per second within a round, and the "seconds" of both jobs;
    each as `spread` over the rounds.
    """
    work = work or {name: 1.0, against: 1.0}
    rounds = zip(seconds[name], seconds[against], strict=True)
    ratio = spread([(work[name] / first) / (work[against] / second) for first, second in rounds])
    both = {job: spread(seconds[job]) for job in (name, against)}
    return {
        "part": part, "case": case, "name": name, "against": against,
        "ratio": ratio, "seconds": both, "target": target, "more": more,
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}
