"""How the house stands: which rooms there are, that imports run one way, and that no file grows past what one reads at once."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dllm_core"
CORE = {  # in reading order
    "config", "schedules", "patterns", "model", "noise", "losses", "reference", "policies", "sampling", "decoding_state",
    "samplers", "trace", "likelihood", "train", "__init__",
}  # fmt: skip
# What each room may import beside itself; the core's own files are "core".
MAY_IMPORT = {
    "common": set(),
    "compute": {"core", "common"},
    "core": {"compute", "common"},
    "data": {"core", "compute", "common"},
    "checkpoints": {"core", "compute", "common", "data"},
    "notebook": {"core", "compute", "common", "data", "checkpoints"},
    "show": {"core", "compute", "common", "data", "checkpoints", "notebook"},
    "cli": {"core", "compute", "common", "data", "checkpoints", "notebook", "show"},
    "workshop": {"core", "compute", "common", "data", "checkpoints", "notebook", "show", "cli"},
}
ROOMS = set(MAY_IMPORT) - {"core"}
FILES = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """dllm_core.data.rows → "data"; dllm_core.losses → "core"."""
    first = module.split(".")[1] if "." in module else ""
    return first if first in ROOMS else "core"


def module_of(path: Path) -> str:
    parts = ["dllm_core", *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imported(path: Path, everywhere: bool) -> set[str]:
    """The package's modules that a file imports: by its top level alone, or also within functions."""
    tree = ast.parse(FILES[path].read_text("utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    result = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dllm_core"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dllm_core":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                result.add(whole if whole in MODULES else node.module)
    return result


def test_the_core_is_fifteen_files_and_the_rooms_are_those_of_the_plan():
    assert {path.stem for path in FILES if len(path.parts) == 1} == CORE
    assert {path.parts[0] for path in FILES if len(path.parts) > 1} == ROOMS


@pytest.mark.parametrize("path", list(FILES), ids=str)
def test_imports_run_one_way(path):
    own_room = room(module_of(path))
    # the package's face names everything and imports it only when asked
    for other in imported(path, everywhere=True) if str(path) != "__init__.py" else ():
        assert room(other) == own_room or room(other) in MAY_IMPORT[own_room], f"{path} ({own_room}) imports {other}"


def test_no_import_runs_in_a_circle():
    graph = {module_of(path): imported(path, everywhere=True) - {"dllm_core"} for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", list(FILES), ids=str)
def test_no_file_is_longer_than_one_reads_at_once(path):
    assert len(FILES[path].read_text("utf-8").splitlines()) <= 300
