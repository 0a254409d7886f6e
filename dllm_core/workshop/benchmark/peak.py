"""Peak memory of a benchmark's job: on a CPU a process's, so each job has one of its own; on a GPU the allocator tells."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from dllm_core.workshop.benchmark.timing import torch_threads

RUNS = 3


def apart(module: str, asked: dict[str, list], threads: int) -> dict[str, float]:
    """GiB that `RUNS` runs of each job add to a process in which nothing else has run; nothing but on Linux.

    module: one of this package with a function `alone(*arguments)`, which gives a job; asked: name → its arguments.
    """
    if not Path("/proc/self/status").exists():
        return {}
    package = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    found = {}
    for name, arguments in asked.items():
        command = [sys.executable, "-m", "dllm_core.workshop.benchmark.peak", json.dumps([module, arguments, threads])]
        out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = json.loads(out.splitlines()[-1]) / 2**30
    return found


def on_device(device: torch.device, jobs: dict[str, Callable]) -> dict[str, float]:
    """GiB of GPU memory at most that a run of each job takes beside what lies there before (weights, optimisers)."""
    found = {}
    for name, job in jobs.items():
        job()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        job()
        found[name] = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    return found


def added(job: Callable) -> int:
    """Bytes of this process at most beside those before the job; for a process that has done nothing greater (Linux)."""
    before = _status("VmRSS")
    for _ in range(RUNS):
        job()
    return _status("VmHWM") - before


def _status(what: str) -> int:
    """Bytes by /proc/self/status. Not `ru_maxrss`, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


if __name__ == "__main__":
    name, given, count = json.loads(sys.argv[1])
    with torch_threads(count):
        print(json.dumps(added(import_module(f"dllm_core.workshop.benchmark.{name}").alone(*given))))
