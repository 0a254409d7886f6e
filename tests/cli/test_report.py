"""The README's tables: means over seeds, and no file that lacks what they need."""

import json

import pytest

from dllm_core.cli import report
from dllm_core.cli.main import main
from dllm_core.notebook.comparison import SCHEMA
from dllm_core.notebook.grading import paired
from dllm_core.show.html import table


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
        "reversal": {
            "AR": [{"group": "seen", "right": 1, "count": 4}], "LLaDA 2": [{"group": "seen", "right": 2, "count": 4}]
        },
        "speed": {"AR": {"tokens_per_second": 100.0}, "LLaDA 2": {"tokens_per_second": speed}},
        "likelihood": {"AR": {"mean": 0.1, "error": 0.01}, "LLaDA 2": {"mean": right / 10, "error": 0.02}},
    }  # fmt: skip


def test_the_seeds_mean_and_an_interval_of_the_questions():
    seeds = [scores(0, 4, 200.0), scores(1, 8, 900.0), scores(2, 6, 300.0)]
    _, _, ar, sure, unsure = table(report.settings_rows(seeds)).markdown.splitlines()
    assert ar.startswith("| AR | 1.000 (0.839–1.000) | 1.000 1.000 1.000 | 10.00 | 100 | 0.100 ± 0.010")
    # (14 + 18 + 16) / 60; the median speed; the mean bound, marked as a bound
    assert sure.startswith("| LLaDA 2, threshold 0.9 | 0.800 (") and "0.700 0.900 0.800" in sure
    assert "| 6.00 | 300 | ≤ 0.600 ± 0.020 |" in sure
    assert "| 4.00 | – |  |" in unsure  # not timed, not bounded
    assert unsure.endswith("| – | – | – | – |")  # nor is it known what the trainings took
    assert table(report.group_rows(seeds)).markdown.splitlines()[2:] == [
        "| copy | 30 | 100 % | 60 % |", "| story | 30 | 100 % | 100 % |", "| seen | 12 | 25 % | 50 % |"
    ]  # fmt: skip


def test_the_price_stands_beside_the_score():
    """Fine-tuning, which is every training on conversations, and all trainings; the mean over the seeds."""
    seeds = [scores(0, 4, 200.0), scores(1, 8, 900.0)]
    numbers = lambda scale: {"tokens": 1_000_000 * scale, "positions": 1, "flops": 1e13 * scale, "seconds": 100 * scale}
    for scale, of_seed in enumerate(seeds, 1):
        base, tuned = {"run": "a", "chat": False, **numbers(1)}, {"run": "b", "chat": True, **numbers(scale)}
        of_seed["trained"] = {"AR": [base, tuned], "LLaDA 2": [base, tuned, {**tuned, "run": "c"}]}
    ar, llada2, _ = report.settings_rows(seeds)
    assert list(ar.values())[-4:] == ["1.50 M", "1.5e+13", "150", "2.5e+13"]
    assert list(llada2.values())[-4:] == ["3.00 M", "3.0e+13", "300", "4.0e+13"]
    assert report.sentences(seeds)[1].startswith("Fine-tuning took, in FLOP: AR 1.5e+13, LLaDA 2 3.0e+13.")
    del seeds[1]["trained"]["AR"]
    assert report.sentences(seeds)[1].startswith("What fine-tuning took is not recorded for all")


def test_a_file_without_grades_is_named(tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(scores(0, 4, 200.0)))
    bad.write_text(json.dumps({**scores(0, 4, 200.0), "exact_match": {}}))
    assert main(["report", str(good)]) == 0
    assert "seeds 0; torch 2" in capsys.readouterr().out
    for path in (bad, tmp_path / "absent.json"):
        assert main(["report", str(good), str(path)]) == 2
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("change", [
    {"quality_speed": 5}, {"quality_speed": [5]}, {"versions": None}, {"settings": {}},
    {"speed": {"AR": {"tokens_per_second": "fast"}}}, {"likelihood": {"AR": 1}},
], ids=str)  # fmt: skip
def test_a_file_of_other_types_is_named(tmp_path, capsys, change):
    (tmp_path / "bad.json").write_text(json.dumps({**scores(0, 4, 200.0), **change}))
    assert main(["report", str(tmp_path / "bad.json")]) == 2
    assert "bad.json: not what notebook 07" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["5", "{", '{"seconds": 3}', '{"seconds": "x", "stages": {}, "jobs": 1, "memory_gib": 1}'])
def test_a_summary_that_is_none_is_named(tmp_path, capsys, content):
    (tmp_path / "s.json").write_text(json.dumps(scores(0, 4, 200.0)))
    (tmp_path / "run.json").write_text(content)
    assert main(["report", str(tmp_path / "s.json"), "--summary", str(tmp_path / "run.json")]) == 2
    printed = capsys.readouterr()
    assert "run.json" in printed.err and not printed.out


