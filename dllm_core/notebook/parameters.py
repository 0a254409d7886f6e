"""The parameters of a notebook: which its parameters cell declares, and whether a preset's or a person's values fit.

Papermill's own reader finds the same names, types and defaults; it costs each kernel a second of imports, and it leaves
out, without an error, a line whose comment holds an equals sign.
"""

import ast
import contextlib
import difflib
import hashlib
import json
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import yaml

from dllm_core.common.errors import UsageError
from dllm_core.common.yaml_file import read_yaml

TYPES = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """A line `name: type = default  # help` of the parameters cell."""

    name: str
    type: type
    default: str | int | float | bool
    help: str

    def accepts(self, value: object) -> bool:
        """Whether `value` is of the parameter's type; a whole number is a float too."""
        return type(value) is self.type or (self.type is float and type(value) is int)


def _code_cells(path: Path) -> list[tuple[bool, str]]:
    """(whether it is tagged `parameters`, source) of each code cell."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except OSError as error:
        raise UsageError(f"{path}: the notebook cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no notebook: {error}") from error
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    return [("parameters" in cell.get("metadata", {}).get("tags", []), "".join(cell["source"])) for cell in cells]


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, by name, in order.

    Raises UsageError when not exactly one cell is tagged `parameters` (papermill would only warn), or when a line of it
    is not `name: type = value` with a type of `TYPES` and a literal value of this type.
    """
    sources = [source for tagged, source in _code_cells(path) if tagged]
    if len(sources) != 1:
        raise UsageError(f"{path}: {len(sources) or 'no'} cells are tagged 'parameters', there must be one; "
                         "tag the cell in JupyterLab's property inspector")  # fmt: skip
    try:
        statements = ast.parse(sources[0]).body
    except SyntaxError as error:
        raise UsageError(f"{path}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from error
    lines = sources[0].encode().split(b"\n")
    parameters = {}
    for statement in statements:
        comment = lines[statement.end_lineno - 1][statement.end_col_offset :].decode().strip("# ")
        try:
            name, value_type = statement.target.id, TYPES[statement.annotation.id]
            parameter = Parameter(name, value_type, ast.literal_eval(statement.value), comment)
        except (AttributeError, KeyError, ValueError):
            parameter = None
        if parameter is None or not parameter.accepts(parameter.default):
            raise UsageError(
                f"{path}: line {statement.lineno} of the parameters cell must be `name: type = value`, with one of the "
                f"types {', '.join(TYPES)}: {ast.unparse(statement)}"
            )
        parameters[name] = parameter
    return parameters


def read_code(path: Path) -> list[str]:
    """The notebook's code cells, without the parameters cell."""
    return [source for tagged, source in _code_cells(path) if not tagged]


def code_digest(path: Path) -> str:
    """A digest of the notebook's code outside the parameters cell: it changes with the code, not with the prose."""
    return hashlib.sha256("\0".join(read_code(path)).encode()).hexdigest()[:16]


def unknown_name(name: str, names: Collection[str]) -> str:
    """The complaint about a name that is not among `names`, with those that are close."""
    close = difflib.get_close_matches(str(name), names)
    return "no such parameter; " + (f"did you mean {' or '.join(close)}?" if close else "see dllm run --parameters NN")


def check(parameter: Parameter, value: object, where: str) -> None:
    """Raises UsageError when `value` does not fit; `where` says which file and line, or which option, holds it."""
    if parameter.accepts(value):
        return
    hint = ""
    if isinstance(value, str):
        with contextlib.suppress(ArithmeticError):  # YAML 1.1 wants a point and a sign, as in 1.0e-3
            hint = f"; YAML takes it as text, write {Decimal(value):f}"
    raise UsageError(f"{where}: {parameter.name} must be {parameter.type.__name__}, not {reprlib.repr(value)}{hint}")


def read_preset(path: Path, parameters: dict[str, Parameter]) -> dict:
    """The values of a preset, checked. Raises UsageError naming file and line."""
    values = read_yaml(path)
    if values is None:  # nothing but comments
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a preset is lines of `name: value`, this is a {type(values).__name__}")
    text = path.read_text("utf-8-sig")
    lines = {line.partition(":")[0].strip(): number for number, line in enumerate(text.splitlines(), 1)}
    for name, value in values.items():
        where = f"{path}, line {lines.get(name, '?')}"
        if name not in parameters:
            raise UsageError(f"{where}: {name}: {unknown_name(str(name), parameters)}")
        check(parameters[name], value, where)
    return values


def parse_value(text: str, parameter: Parameter) -> str | int | float | bool:
    """The value that `-p name text` means: the text where text is wanted, else as YAML, where 1e-3 is a number too.

    Raises UsageError when it does not fit.
    """
    if parameter.type is str:
        return text
    value = text
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        value = yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if not parameter.accepts(value):
        raise UsageError(f"-p {parameter.name}: must be {parameter.type.__name__}, not {text!r}")
    return value
