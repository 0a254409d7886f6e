"""`dllm sweep`: runs the trials of sweeps through papermill, goes on where it was stopped, and draws the results.

Equal trainings of a seed run once, whichever sweeps need them; each trial is then measured and its record written.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from dllm_core.checkpoints.formats import VARIANTS
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.cli.scheduler import run_jobs
from dllm_core.cli.stages import STAGES, NotebookJob, Stage, plan, read_record
from dllm_core.cli.status_line import StatusLine
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, json_text, write_json
from dllm_core.common.paths import resolve
from dllm_core.notebook.parameters import code_digest, read_parameters
from dllm_core.show.expected import CHAIN_RECORDS, LAST_STEPS
from dllm_core.workshop.sweeps.figures import draw
from dllm_core.workshop.sweeps.files import FOLDER, MEASURE, Sweep, Trial, digest, find_sweeps

NOT_WATCHED = {"eval_every": 100_000, "sample_every": 100_000}
ALIKE = {"cpu": {"dtype": "float32"}}  # by scale, for all trainings: "auto" would make results depend on the processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm sweep`."""
    parser.add_argument("names", nargs="*", help=f"all (but what is by_name), or files of {FOLDER} without .yaml")
    parser.add_argument("--jobs", type=int, default=2, help="papermill runs side by side, one thread each (default: 2)")
    parser.add_argument("--preset", default="cpu", help="scale: cpu (default), h100, smoke")
    parser.add_argument("--cells", help="only these cells, with commas between them")
    parser.add_argument("--seeds", help="only these seeds, with commas between them")
    parser.add_argument("--force", action="store_true", help="train and measure again also what has its record")
    parser.add_argument("--list", action="store_true", help="say which cells have their record, and run nothing")


def run(options: argparse.Namespace) -> int:
    """Exit code 0: every trial has its record; 1: one failed, or a sweep's file is wrong. Raises UsageError."""
    if options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {options.jobs}")
    began, screen = time.monotonic(), StatusLine()
    left_out: list[str] = []
    everything, sweeps = find_sweeps([], options.preset, []), find_sweeps(options.names, options.preset, left_out)
    for words in left_out:
        screen.say(f"left out: {words}")
    sweeps = [sweep for sweep in sweeps if sweep.name in options.names or not sweep.text.get("by_name")]
    chosen = _choose_trials(sweeps, options)
    for sweep in sweeps:
        trials = [trial for trial in chosen if trial.sweep == sweep.name]
        state = f"skipped: set {sweep.missing} to its folder" if sweep.missing else sweep.text["title"]
        screen.say(f"{sweep.name:14}{sum(trial.done for trial in trials):3} of {len(trials):3} cells done   {state}")
    skipped = {sweep.name for sweep in sweeps if sweep.missing}
    trials = [t for t in chosen if t.sweep not in skipped and (options.force or not t.done)]
    if options.list:
        for trial in trials:
            screen.say(f"  would run {trial.sweep} {trial.name}, seed {trial.seed}")
        return int(bool(left_out))
    jobs = plan_trials(trials, training_names(everything))
    if options.force:  # all records go first, so that the same command without --force goes on after a stop
        trained = [product.with_name(VARIANTS["last"]) for job in jobs for product in job.products]  # not taken up again
        for path in (*(trial.path for trial in trials), *(job.record for job in jobs), *trained):
            path.unlink(missing_ok=True)
    try:
        succeeded = run_trials(jobs, options.jobs, screen)
    finally:  # also after a stop: the page sums up the seconds
        _log(options, trials, time.monotonic() - began)
    for sweep in sweeps:
        if sweep.text.get("figure") and all(trial.done for trial in sweep.trials):
            screen.say(f"{sweep.name:14}{display_path(draw(sweep))}")
    return int(not succeeded or bool(left_out))


