"""Runs notebooks as jobs: some side by side, each after those that it needs, and skips those whose result is there."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

from dllm_core.cli.stages import CODE_CHANGED, RECORD, NotebookJob, read_record
from dllm_core.cli.status_line import StatusLine
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import root


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a job: `state` is "done", "skipped", "failed" or "not run"; `record` is empty for the last two."""

    state: str
    record: dict

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "not run")


def run_jobs(
    jobs: Sequence[NotebookJob], at_once: int, force: bool, screen: StatusLine,
    on_result: Callable[[NotebookJob], object] = lambda job: None, best_order: bool = True,
) -> tuple[dict[str, Result], int]:  # fmt: skip
    """Run what is not up to date, at most `at_once` jobs side by side; return each stage's result and the peak memory
    of all together in bytes.

    best_order: start them in the order that ends soonest by their costs, else in that of `jobs`. on_result: called with
    each job that has its result. On Ctrl-C the running cells are interrupted, and KeyboardInterrupt is raised.
    """
    from dllm_core.cli.notebook_process import NotebookProcess  # imports papermill, which takes half a second

    names = {job.stage.name for job in jobs}
    waiting, running, results = list(jobs), {}, {}
    peak, measured = 0, 0.0
    if at_once > 1 and best_order:
        waiting = _best_order(jobs, at_once)

    def settle(job: NotebookJob, state: str, text: str, record: dict) -> None:
        results[job.stage.name] = Result(state, record)
        screen.say(f"{job.stage.name:11} {text}")
        if record:
            on_result(job)

    def is_ready(job: NotebookJob) -> bool:
        return all(name in results for name in job.stage.needs if name in names)

    try:
        while waiting or running:
            for job in filter(is_ready, list(waiting)):
                lost = [name for name in job.stage.needs if name in results and results[name].failed]
                if lost:
                    settle(job, "not run", f"not run: it needs {', '.join(lost)}", {})
                elif len(running) >= at_once:
                    continue
                elif reason := "--force" if force else job.why_stale():
                    job.record.unlink(missing_ok=True)  # the old result does not count from here on
                    screen.say(f"{job.stage.name:11} runs {display_path(job.notebook)}: {reason}")
                    # all others wait for this one, or are so short that they hardly slow it
                    beside = [other for other in filter(is_ready, waiting) if 10 * other.stage.cost > job.stage.cost]
                    alone = not running and beside == [job]
                    threads = job.threads or _threads(1 if alone else at_once)
                    running[job] = NotebookProcess(job, root(), threads, force or reason == CODE_CHANGED)
                else:
                    text = f"skipped, its result is there: {display_path(job.executed)} (--force runs it again)"
                    settle(job, "skipped", text, read_record(job.record, RECORD))
                waiting.remove(job)
            if time.monotonic() - measured > 1:  # a look at all processes takes milliseconds
                peak, measured = max(peak, sum(process.memory() for process in running.values())), time.monotonic()
            screen.progress({job.stage.name: process for job, process in running.items()})
            time.sleep(0.2)
            for job, process in list(running.items()):
                if process.ended:
                    del running[job]
                    peak = max(peak, process.peak)
                    settle(job, *_outcome(job, process))
    except KeyboardInterrupt:
        _stop(list(running.values()), screen)
        raise
    return results, peak


def _outcome(job: NotebookJob, process) -> tuple[str, str, dict]:
    """(state, line to print, record) of a run that has ended; the record of a finished one is written."""
    seconds, gib = time.monotonic() - process.began, process.peak / 2**30
    if process.error:
        return "failed", f"FAILED after {seconds:.0f} s: {process.failure()}\n  see {display_path(job.executed)}", {}
    record = {
        "stage": job.stage.name, "notebook": job.stage.notebook, "parameters": job.parameters, "code": job.code,
        "started": process.started, "finished": time.time(), "seconds": round(seconds, 1), "memory_gib": round(gib, 2),
    }  # fmt: skip
    write_json(job.record, record)
    return "done", f"done in {seconds:.0f} s, {gib:.2f} GiB -> {display_path(job.executed)}", record


def _best_order(jobs: Sequence[NotebookJob], at_once: int) -> list[NotebookJob]:
    """Those with the longest chain after them first, then changed, one job to the front at a time, while that ends sooner."""
    order = sorted(jobs, key=lambda job: _chain_cost(job, jobs), reverse=True)
    while True:
        moves = [[job, *(other for other in order if other is not job)] for job in order]
        best = min(moves, key=lambda move: _duration(move, at_once))
        if _duration(best, at_once) >= _duration(order, at_once):
            return order
        order = best


def _duration(order: Sequence[NotebookJob], at_once: int) -> int:
    """When the last job ends, by their costs, if whenever one may start the first that is ready does."""
    names = {job.stage.name for job in order}
    waiting, ends, now = list(order), {}, 0
    while waiting:
        running = [end for end in ends.values() if end > now]
        done = {name for name, end in ends.items() if end <= now}
        ready = [job for job in waiting if names & set(job.stage.needs) <= done]
        if ready and len(running) < at_once:
            ends[ready[0].stage.name] = now + ready[0].stage.cost
            waiting.remove(ready[0])
        else:
            now = min(running)
    return max(ends.values(), default=0)


def _chain_cost(job: NotebookJob, jobs: Sequence[NotebookJob]) -> int:
    """The cost of the job and of the longest chain of jobs that need it."""
    after = [other for other in jobs if job.stage.name in other.stage.needs]
    return job.stage.cost + max((_chain_cost(other, jobs) for other in after), default=0)


def _threads(at_once: int) -> int:
    """Threads for each of `at_once` jobs side by side: OMP_NUM_THREADS where it is set, else a share of the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // at_once)


def _stop(running: list, screen: StatusLine) -> None:
    """Interrupt the running cells and wait while they save; a second Ctrl-C kills them."""
    screen.say("interrupted: waiting for the notebooks to save (Ctrl-C again ends them at once)")
    try:
        for process in running:
            process.interrupt()
        while not all(process.ended for process in running):
            time.sleep(0.1)
            for process in running:
                if not process.ended and process.has_lost_its_cell():
                    process.kill()
    finally:
        for process in running:
            process.kill()
