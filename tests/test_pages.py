"""The pages around the notebooks: links lead somewhere, quoted messages exist, README stays short, no path of a machine."""

import ast
import json
import re
from pathlib import Path

import pytest
from small import ROOT
from test_layers import CORE, FILES

MOST_WORDS = 1000
PAGES = sorted(
    path for folder in ("", "notebooks", "dllm_core", "data", "weights") for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MESSAGES = re.compile(r"^\| message \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)  # the rows of a table of messages


def prose(path: Path) -> str:
    """The Markdown of a page or of a notebook's cells, without code."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`]*`", "", FENCE.sub("", text))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings, and JupyterLab and nbconvert to a notebook's."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    if path.suffix == ".ipynb":
        return {title.replace(" ", "-") for title in titles}
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(path: Path) -> list[str]:
    """The links of a page that lead to no file or to no heading."""
    wrong = []
    for link in LINK.findall(prose(path)):
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", name):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target.suffix in (".md", ".ipynb") and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# What 1/t *is*, twice\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[x](b.md#what-1t-is-twice) [x](b.md#no-heading) [x](c.md) [x](https://a.b/c) `[x](d.md)` ![](b.md)\n"
    )
    assert broken(page) == ["b.md#no-heading", "c.md"]
    cells = [{"cell_type": "markdown", "source": ["# Why 1/t?\n", "text"]}, {"cell_type": "code", "source": ["# code"]}]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    page.write_text("[x](n.ipynb#Why-1/t?) [x](n.ipynb#code) [x](n.ipynb)")
    assert broken(page) == ["n.ipynb#code"]


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert broken(path) == []


def test_the_readme_is_short():
    words = [piece for piece in (ROOT / "README.md").read_text("utf-8").split() if re.search(r"\w", piece)]
    assert len(words) <= MOST_WORDS


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_holds_a_path_of_a_machine(path):
    assert not re.search(r"/(?:home|root|work|tmp|mnt|Users)/|[A-Z]:\\\\", path.read_text("utf-8"))


def test_troubleshooting_quotes_messages_that_the_code_has():
    """`…` in a quoted message stands for what differs; what stands between is in one string of the package."""
    strings = set()
    for path in FILES.values():
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        strings |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    rows = "".join(MESSAGES.findall((ROOT / "TROUBLESHOOTING.md").read_text("utf-8")))
    quoted = [match[2] for match in re.finditer(r"^\| (`+)(.+?)\1 \|", rows, re.MULTILINE)]
    assert len(quoted) > 40
    pieces = [piece for message in quoted for piece in message.strip().split("…") if piece]
    assert [piece for piece in pieces if not any(piece in string for string in strings)] == []


def test_the_map_of_the_library_names_each_file_of_the_core():
    page = (ROOT / "dllm_core/README.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE)) == sorted(CORE)


def test_the_librarys_first_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    language, example = FENCE.findall((ROOT / "dllm_core/README.md").read_text("utf-8"))[0]
    assert language == "python"
    exec(example, {})  # noqa: S102
    assert "forward passes" in capsys.readouterr().out
