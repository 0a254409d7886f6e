"""The command line: `dllm run` sends the notebooks through papermill in order, and is strict about it.

It checks every parameter before anything runs, skips stages whose result is already there, and shows the failing
cell's error. Each stage is a process of its own, so `--jobs` can run independent ones side by side.
"""

import argparse
import ast
import signal
import sys
import time
from pathlib import Path

from dllm_core.cli.notebook_process import StatusLine
from dllm_core.cli.scheduler import NotebookJob, Stage, read, run_jobs
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_json
from dllm_core.common.paths import resolve
from dllm_core.notebook import parameters as known

STAGES = (
    Stage("01", "01_ar_pretrain", "01_ar_pretrain", cost=13),
    Stage("02", "02_llada1_pretrain", "02_llada1_pretrain", ("01",), cost=7),
    Stage("03", "03_llada2_pretrain", "03_llada2_pretrain", ("01",), cost=8),
    Stage("04", "04_ar_sft", "04_ar_sft", ("01",), cost=6),
    Stage("05-llada1", "05_llada2_sft", "05_llada1_sft", ("02",), cost=50, variant=True),
    Stage("05-llada2", "05_llada2_sft", "05_llada2_sft", ("03",), cost=48),
    Stage("06", "06_parallel_decoding", "06_parallel_decoding", ("04", "05-llada1", "05-llada2"), cost=3),
    Stage("07-pretrain", "07_compare_styles", "07_compare_pretrain", ("01", "02", "03"), cost=2, variant=True),
    Stage("07-sft", "07_compare_styles", "07_compare_sft", ("04", "05-llada1", "05-llada2"), cost=3),
)


def choose(names: list[str], stages: tuple[Stage, ...]) -> list[Stage]:
    """The stages that the names mean, in the chain's order: `03`, `05` (both), `05-llada1`, a notebook's name, `all`.

    Raises Problem for a name that means none.
    """
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        fit = [s for s in stages if stem in ("all", s.name, s.name.split("-")[0], s.notebook, s.preset)]
        if not fit:
            raise UsageError(f"no stage is called {name!r}; choose from {', '.join(s.name for s in stages)} or all")
        chosen.update(fit)
    return [stage for stage in stages if stage in chosen]


def plan(
    chosen: list[Stage], stages: tuple[Stage, ...], preset: str, pairs: list[list[str]], out: Path,
    weights: Path | None = None,
) -> list[NotebookJob]:  # fmt: skip
    """Every chosen stage with its parameters checked. Raises Problem before anything has run."""
    scales = sorted({"cpu", *(folder.name for folder in resolve("notebooks/presets").glob("*/"))})
    if preset not in scales:
        raise UsageError(f"no preset {preset!r} in notebooks/presets; there are {', '.join(scales)}")
    notebooks = {stage: resolve(f"notebooks/{stage.notebook}.ipynb") for stage in chosen}
    declared = {stage: known.read_parameters(path) for stage, path in notebooks.items()}
    for name, _ in pairs:
        if not any(name in parameters for parameters in declared.values()):
            raise UsageError(f"-p {name}: {known.unknown(name, {n for p in declared.values() for n in p})}")
    jobs = []
    for stage, parameters in declared.items():
        path = resolve(f"notebooks/presets/{preset}/{stage.preset}.yaml")
        optional = preset == "cpu" and not stage.variant
        given = {} if optional and not path.exists() else known.from_file(path, parameters)
        given |= {name: known.from_text(text, parameters[name]) for name, text in pairs if name in parameters}
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        upstream = tuple(out / f"{other.preset}.json" for other in stages if other.name in stage.needs)
        jobs.append(NotebookJob(stage, notebooks[stage], given, defaults | given, known.code_of(notebooks[stage]),
                        out / f"{stage.preset}.ipynb", upstream, weights))
    owners: dict[Path, NotebookJob] = {}
    for job in jobs:
        for path in job.products:
            if (other := owners.setdefault(path, job)) is not job:
                raise UsageError(f"stages {other.stage.name} and {job.stage.name} would both write {display_path(path)}: "
                              "give run_name or output to one of them at a time")
    return jobs


