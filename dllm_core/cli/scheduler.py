"""Papermill runs as jobs: what each is given, whether its result is there already, and a pool that runs them in order."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from dllm_core.cli.notebook_process import NotebookProcess, StatusLine, stop
from dllm_core.common.files import display_path, read_json, write_json
from dllm_core.common.paths import resolve, root


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the chain: a notebook under one preset.

    `preset` names the YAML file in notebooks/presets/<scale>/ and the executed notebook. At scale `cpu` the file may be
    absent (the notebook's own parameters), unless `variant`: a second use of a notebook. `cost`: relative duration.
    """

    name: str
    notebook: str
    preset: str
    needs: tuple[str, ...] = ()
    cost: int = 1
    variant: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class NotebookJob:
    """A stage made ready: what papermill is `given`, and all `parameters` that are then in force.

    weights: the folder that stands for weights/ (None: that one); threads: None: as many as there are cores to spare.
    """

    stage: Stage
    notebook: Path
    given: dict
    parameters: dict
    code: str
    executed: Path
    upstream: tuple[Path, ...]
    weights: Path | None = None
    threads: int | None = None

    @property
    def record(self) -> Path:
        """Beside the executed notebook; there only once the stage has finished."""
        return self.executed.with_suffix(".json")

    @property
    def products(self) -> list[Path]:
        """The files by which the stage's result is recognised: its run folder's config, its output."""
        run_name, output = self.parameters.get("run_name"), self.parameters.get("output")
        made = (self.weights or resolve("weights")) / f"{run_name}/config.json"
        return [made] * bool(run_name) + [resolve(output or ".")] * bool(output)

    def why_stale(self) -> str:
        """Why the stage has to run; empty when its result is there and nothing it rests on has changed since."""
        record = read(self.record)
        if not record:
            return "no result yet"
        old, new = record["parameters"], json.loads(json.dumps(self.parameters))
        changed = [f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in {**old, **new}
                   if old.get(name) != new.get(name)]
        if changed:
            return f"parameters changed ({', '.join(changed[:3])}{', ...' * (len(changed) > 3)})"
        if record["code"] != self.code:
            return "the notebook's code changed"
        for path in (self.executed, *self.products):
            if not path.exists():
                return f"{display_path(path)} is missing"
            if path != self.executed and path.stat().st_mtime > record["finished"] + 1:
                return f"{display_path(path)} was written since by another run"
        later = [found["stage"] for found in map(read, self.upstream) if found.get("finished", 0) > record["started"]]
        return f"{', '.join(later)} ran again since" if later else ""


def read(record: Path) -> dict:
    """What is known of a stage's last finished run; empty when there was none."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(record)
    return {}


def _asked_threads() -> int:
    """What the person who started this says of threads (OMP_NUM_THREADS); 0: nothing."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else 0


def run_jobs(
    jobs: list[NotebookJob], at_once: int, force: bool, screen: StatusLine, finished: Callable[[NotebookJob], object] = lambda job: None,
    longest_first: bool = True,
) -> tuple[dict[str, str], int]:  # fmt: skip
    """Runs what has to run, at most `at_once` stages side by side, the one with the longest chain behind it first (or
    in the order given).

    finished: called with each job whose result is there. Returns each stage's state and the most bytes they held
    together. On Ctrl-C stops them and raises that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting, running, state, peak, looked = list(jobs), {}, {}, 0, 0.0
    by_name = {job.stage.name: job for job in jobs}

    def chain(job: NotebookJob) -> int:
        return job.stage.cost + max((chain(j) for j in jobs if job.stage.name in j.stage.needs), default=0)

    def rests_on(job: NotebookJob, name: str) -> bool:
        return any(name == need or rests_on(by_name[need], name) for need in job.stage.needs if need in by_name)

    if at_once > 1 and longest_first:
        waiting.sort(key=chain, reverse=True)

    def settle(job: NotebookJob, word: str, text: str) -> None:
        state[job.stage.name] = word
        screen.say(f"{job.stage.name:11} {text}")

    try:
        while waiting or running:
            for job in list(waiting):
                before = [need for need in job.stage.needs if need in by_name]
                if lost := [need for need in before if state.get(need) in ("failed", "not run")]:
                    settle(job, "not run", f"not run: it needs {', '.join(lost)}")
                elif len(running) >= at_once or any(need not in state for need in before):
                    continue
                elif not (why := "--force" if force else job.why_stale()):
                    settle(job, "skipped", f"skipped, its result is there: {display_path(job.executed)} (--force runs it again)")
                    finished(job)
                else:
                    job.record.unlink(missing_ok=True)  # from here on the old result is none
                    screen.say(f"{job.stage.name:11} runs {display_path(job.notebook)}: {why}")
                    alone = not running and all(rests_on(other, job.stage.name) for other in waiting if other is not job)
                    threads = job.threads or _asked_threads() or (cores if alone else max(1, cores // at_once))
                    running[job] = NotebookProcess(job.notebook, job.executed, job.given, root(), threads, job.weights)
                waiting.remove(job)
            if time.monotonic() - looked > 1:  # looking through the processes takes milliseconds
                peak, looked = max(peak, sum(one.memory() for one in running.values())), time.monotonic()
            screen.progress({job.stage.name: one for job, one in running.items()})
            time.sleep(0.2)
            for job, one in list(running.items()):
                if not one.ended:
                    continue
                del running[job]
                seconds, gib = time.time() - one.started, one.peak / 2**30
                if one.process.returncode:
                    settle(job, "failed", f"FAILED after {seconds:.0f} s: {one.failure()}\n  see {display_path(job.executed)}")
                    continue
                write_json(job.record, {
                    "stage": job.stage.name, "notebook": job.stage.notebook, "parameters": job.parameters,
                    "code": job.code, "started": one.started, "finished": time.time(), "seconds": round(seconds, 1),
                    "memory_gib": round(gib, 2)})
                settle(job, "done", f"done in {seconds:.0f} s, {gib:.2f} GiB -> {display_path(job.executed)}")
                finished(job)
    except KeyboardInterrupt:
        stop(list(running.values()), screen)
        raise
    return state, peak
