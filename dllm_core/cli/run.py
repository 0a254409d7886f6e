"""`dllm run`: the notebooks of the chain through papermill, in order and strict about every parameter."""

import argparse
import time

from dllm_core.checkpoints.run_lock import check_free
from dllm_core.cli import stages
from dllm_core.cli.scheduler import run_jobs
from dllm_core.cli.stages import NotebookJob, choose, plan
from dllm_core.cli.status_line import StatusLine
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm run`."""
    names = " ".join(stage.name for stage in stages.STAGES)
    parser.add_argument("stages", nargs="*", metavar="NN", help=f"all, or any of {names}")
    parser.add_argument(
        "--preset", default="cpu", help="folder of notebooks/presets; cpu: the notebooks' own (default)"
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")
    parser.add_argument("--out", help="folder of the executed notebooks (default: runs/PRESET)")
    parser.add_argument("--jobs", type=int, default=1, help="stages to run side by side (default: 1)")
    parser.add_argument("--force", action="store_true", help="also run what has its result")
    parser.add_argument("--list", action="store_true", help="say what would run and why, and run nothing")
    parser.add_argument("--parameters", action="store_true", help="show the parameters, and run nothing")


def run(options: argparse.Namespace) -> int:
    """Exit code 0: every stage has its result; 1: a stage failed. Before anything has run, raises UsageError, and
    RunError for a run's folder that cannot be trained in."""
    if options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {options.jobs}")
    if not (options.stages or options.list or options.parameters):
        raise UsageError(f"which stages? all, or any of {' '.join(stage.name for stage in stages.STAGES)}")
    began, screen = time.monotonic(), StatusLine()
    out = resolve(options.out or f"runs/{options.preset}")
    jobs = plan(choose(options.stages or ["all"], stages.STAGES), stages.STAGES, options.preset, options.p, out)
    for name, _ in options.p:
        screen.say(f"-p {name} goes to {', '.join(job.stage.name for job in jobs if name in job.overrides)}")
    if options.parameters:
        _print_parameters(jobs)
        return 0
    if options.list:
        _print_outlook(jobs)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if job.run_folder and job.parameters.get("train") and (options.force or job.why_stale()):
            check_free(job.run_folder)
    results, peak = run_jobs(jobs, options.jobs, options.force, screen)
    table = {}
    for job in jobs:
        name = job.stage.name
        state, record = results[name].state, results[name].record
        table[name] = {"state": state, **{key: record[key] for key in ("seconds", "memory_gib") if key in record}}
        numbers = f"{record['seconds']:8.1f} s {record['memory_gib']:6.2f} GiB" if record else ""
        screen.say(f"{name:12}{state:8}{numbers}")
    seconds, gib = round(time.monotonic() - began, 1), round(peak / 2**30, 2)
    summary = {"preset": options.preset, "jobs": options.jobs, "seconds": seconds, "memory_gib": gib, "stages": table}
    path = write_json(out / "summary.json", summary)
    screen.say(f"{'together':20}{seconds:8.1f} s {gib:6.2f} GiB at most  ({display_path(path)})")
    return int(any(result.failed for result in results.values()))


def _print_parameters(jobs: list[NotebookJob]) -> None:
    """`--parameters`: what can be set, of which type, and its value in this run."""
    for job in jobs:
        print(f"{job.stage.name}  {display_path(job.notebook)}")
        for name, parameter in job.declared.items():
            origin = "  (given)" if name in job.overrides else ""
            comment = f"  # {parameter.help}" if parameter.help else ""
            print(f"  {name}: {parameter.type.__name__} = {job.parameters[name]!r}{origin}{comment}")


def _print_outlook(jobs: list[NotebookJob]) -> None:
    """`--list`: what would run now, and why."""
    stale = set()
    for job in jobs:
        first = [name for name in job.stage.needs if name in stale]
        reason = job.why_stale() or (f"{', '.join(first)} runs first" if first else "")
        if reason:
            stale.add(job.stage.name)
        state = f"would run: {reason}" if reason else "has its result"
        print(f"{job.stage.name:12}{display_path(job.notebook):40}{state}")
