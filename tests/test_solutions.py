"""The notebook of solutions: its right functions pass their checks and its bugs show in their curves, as it asserts."""

import json
import re

import pytest

from dllm_core.notebook import check


@pytest.fixture(scope="module")
def code(project):
    notebook = json.loads((project / "notebooks/solutions.ipynb").read_text("utf-8"))
    assert all(re.fullmatch(r"[a-z0-9-]+", cell["id"]) for cell in notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    return ["".join(cell["source"]) for cell in cells]


def test_every_solution_passes_and_every_bug_shows(code, capsys):
    scope = {}
    for source in code:
        exec(source, scope)  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    assert {line.split()[1].rstrip(":") for line in printed if line.startswith("✓")} == set(check.__all__)
    assert len([line for line in printed if line.startswith("✗")]) == 5  # the bugs, each explained


def test_no_cell_is_longer_than_one_reads_at_once(code):
    assert max(len(source.splitlines()) for source in code) <= 20
