"""`dllm sweep`: runs the cells of sweeps through papermill, goes on where it was stopped, draws what came out.

Equal trainings of a seed are done once, whatever sweeps ask for them; each cell is then measured and its record written.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

from dllm_core.cli import main as batch
from dllm_core.cli import scheduler as jobs
from dllm_core.cli.notebook_process import StatusLine
from dllm_core.cli.scheduler import NotebookJob, Stage
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import resolve
from dllm_core.notebook import parameters as known
from dllm_core.workshop.sweeps.files import FOLDER, MEASURE, Sweep, Trial, digest, find

UNWATCHED = {"eval_every": 100_000, "sample_every": 100_000}
ALIKE = {"cpu": {"dtype": "float32"}}  # by scale, of all trainings: "auto" would make results depend on the processor


def runs(sweeps: list[Sweep]) -> dict[str, str]:
    """digest of a training → its run's name, that of the first cell which asks for it: equal trainings are done once."""
    names: dict[str, str] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            for at, training in enumerate(_trainings(cell)):
                last = at == len(cell.steps) - 1
                names.setdefault(training, f"{cell.sweep}-{cell.name}" + ("" if last else f"-{at + 1}"))
    return names


def _trainings(cell: Trial) -> Iterator[str]:
    """A digest for each step, of all that leads to it."""
    for at in range(len(cell.steps)):
        yield digest([cell.steps[: at + 1], cell.seed])


def plan(
    cells: list[Trial], names: dict[str, str], starts: Callable[[Trial], list[NotebookJob]] = lambda cell: []
) -> dict[NotebookJob, Trial | None]:  # fmt: skip
    """The papermill runs that the cells need, each with the cell that it measures (None: a training), in order.

    starts: the stages of the chain that a cell begins from; it waits for them alone."""
    found: dict[str, NotebookJob] = {}
    planned: dict[NotebookJob, Trial | None] = {}
    for cell in cells:
        place, before, run = f"{cell.scale}/seed{cell.seed}", starts(cell), ""
        weights = resolve("weights/sweeps") / place
        for (notebook, given), training in zip(cell.steps, _trainings(cell), strict=True):
            if training not in found:
                given = {**ALIKE.get(cell.scale, {}), **given, "seed": cell.seed, "run_name": names[training]}
                given = _filled(given, run)
                found[training] = _job(f"{names[training]}.{cell.seed}", notebook, given, place, names[training], before, weights)
                planned[found[training]] = None
            before, run = [found[training]], names[training]
        title = f"{cell.sweep}-{cell.name}.measure"
        given = {"checkpoint": "weights/{previous}.pt", **cell.measure, "seed": cell.seed}
        given = _filled({**given, "output": f"runs/sweeps/{place}/{title}d.json"}, run)
        before = list(dict.fromkeys([*starts(cell), *before]))  # it may measure a checkpoint of the chain as well
        planned[_job(f"{title}.{cell.seed}", MEASURE, given, place, title, before, weights)] = cell
    return planned


def _filled(given: dict, run: str) -> dict:
    change = lambda value: os.path.expandvars(value.replace("{previous}", run)) if isinstance(value, str) else value
    return {name: change(value) for name, value in given.items()}


def _job(name: str, notebook: str, given: dict, place: str, title: str, before: list[NotebookJob], weights: Path) -> NotebookJob:
    path = resolve(f"notebooks/{notebook}.ipynb")
    executed = resolve("runs/sweeps") / place / f"{title}.ipynb"
    stage = Stage(name, notebook, title, tuple(job.stage.name for job in before))
    defaults = {key: parameter.default for key, parameter in known.read_parameters(path).items()}
    upstream = tuple(job.record for job in before)
    # One thread each: sums are split by the number of threads, and a cell is to be the same whenever it is run.
    return NotebookJob(stage, path, given, {**defaults, **given}, known.code_of(path), executed, upstream, weights, threads=1)


def record(cell: Trial, job: NotebookJob) -> Path:
    """Write the cell's record from what its measuring notebook wrote."""
    measured = jobs.read(Path(resolve(job.parameters["output"])))
    about = {"sweep": cell.sweep, "cell": cell.name, "label": cell.label, "seed": cell.seed, "key": cell.key}
    steps = [{"notebook": notebook, **given} for notebook, given in cell.steps]
    write_json(cell.path, {**about, "date": date.today().isoformat(), "trained": steps, "asked": cell.measure, **measured})
    return cell.path


def chain_jobs(sweeps: list[Sweep], cells: list[Trial], scale: str) -> list[NotebookJob]:
    """The stages of the chain that unfinished cells start from, at each of their seeds, as `dllm run -p seed N` would
    run them, but on one thread each: what comes out does not depend on what else was running. Fine-tuning is not watched
    on the way: its last weights are taken, and they are the same."""
    asked = {sweep.name: sweep.chain for sweep in sweeps}
    found: list[NotebookJob] = []
    for seed in sorted({cell.seed for cell in cells}):
        names = {name for cell in cells if cell.seed == seed for name in asked[cell.sweep]}
        while more := {need for stage in batch.STAGES if stage.name in names for need in stage.needs} - names:
            names |= more
        if names:
            place = f"{scale}/seed{seed}"
            out, weights = resolve("runs/sweeps") / place / "chain", resolve("weights/sweeps") / place
            chosen = batch.choose(sorted(names), batch.STAGES)
            found += [_of_seed(job, seed, scale) for job in batch.plan(chosen, batch.STAGES, scale, [["seed", str(seed)]], out, weights)]
    return found


