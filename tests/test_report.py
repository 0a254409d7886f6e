"""The README's tables: pooled over seeds, and no file that lacks what they need."""

import json

import pytest

from dllm_core import report


def scores(seed: int, right: int, speed: float) -> dict:
    groups = lambda n: [{"group": "copy", "right": n, "count": 10}, {"group": "story", "right": 10, "count": 10}]
    rate = lambda n: {"quality": (n + 10) / 20, "tokens_per_forward": float(n)}
    return {
        "settings": {"gen_confidence_threshold": 0.9, "seed": seed},
        "versions": {"torch": "2", "device": "cpu (x)", "threads": "1"},
        "quality_speed": [
            {"style": "AR", "threshold": None, **rate(10)},
            {"style": "LLaDA 2", "threshold": 0.9, **rate(right)},
            {"style": "LLaDA 2", "threshold": 0.5, **rate(right - 2)},
        ],
        "exact_match": {"AR": groups(10), "LLaDA 2": groups(right)},
        "reversal": {"AR": [{"group": "seen", "right": 1, "count": 4}], "LLaDA 2": [{"group": "seen", "right": 2, "count": 4}]},
        "speed": {"AR": {"tokens_per_second": 100.0}, "LLaDA 2": {"tokens_per_second": speed}},
        "likelihood": {"AR": {"mean": 0.1, "error": 0.01}, "LLaDA 2": {"mean": right / 10, "error": 0.02}},
    }  # fmt: skip


def test_seeds_are_pooled():
    seeds = [scores(0, 4, 200.0), scores(1, 8, 900.0), scores(2, 6, 300.0)]
    _, _, ar, sure, unsure = report.settings_table(seeds)
    assert ar.startswith("| AR | 1.000 (0.940–1.000) | 1.000 1.000 1.000 | 10.00 | 100 | 0.100 ± 0.010")
    # (14 + 18 + 16) / 60; the median speed; the mean bound, marked as a bound
    assert sure.startswith("| LLaDA 2, threshold 0.9 | 0.800 (") and "0.700 0.900 0.800" in sure
    assert "| 6.00 | 300 | ≤ 0.600 ± 0.020 |" in sure
    assert unsure.endswith("| 4.00 | – |  |")  # not timed, not bounded
    assert report.groups_table(seeds)[2:] == [
        "| copy | 30 | 100 % | 60 % |", "| story | 30 | 100 % | 100 % |", "| seen | 12 | 25 % | 50 % |"
    ]  # fmt: skip


def test_a_file_without_grades_is_named(tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(scores(0, 4, 200.0)))
    bad.write_text(json.dumps({**scores(0, 4, 200.0), "exact_match": {}}))
    assert report.main([str(good)]) == 0
    assert "seeds 0; torch 2" in capsys.readouterr().out
    for path in (bad, tmp_path / "absent.json"):
        assert report.main([str(good), str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_lines_are_markdown_tables(tmp_path):
    for table in (report.settings_table([scores(0, 4, 1.0)]), report.groups_table([scores(0, 4, 1.0)])):
        assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_times_of_a_run_are_told(tmp_path, capsys, jobs):
    (tmp_path / "s.json").write_text(json.dumps(scores(0, 4, 200.0)))
    run = {"seconds": 61.2, "jobs": jobs, "memory_gib": 1.5, "stages": {"01": {"seconds": 60.7}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert report.main([str(tmp_path / "s.json"), "--summary", str(tmp_path / "run.json")]) == 0
    assert f"61 seconds, --jobs {jobs}, 1.50 GiB: 01 61" in capsys.readouterr().out
