"""The executed copies in notebooks/executed: of the notebooks as they stand, small, and clean to look at."""

import json
import re

import pytest

from dllm_core.cli.stages import STAGES
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.workshop.executed import code_cells, relinked
from dllm_core.workshop.site import EXECUTED

MOST = 600_000  # bytes
LEAKS = {
    "a tensor": r"\btensor\(",
    "a record's repr": r"\b[A-Z]\w+\([a-z_]+=[^)]*, [a-z_]+=",
    "an object's repr": r"<[\w.]+ (?:object )?at 0x",
    "a warning": r"Warning\b|\bwarnings\.warn",
    "a path of a machine": r"/(?:home|root|work|tmp|mnt|Users)/",
    "a missing glyph": r"Glyph \d+",
    "sixteen digits": r"\d\.\d{13,}",
}


@pytest.fixture(params=STAGES, ids=lambda stage: stage.preset, scope="module")
def stage(request):
    return request.param


@pytest.fixture(scope="module")
def path(stage):
    return resolve(EXECUTED) / f"{stage.preset}.ipynb"


@pytest.fixture(scope="module")
def outputs(path):
    return [output for cell in read_json(path)["cells"] for output in cell.get("outputs", ())]


def shown(output: dict) -> str:
    """The text of an output, as a person sees it; of HTML what scripts and styles leave."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    html = re.sub(r"(?s)<(script|style|template)\b.*?</\1>", "", "".join(data.get("text/html", "")))
    return "".join(data.get("text/plain", "")) + "".join(data.get("text/markdown", "")) + re.sub(r"<[^>]+>", " ", html)


def test_a_copy_is_of_the_notebook_as_it_stands(stage, path):
    """After a change of code: `dllm run all --jobs 2 && dllm executed`; after one of words: `dllm executed`."""
    source, copy = read_json(resolve(f"notebooks/{stage.notebook}.ipynb")), read_json(path)
    assert code_cells(copy) == code_cells(source)
    words = [[cell["source"] for cell in book["cells"] if cell["cell_type"] == "markdown"] for book in (source, copy)]
    assert [relinked(lines) for lines in words[0]] == words[1]


def test_a_copy_is_small(path):
    assert path.stat().st_size < MOST


def test_every_cell_was_executed_without_an_error(path, outputs):
    code = [cell for cell in read_json(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} <= {"stdout"}


@pytest.mark.parametrize("leak", LEAKS)
def test_no_output_shows(outputs, leak):
    found = [match[0] for output in outputs for match in re.finditer(LEAKS[leak], shown(output))]
    assert found == []


def test_no_table_is_empty(outputs):
    for output in outputs:
        html = "".join(output.get("data", {}).get("text/html", ""))
        for table in re.findall(r"(?s)<table.*?</table>", html):
            assert re.search(r"<td[^>]*>\s*(?:<[^>]+>\s*)*[^<\s]", table), table


def test_every_picture_has_words_beside_it(outputs):
    """A picture's text/plain says what is in it, for those who cannot see it, and is no repr of a class."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            assert not re.match(r"<\w", "".join(data["text/plain"])), json.dumps(data["text/plain"])[:80]
