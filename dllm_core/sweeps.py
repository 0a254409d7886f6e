"""Sweeps: `dllm sweep` runs the ablations of notebooks/sweeps through papermill, goes on where it was stopped, draws them.

A sweep is one YAML file: a question, how each of its cells is trained, what is then measured. A cell at one seed is
finished when its record lies in notebooks/sweeps/records, a small file to commit; what was trained for it is not kept.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from dllm_core import batch, jobs
from dllm_core import parameters as known
from dllm_core.jobs import Job, Stage
from dllm_core.parameters import Problem
from dllm_core.paths import resolve
from dllm_core.running import Screen

FOLDER = "notebooks/sweeps"
MEASURE = "sweeps/measure"
KEYS = {"title", "question", "answer", "order", "seeds", "chain", "train", "measure", "cells", "tables", "figure",
        "paired", "alone", "environment"}  # fmt: skip
SCALES = ("cpu", "h100", "smoke")
STEP_KEYS = {"notebook", "preset", "cells", "given", *SCALES}


@dataclass(frozen=True)
class Cell:
    """One line of a sweep at one seed. steps: (notebook, what it is given) of each training, in order; `{previous}` in a
    value stands for the run of the step before. measure: what the measuring notebook is given."""

    sweep: str
    name: str
    label: str
    seed: int
    steps: tuple[tuple[str, dict], ...]
    measure: dict
    scale: str = "cpu"

    @property
    def key(self) -> str:
        """A digest of everything the cell was asked; a record with another key is of another question."""
        return _digest([self.steps, self.measure, self.seed])

    @property
    def path(self) -> Path:
        """Where its record lies."""
        folder = resolve(FOLDER) / "records" / ("" if self.scale == "cpu" else self.scale) / self.sweep
        return folder / f"{self.name}.seed{self.seed}.json"

    @property
    def done(self) -> bool:
        return jobs.read(self.path).get("key") == self.key


@dataclass(frozen=True)
class Sweep:
    """A YAML file of notebooks/sweeps, read and checked. `text` holds its words, tables and figure."""

    name: str
    text: dict
    seeds: tuple[int, ...]
    chain: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def missing(self) -> str:
        """The environment variable that has to name a folder and does not; empty when there is none."""
        name = self.text.get("environment", "")
        return name if name and not Path(os.environ.get(name) or "/nonexistent").is_dir() else ""

    def records(self) -> list[dict]:
        """The records of the finished cells, in the order of the file."""
        return [jobs.read(cell.path) for cell in self.cells if cell.done]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read(path: Path, scale: str = "cpu") -> Sweep:
    """The sweep of a file at a scale (cpu, h100, smoke). Raises Problem that names file and key."""
    try:
        text = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Problem(f"{path}: the sweep cannot be read ({error})") from error
    lacking = {"title", "question", "measure", "cells"} - set(text if isinstance(text, dict) else ())
    if lacking:
        raise Problem(f"{path}: a sweep needs {', '.join(sorted(lacking))}")
    if extra := set(text) - KEYS:
        raise Problem(f"{path}: {min(extra)}: no such key; there are {', '.join(sorted(KEYS))}")
    seeds, train = tuple(text.get("seeds", (0, 1, 2))), text.get("train", [])
    for name in text.get("chain", ()):
        if name not in {stage.name for stage in batch.STAGES}:
            raise Problem(f"{path}: chain: {name!r} is no stage of the chain, written in quotes, such as \"03\" or 05-llada2")
    cells = []
    for name, own in text["cells"].items():
        if not re.fullmatch(r"[a-z0-9.+-]+", str(name)):
            raise Problem(f"{path}: cell {name!r}: a name is made of small letters, digits, '.', '+' and '-'")
        own = dict(own or {})
        label, used = own.pop("label", str(name)), set()
        steps = tuple((step["notebook"], _given(path, step, own, scale, used))
                      for step in train if name in step.get("cells", text["cells"]))  # fmt: skip
        asked = {key: value for key, value in text["measure"].items() if key not in SCALES}
        at_scale = {key: value for key, value in text["measure"].items() if key in SCALES}
        measure = _given(path, {"notebook": MEASURE, "given": asked, **at_scale}, own, scale, used)
        if unused := set(own) - used:
            unused = min(unused)
            raise Problem(f"{path}: cell {name}: {unused}: none of the notebooks it runs has such a parameter")
        cells += [Cell(path.stem, str(name), label, seed, steps, measure, scale) for seed in seeds]
    return Sweep(path.stem, text, seeds, tuple(text.get("chain", ())), tuple(cells))


def _given(path: Path, step: dict, own: dict, scale: str, used: set) -> dict:
    """What a notebook is given: its preset at this scale, the step's values, the cell's; each checked against it."""
    if extra := set(step) - STEP_KEYS:
        raise Problem(f"{path}: train: {min(extra)}: no such key; there are {', '.join(sorted(STEP_KEYS))}")
    declared = known.declared(resolve(f"notebooks/{step['notebook']}.ipynb"))
    preset = resolve(f"notebooks/presets/{scale}/{step.get('preset') or step['notebook']}.yaml")
    given = known.from_file(preset, declared) if preset.exists() else {}
    own = {name: value for name, value in own.items() if name in declared}
    used.update(own)
    for name, value in {**step.get("given", {}), **step.get(scale, {}), **own}.items():
        where = f"{path}: {step['notebook']}"
        if name not in declared:
            raise Problem(f"{where}: {name}: {known.unknown(name, set(declared))}")
        known.check(declared[name], value, where)
        given[name] = value
    return given


def find(names: list[str], scale: str = "cpu") -> list[Sweep]:
    """The sweeps of these names, or all, in their order. Raises Problem for a name that means none."""
    there = {path.stem: path for path in resolve(FOLDER).glob("*.yaml")}
    for name in names:
        if name not in (*there, "all"):
            raise Problem(f"no sweep {name!r} in {FOLDER}; there are {', '.join(sorted(there))}")
    chosen = there if not names or "all" in names else names
    return sorted((read(there[name], scale) for name in chosen), key=lambda sweep: (sweep.text.get("order", 99), sweep.name))


def runs(sweeps: list[Sweep]) -> dict[str, str]:
    """digest of a training → its run's name, that of the first cell which asks for it: equal trainings are done once."""
    names: dict[str, str] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            for at, digest in enumerate(_trainings(cell)):
                last = at == len(cell.steps) - 1
                names.setdefault(digest, f"{cell.sweep}-{cell.name}" + ("" if last else f"-{at + 1}"))
    return names


