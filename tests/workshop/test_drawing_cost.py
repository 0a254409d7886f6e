"""The clock around drawing: counted once, only what draws, and training that runs inside a progress bar not at all."""

import subprocess
import sys

from dllm_core.workshop.drawing_cost import Clock


def test_inner_calls_count_with_the_outermost(monkeypatch):
    now, clock = [0.0], Clock()
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    inner = clock.around(wait)

    def outer():
        wait(1)
        inner(2)

    outer.__qualname__ = "outer"
    clock.around(outer)()
    wait(10)
    inner(4)
    assert clock.spent == {"outer": 3.0, wait.__qualname__: 4.0} and not clock.inside


def test_a_failing_call_counts_and_frees_the_clock(monkeypatch):
    now, clock = [0.0], Clock()
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def fails():
        now[0] += 2
        raise ValueError

    for _ in range(2):
        try:
            clock.around(fails)()
        except ValueError:
            pass
    assert sum(clock.spent.values()) == 4.0 and not clock.inside


WATCHED = """
import time
from dllm_core.workshop import drawing_cost
clock = drawing_cost.watch()
from dllm_core import show
from dllm_core.train import TrainStep
now = [0.0]
time.perf_counter = lambda: now[0]
def training():
    for i in range(3):
        now[0] += 100  # a step's work
        yield TrainStep(i + 1, 1.0, 1e-3, 100, 1.0, 1.0)
def sample(step):
    now[0] += 50
    return "text"
live = show.Live(watched=False)
for step in show.progress(training(), 3, live, sample, 1):
    now[0] += 10
assert {name for name, seconds in clock.spent.items() if seconds} <= {"imports"}, clock.spent  # 160 s a step are not drawing
show.table([{"a": 1}]), show.Live, show.mask_picture([[1]])
assert {"imports", "table", "mask_picture", "Live.update", "Live.close"} <= set(clock.spent), clock.spent
"""


def test_what_draws_is_watched_and_training_is_not(project):
    """In a process of its own: watching cannot be undone."""
    run = subprocess.run([sys.executable, "-c", WATCHED], check=False, cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
