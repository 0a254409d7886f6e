"""Links of a notebook that moves to another folder."""

from pathlib import Path

from dllm_core.common.links import relinked


def test_links_lead_where_they_led():
    text = '[a](../RESULTS.md#x) ![b](pic.png) <img src="../figures/c.gif"> <a href="https://d.e">'
    deeper = '[a](../../RESULTS.md#x) ![b](../../notebooks/pic.png) <img src="../../figures/c.gif"> <a href="https://d.e">'
    assert relinked(text, Path("notebooks"), Path("runs/cpu")) == deeper
    assert relinked(deeper, Path("runs/cpu"), Path("notebooks")) == text
    assert relinked(text, Path("/p/notebooks"), Path("/p/notebooks")) == text


def test_a_notebook_is_replaced_by_its_copy():
    assert relinked("[a](one.ipynb#x) [b](two.ipynb)", Path("n"), Path("n/copies"), {"one": "uno"}) == (
        "[a](uno.ipynb#x) [b](../two.ipynb)"
    )