def test_lines_are_markdown_tables(tmp_path):
    for rows in (report.settings_rows([scores(0, 4, 1.0)]), report.group_rows([scores(0, 4, 1.0)])):
        assert len({line.count("|") for line in table(rows).markdown.splitlines()}) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_times_of_a_run_are_reported(tmp_path, capsys, jobs):
    (tmp_path / "s.json").write_text(json.dumps(scores(0, 4, 200.0)))
    run = {"seconds": 61.2, "jobs": jobs, "memory_gib": 1.5, "stages": {"01": {"seconds": 60.7}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["report", str(tmp_path / "s.json"), "--summary", str(tmp_path / "run.json")]) == 0
    shown = capsys.readouterr().out
    assert f"took 1 minutes 1 seconds (61 seconds) with --jobs {jobs} and 1.50 GiB of memory at most" in shown
    assert "seconds of each: 01 61." in shown


# --- what is said in sentences ----------------------------------------------------------------------------------------


def answered(seed: int, ar: str, fast: str, block: int = 16) -> dict:
    """`scores` with answers question by question ("1": right); LLaDA 2 also at another block length, all wrong."""
    row = lambda name, threshold, size, right: {
        "name": name, "threshold": threshold, "block_length": size, "steps": None, "right": [c == "1" for c in right]
    }  # fmt: skip
    result = scores(seed, 6, 330.0 + seed)
    result["settings"] |= {"test_data": "test.jsonl", "test_items": 2}
    result["ways"] = {"AR": {"block_length": None, "steps": None}, "LLaDA 2": {"block_length": block, "steps": None}}
    for entry in result["quality_speed"]:
        entry |= {"block_length": block if entry["style"] == "LLaDA 2" else None, "steps": None}
    result["answers"] = [
        row("AR", None, None, ar), row("LLaDA 2", 0.9, 8, "0" * len(fast)), row("LLaDA 2", 0.9, block, fast)
    ]  # fmt: skip
    return result


def test_differences_are_paired_over_the_seeds_at_the_block_size_of_each_run():
    seeds = [answered(0, "1100", "1010"), answered(1, "1100", "1110")]
    result = report.difference(seeds, "LLaDA 2", 0.9)
    assert result == paired([[True, False, True, False], [True, True, True, False]], [[True, True, False, False]] * 2)
    assert (result.mean, result.only_first, result.only_second, result.least, result.most) == (0.125, 2, 1, 0, 0.25)
    assert report.difference(seeds, "LLaDA 2", 0.5) is None  # graded, but not kept question by question
    seeds[1]["settings"]["test_items"] = 3
    with pytest.raises(ValueError, match="asked different questions"):
        report.difference(seeds, "LLaDA 2", 0.9)


def test_sentences_agree_with_the_tables():
    quality, _, apart, fast = report.sentences([answered(0, "1100", "1010"), answered(1, "1100", "1110")])
    assert quality == (
        "On 20 test questions, 2 seeds: exact match AR 1.000, LLaDA 2 at threshold 0.9 0.800 (6.0 tokens per forward), "
        "LLaDA 2 at threshold 0.5 0.700 (4.0 tokens per forward)."
    )
    assert apart.startswith("LLaDA 2 at threshold 0.9 minus AR: +0.125, 95 % paired interval -0.")
    assert "over 4 questions × 2 seeds (single seeds +0.000 to +0.250): it leaves open a loss" in apart
    assert fast.startswith(
        "LLaDA 2 at threshold 0.9 writes 3.3 times as many tokens per second as cached AR (330 against 100"
    )
    alike = [answered(0, "1100", "1100")]
    assert "× 1 seed: it excludes a loss above 0.02; 0 right in it alone, 0 in AR alone." in report.sentences(alike)[2]
    worse = [answered(0, "1" * 40, "10" * 20)]
    assert (
        "to -0.3" in report.sentences(worse)[2] and "it shows a loss above 0.02; 0 right" in report.sentences(worse)[2]
    )


def test_files_without_single_answers_still_give_sentences():
    assert len(report.sentences([scores(0, 4, 200.0)])) == 3


def test_the_better_estimate_of_a_bound_is_shown():
    exact = {"AR": {"mean": 0.1, "error": 0.01}, "LLaDA 2": {"mean": 0.55, "error": 0.003}}
    assert (
        "≤ 0.550 ± 0.003"
        in report.settings_rows([{**scores(0, 6, 1.0), "likelihood_exact_masks": exact}])[1]["nats per answer token"]
    )


def test_the_schema_is_printed(capsys):
    assert main(["report", "--schema"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(SCHEMA) and lines[2].startswith("| `name` |")
    assert main(["report"]) == 2
    assert "name a *.scores.json" in capsys.readouterr().err
