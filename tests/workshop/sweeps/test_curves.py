"""Scores against price: points from records, and how many times the reference's compute a score takes."""

import numpy as np
import pytest

from dllm_core.workshop.sweeps import curves


def record(label: str, flops: float, right: str, seed: int = 0, threshold: float | None = None, **answers) -> dict:
    settings = {} if threshold is None else {"threshold": threshold}
    numbers = {"right": right, "groups": {"reading": [3, 4]}, "tokens_per_forward": 2.0, **answers}
    return {
        "label": label, "seed": seed,
        "rows": [
            {"kind": "answers", **settings, **numbers}, {"kind": "answers", "threshold": 0.123, **numbers, "right": "0" * 10},
            {"kind": "training", "fine_tuning_flops": flops, "fine_tuning_seconds": flops / 1e9},
            {"kind": "likelihood", "mean": 0.5},
        ],
    }  # fmt: skip


def marks(right: int, of: int = 400) -> str:
    """Spread evenly, so that resampled questions are alike for all."""
    return "".join("1" if (i * right) % of < right else "0" for i in range(of))


AR = [record(f"AR, {n}", n * 1e9, marks(right)) for n, right in ((1, 100), (10, 200), (100, 400))]


def test_a_point_holds_score_groups_and_price():
    (point,) = curves.points([record("LLaDA 2, half", 3e9, "1101", threshold=0.95)], 0.95)
    assert (point.line, point.budget, point.flops, point.seconds) == ("LLaDA 2", "half", 3e9, 3.0)
    assert point.exact_match == 0.75 and point.value("reading") == 0.75 and point.nats == 0.5
    unpriced = record("AR, 1", 1e9, "11")
    unpriced["rows"][2] = {"kind": "training", "seconds": 3}  # an old record
    assert list(curves.points([unpriced], 0.95)) == []


def test_the_compute_for_an_equal_score_is_interpolated_in_log_flop():
    """150 right lie halfway between AR's 1e9 and 1e10 FLOP: at 3.16e9. So 3.16e10 are ten times as many."""
    other = record("LLaDA 2, 1", 10**10.5, marks(150), threshold=0.95)
    (row,) = curves.equal_score_rows(list(curves.points([*AR, other], 0.95)), "AR")
    ratio, low, high = (float(word.strip("()")) for word in list(row.values())[-1].replace(" to", "").split())
    assert ratio == pytest.approx(10, rel=0.02)
    assert low < 10 < high and high / low < 10


def test_scores_beyond_the_reference_have_only_a_bound():
    below, above = record("LLaDA 1, 1", 1e10, marks(20)), record("LLaDA 2, 1", 1e10, "1" * 400)
    short = [record("AR, 1", 1e9, marks(100)), record("AR, 10", 1e10, marks(200))]
    rows = curves.equal_score_rows(list(curves.points([*short, below, above], 0.95)), "AR")
    words = [list(row.values())[-1] for row in rows]
    assert words[0] == "> 10 (> 10 to > 10)" and words[1].startswith("beyond its scores")


def test_a_dip_of_the_reference_changes_no_order():
    """A larger budget that scored less by chance does not count as needed for the lower score."""
    dip = [record("AR, 1", 1e9, marks(100)), record("AR, 10", 1e10, marks(300)), record("AR, 100", 1e11, marks(250))]
    other = record("LLaDA 2, 1", 1e10, marks(300))
    (row,) = curves.equal_score_rows(list(curves.points([*dip, other], 0.95)), "AR")
    assert float(list(row.values())[-1].split()[0]) == pytest.approx(1.0, rel=0.05)


def test_rows_and_figure_take_the_mean_of_the_seeds():
    seeds = [record("AR, 1", 1e9 * (1 + seed), "1" * seed + "0" * (4 - seed), seed) for seed in (1, 2, 3)]
    points = list(curves.points(seeds, 0.95))
    (row,) = curves.score_rows(points)
    assert row["seeds"] == 3 and row["FLOP"] == "3.0e+09" and row["exact match (95 % interval)"].startswith("0.500")
    figure, alt = curves.picture(points)
    assert "AR, 1: 0.500" in alt
    line = figure.axes[0].get_lines()[-1]
    assert np.allclose(line.get_xydata(), [[3e9, 0.5]])
