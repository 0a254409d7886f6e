"""Copies of executed notebooks: what a copy keeps and leaves out, and the site that is made of them."""

import base64
import io

import pytest
from PIL import Image
from traces import llada2

from dllm_core import show
from dllm_core.common.paths import resolve
from dllm_core.show.html import asset
from dllm_core.workshop import executed, site


def code(name, source, outputs=(), tags=(), count=None):
    metadata = {"tags": list(tags), "papermill": {"duration": 1}} if count else {"tags": list(tags)}
    return {
        "cell_type": "code", "id": name, "source": [source], "outputs": list(outputs), "execution_count": count,
        "metadata": metadata,
    }  # fmt: skip


def picture() -> str:
    """A PNG of 256 × 64 in 16,384 colours."""
    image = Image.new("RGB", (256, 64))
    image.putdata([(x, 4 * y, x * y % 251) for y in range(64) for x in range(256)])
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_a_copy_is_the_source_with_the_outputs_of_its_run():
    prose = {"cell_type": "markdown", "id": "why", "metadata": {}, "source": ["new words"]}
    source = {"cells": [code("given", "n = 1", tags=["parameters"]), prose, code("sum", "n + 1")], "metadata": {"k": 1}}
    ran = {
        "cells": [
            code("given", "n = 1", tags=["parameters"], count=1),
            code("x1y2", "n = 5", tags=["injected-parameters"], count=2),
            {**prose, "source": ["old words"]},
            code("sum", "n + 1", [{"output_type": "stream", "name": "stdout", "text": ["6"]}], count=3),
        ],
        "metadata": {"papermill": {"input_path": "/somewhere/else.ipynb"}},
    }
    copy = executed.copy(source, ran)
    assert [cell["id"] for cell in copy["cells"]] == ["given", "x1y2", "why", "sum"]
    assert copy["cells"][2]["source"] == ["new words"] and copy["cells"][3]["outputs"][0]["text"] == ["6"]
    assert copy["metadata"] == {"k": 1} and "papermill" not in str(copy)
    assert executed.code_cells(copy) == executed.code_cells(source) == [("given", "n = 1"), ("sum", "n + 1")]


def test_links_of_a_copy_lead_where_they_led():
    line = '[a](01_ar_pretrain.ipynb#x) [b](../RESULTS.md#y) [c](README.md) [d](#here) [e](https://a.b) <img src="../figures/f.png">'
    assert executed.relinked([line, "[f](07_compare_styles.ipynb) [g](solutions.ipynb)"]) == [
        '[a](01_ar_pretrain.ipynb#x) [b](../../RESULTS.md#y) [c](../README.md) [d](#here) [e](https://a.b) <img src="../../figures/f.png">',
        "[f](07_compare_sft.ipynb) [g](../solutions.ipynb)",
    ]


def test_a_picture_becomes_smaller_or_stays():
    many = picture()
    light = executed.few_colours(many)
    image = Image.open(io.BytesIO(base64.b64decode(light)))
    assert len(light) < len(many) and image.size == (256, 64) and len(image.getcolors()) <= executed.COLOURS
    assert executed.few_colours(light) == light  # and a second time nothing is lost


def test_the_links_of_the_site():
    for page, link, leads_to in (
        ("README.md", "notebooks/07_compare_styles.ipynb", "notebooks/executed/07_compare_sft.html"),
        ("notebooks/README.md", "01_ar_pretrain.ipynb", "executed/01_ar_pretrain.html"),
        ("notebooks/executed/01_ar_pretrain.ipynb", "02_llada1_pretrain.ipynb", "02_llada1_pretrain.html"),
        ("notebooks/executed/01_ar_pretrain.ipynb", "../../RESULTS.md", "../../RESULTS.html"),
        ("README.md", "data/", "data/README.html"),
        ("README.md", "figures/race.gif", "figures/race.gif"),
    ):
        assert site.href(link, site.Path(page)) == leads_to
    assert site.github_anchor("Why-1/t?-It's-&quot;easy&quot;") == "why-1t-its-easy"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    assert len(list(site.write(folder))) > 15
    return folder


def test_every_link_of_the_site_leads_to_a_file(published):
    broken = []
    for page in published.rglob("*.html"):
        text = page.read_text("utf-8")
        for _, link in site.LINK.findall(text):
            if not (page.parent / site.html.unescape(link)).exists():
                broken.append((str(page.relative_to(published)), link))
    assert broken == []
    first = (published / "index.html").read_text("utf-8")
    assert "notebooks/executed/00_the_idea.html" in first and resolve(".").as_posix() not in first


def test_a_page_gets_a_style_once():
    styles = set()
    html = {"output_type": "display_data", "data": {"text/html": ["<style>a</style>\n<b>x</b>"], "text/plain": "x"}}
    first, second = (executed._light(html, styles)["data"] for _ in range(2))
    assert first == {"text/html": ["<style>a</style>\n", "<b>x</b>"]} and second == {"text/html": ["<b>x</b>"]}


def test_the_players_of_a_page_share_one_script():
    shown, script = set(), asset("player/player.js")
    players = [show.player(llada2(), labels=[label]).html for label in "AB"]
    outputs = [{"output_type": "display_data", "data": {"text/html": [player]}} for player in players]
    first, second = ("".join(executed._light(output, shown)["data"]["text/html"]) for output in outputs)
    assert script in first and "window.dllmStart = start;\nstart(root, " in first
    assert script not in second and "window.dllmStart?.(root, {" in second and '"label":"B"' in second