def _choose_trials(sweeps: Sequence[Sweep], options: argparse.Namespace) -> list[Trial]:
    """The trials that --cells and --seeds leave. Raises UsageError for a cell or a seed that none of the sweeps has."""
    trials = [trial for sweep in sweeps for trial in sweep.trials]
    for flag, wanted, attribute in (("--cells", options.cells, "name"), ("--seeds", options.seeds, "seed")):
        known = {str(getattr(trial, attribute)) for trial in trials}
        names = set(wanted.split(",")) if wanted else known
        if unknown := names - known:
            raise UsageError(
                f"{flag}: {min(unknown)!r} is in none of these sweeps; there are {', '.join(sorted(known))}"
            )
        trials = [trial for trial in trials if str(getattr(trial, attribute)) in names]
    return trials


def run_trials(jobs: dict[NotebookJob, Trial | None], at_once: int, screen: StatusLine) -> bool:
    """Run what `plan_trials` planned side by side, then what is timed, one by one. True when all came through."""
    timed = [job for job, trial in jobs.items() if trial and trial.timed]
    side_by_side = [job for job in jobs if job not in timed]

    def keep(job: NotebookJob) -> None:
        if trial := jobs[job]:
            write_record(trial, job)
        elif job.executed.match("cpu/*/chain/*"):
            write_chain_record(job)

    results, _ = run_jobs(side_by_side, at_once, False, screen, keep, best_order=False)
    if lost := sorted({name for job in timed for name in job.stage.needs if results[name].failed}):
        screen.say(f"what is timed is not run: {', '.join(lost)} did not come through")
        return False
    results |= run_jobs(timed, 1, False, screen, keep, best_order=False)[0]
    return not any(result.failed for result in results.values())


def training_names(sweeps: Sequence[Sweep]) -> dict[str, str]:
    """digest of a training → its run's name, after the first trial that needs it: equal trainings run once."""
    names: dict[str, str] = {}
    for trial in (trial for sweep in sweeps for trial in sweep.trials):
        for number, training in enumerate(trainings(trial), 1):
            suffix = "" if number == len(trial.steps) else f"-{number}"
            names.setdefault(training, f"{trial.sweep}-{trial.name}{suffix}")
    return names


def trainings(trial: Trial) -> Iterator[str]:
    """For each step a digest of it and of all steps before it."""
    for count in range(1, len(trial.steps) + 1):
        yield digest([trial.steps[:count], trial.seed])


def plan_trials(trials: Sequence[Trial], names: dict[str, str]) -> dict[NotebookJob, Trial | None]:
    """The jobs of the trials in order, each with the trial that it measures (None: a stage of the chain, a training).

    names: what `training_names` gives. A trial waits for the stages and trainings of its own seed alone.
    """
    planned: dict[NotebookJob, Trial | None] = dict.fromkeys(chain_jobs(trials))
    by_name = {job.stage.name: job for job in planned}
    for trial in trials:
        folder, previous = f"{trial.scale}/seed{trial.seed}", ""
        starts = needs = [by_name[f"{stage}.{trial.seed}"] for stage in trial.chain]
        for (notebook, values), training in zip(trial.steps, trainings(trial), strict=True):
            name = names[training]
            stage = f"{name}.{trial.seed}"
            if stage not in by_name:
                values = {**ALIKE.get(trial.scale, {}), **values, "seed": trial.seed, "run_name": name}
                by_name[stage] = _job(stage, notebook, _filled(values, previous), folder, name, needs)
                planned[by_name[stage]] = None
            needs, previous = [by_name[stage]], name
        title = f"{trial.sweep}-{trial.name}.measure"
        values = {"checkpoint": "weights/{previous}.pt", **trial.measure, "seed": trial.seed}
        values["output"] = f"runs/sweeps/{folder}/{title}d.json"
        needs = list(dict.fromkeys([*starts, *needs]))  # it may measure a checkpoint of the chain as well
        planned[_job(f"{title}.{trial.seed}", MEASURE, _filled(values, previous), folder, title, needs)] = trial
    return planned


