"""RESULTS.md: the table of answers, a section for each sweep, and that the committed page is what the command writes."""

import json

import pytest

from dllm_core.workshop import results_page
from dllm_core.workshop.sweeps.files import Sweep, find_sweeps


def sweep(name, **keys):
    return Sweep(name, {"title": name, "question": f"Is it {name}?", **keys}, (0, 1), ())


def test_the_results_page_is_what_its_command_writes(project, monkeypatch):
    monkeypatch.chdir(project)
    assert (project / "RESULTS.md").read_text("utf-8") == results_page.page(find_sweeps())


def test_the_table_of_answers_links_to_the_sections(workspace, monkeypatch):
    done, later = sweep("Done, twice", short="Yes, by much"), sweep("later")
    record = {"cell": "a", "label": "A", "seed": 0, "rows": [], "asked": {}, "date": "2026-01-01",
              "versions": {"device": "cpu: m", "torch": "2"}}  # fmt: skip
    monkeypatch.setattr(Sweep, "records", lambda self: [record] if self is done else [])
    page = results_page.page([done, later])
    assert "| Is it Done, twice? | Yes, by much | – | [Done, twice](#done-twice) |" in page
    assert "| Is it later? | not measured yet | – | [later](#later) |" in page
    assert page.index("## Done, twice") < page.index("## later") < page.index("*Not run yet: `dllm sweep later`.*")


def test_an_anchor_is_that_of_the_heading():
    assert results_page.anchor("LLaDA 2 against AR, 1/t_x (a-b)") == "llada-2-against-ar-1t_x-a-b"


@pytest.mark.parametrize("key", [{"environment": "NOWHERE"}, {"by_name": True}], ids=str)
def test_the_page_lists_separately_the_minutes_of_what_all_leaves_out(workspace, key):
    lines = [(600, ["toy/once.seed0", "apart/once.seed0"], "cpu"), (120, [], "cpu"), (300, ["apart/once.seed1"], "cpu"),
             (9000, ["toy/once.seed0"], "h100")]  # fmt: skip
    text = "".join(json.dumps({"seconds": s, "cells": c, "scale": n, "jobs": 2}) + "\n" for s, c, n in lines)
    log = workspace / "notebooks/sweeps/records/log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(text, "utf-8")
    page = results_page.page([sweep("toy"), sweep("apart", **key)])
    assert "took 12 minutes (2 invocations" in page and "need other data (apart) took 5 minutes." in page


def test_a_markdown_table():
    assert results_page.markdown([]) == "*nothing measured*"
    assert results_page.markdown([{"a|b": 1, "c": None}, {"a|b": "x|y", "c": 0.5}]).splitlines()[2:] == [
        "| 1 | – |",
        "| x\\|y | 0.5 |",
    ]
