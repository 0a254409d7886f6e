"""Fonts: a machine needs none for the pictures to show Chinese; what no font has is drawn without a message."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from matplotlib.font_manager import fontManager, get_font
from traces import WORDS, llada2, packing_explorer

from dllm_core import show
from dllm_core.show.figures import FAMILY, SUBSET, fonts
from dllm_core.show.widgets import explorers


@pytest.fixture
def bare(monkeypatch):
    """No fonts but those that come with matplotlib and with the project."""
    own = [font for font in fontManager.ttflist if str(font.fname).startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", own)
    fonts.cache_clear()
    assert fonts() == ("DejaVu Sans", FAMILY)
    yield
    fonts.cache_clear()


def test_pictures_on_a_bare_machine_lack_no_character(bare, caplog):
    film = show.SampleFilm()
    film.add(1, llada2())
    film.add(2, "床前明月光，疑是地上霜。《静夜思》：“举头”……（一）！？、；")
    pictures = [
        film.picture(),
        show.attention_picture(),
        show.mask_picture([[1, 0], [1, 1]], ["床", "░"], "因果"),
        show.scores([{"group": "复制", "right": 3, "count": 4}]),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for picture in pictures:
            picture.png()
        for explorer in (explorers.schedule_explorer, explorers.block_explorer, explorers.noise_explorer, packing_explorer):
            explorer(interactive=False)._repr_mimebundle_()
    assert [str(warning.message) for warning in caught] == []
    assert caplog.messages == []


def test_a_strip_on_a_bare_machine_tells_characters_apart(bare, tmp_path):
    drawn = set()
    for sign in "你床前明月光，。《":
        trace = replace(llada2(), vocabulary=WORDS | {3: sign})
        drawn.add(show.png(trace, tmp_path / "strip.png", steps=[0]).read_bytes())
    assert len(drawn) == 9
    assert show.gif(llada2(), tmp_path / "strip.gif").read_bytes().startswith(b"GIF89a")


def test_a_character_that_no_font_has_gives_no_warning_in_our_pictures_alone():
    code = (
        "from dllm_core import show; show.mask_picture([[1, 0], [1, 1]], ['ሀ', 'ሁ']).png()\n"
        "from matplotlib.figure import Figure; from matplotlib.backends.backend_agg import FigureCanvasAgg\n"
        "figure = Figure(); figure.text(0, 0, 'ሂ'); FigureCanvasAgg(figure).draw()"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert done.stderr.count("missing from font") == 1 and "SYLLABLE HI}" in done.stderr


def test_the_subset_is_small_and_has_its_licence_and_its_own_name():
    assert SUBSET.stat().st_size < 400_000
    licence = SUBSET.with_name("OFL.txt").read_text("utf-8")
    assert licence.startswith("Copyright 2014-2021 Adobe") and "SIL OPEN FONT LICENSE Version 1.1" in licence
    assert get_font(SUBSET).family_name == FAMILY and not {"Noto", "Source"} & set(FAMILY.split())