def _filled(values: dict, previous: str) -> dict:
    """The values with `{previous}` and environment variables replaced."""
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    return values | {name: os.path.expandvars(text.replace("{previous}", previous)) for name, text in texts.items()}


def _job(name: str, notebook: str, values: dict, folder: str, title: str, needs: list[NotebookJob]) -> NotebookJob:
    path = resolve(f"notebooks/{notebook}.ipynb")
    return NotebookJob(
        Stage(name, notebook, title, tuple(job.stage.name for job in needs)), path, read_parameters(path), values,
        code_digest(path), executed=resolve("runs/sweeps") / folder / f"{title}.ipynb",
        upstream=tuple(job.record for job in needs), weights=resolve("weights/sweeps") / folder,
        threads=1,  # the number of threads changes the order of sums, and so the result
    )  # fmt: skip


def chain_jobs(trials: Sequence[Trial]) -> list[NotebookJob]:
    """The stages of the chain that the trials start from, at each of their seeds, as `dllm run -p seed N` would run
    them, but on one thread each, so that the result does not depend on the number of threads.

    A stage has its seed in its name. Fine-tuning is not evaluated during training: its last weights are used."""
    names: dict[tuple[str, int], set[str]] = {}  # (scale, seed) → stages, those that they need among them
    for trial in trials:
        names.setdefault((trial.scale, trial.seed), set()).update(trial.chain)
    jobs = []
    for (scale, seed), needed in sorted(names.items()):
        for stage in reversed(STAGES):
            needed.update(stage.needs if stage.name in needed else ())
        chosen = [stage for stage in STAGES if stage.name in needed]
        folder = Path(scale, f"seed{seed}")
        out, weights = resolve("runs/sweeps") / folder / "chain", resolve("weights/sweeps") / folder
        for job in plan(chosen, STAGES, scale, [["seed", str(seed)]], out, weights) if chosen else ():
            needs = tuple(f"{need}.{seed}" for need in job.stage.needs)
            stage = replace(job.stage, name=f"{job.stage.name}.{seed}", needs=needs)
            more = ALIKE.get(scale, {}) | (NOT_WATCHED if job.stage.name.startswith("05") else {})
            jobs.append(replace(job, stage=stage, threads=1, overrides=job.overrides | more))
    return jobs


def write_record(trial: Trial, job: NotebookJob) -> Path:
    """Write the trial's record from what its measuring notebook wrote."""
    measured = read_record(resolve(job.parameters["output"]), {"rows": list[dict]})
    about = {"sweep": trial.sweep, "cell": trial.name, "label": trial.label, "seed": trial.seed, "key": trial.key}
    steps = [{"notebook": notebook, **values} for notebook, values in trial.steps]
    about |= {"date": date.today().isoformat(), "trained": steps, "asked": trial.measure}
    return write_json(trial.path, about | measured)


def write_chain_record(job: NotebookJob) -> Path:
    """Write how a stage's training ended, which `show.expected` shows beside a reader's own run: nats per token."""
    steps = RunFolder(job.run_folder).steps()
    stage, seed = job.stage.name.rsplit(".", 1)
    last = [step.loss for step in steps[-LAST_STEPS:]]
    ended = {"steps": len(steps), "loss": sum(last) / len(last), "validation": steps[-1].validation}
    about = {"stage": stage, "seed": int(seed), "date": date.today().isoformat()}
    return write_json(resolve(CHAIN_RECORDS) / f"{stage}-seed{seed}.json", about | ended)


def _log(options: argparse.Namespace, trials: Sequence[Trial], seconds: float) -> None:
    """One line for each invocation that ran something: the sum of the seconds is what the sweeps took."""
    if not trials:
        return
    done = sorted({f"{trial.sweep}/{trial.name}.seed{trial.seed}" for trial in trials if trial.done})
    line = {"date": date.today().isoformat(), "seconds": round(seconds), "jobs": options.jobs, "scale": options.preset,
            "cells": done}  # fmt: skip
    path = resolve(FOLDER) / "records/log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json_text(line) + "\n")
