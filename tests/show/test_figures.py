"""Figures: they draw, leave matplotlib as it was, and say what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from traces import is_png

from dllm_core import show
from dllm_core.schedules import BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show.figures import look_numbers

COSTS = ("tokens per second", "MB of weights per token", "MFLOP per token")


def test_figures_draw():
    blocks = BlockSchedule(64, 50, up=(8, 16), down=(16, 8))
    rates = [learning_rate(i, 50) for i in range(50)]
    score = [{"group": "复制", "right": 3, "count": 4}]
    pictures = [
        show.noise_schedules([NoiseSchedule(), NoiseSchedule.band(0.05, 0.95, "cosine")]),
        show.block_schedule(blocks, 50, rates),
        show.mask_picture([[1, 0], [1, 1]], ["床", "░"], "causal", {"x": (0, 1)}),
        show.scores({"AR": score, "LLaDA 2": []}),
        show.scores(score),
        show.quality_speed([{"style": "ar", "exact_match": 0.5, "tokens_per_forward": 1.0, "low": 0.4, "high": 0.6}]),
    ]
    assert all(map(is_png, pictures))
    assert "8 → 16 → 64 → 16 → 8" in repr(pictures[1]) and "3 cells open" in repr(pictures[2])
    assert "3/4" in repr(pictures[4])


def test_a_style_looks_the_same_in_every_figure():
    assert look_numbers(["LLaDA 2", "AR"]) == [2, 0]
    assert look_numbers(["small", "AR", "large"]) == [3, 0, 4]  # others take what no style has
    assert look_numbers(["small", "large"]) == [0, 1]
    points = [{"style": style, "exact_match": 0.5, "tokens_per_forward": 1} for style in ("llada2", "ar")]
    line = show.quality_speed(points, levels={"people": 0.4}).figure.axes[0].lines
    assert [part.get_label() for part in line] == ["LLaDA 2", "AR", "people"]
    rows = [{"name": name, "batch": 1, **dict.fromkeys(COSTS, 1.0)} for name in ("AR", "LLaDA 2")]
    of_speed = show.batch_speed(rows).figure.axes[0].lines
    bars = show.scores({"LLaDA 2": [{"group": "a", "right": 1, "count": 2}]}).figure.axes[0].patches
    assert line[0].get_color() == of_speed[1].get_color() != line[1].get_color() == of_speed[0].get_color()
    assert line[0].get_marker() == of_speed[1].get_marker() != line[1].get_marker()
    assert to_hex(bars[0].get_facecolor()) == line[0].get_color().lower()


def test_figure_errors_name_the_argument():
    with pytest.raises(ValueError, match="mask\\[0\\]"):
        show.mask_picture([[[True]]])
    with pytest.raises(ValueError, match="1 for 2 columns"):
        show.mask_picture([[1, 0]], ["a"])
    with pytest.raises(ValueError, match="row 0 has no 'exact_match'"):
        show.quality_speed([{"style": "ar", "tokens_per_forward": 1}])
    with pytest.raises(ValueError, match="49 entries for total_steps=50"):
        show.block_schedule(BlockSchedule.constant(8, 50, 4), 50, [1.0] * 49)
    for call in (show.noise_schedules, show.batch_speed, show.scores):
        with pytest.raises(ValueError, match="empty"):
            call([])


def test_figures_leave_matplotlib_as_it_was():
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams); from dllm_core import show;"
        "show.mask_picture([[1]]).png(); assert dict(matplotlib.rcParams) == before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_save_figure_stays_in_its_folder(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert show.save_figure(show.mask_picture([[1]]), "one") == tmp_path / "figures" / "one.png"
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["one.png"]
    with pytest.raises(ValueError, match="plain file name"):
        show.save_figure(show.mask_picture([[1]]), "../one")


def test_a_mask_tells_its_two_terms():
    """Two blocks of two, noisy and clean: 16 cells within a block, 8 towards a clean earlier one."""
    block = torch.tensor([0, 0, 1, 1])
    own, earlier = block[:, None] == block[None, :], block[:, None] > block[None, :]
    noisy = torch.cat([own, earlier], dim=1)
    mask = torch.cat([noisy, torch.cat([torch.zeros(4, 4, dtype=torch.bool), own | earlier], dim=1)])
    assert show.mask_picture(mask).text.endswith("24 cells open: 16 own block, 8 earlier clean")
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    assert show.mask_picture(causal).text.endswith("15 cells open: 5 itself, 10 earlier")
    assert show.mask_picture(torch.ones(3, 3, dtype=torch.bool)).text.endswith("9 cells open")
