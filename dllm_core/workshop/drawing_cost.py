"""What drawing costs a notebook that nobody looks at: `python -m dllm_core.workshop.drawing_cost all --preset smoke`.

Runs the stages one after the other as `dllm run` does, in copies with a cell more at either end. The first puts a clock
around everything that draws: each function and method of show*.py and widgets*.py, with the libraries that they import
on the way, and each display; an inner call counts once, with the outermost. The last cell says what it took. Set
DLLM_WEIGHTS to a folder of its own, for the training notebooks write their runs there.
"""

import argparse
import contextlib
import functools
import inspect
import json
import sys
import tempfile
import time
from pathlib import Path

FIRST = "from dllm_core import drawing_cost as _cost\n_clock = _cost.watch()"
LAST = "print(_clock.told())"


class Clock:
    """Seconds spent inside the functions that it was put around, by the name of the outermost: inside one of them the
    others do not count again."""

    def __init__(self):
        self.spent: dict[str, float] = {}
        self.inside = False

    @contextlib.contextmanager
    def running(self, name: str):
        if self.inside:
            yield
            return
        self.inside, began = True, time.perf_counter()
        try:
            yield
        finally:
            self.inside = False
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began

    def told(self) -> str:
        return json.dumps(self.spent)

    def around(self, function):
        @functools.wraps(function)
        def timed(*arguments, **options):
            with self.running(function.__qualname__):
                return function(*arguments, **options)

        return timed


def watch() -> Clock:
    """Put a clock around all that draws in this process; gives it."""
    from dllm_core import samplers as decode  # noqa: F401  not drawing: loaded before it
    from dllm_core import train  # noqa: F401  not drawing: loaded before it
    from dllm_core.checkpoints import run_folder as runs  # noqa: F401  not drawing: loaded before it
    from dllm_core.data import batches  # noqa: F401  not drawing: loaded before it
    from dllm_core.notebook import setup as notebook  # noqa: F401  not drawing: loaded before it

    clock = Clock()
    with clock.running("imports"):
        from dllm_core import show  # noqa: F401
        from dllm_core.show.widgets import explorers as widgets  # noqa: F401
    drawing = {
        name: module for name, module in sys.modules.items() if name.startswith(("dllm_core.show", "dllm_core.show.widgets.explorers"))
    }
    new = {}
    for name, module in drawing.items():
        for what in list(vars(module).values()):
            if getattr(what, "__module__", None) != name:
                continue
            if inspect.isclass(what):
                _around_methods(what, clock)
            elif inspect.isfunction(what) and not inspect.isgeneratorfunction(inspect.unwrap(what)):
                new[what] = clock.around(what)
    for module in [module for name, module in sys.modules.items() if name.startswith("dllm_core.")]:
        for name, what in list(vars(module).items()):
            if inspect.isfunction(what) and what in new:
                setattr(module, name, new[what])
    with contextlib.suppress(ImportError):
        from IPython.core.displaypub import DisplayPublisher
        from IPython.core.formatters import DisplayFormatter

        DisplayFormatter.format = clock.around(DisplayFormatter.format)
        for kind in (DisplayPublisher, *DisplayPublisher.__subclasses__()):
            kind.publish = clock.around(kind.publish)
    return clock


def _around_methods(kind: type, clock: Clock) -> None:
    for name, what in list(vars(kind).items()):
        if inspect.isfunction(what) and not inspect.isgeneratorfunction(what) and not inspect.iscoroutinefunction(what):
            with contextlib.suppress(TypeError, AttributeError):
                setattr(kind, name, clock.around(what))
        elif isinstance(what, property):
            setattr(kind, name, property(clock.around(what.fget), what.fset))


def measure(job, folder: Path) -> dict:
    """RunFolder a job's notebook in `folder`; its name, seconds in all (papermill and the kernel's start among them), seconds
    of drawing, what these add to the rest, and where most of them went. Raises RuntimeError when a cell fails."""
    from dllm_core.cli.notebook_process import NotebookProcess
    from dllm_core.common.paths import root

    made = json.loads(job.notebook.read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    made["cells"] = [{**cell, "id": "first", "source": FIRST}, *made["cells"], {**cell, "id": "last", "source": LAST}]
    copy = folder / "copy.ipynb"
    copy.write_text(json.dumps(made), encoding="utf-8")
    elsewhere = {"output": str(folder / "compared.jsonl")} if "output" in job.parameters else {}
    one = NotebookProcess(copy, folder / "made.ipynb", job.given | elsewhere, root(), 1, job.weights)
    while not one.ended:
        time.sleep(0.05)
    total = time.time() - one.started
    if one.process.returncode:
        raise RuntimeError(f"{job.stage.name}: {one.failure()}")
    (out,) = json.loads(one.executed.read_text(encoding="utf-8"))["cells"][-1]["outputs"]
    spent = json.loads("".join(out["text"]))
    drawing = sum(spent.values())
    most = sorted(spent, key=spent.get, reverse=True)[:4]
    return {
        "stage": job.stage.name, "seconds": total, "of them drawing": drawing,
        "added (%)": 100 * drawing / (total - drawing),
        "most of it": ", ".join(f"{name} {spent[name]:.2f}" for name in most),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> list[dict]:
    """Print a line per stage; gives them."""
    from dllm_core.cli.main import STAGES, choose, plan
    from dllm_core.show.html import table

    parser = argparse.ArgumentParser(prog="python -m dllm_core.workshop.drawing_cost", description=__doc__.split(":")[0])
    parser.add_argument("stages", nargs="+", metavar="NN", help="as for `dllm run`")
    parser.add_argument(
        "--preset", default="cpu", help="folder of notebooks/presets; cpu: the notebooks' own (default)"
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set one parameter")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        jobs = plan(choose(given.stages, STAGES), STAGES, given.preset, given.p, Path(folder))
        rows = [measure(job, Path(folder)) for job in jobs]
    print(table(rows, digits=3))
    return rows


if __name__ == "__main__":
    main()
