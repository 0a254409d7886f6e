"""Times measured side by side: jobs take turns, so that what slows the machine for a moment slows all of them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads of PyTorch while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Spread:
    """median, low, high: over the rounds, of seconds or of the ratio of two jobs within a round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class MeasuredRow:
    """One comparison of the benchmark.

    part: "decode", "train" or "feed". case: the shape of the work in words, as "26M fp32, batch 1, prompt 32, 1 thread".
    name, against: the two jobs; ratio: how many times as fast the first is, round by round. seconds: of each of the two.
    target: what is aimed at, in words ("at least 2.2"), or "". more: further figures by name (each with its unit).
    """

    part: str
    case: str
    name: str
    against: str
    ratio: Spread
    seconds: dict[str, Spread]
    target: str = ""
    more: dict[str, float | str] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def take_turns(
    jobs: dict[str, Callable[[], float | None]], rounds: int = 5, warm: int = 1, device: torch.device | None = None
) -> dict[str, list[float]]:
    """Seconds of each job in each round, after `warm` rounds that do not count; the order turns round every time.

    A job that returns a number has timed itself (to leave out what is not to be counted). On CUDA the device is waited for.
    Raises ValueError for no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: must be at least 1")
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(warm + rounds):
        for name in list(jobs) if number % 2 else list(reversed(jobs)):
            wait()
            began = time.perf_counter()
            own = jobs[name]()
            wait()
            taken = time.perf_counter() - began
            if number >= warm:
                seconds[name].append(taken if own is None else own)
    return seconds


def compared(
    part: str, case: str, name: str, against: str, seconds: dict[str, list[float]], work: dict[str, float] | None = None,
    target: str = "", **more: float | str,
) -> MeasuredRow:  # fmt: skip
    """The row that says how many times as fast `name` is as `against`, both jobs of `take_turns`.

    work: what each job got done (tokens), where that differs; the ratio is then of work per second.
    """
    done = work or {name: 1.0, against: 1.0}
    rounds = zip(seconds[name], seconds[against], strict=True)
    ratios = [(done[name] / own) / (done[against] / other) for own, other in rounds]
    each = {job: Spread.of(seconds[job]) for job in (name, against)}
    return MeasuredRow(part, case, name, against, Spread.of(ratios), each, target, more)