def _trainings(cell: Cell) -> Iterator[str]:
    """A digest for each step, of all that leads to it."""
    for at in range(len(cell.steps)):
        yield _digest([cell.steps[: at + 1], cell.seed])


def plan(cells: list[Cell], names: dict[str, str]) -> dict[Job, Cell | None]:
    """The papermill runs that the cells need, each with the cell that it measures (None: a training), in order."""
    found: dict[str, Job] = {}
    planned: dict[Job, Cell | None] = {}
    for cell in cells:
        place, before, run = f"{cell.scale}/seed{cell.seed}", None, ""
        weights = resolve("weights/sweeps") / place
        for (notebook, given), digest in zip(cell.steps, _trainings(cell), strict=True):
            if digest not in found:
                given = _filled({**given, "seed": cell.seed, "run_name": names[digest]}, run)
                found[digest] = _job(f"{names[digest]}.{cell.seed}", notebook, given, place, names[digest], before, weights)
                planned[found[digest]] = None
            before, run = found[digest], names[digest]
        title = f"{cell.sweep}-{cell.name}.measure"
        given = {"checkpoint": "weights/{previous}.pt", **cell.measure, "seed": cell.seed}
        given = _filled({**given, "output": f"runs/sweeps/{place}/{title}d.json"}, run)
        planned[_job(f"{title}.{cell.seed}", MEASURE, given, place, title, before, weights)] = cell
    return planned


def _filled(given: dict, run: str) -> dict:
    change = lambda value: os.path.expandvars(value.replace("{previous}", run)) if isinstance(value, str) else value
    return {name: change(value) for name, value in given.items()}


def _job(name: str, notebook: str, given: dict, place: str, title: str, before: Job | None, weights: Path) -> Job:
    path = resolve(f"notebooks/{notebook}.ipynb")
    executed = resolve("runs/sweeps") / place / f"{title}.ipynb"
    stage = Stage(name, notebook, title, (before.stage.name,) if before else ())
    defaults = {key: parameter.default for key, parameter in known.declared(path).items()}
    upstream = (before.record,) if before else ()
    # One thread each: sums are split by the number of threads, and a cell is to be the same whenever it is run.
    return Job(stage, path, given, {**defaults, **given}, known.code_of(path), executed, upstream, weights, threads=1)


def record(cell: Cell, job: Job) -> Path:
    """Write the cell's record from what its measuring notebook wrote."""
    measured = jobs.read(Path(resolve(job.parameters["output"])))
    about = {"sweep": cell.sweep, "cell": cell.name, "label": cell.label, "seed": cell.seed, "key": cell.key}
    steps = [{"notebook": notebook, **given} for notebook, given in cell.steps]
    jobs.write(cell.path, {**about, "date": date.today().isoformat(), "trained": steps, "asked": cell.measure, **measured})
    return cell.path


