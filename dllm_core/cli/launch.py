"""One notebook's training on several processes: `accelerate launch … -m dllm_core.cli.launch 03 -p max_iters 100`.

Every process runs the notebook's own cells, with the parameters that `dllm run` would give it, as far as the training,
which they share (`team`); the first then runs the rest. So the set-up of a run stands in its notebook alone.
"""

import argparse
import contextlib
import linecache
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from dllm_core.cli.main import STAGES, choose, plan
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, read_json
from dllm_core.common.paths import resolve
from dllm_core.compute.devices import pick_device
from dllm_core.compute.processes import ProcessGroup, rank, world_size
from dllm_core.notebook import parameters as known

TRAINS = "dllm_core.train("  # in the one cell of a notebook that trains


def train_stage(argv: list[str]) -> None:
    """Train the run that `argv` names, in the words of the command line: in a notebook, as
    `accelerate.notebook_launcher(train_stage, (["03", "-p", "max_iters", "100"],), num_processes=2)`.

    Raises Problem for arguments that cannot be right, before anything has run, and what a cell raises.
    """
    parser = argparse.ArgumentParser(prog="python -m dllm_core.cli.launch", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a stage of `dllm run` that trains (01 … 05-llada2), or a run's folder")
    parser.add_argument("--preset", default="cpu", help="folder of notebooks/presets (default: the notebooks' own)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")
    options = parser.parse_args(argv)
    notebook, parameters = described(options.run, options.preset, options.p)
    cells = known.code(notebook)
    trains = next((number for number, source in enumerate(cells) if TRAINS in source), None)
    if trains is None:
        raise UsageError(f"{display_path(notebook)} trains nothing: `dllm run` runs it")
    team = ProcessGroup(pick_device(parameters["device"]))
    scope = {"__name__": "__main__", "display": lambda *_: None, **parameters}
    with _quiet() if rank() else contextlib.nullcontext(), _polite():
        with team.first_then_others():  # so that one process downloads and tokenises, and the others find it done
            _run(notebook, cells[:trains], 0, scope)
        try:
            _run(notebook, cells[trains : trains + 1], trains, scope)
        except KeyboardInterrupt as stop:
            if str(stop):  # told by the loop: all have stopped after the same step, and none waits for another
                team.close()
            raise
        team.close()
        if rank() == 0:
            _run(notebook, cells[trains + 1 :], trains + 1, scope)


def described(run: str, preset: str, pairs: list[list[str]]) -> tuple[Path, dict]:
    """(the notebook, all its parameters) of a stage under a preset, or of a run's folder as its config.json tells.

    pairs: (name, text) of parameters set apart. Raises Problem.
    """
    config = resolve(run) / "config.json"
    if not config.is_file():
        stages = choose([run], STAGES)
        if len(stages) > 1:
            raise UsageError(f"{run!r} means {len(stages)} stages, train one: {', '.join(s.name for s in stages)}")
        (job,) = plan(stages, STAGES, preset, pairs, resolve("runs"))
        return job.notebook, job.parameters
    settings = read_json(config).get("dllm", {}).get("settings", {})
    for notebook in sorted({resolve(f"notebooks/{stage.notebook}.ipynb") for stage in STAGES}):
        declared = known.read_parameters(notebook)
        if set(declared) == set(settings):
            for name, _ in pairs:
                if name not in declared:
                    raise UsageError(f"-p {name}: {known.unknown(name, set(declared))}")
            return notebook, settings | {name: known.from_text(text, declared[name]) for name, text in pairs}
    raise UsageError(f"{display_path(config)}: its settings are those of no notebook here; name a stage (01 … 05-llada2)")


def _run(notebook: Path, cells: list[str], first: int, scope: dict) -> None:
    for number, source in enumerate(cells, first + 1):
        name = f"{display_path(notebook)}, code cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks
        exec(compile(source, name, "exec"), scope)  # noqa: S102


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def _polite() -> Iterator[None]:
    """A polite kill (SIGTERM, as of a queue's time limit) does what Ctrl-C does: the training saves before it stops."""

    def stop(*_) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a shell script's background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: trained; 2: bad arguments; 130: interrupted, its state saved."""
    try:
        train_stage(sys.argv[1:] if argv is None else argv)
        return 0
    except UsageError as problem:
        print(f"dllm_core.cli.launch: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        told = str(stop).replace("the cell", "the same command") or "interrupted"
        print(f"process {rank()} of {world_size()}: {told}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(record(main)())  # the launcher's summary then holds the error itself
