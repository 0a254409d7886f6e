"""What a notebook's parameters cell declares, and whether given values fit it.

The cell is read as Python's own syntax tree: papermill's reader works line by line and does not see parameters
annotated like `float | None`, and neither papermill nor Jupyter checks names or types.
"""

import ast
import contextlib
import difflib
import hashlib
import io
import json
import tokenize
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import yaml

from dllm_core.common.errors import UsageError


@dataclass(frozen=True)
class Parameter:
    """`name: kind = default  # help`; without an annotation the default's type stands in."""

    name: str
    kind: ast.expr
    default: object
    help: str


def _cells(path: Path) -> list[dict]:
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except OSError as error:
        raise UsageError(f"{path}: the notebook cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no notebook: {error}") from error
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def _is_parameters(cell: dict) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in order.

    Raises Problem when no cell is tagged `parameters` (papermill would only warn) or the cell is not plain Python.
    """
    sources = [cell["source"] for cell in _cells(path) if _is_parameters(cell)]
    if len(sources) != 1:
        raise UsageError(f"{path}: {len(sources) or 'no'} cells are tagged 'parameters', there must be one; "
                      "tag the cell in JupyterLab's property inspector")
    try:
        body = ast.parse(sources[0]).body
        tokens = tokenize.generate_tokens(io.StringIO(sources[0]).readline)
        comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    except SyntaxError as error:
        raise UsageError(f"{path}: line {error.lineno} of the parameters cell is not plain Python: {error.msg}") from error
    found = {}
    for node in body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            default = ast.unparse(node.value)  # an expression
        kind = getattr(node, "annotation", None) or ast.Name(type(default).__name__)
        found[ast.unparse(target)] = Parameter(ast.unparse(target), kind, default, comments.get(node.end_lineno, ""))
    return found


def code(path: Path) -> list[str]:
    """The notebook's code cells, without the parameters cell."""
    return [cell["source"] for cell in _cells(path) if not _is_parameters(cell)]


def code_of(path: Path) -> str:
    """A digest of the notebook's code outside the parameters cell: it changes with the code, not with the prose."""
    return hashlib.sha256("\0".join(code(path)).encode()).hexdigest()[:16]


def unknown(name: str, names: set[str]) -> str:
    """The complaint about a name that is not among `names`, with those that are close."""
    close = difflib.get_close_matches(name, names)
    return "no such parameter; " + (f"did you mean {' or '.join(close)}?" if close else "see dllm run --parameters NN")


def fits(kind: ast.expr, value: object) -> bool:
    """Whether `value` may stand where `kind` is annotated; True for kinds not known here."""
    if isinstance(kind, ast.BinOp):  # A | B
        return fits(kind.left, value) or fits(kind.right, value)
    if isinstance(kind, ast.Constant):  # None, or an annotation in quotes
        if not isinstance(kind.value, str):  # None, or the dots of tuple[int, ...]
            return kind.value is None and value is None
        return fits(ast.parse(kind.value, mode="eval").body, value)
    if isinstance(kind, ast.Subscript):
        parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        match ast.unparse(kind.value).rpartition(".")[2]:
            case "Optional":
                return value is None or fits(parts[0], value)
            case "Union":
                return any(fits(part, value) for part in parts)
            case "Literal":
                return value in [ast.literal_eval(part) for part in parts]
            case "list" | "List" | "tuple" | "Tuple" | "Sequence":  # YAML has lists only
                return isinstance(value, (list, tuple)) and all(any(fits(p, v) for p in parts) for v in value)
        return fits(kind.value, value)
    match ast.unparse(kind).rpartition(".")[2]:
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "list" | "tuple":
            return isinstance(value, (list, tuple))
        case "str" | "bool" | "dict" as name:
            return type(value).__name__ == name
    return True


def check(parameter: Parameter, value: object, where: str) -> None:
    """Raises Problem when `value` does not fit; `where` says which file and line, or option, gave it."""
    if fits(parameter.kind, value) or (value is None and parameter.default is None):
        return
    hint = ""
    if isinstance(value, str):
        with contextlib.suppress(ArithmeticError):  # YAML 1.1 wants a point and a sign in 1.0e-3
            hint = f"; YAML takes it as text, write {Decimal(value):f}"
    raise UsageError(f"{where}: {parameter.name} must be {ast.unparse(parameter.kind)}, not {value!r}{hint}")


def from_file(path: Path, parameters: dict[str, Parameter]) -> dict:
    """The values that a preset gives, checked. Raises Problem naming file and line."""
    try:
        text = path.read_text("utf-8")
        values = yaml.safe_load(text) or {}
    except OSError as error:
        raise UsageError(f"{path}: the preset cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a preset is lines of `name: value`, this is a {type(values).__name__}")
    lines = {line.partition(":")[0].strip(): number for number, line in enumerate(text.splitlines(), 1)}
    for name, value in values.items():
        where = f"{path}, line {lines.get(name, '?')}"
        if name not in parameters:
            raise UsageError(f"{where}: {name}: {unknown(str(name), set(parameters))}")
        check(parameters[name], value, where)
    return values


def from_text(text: str, parameter: Parameter) -> object:
    """The value that `-p name text` means: text as it is where text is wanted, else YAML, also `1e-3` and `1,2`.

    Raises Problem when nothing that fits can be read from it.
    """
    checked = not fits(parameter.kind, object())
    if text in ("None", "null") and (parameter.default is None or fits(parameter.kind, None)):
        return None
    if checked and fits(parameter.kind, text):
        return text
    for candidate in (text, f"[{text}]"):
        value = text
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(candidate)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if fits(parameter.kind, value):
            return value
    raise UsageError(f"-p {parameter.name}: must be {ast.unparse(parameter.kind)}, not {text!r}")
