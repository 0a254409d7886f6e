"""Notebooks and pages as HTML without a network: every formula is drawn, and nothing is asked of another machine."""

import re

import nbformat
import pytest

from dllm_core.show.offline import OfflineExporter, mathml

FORMULA = re.compile(r"(?s)\$\$(.+?)\$\$|(?<![$\\\\])\$([^$]+?)\$")


def exported(*cells: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(cell) for cell in cells])
    return OfflineExporter().from_notebook_node(notebook, {"metadata": {"name": "page"}})[0]


def formulas(project) -> list[str]:
    texts = [page.read_text("utf-8") for page in (*project.glob("*.md"), *project.glob("notebooks/*.md"))]
    for path in project.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    prose = [re.sub(r"(?s)```.*?```|`[^`]*`", "", text) for text in texts]
    return [block or inline for text in prose for block, inline in FORMULA.findall(text)]


def test_every_formula_of_the_notebooks_becomes_mathml(project):
    found = formulas(project)
    assert len(found) > 200
    for formula in found:
        drawn = mathml(formula, "inline")
        assert drawn.startswith("<math") and "\\" not in re.sub("<[^>]+>", "", drawn), formula


def test_what_is_no_formula_stays_legible():
    assert mathml("x^a^<b>", "inline") == "<code>x^a^&lt;b&gt;</code>"
    assert "<script" not in mathml("<script>", "inline")


def test_a_page_is_drawn_without_a_network(browser):
    page_of = exported("# Title", r"Inline $x_t$ and", r"$$\int_0^1 \frac{1}{t}\,dt$$", "`$not this$`")
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(page_of)
    inline, block = page.locator("math").all()
    assert block.get_attribute("display") == "block" and page.locator("code").inner_text() == "$not this$"
    assert block.bounding_box()["height"] > 1.5 * inline.bounding_box()["height"] > 0  # a fraction, not a line of text
    assert asked == []
    page.close()


@pytest.mark.parametrize("address", ["cdnjs", "unpkg", "googleapis"])
def test_a_page_loads_no_script_from_another_machine(address):
    assert not re.search(f'<(?:script|link)[^>]*{address}', exported("text"))
