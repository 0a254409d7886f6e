"""The generated parts of README and README.zh: what they hold, and that the committed pages are what the command writes."""

import re

import pytest

from dllm_core.workshop import readme_parts
from dllm_core.workshop.sweeps.results import PRICE, Spread


@pytest.mark.parametrize("page", readme_parts.PAGES)
def test_the_readme_shows_what_its_command_writes(project, monkeypatch, page):
    monkeypatch.chdir(project)
    made = readme_parts.parts(page)
    text = (project / page).read_text("utf-8")
    assert all(f"<!-- made: {mark} -->" in text for mark in made)
    assert readme_parts.filled(text, made) == text, f"{page}: `dllm results` writes it anew"


def test_stretches_between_marks_are_replaced_and_nothing_else():
    text = "a\n<!-- made: x -->\n<!-- end -->\nb\n<!-- made: y -->\nold\nlines\n<!-- end -->\nc\n"
    new = readme_parts.filled(text, {"x": "1", "y": "2"})
    assert new == "a\n<!-- made: x -->\n1\n<!-- end -->\nb\n<!-- made: y -->\n2\n<!-- end -->\nc\n"
    assert readme_parts.filled(new, {"x": "1", "y": "2"}) == new


def test_the_headline_is_paired_with_ar_question_by_question():
    row = {"kind": "answers", "label": "AR", "threshold": None, "seed": 0, "right": "1110"}
    others = [row | {"label": "LLaDA 1", "right": "1101"}]
    others += [row | {"label": "LLaDA 2", "threshold": t, "right": "1000"} for t in (0.99, 0.95, 0.9)]
    text = readme_parts.headline([*others, row])
    start = "AR answers 75.0 % of the test questions. Against it, in points of a hundred (95 % interval): LLaDA 1: +0.0 (-80.0 to +80.0);"
    assert text.startswith(start) and "; LLaDA 2, threshold 0.95: -50.0 (-106.6 to +6.6);" in text


def test_scores_take_the_seeds_mean_the_questions_interval_and_the_trained_block():
    row = {"kind": "answers", "label": "AR", "threshold": None, "right": "10", "tokens_per_forward": 1.0}
    others = [row | {"label": "LLaDA 1"}, *(row | {"label": "LLaDA 2", "threshold": t} for t in (0.99, 0.95, 0.9))]
    answers = [r | {"seed": seed} for r in (row, *others) for seed in (0, 1)]
    bound = {"kind": "likelihood", "estimator": "iid_t", "block_size": 8, "mean": 0.5}
    wide = bound | {"block_size": 16, "mean": 9.0}
    likelihoods = [
        {"label": "AR", "rows": [{"kind": "training"}, bound | {"estimator": "exact", "block_size": 1, "mean": 0.25}]},
        {"label": "LLaDA 2", "rows": [bound, wide]}, {"label": "LLaDA 2", "rows": [bound | {"mean": 0.7}, wide]},
    ]  # fmt: skip
    speed = dict.fromkeys(readme_parts.STYLES.values(), Spread((1000.0,)))
    costs = {"AR": {name: Spread((2e13,)) for name in PRICE}}
    rows = list(readme_parts.score_rows(answers, likelihoods, speed, costs))
    assert [row["fine-tuning FLOP"] for row in rows] == ["2.0e+13", *["–"] * 4]
    assert rows[0]["exact match (95 % interval)"].startswith("0.500 (0.095–0.905)")
    assert [row["nats per answer token"] for row in rows] == ["0.250", "–", "–", "–", "≤ 0.600"]
    assert [row["tokens per second"] for row in rows] == ["1,000", "1,000", "–", "–", "1,000"]


def test_the_seconds_of_the_chain():
    stages = {"00": {"state": "done", "seconds": 5.0, "memory_gib": 0.3}, "01": {"state": "done", "seconds": 96.1}}
    summary = {"machine": "cpu: some, 2 cores", "date": "2026-01-01", "jobs": 2, "seconds": 90.0, "stages": stages}
    assert readme_parts.chain_seconds(summary) == (
        "Seconds of one run (cpu: some, 2 cores, 2026-01-01, `dllm run all --jobs 2`): "
        "00 5, 01 96; together 1.5 min."
    )


def test_the_chinese_parts_have_no_english_words(project, monkeypatch):
    monkeypatch.chdir(project)
    made = readme_parts.parts("README.zh.md")
    prose = re.sub(
        r"`[^`]*`|cpu: [^,]*|0\d-\w+|\b(?:AR|LLaDA|FLOP|token|torch|nats|cpu|llada\d)\b|[0-9.]+\+cpu|\d+e\d+",
        "",
        "".join(made.values()),
    )
    assert re.findall(r"[a-z]{2,}", prose) == []