def describe(jobs: list[NotebookJob]) -> None:
    """`--parameters`: what can be set, of which type, what it is now."""
    for job in jobs:
        print(f"{job.stage.name}  {display_path(job.notebook)}")
        for name, parameter in known.read_parameters(job.notebook).items():
            notes = ["  (given)"] * (name in job.given) + [f"  # {parameter.help}"] * bool(parameter.help)
            print(f"  {name}: {ast.unparse(parameter.kind)} = {job.parameters[name]!r}{''.join(notes)}")


def outlook(jobs: list[NotebookJob]) -> None:
    """`--list`: what would run now, and why."""
    names = set()
    for job in jobs:
        first = [name for name in job.stage.needs if name in names]
        if why := job.why_stale() or (f"{', '.join(first)} runs first" if first else ""):
            names.add(job.stage.name)
        print(f"{job.stage.name:12}{display_path(job.notebook):40}" + (f"would run: {why}" if why else "has its result"))


def main(argv: list[str] | None = None, stages: tuple[Stage, ...] = STAGES) -> int:
    """The console script `dllm`. Exit code 0: all there; 1: a cell failed; 2: bad arguments; 130: interrupted."""
    from dllm_core.workshop.sweeps import run as sweeping  # which stands on this module

    parser = argparse.ArgumentParser(prog="dllm", description="RunFolder the notebooks in order, as papermill would.")
    commands = parser.add_subparsers(dest="command", required=True)
    line = commands.add_parser("run", help="run one, several or all notebooks")
    line.add_argument("stages", nargs="*", metavar="NN", help=f"all, or any of {' '.join(s.name for s in stages)}")
    line.add_argument("--preset", default="cpu", help="folder of notebooks/presets; cpu: the notebooks' own (default)")
    line.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")
    line.add_argument("--out", help="folder of the executed notebooks (default: runs/PRESET)")
    line.add_argument("--jobs", type=int, default=1, help="stages to run side by side (default: 1)")
    line.add_argument("--force", action="store_true", help="run also what has its result")
    line.add_argument("--list", action="store_true", help="say what would run and why, and run nothing")
    line.add_argument("--parameters", action="store_true", help="show the parameters, and run nothing")
    sweeping.arguments(commands.add_parser("sweep", help="run, resume and draw the ablations of notebooks/sweeps"))
    options, screen = parser.parse_args(argv), StatusLine()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill saves too
    try:
        if options.jobs < 1:
            raise UsageError(f"--jobs must be at least 1, not {options.jobs}")
        if options.command == "sweep":
            return sweeping.sweep(options, screen)
        return run_stages(options, stages, screen)
    except UsageError as problem:
        print(f"dllm: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        screen.say("interrupted; the same command goes on from here")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def run_stages(options: argparse.Namespace, stages: tuple[Stage, ...], screen: StatusLine) -> int:
    """`dllm run`. Exit code 0 or 1; raises Problem."""
    if not (options.stages or options.list or options.parameters):
        raise UsageError(f"which stages? all, or any of {' '.join(stage.name for stage in stages)}")
    began, out = time.time(), resolve(options.out or f"runs/{options.preset}")
    jobs = plan(choose(options.stages or ["all"], stages), stages, options.preset, options.p, out)
    for name, _ in options.p:
        screen.say(f"-p {name} goes to {', '.join(job.stage.name for job in jobs if name in job.given)}")
    if options.parameters or options.list:
        (describe if options.parameters else outlook)(jobs)
        return 0
    state, peak = run_jobs(jobs, options.jobs, options.force, screen)
    table = {}
    for name, record in ((job.stage.name, read(job.record)) for job in jobs):
        table[name] = {"state": state[name], **{k: record[k] for k in ("seconds", "memory_gib") if k in record}}
        numbers = f"{record['seconds']:8.1f} s {record['memory_gib']:6.2f} GiB" if record else ""
        screen.say(f"{name:12}{state[name]:8}{numbers}")
    seconds, gib = round(time.time() - began, 1), round(peak / 2**30, 2)
    summary = {"preset": options.preset, "jobs": options.jobs, "seconds": seconds, "memory_gib": gib, "stages": table}
    write_json(out / "summary.json", summary)
    screen.say(f"{'together':20}{seconds:8.1f} s {gib:6.2f} GiB at most  ({display_path(out / 'summary.json')})")
    return int(any(word in ("failed", "not run") for word in state.values()))


if __name__ == "__main__":
    sys.exit(main())
