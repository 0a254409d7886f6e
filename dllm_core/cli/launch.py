"""`dllm launch`: one notebook's training on several processes, as in
`accelerate launch … -m dllm_core.cli.main launch 03 -p max_iters 100`.

Every process runs the notebook's cells, with the parameters that `dllm run` would pass, up to and including the cell
that trains; there the processes share the work (`ProcessGroup`). The first process then runs the remaining cells.
"""

import argparse
import contextlib
import linecache
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from dllm_core.checkpoints.formats import run_folders
from dllm_core.cli.stages import STAGES, choose, plan
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, read_json
from dllm_core.common.interrupt import signals_as_interrupt
from dllm_core.common.paths import resolve
from dllm_core.common.records import fits
from dllm_core.compute.devices import pick_device
from dllm_core.compute.processes import ProcessGroup, leave, rank, world_size
from dllm_core.notebook.parameters import check, parse_value, read_code, read_parameters, unknown_name
from dllm_core.notebook.ranges import naming_parameters

TRAINS = "show.watch_training("  # in the one cell of a notebook that trains


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm launch`."""
    parser.add_argument("run", help="a stage of `dllm run` that trains (01 … 05-llada2), or a run's folder")
    parser.add_argument("--preset", default="cpu", help="folder of notebooks/presets (default: the notebooks' own)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")


def run(options: argparse.Namespace) -> int:
    """Exit code 0: trained; 130: interrupted, the state is saved. Raises UsageError."""
    try:
        record(train)(options)  # the launcher's summary then holds the error itself
        return 0
    except KeyboardInterrupt as stop:
        message = str(stop).replace("the cell", "the same command") or "interrupted"
        print(f"process {rank()} of {world_size()}: {message}", file=sys.stderr)
        return 130


def train_stage(argv: Sequence[str]) -> None:
    """`dllm launch` from a notebook: `accelerate.notebook_launcher(train_stage, (["03"],), num_processes=2)`.

    argv: the words after `dllm launch`. Raises UsageError before anything has run, and what a cell raises.
    """
    parser = argparse.ArgumentParser(prog="train_stage")
    add_arguments(parser)
    with signals_as_interrupt():
        train(parser.parse_args(argv))


def train(options: argparse.Namespace) -> None:
    """Run the cells of the notebook that `options` names. Raises UsageError, and what a cell raises."""
    notebook, parameters = find_run(options.run, options.preset, options.p)
    cells = read_code(notebook)
    training = next((number for number, source in enumerate(cells) if TRAINS in source), None)
    if training is None:
        raise UsageError(f"{display_path(notebook)} trains nothing: `dllm run` runs it")
    group = ProcessGroup(pick_device(parameters["device"]))
    scope = {"__name__": "__main__", "display": lambda *_: None, **parameters}
    with (
        open(os.devnull, "w", encoding="utf-8") as devnull,
        contextlib.redirect_stdout(devnull if rank() else sys.stdout),
        naming_parameters(parameters),
    ):
        with group.first_then_others():  # the first process downloads and tokenizes, the others find the result
            _run_cells(notebook, cells[:training], 0, scope)
        try:
            _run_cells(notebook, cells[training : training + 1], training, scope)
        except KeyboardInterrupt as stop:
            if str(stop):  # raised by the loop: all processes have stopped after the same step
                leave()
            raise
        leave()
        if rank() == 0:
            _run_cells(notebook, cells[training + 1 :], training + 1, scope)


def find_run(run: str, preset: str, pairs: Sequence[Sequence[str]]) -> tuple[Path, dict]:
    """(notebook, all its parameters) of a stage under a preset, or of a run folder, from its config.json.

    pairs: (name, text) of each `-p`. Raises UsageError.
    """
    configs = [folder / "config.json" for folder, _ in run_folders(run)]
    config = next((file for file in configs if file.is_file()), None)
    if config is None:
        stages = choose([run], STAGES)
        if len(stages) > 1:
            raise UsageError(f"{run!r} means {len(stages)} stages, train one: {', '.join(s.name for s in stages)}")
        (job,) = plan(stages, STAGES, preset, pairs, resolve("runs"))
        return job.notebook, job.parameters
    ours = read_json(config, UsageError).get("dllm")
    settings = ours["settings"] if fits(ours, dict) and fits(ours.get("settings"), dict) else {}
    for notebook in sorted({resolve(f"notebooks/{stage.notebook}.ipynb") for stage in STAGES}):
        declared = read_parameters(notebook)
        if set(declared) == set(settings):
            for name, value in settings.items():
                check(declared[name], value, display_path(config))
            for name, text in pairs:
                if name not in declared:
                    raise UsageError(f"-p {name}: {unknown_name(name, declared)}")
                settings[name] = parse_value(text, declared[name])
            return notebook, settings
    raise UsageError(
        f"{display_path(config)}: its settings are those of no notebook here; name a stage (01 … 05-llada2)"
    )


def _run_cells(notebook: Path, cells: list[str], start: int, scope: dict) -> None:
    """Execute code cells in `scope`; start: the number of code cells before them."""
    for number, source in enumerate(cells, start + 1):
        name = f"{display_path(notebook)}, code cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for tracebacks
        exec(compile(source, name, "exec"), scope)  # noqa: S102