def _of_seed(job: NotebookJob, seed: int, scale: str) -> NotebookJob:
    """The stages of several seeds run side by side: each gets its seed into its name."""
    stage = replace(job.stage, name=f"{job.stage.name}.{seed}", needs=tuple(f"{need}.{seed}" for need in job.stage.needs))
    more = ALIKE.get(scale, {}) | (UNWATCHED if job.stage.name.startswith("05") else {})
    return replace(job, stage=stage, threads=1, given=job.given | more, parameters=job.parameters | more)


def execute(sweeps: list[Sweep], cells: list[Trial], names: dict[str, str], options, screen: StatusLine) -> bool:
    """Chains and cells side by side, then the cells that are timed, one by one. True when all came through."""
    chain, needed = chain_jobs(sweeps, cells, options.preset), {sweep.name: sweep.chain for sweep in sweeps}
    own = lambda cell: {f"{stage}.{cell.seed}" for stage in needed[cell.sweep]}
    starts = lambda cell: [job for job in chain if job.stage.name in own(cell)]
    alone, states = {sweep.name for sweep in sweeps if sweep.text.get("alone")}, {}
    for timed, at_once in ((False, options.jobs), (True, 1)):
        planned = plan([cell for cell in cells if (cell.sweep in alone) is timed], names, starts)
        keep = lambda job, planned=planned: planned.get(job) and record(planned[job], job)
        states |= jobs.run_jobs([*([] if timed else chain), *planned], at_once, False, screen, keep, longest_first=False)[0]
        if lost := [job.stage.name for job in chain if states[job.stage.name] in ("failed", "not run")]:
            screen.say(f"what is timed is not run: of the chain {', '.join(lost)} did not come through")
            break
    return not {"failed", "not run"} & set(states.values())


def _only(sweeps: list[Sweep], options: argparse.Namespace) -> list[Trial]:
    """The cells that --cells and --seeds leave. Raises Problem for a cell or a seed that none of the sweeps has."""
    cells = [cell for sweep in sweeps for cell in sweep.cells]
    for flag, asked, name in (("--cells", options.cells, "name"), ("--seeds", options.seeds, "seed")):
        there = {str(getattr(cell, name)) for cell in cells}
        wanted = set(asked.split(",")) if asked else there
        if lost := wanted - there:
            raise UsageError(f"{flag}: {min(lost)!r} is in none of these sweeps; there are {', '.join(sorted(there))}")
        cells = [cell for cell in cells if str(getattr(cell, name)) in wanted]
    return cells


def _log(options, cells: list[Trial], seconds: float) -> None:
    """One line for each invocation that ran something: the sum of its seconds is what the sweeps took."""
    if not cells:
        return
    line = {"date": date.today().isoformat(), "seconds": round(seconds), "jobs": options.jobs, "scale": options.preset,
            "cells": sorted({f"{c.sweep}/{c.name}.seed{c.seed}" for c in cells if c.done})}  # fmt: skip
    path = resolve(FOLDER) / "records/log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said after `dllm sweep`."""
    parser.add_argument("names", nargs="*", help=f"all (but what is by_name), or files of {FOLDER} without .yaml")
    parser.add_argument("--jobs", type=int, default=2, help="papermill runs side by side, one thread each (default: 2)")
    parser.add_argument("--preset", default="cpu", help="scale: cpu (default), h100, smoke")
    parser.add_argument("--cells", help="only these cells, with commas between them")
    parser.add_argument("--seeds", help="only these seeds, with commas between them")
    parser.add_argument("--force", action="store_true", help="train and measure again also what has its record")
    parser.add_argument("--list", action="store_true", help="say which cells have their record, and run nothing")


def sweep(options: argparse.Namespace, screen: StatusLine) -> int:
    """`dllm sweep`. Exit code 0: every cell has its record; 1: a cell failed. Raises Problem."""
    began, everything = time.time(), find([], options.preset)
    sweeps = [one for one in find(options.names, options.preset) if one.name in options.names or not one.text.get("by_name")]
    chosen = _only(sweeps, options)
    for sweep in sweeps:
        mine = [cell for cell in chosen if cell.sweep == sweep.name]
        state = f"skipped: set {sweep.missing} to its folder" if sweep.missing else sweep.text["title"]
        screen.say(f"{sweep.name:14}{sum(cell.done for cell in mine):3} of {len(mine):3} cells done   {state}")
    lacking = {sweep.name for sweep in sweeps if sweep.missing}
    cells = [c for c in chosen if c.sweep not in lacking and (options.force or not c.done)]
    if options.list:
        for cell in cells:
            screen.say(f"  would run {cell.sweep} {cell.name}, seed {cell.seed}")
        return 0
    if options.force:  # forgotten at once, so that the same command without --force goes on from a stop
        for cell in cells:
            cell.path.unlink(missing_ok=True)
        for job in [*chain_jobs(sweeps, cells, options.preset), *plan(cells, runs(everything))]:
            job.record.unlink(missing_ok=True)
    try:
        sound = execute(sweeps, cells, runs(everything), options, screen)
    finally:  # also of a run that was stopped: the page sums them up
        _log(options, cells, time.time() - began)
    for sweep in sweeps:
        if sweep.cells and all(cell.done for cell in sweep.cells):
            from dllm_core.workshop.sweeps.drawing import draw

            screen.say(f"{sweep.name:14}{display_path(draw(sweep))}")
    return int(not sound)