def chain_jobs(sweeps: list[Sweep], cells: list[Cell], scale: str) -> Iterator[list[Job]]:
    """For each seed, the stages of the chain that unfinished cells start from, as `dllm run -p seed N` would run them."""
    asked = {sweep.name: sweep.chain for sweep in sweeps}
    for seed in sorted({cell.seed for cell in cells}):
        names = {name for cell in cells if cell.seed == seed for name in asked[cell.sweep]}
        while more := {need for stage in batch.STAGES if stage.name in names for need in stage.needs} - names:
            names |= more
        if names:
            place = f"{scale}/seed{seed}"
            out, weights = resolve("runs/sweeps") / place / "chain", resolve("weights/sweeps") / place
            chosen = batch.choose(sorted(names), batch.STAGES)
            yield batch.plan(chosen, batch.STAGES, scale, [["seed", str(seed)]], out, weights)


def execute(sweeps: list[Sweep], cells: list[Cell], names: dict[str, str], options, screen: Screen) -> bool:
    """Chains first, then the cells side by side, then those that are timed, one by one. True when all came through."""
    states = []
    for chain in chain_jobs(sweeps, cells, options.preset):
        screen.say(f"the chain under {jobs.shown(chain[0].weights)}")
        states += jobs.run(chain, options.jobs, False, screen)[0].values()
    if {"failed", "not run"} & set(states):
        return False
    timed = {sweep.name for sweep in sweeps if sweep.text.get("alone")}
    for at_once, part in ((options.jobs, [c for c in cells if c.sweep not in timed]), (1, [c for c in cells if c.sweep in timed])):
        planned = plan(part, names)
        keep = lambda job, planned=planned: planned[job] and record(planned[job], job)
        states += jobs.run(list(planned), at_once, False, screen, keep, longest_first=False)[0].values()
    return not {"failed", "not run"} & set(states)


def _only(sweep: Sweep, options) -> list[Cell]:
    """The sweep's cells that --cells and --seeds leave. Raises Problem for a cell or a seed that no sweep chosen has."""
    cells, seeds = (value.split(",") if value else None for value in (options.cells, options.seeds))
    return [
        cell for cell in sweep.cells
        if (cells is None or cell.name in cells) and (seeds is None or str(cell.seed) in seeds)
    ]  # fmt: skip


def _log(options, cells: list[Cell], seconds: float) -> None:
    """One line for each invocation that ran something: the sum of its seconds is what the sweeps took."""
    if not cells:
        return
    line = {"date": date.today().isoformat(), "seconds": round(seconds), "jobs": options.jobs, "scale": options.preset,
            "cells": sorted({f"{c.sweep}/{c.name}.seed{c.seed}" for c in cells if c.done})}  # fmt: skip
    path = resolve(FOLDER) / "records/log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def main(argv: list[str] | None = None) -> int:
    """`dllm sweep`. Exit code 0: every cell has its record; 1: a cell failed; 2: bad arguments; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="dllm sweep", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"all, or files of {FOLDER} without .yaml")
    parser.add_argument("--jobs", type=int, default=2, help="papermill runs side by side, one thread each (default: 2)")
    parser.add_argument("--preset", default="cpu", help="scale: cpu (default), h100, smoke")
    parser.add_argument("--cells", help="only these cells, with commas between them")
    parser.add_argument("--seeds", help="only these seeds, with commas between them")
    parser.add_argument("--force", action="store_true", help="measure again also what has its record")
    parser.add_argument("--list", action="store_true", help="say which cells have their record, and run nothing")
    options = parser.parse_args(argv)
    screen, began = Screen(), time.time()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill saves too
    try:
        if options.jobs < 1:
            raise Problem(f"--jobs must be at least 1, not {options.jobs}")
        everything = find([], options.preset)
        sweeps = find(options.names, options.preset)
        chosen = [cell for sweep in sweeps for cell in _only(sweep, options)]
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
        if options.force:
            for cell in cells:
                cell.path.unlink(missing_ok=True)
        try:
            sound = execute(sweeps, cells, runs(everything), options, screen)
        finally:  # also of a run that was stopped: the page sums them up
            _log(options, cells, time.time() - began)
        for sweep in sweeps:
            if sweep.cells and all(cell.done for cell in sweep.cells):
                from dllm_core.show_sweeps import draw

                screen.say(f"{sweep.name:14}{jobs.shown(draw(sweep))}")
        return int(not sound)
    except Problem as problem:
        print(f"dllm sweep: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        screen.say("interrupted; the same command goes on from here")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
