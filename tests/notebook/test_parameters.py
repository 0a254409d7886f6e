"""Parameters of notebooks: how the parameters cell is read, and which values fit."""

import pytest
from small import notebook

from dllm_core.common.errors import UsageError
from dllm_core.notebook.parameters import TYPES, check, code_digest, parse_value, read_parameters, read_preset

CELL = (
    "n: int = 1  # how many = a number\n# a line of its own\nx: float = 1.0\nwhole: float = 2\n"
    's: str = "a # b"\nb: bool = True  # yes\n'
)


def written(tmp_path, cell: str):
    path = tmp_path / "written.ipynb"
    path.write_text(notebook(parameters=cell), "utf-8")
    return path


@pytest.fixture
def declared(tmp_path):
    return read_parameters(written(tmp_path, CELL))


def test_the_cell_keeps_order_default_type_and_comment(declared):
    assert list(declared) == ["n", "x", "whole", "s", "b"]
    assert [(parameter.type, parameter.default) for parameter in declared.values()] == [
        (int, 1), (float, 1.0), (float, 2), (str, "a # b"), (bool, True)]  # fmt: skip
    assert [parameter.help for parameter in declared.values()] == ["how many = a number", "", "", "", "yes"]


@pytest.mark.parametrize(
    "line",
    [
        "x = 1",
        "x: list = []",
        "x: int = 1.5",
        "x: int = 1 + y",
        "x: float = None",
        "import os",
        "x: bool = 1",
        "x: int",
    ],
)
def test_a_line_that_is_no_parameter_is_named(tmp_path, line):
    with pytest.raises(UsageError, match=r"written.ipynb: line 2 of the parameters cell must be `name: type = value`"):
        read_parameters(written(tmp_path, f"n: int = 1\n{line}\n"))


def test_a_cell_that_is_no_python_is_named(tmp_path):
    with pytest.raises(UsageError, match="line 2 of the parameters cell is not Python"):
        read_parameters(written(tmp_path, "n: int = 1\n%load x\n"))


@pytest.mark.parametrize("name, text, value", [
    ("n", "7", 7), ("x", "7", 7), ("x", "1e-3", 0.001), ("s", "7", "7"), ("s", "a: b", "a: b"), ("s", "None", "None"),
    ("b", "False", False), ("s", "", ""), ("n", "-1", -1),
])  # fmt: skip
def test_values_from_the_command_line(declared, name, text, value):
    result = parse_value(text, declared[name])
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    "name, text", [("n", "1.5"), ("n", "True"), ("x", "fast"), ("b", "1"), ("n", ""), ("n", "[1"), ("x", "None")]
)
def test_values_that_do_not_fit(declared, name, text):
    with pytest.raises(UsageError, match=f"-p {name}: must be {declared[name].type.__name__}"):
        parse_value(text, declared[name])


def test_a_null_is_no_value(declared):
    for parameter in declared.values():
        with pytest.raises(UsageError, match=f"here: {parameter.name} must be {parameter.type.__name__}, not None"):
            check(parameter, None, "here")


@pytest.mark.parametrize("content, words", [
    ("n: 1\nn: 2\n", "'n' stands twice"), ("0\n", "lines of `name: value`"), ("m: 1\n", "line 1: m: no such parameter"),
    ("n: 1\nx: fast\n", "line 2: x must be float, not 'fast'"), ("x: 1e-3\n", "YAML takes it as text, write 0.001"),
])  # fmt: skip
def test_a_wrong_preset_is_named_with_its_line(tmp_path, declared, content, words):
    (tmp_path / "bad.yaml").write_text(content, "utf-8")
    with pytest.raises(UsageError, match=f"bad.yaml.*{words}"):
        read_preset(tmp_path / "bad.yaml", declared)


def test_a_preset_of_comments_alone_changes_nothing(tmp_path, declared):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n", "utf-8")
    assert read_preset(tmp_path / "empty.yaml", declared) == {}


def test_the_digest_depends_only_on_the_code(tmp_path):
    path = written(tmp_path, CELL)
    before = code_digest(path)
    path.write_text(notebook(parameters=CELL.replace("1", "3")), "utf-8")
    assert code_digest(path) == before
    path.write_text(notebook("print(1)", parameters=CELL), "utf-8")
    assert code_digest(path) != before


def test_papermill_sees_the_same_parameters(project):
    from papermill import inspect_notebook

    for path in sorted((project / "notebooks").glob("[0-9s]*/*.ipynb")) + sorted(
        (project / "notebooks").glob("*.ipynb")
    ):
        seen, declared = inspect_notebook(str(path)), read_parameters(path)
        assert list(seen) == list(declared), path.name
        for name, parameter in declared.items():
            assert TYPES[seen[name]["inferred_type_name"]] is parameter.type
            assert eval(seen[name]["default"]) == parameter.default
