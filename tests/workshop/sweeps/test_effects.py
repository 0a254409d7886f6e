"""The effect of a sweep: which rows it takes, seed by seed, and how it is told."""

import pytest

from dllm_core.common.errors import UsageError
from dllm_core.workshop.sweeps.effects import effect
from dllm_core.workshop.sweeps.files import Sweep, find_sweeps


def told(spec, records, seeds=(0, 1)):
    text = {"effect": {"rows": "answers", "column": "exact_match", **spec}} if spec else {}
    return effect(Sweep("s", text, seeds, ()), records)


def record(cell, seed, *rows):
    rows = [{"kind": "answers", "threshold": threshold, "exact_match": value} for threshold, value in rows]
    return {"cell": cell, "label": cell.upper(), "seed": seed, "rows": [{"kind": "training"}, *rows]}


RECORDS = [
    record("a", 0, (0.5, 0.4), (0.9, 0.8)), record("a", 1, (0.5, 0.4), (0.9, 0.6)),
    record("b", 0, (None, 0.5)), record("b", 1, (None, 0.7)), record("b", 2, (None, 0.0)),
]  # fmt: skip


def test_it_is_the_mean_difference_of_equal_seeds_with_its_range():
    words = told({"of": {"cell": "a", "threshold": 0.9}, "against": {"cell": "b"}}, RECORDS)
    assert words == "exact match +0.100 (-0.100 to +0.300): A, threshold 0.9 against B"


def test_both_sides_may_be_of_one_cell():
    words = told({"of": {"cell": "a", "threshold": 0.5}, "against": {"cell": "a", "threshold": 0.9}}, RECORDS)
    assert words == "exact match -0.300 (-0.400 to -0.200): threshold 0.5 against threshold 0.9, A"


def test_without_a_second_side_it_is_the_value():
    assert told({"of": {"cell": "a", "threshold": 0.9}}, RECORDS) == "exact match 0.700 (0.600–0.800): A, threshold 0.9"


def test_a_single_seed_is_told_and_no_seed_is_a_dash():
    spec = {"of": {"cell": "a", "threshold": 0.9}, "against": {"cell": "b"}}
    assert told(spec, [RECORDS[0], *RECORDS[2:]]) == "exact match +0.300 (one seed): A, threshold 0.9 against B"
    assert told(spec, RECORDS[:2]) == told(spec, []) == told({}, RECORDS) == "–"


def test_a_side_that_fits_several_rows_is_refused():
    with pytest.raises(UsageError, match="sweep s: effect: {'cell': 'a'} fits several rows"):
        told({"of": {"cell": "a"}}, RECORDS)


def test_every_effect_of_the_project_takes_one_row_of_a_record(project, monkeypatch):
    monkeypatch.chdir(project)
    sweeps = find_sweeps()
    assert all("effect" in sweep.text for sweep in sweeps)
    for sweep in sweeps:
        effect(sweep, sweep.records())  # raises where it does not
        done = {record["cell"] for record in sweep.records()}
        sides = [sweep.text["effect"].get(side) for side in ("of", "against")]
        measured = all(side is None or side.get("cell") in (None, *done) for side in sides)
        assert not done or not measured or effect(sweep, sweep.records()) != "–", sweep.name
