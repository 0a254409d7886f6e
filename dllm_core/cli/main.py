"""The command `dllm`: one word for each thing that it does, and the module that does it.

A command's module has `add_arguments(parser)` and `run(options)`, which returns the exit code; only the module of the
command that was typed is imported.
"""

import argparse
import contextlib
import importlib
import io
import sys
from types import ModuleType

from dllm_core.cli.status_line import StatusLine
from dllm_core.common.errors import DataError, RunError, UsageError
from dllm_core.common.interrupt import signals_as_interrupt
from dllm_core.common.text import safe

COMMANDS = {  # word → (module, help)
    "run": ("dllm_core.cli.run", "run one, several or all notebooks of the chain"),
    "sweep": ("dllm_core.workshop.sweeps.run", "run, resume and draw the ablations of notebooks/sweeps"),
    "launch": ("dllm_core.cli.launch", "train one notebook's model on several processes, under accelerate launch"),
    "play": ("dllm_core.show.terminal", "draw or play a saved decoding in the terminal"),
    "page": ("dllm_core.cli.page", "write the web page in which the small models run, as one file or as a folder"),
    "report": ("dllm_core.cli.report", "sum up what notebook 07 measured in tables and sentences"),
    "export": ("dllm_core.cli.export", "write a checkpoint as a folder that transformers, SDAR or dllm reads"),
    "bench": ("dllm_core.workshop.benchmark.main", "measure training, decoding and feeding side by side with others"),
    "figures": ("dllm_core.workshop.pictures", "draw the pictures of the pages and of the notebooks"),
    "results": ("dllm_core.workshop.results_page", "write RESULTS.md, BENCHMARKS.md, their figures and README's tables"),
    "executed": ("dllm_core.workshop.executed", "copy the executed notebooks to notebooks/executed, or write them as a site"),
    "corpus": ("dllm_core.workshop.corpus.generator", "generate the embedded corpus anew"),
    "bundle": ("dllm_core.workshop.bundle_weights", "make the small weights that come with the project"),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The console script `dllm`. Exit code 0: all is well; 1: a cell failed; 2: bad arguments; 130: interrupted."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is getattr(sys, f"__{name}__") and getattr(sys, name) is not None:
            setattr(sys, name, _lasting(getattr(sys, name)))
    try:
        with signals_as_interrupt():
            options, module = parse(sys.argv[1:] if argv is None else argv)
            return module.run(options) or 0
    except (DataError, RunError, UsageError) as error:
        print(f"dllm: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written, a full disk
        print(safe(f"dllm: {error.filename or ''}: {error.strerror or error}".replace(" :", "")), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        StatusLine().say("interrupted; the same command goes on from here")
        return 130


class _Output(io.FileIO):
    """A stream that goes on when its reader has ended (`dllm run … | head -1`), its terminal is closed or its disk is
    full."""

    def write(self, data) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The stream as an `_Output` that can print every sign: one that its encoding lacks becomes its number."""
    buffered = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(buffered, stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)


def parse(argv: list[str]) -> tuple[argparse.Namespace, ModuleType]:
    """The options and the module of the command that `argv` names. Raises UsageError where it is not installed."""
    parser = argparse.ArgumentParser(
        prog="dllm", description="Notebooks on diffusion language models, run and measured."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    module = None
    for name, (module_name, words) in COMMANDS.items():
        subparser = commands.add_parser(name, help=words, description=words)
        if argv[:1] == [name]:
            module = _load(name, module_name)
            module.add_arguments(subparser)
    return parser.parse_args(argv), module


def _load(name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("dllm_core.workshop"):
            raise
        raise UsageError(
            f"`dllm {name}` is a tool of the project's workshop, which an installed package leaves out; "
            "use a clone of the repository, installed by pip install -e ."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
