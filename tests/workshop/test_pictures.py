"""The committed pictures: each has a name that makes it, is small and is there where it is shown."""

import itertools
import json
import re

import pytest
from small import ROOT
from traces import llada2

from dllm_core.cli.main import main
from dllm_core.workshop import pictures

FIGURES = ROOT / "figures"


def test_pictures_are_drawn_by_name(workspace, capsys):
    assert main(["figures", "attention"]) == 0
    assert sorted(path.name for path in (workspace / "figures").iterdir()) == ["attention.png"]
    assert capsys.readouterr().out.split() == ["figures/attention.png"]
    assert main(["figures", "no_such_picture"]) == 2
    assert "no picture 'no_such_picture'; there are decoding, race" in capsys.readouterr().err


def test_notebooks_show_existing_pictures(project):
    shown = {}
    for notebook in sorted((project / "notebooks").glob("0*.ipynb")):
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        shown[notebook.name] = re.findall(r"!\[[^\]]+\]\(\.\./figures/([\w.]+)\)", text)
    assert [name for name in shown if not shown[name] and "01" <= name < "06"] == []
    for name in itertools.chain(*shown.values()):
        assert (FIGURES / name).is_file() and name.split(".")[0] in pictures.NAMES, name


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "notebooks/README.md"])
def test_every_picture_of_a_page_has_a_name_that_draws_it(project, page):
    shown = re.findall(r"\((?:\.\./)?figures/([\w.]+)\)", (project / page).read_text("utf-8"))
    swept = {f"sweep_{path.stem}" for path in (project / "notebooks/sweeps").glob("*.yaml")}  # made by dllm results
    assert {name.split(".")[0] for name in shown} <= {*pictures.NAMES, *swept} and len(shown) >= 2
    assert [name for name in shown if not (FIGURES / name).is_file()] == []


def test_screenshots_name_a_missing_requirement(workspace, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("DLLM_CHROMIUM", raising=False)
    assert main(["figures", "see_player"]) == 2
    assert "Chromium and Playwright: apt-get install chromium" in capsys.readouterr().err
    assert not (workspace / "figures").exists()


def test_committed_pictures_are_small():
    assert [path.name for path in FIGURES.glob("*.*") if path.stat().st_size > pictures.MOST] == []


def test_race_runs_on_a_common_clock(tmp_path):
    from PIL import Image

    fast, slow = llada2(), llada2()
    slow.steps = [*slow.steps[:2]]
    moving = Image.open(pictures.race([fast, slow], tmp_path / "x.gif"))
    assert moving.n_frames == 5  # four forwards and the start
