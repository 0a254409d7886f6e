"""Sweeps: what their files may say; shared trainings; a kill and a resume; records as tables, pictures and a page."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from small import ROOT, gone, notebook, wait_for

from dllm_core import show
from dllm_core.cli.main import main
from dllm_core.cli.scheduler import Result
from dllm_core.common.errors import UsageError
from dllm_core.train import TrainStep
from dllm_core.workshop.sweeps import figures, files, results, run

TRAIN = """
from dllm_core.common.paths import resolve
folder = resolve("weights") / run_name
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(f"{before} {factor} {seed}")
with open("trained.txt", "a") as file:
    file.write(run_name + " " + str(seed) + chr(10))
"""
MEASURE = """
import json, time
from pathlib import Path
from dllm_core.common.paths import resolve
time.sleep(wait)
text = (resolve("weights") / Path(checkpoint).stem / "config.json").read_text()
rows = [{"kind": "answers", "settings": ["threshold"], "threshold": t, "exact_match": (seed + t) / 10} for t in (1, 2)]
Path(output).parent.mkdir(parents=True, exist_ok=True)
Path(output).write_text(json.dumps({"versions": {"device": "cpu: m", "torch": "2"}, "text": text, "rows": rows}))
"""
TOY = """
title: A toy
question: Does it work?
seeds: [0, 1]
train:
  - {notebook: 01_first, given: {factor: 2}, smoke: {factor: 3}}
  - {notebook: 01_first, cells: [twice], given: {before: "weights/{previous}.pt"}}
measure: {wait: 0.0}
cells:
  once: {label: trained once}
  twice: {label: trained twice}
tables:
  - {rows: answers, by: [threshold], columns: [exact_match]}
figure: {rows: answers, kind: lines, x: threshold, y: exact_match}
"""


@pytest.fixture
def toy(workspace):
    folder = workspace / "notebooks/sweeps"
    folder.mkdir()
    first = 'run_name: str = "r"\\nfactor: int = 1\\nbefore: str = ""\\nseed: int = 0\\n'.replace("\\n", "\n")
    (workspace / "notebooks/01_first.ipynb").write_text(notebook(TRAIN, parameters=first), "utf-8")
    declared = 'checkpoint: str = ""\noutput: str = ""\nwait: float = 0.0\nseed: int = 0\n'
    (folder / "measure.ipynb").write_text(notebook(MEASURE, parameters=declared), "utf-8")
    (folder / "toy.yaml").write_text(TOY, "utf-8")
    return workspace


def changed(toy, **keys):
    text = yaml.safe_load(TOY) | keys
    (toy / "notebooks/sweeps/toy.yaml").write_text(yaml.safe_dump(text, allow_unicode=True), "utf-8")
    return toy / "notebooks/sweeps/toy.yaml"


# What a sweep's file may say


@pytest.mark.parametrize("keys, words", [
    ({"cell": {}}, ["cell", "no such key"]),
    ({"chain": [4]}, ["chain", "4", "quotes"]),
    ({"cells": {"A b": {}}}, ["A b", "small letters"]),
    ({"cells": {"once": {"factr": 3}, "twice": {}}}, ["cell once", "factr"]),
    ({"cells": {"once": {"factor": "many"}, "twice": {}}}, ["factor", "int"]),
    ({"measure": {"wiat": 1}}, ["wiat", "did you mean wait"]),
    ({"train": [{"notebook": "01_first", "gven": {}}]}, ["gven", "no such key"]),
    ({"seeds": 3}, ["seeds", "list[int]", "3"]),
    ({"seeds": [0, 0]}, ["seeds", "each once"]),
    ({"seeds": [-1]}, ["seeds", "from 0"]),
    ({"order": "last"}, ["order", "last"]),
    ({"alone": "no"}, ["alone", "bool"]),
    ({"cells": ["once", "twice"]}, ["cells", "dict"]),
    ({"cells": {"once": 3, "twice": {}}}, ["cells", "dict"]),
    ({"cells": {"once": {"label": 3}, "twice": {}}}, ["once", "label", "text"]),
    ({"cells": {"once": {"cpu": 3}, "twice": {}}}, ["once", "cpu", "names with values"]),
    ({"cells": {}, "train": []}, ["cells", "at least one"]),
    ({"cells": {"..": {}}}, ["'..'", "a name is made of"]),
    ({"cells": {"a..b": {}}}, ["'a..b'", "a name is made of"]),
    ({"train": [{"notebook": "../../etc/x"}]}, ["'../../etc/x'", "a name is made of"]),
    ({"train": [{"notebook": "01_first", "preset": "../x"}]}, ["'../x'", "a name is made of"]),
    ({"train": [{"notebook": "01_first", "cells": ["onec"]}]}, ["train", "no cell 'onec'"]),
    ({"train": [{"given": {}}]}, ["train", "notebook must be given"]),
    ({"tables": [{"rows": "answers"}]}, ["tables", "columns must be given"]),
    ({"figure": {"rows": "answers", "kind": "pie", "x": "a", "y": "b"}}, ["figure", "pie", "lines, dots, heat"]),
    ({"figure": {"rows": "answers", "kind": "heat", "x": "a", "y": "b"}}, ["figure", "heat needs", "values"]),
    ({"paired": [{"against": "nobody"}]}, ["paired", "no cell 'nobody'"]),
    ({"short": "this answer has six words, alas"}, ["short", "at most 5 words"]),
    ({"effect": {"rows": "answers", "column": "exact_match"}}, ["effect", "of must be given"]),
    ({"effect": {"rows": "answers", "column": "x", "of": {"cell": "nobody"}}}, ["effect", "no cell 'nobody'"]),
])  # fmt: skip
def test_a_wrong_file_is_reported_with_its_name_and_key(toy, keys, words):
    with pytest.raises(UsageError) as error:
        files.read_sweep(changed(toy, **keys))
    assert all(word in str(error.value) for word in ["toy.yaml", *words]), error.value


@pytest.mark.parametrize("content", [b"title: caf\xe9\n", b"title: x\ntitle: y\n", b"title: x\n"])
def test_a_wrong_file_does_not_keep_the_others_from_running(toy, content, monkeypatch, capsys):
    (toy / "notebooks/sweeps/wrong.yaml").write_bytes(content)
    assert main(["sweep", "toy", "--list"]) == 0
    assert "would run toy twice" in capsys.readouterr().out
    assert main(["sweep", "all", "--list"]) == 1  # all were asked for
    listed = capsys.readouterr().out
    assert "would run toy twice" in listed and "left out: " in listed and "wrong.yaml" in listed
    assert main(["sweep", "wrong", "--list"]) == 2
    assert "wrong.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [{"rows": 5}, {"rows": None}, {"label": None}, {"key": "other"}, 5, "cut"], ids=str)
def test_a_damaged_record_counts_as_absent(toy, damage):
    (sweep,) = files.find_sweeps([])
    trial = sweep.trials[0]
    record = {"key": trial.key, "cell": "once", "label": "l", "seed": 0, "asked": {}, "rows": [{"kind": "answers"}]}
    trial.path.parent.mkdir(parents=True)
    trial.path.write_text(json.dumps(record), "utf-8")
    assert trial.done and sweep.records() == [record | {"label": "trained once"}]  # the sweep's label of today
    content = json.dumps({**record, **damage} if isinstance(damage, dict) else damage)
    trial.path.write_text(content[:9] if damage == "cut" else content, "utf-8")
    assert not trial.done and not sweep.records()


def test_a_file_without_a_question(toy):
    (toy / "notebooks/sweeps/toy.yaml").write_text("title: x\n")
    with pytest.raises(UsageError, match="cells, measure, question must be given"):
        files.find_sweeps([])
    with pytest.raises(UsageError, match="no sweep 'tyo'.*there are toy"):
        files.find_sweeps(["tyo"])
    with pytest.raises(UsageError, match="no scale '../cpu'; there are cpu, h100, smoke"):
        files.find_sweeps([], "../cpu")


def test_scales_cells_and_shared_trainings(toy):
    (sweep,) = files.find_sweeps([])
    assert [cell.steps[0][1] for cell in sweep.trials] == [{"factor": 2}] * 4
    assert [len(cell.steps) for cell in sweep.trials] == [1, 1, 2, 2]
    (smoke,) = files.find_sweeps([], "smoke")
    assert smoke.trials[0].steps[0][1] == {"factor": 3}
    planned = run.plan_trials([cell for cell in sweep.trials if cell.seed == 0], run.training_names([sweep]))
    names = [job.overrides.get("run_name") or job.overrides["checkpoint"] for job in planned]
    # the first training serves both cells; the second goes on from it; each cell is measured once
    assert names == ["toy-once", "weights/toy-once.pt", "toy-twice", "weights/toy-twice.pt"]
    second = list(planned)[2]
    assert second.overrides["before"] == "weights/toy-once.pt" and second.stage.needs == ("toy-once.0",)


def test_a_cell_may_have_other_values_at_another_scale(toy):
    changed(toy, cells={"once": {"factor": 5, "smoke": {"factor": 6}, "h100": {"factor": 7}}, "twice": {}})
    factors = lambda scale: [files.find_sweeps([], scale)[0].trials[i].steps[0][1]["factor"] for i in (0, 2)]
    assert [factors(scale) for scale in files.SCALES] == [[5, 2], [7, 2], [6, 3]]


def test_the_question_is_in_the_key(toy):
    key = lambda: [cell.key for cell in files.find_sweeps([])[0].trials]
    before = key()
    changed(toy, title="Another title")
    assert key() == before
    changed(toy, measure={"wait": 0.1})
    assert not set(key()) & set(before)


# Run, killed, resumed


def command(*arguments):
    return [sys.executable, "-m", "dllm_core.cli.main", "sweep", *arguments]


def test_a_killed_sweep_goes_on_and_repeats_nothing(toy):
    import psutil

    changed(toy, seeds=[0], cells={"once": {}, "twice": {"wait": 3600.0}})
    records = toy / "notebooks/sweeps/records/toy"
    here = {"cwd": toy, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}  # this checkout, whatever is installed
    started = subprocess.Popen(command("--jobs", "1"), **here)
    try:
        wait_for((records / "once.seed0.json").exists, "the first cell was not measured")
        wait_for(lambda: "toy-twice 0" in (toy / "trained.txt").read_text(), "the second cell was not trained")
        # between two notebooks there is none for a moment
        below = wait_for(lambda: psutil.Process(started.pid).children(recursive=True), "no kernel runs")
    finally:
        started.kill()
        started.wait()
    # what it had started ends by itself, or it would go on writing beside the next run
    assert below
    wait_for(lambda: all(gone(process.pid) for process in below), "a kernel outlived its command")
    first = (records / "once.seed0.json").stat()
    assert not (records / "twice.seed0.json").exists()
    changed(toy, seeds=[0], cells={"once": {}, "twice": {"wait": 0.1}})  # the same trainings, another measure
    subprocess.run(command(), **here, check=True)
    assert (records / "once.seed0.json").stat().st_mtime_ns == first.st_mtime_ns
    record = json.loads((records / "twice.seed0.json").read_text())
    assert record["text"] == "weights/toy-once.pt 1 0" and record["seed"] == 0 and len(record["rows"]) == 2
    trained = (toy / "trained.txt").read_text().splitlines()
    assert trained.count("toy-once 0") == 1  # finished before the kill, not done again
    assert (toy / "figures/sweep_toy.png").exists()
    subprocess.run(command(), **here, check=True)  # nothing left to do
    assert (toy / "trained.txt").read_text().splitlines() == trained
    subprocess.run(command("--force"), **here, check=True)  # all again, training included
    assert (toy / "trained.txt").read_text().splitlines() == [*trained, "toy-once 0", "toy-twice 0"]
    assert (records / "once.seed0.json").stat().st_mtime_ns > first.st_mtime_ns


def test_cells_and_seeds_are_chosen_by_name(toy, capsys):
    assert main(["sweep", "toy", "--cells", "twice", "--seeds", "1", "--list"]) == 0
    assert "would run" in (out := capsys.readouterr().out) and out.count("would run") == 1 and "twice, seed 1" in out
    assert main(["sweep", "toy", "--cells", "thrice"]) == 2
    assert "--cells: 'thrice'" in (error := capsys.readouterr().err) and "once, twice" in error
    assert main(["sweep", "toy", "--seeds", "7"]) == 2


def test_a_missing_environment_is_skipped(toy, monkeypatch, capsys):
    monkeypatch.delenv("DLLM_TOY_DATA", raising=False)
    changed(toy, environment="DLLM_TOY_DATA")
    assert main(["sweep"]) == 0
    assert "skipped: set DLLM_TOY_DATA" in capsys.readouterr().out
    assert not (toy / "notebooks/sweeps/records/toy").exists()


# Records as tables and as a page


def records(values):
    """A record a cell and seed; values: label → per seed, per threshold, which of the answers were right."""
    for label, seeds in values.items():
        for seed, thresholds in enumerate(seeds):
            rows = [{"kind": "answers", "settings": ["threshold"], "threshold": t, "right": right,
                     "tokens_per_forward": 2.0, "exact_match": right.count("1") / len(right)}
                    for t, right in thresholds.items()]  # fmt: skip
            yield {"cell": label.lower(), "label": label, "seed": seed, "rows": rows, "date": "2026-01-01",
                   "versions": {"device": "cpu: m", "torch": "2"}}  # fmt: skip


def test_rows_are_pooled_over_seeds_and_never_over_settings():
    measured = list(records({"A": [{0.5: "1100", 0.9: "1111"}, {0.5: "1000", 0.9: "1111"}]}))
    rows = results.gather(measured, "answers", ["threshold"], ["exact_match"])
    assert [(row["threshold"], row["exact_match"].values) for row in rows] == [(0.5, (0.5, 0.25)), (0.9, (1.0, 1.0))]
    assert [str(row["exact_match"]) for row in rows] == ["0.375 (0.250–0.500)", "1.000"]
    assert results.gather(measured, "answers", [], ["lacking"]) == []


def test_a_table_names_the_reference_of_exact_match():
    row = {"kind": "answers", "settings": [], "exact_match": 0.5, "ended": 1.0}
    text = {"title": "t", "tables": [{"rows": "answers", "columns": ["exact_match"]}]}
    sweep = files.Sweep("s", text, (0,), ())
    for request, words in (({}, ""), ({"own_answers": 5}, "as the model itself does one token a forward")):
        records = [{"label": "a", "seed": 0, "cell": "a", "asked": request, "rows": [row]}]
        ((caption, _),) = results.tables(sweep, records)
        assert caption == "" if not words else words in caption
    text["tables"][0]["columns"] = ["ended"]
    assert [caption for caption, _ in results.tables(sweep, records)] == [""]


def test_a_setting_of_0_is_said_in_words():
    rows = [{"kind": "merge", "settings": ["k", "block_size"], "k": k, "block_size": size, "mean": 2.5 + k}
            for k, size in ((0, 16), (3, 0))]  # fmt: skip
    text = {"title": "t", "tables": [{"rows": "merge", "by": ["k", "block_size"], "columns": ["mean"]}],
            "figure": {"rows": "merge", "kind": "lines", "x": "k", "y": "mean"}}  # fmt: skip
    sweep = files.Sweep("s", text, (0,), ())
    records = [{"label": "a", "seed": 0, "cell": "a", "asked": {}, "rows": rows}]
    ((_, (first, second)),) = results.tables(sweep, records)
    assert (first["checkpoints averaged"], first["block"]) == ("last weights", 16)
    assert (second["checkpoints averaged"], second["block"]) == (3, "full attention")
    (axes,) = figures.picture(sweep, records).figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["last weights", "3"]
    assert results.setting("k", 0) == "last weights" and results.setting("k", 3) == "checkpoints averaged 3"


def test_a_score_stands_beside_its_price():
    """A column for several cells, the caption for one; – for a record without it."""
    priced = list(records({"A": [{0.9: "1100"}] * 2, "B": [{0.9: "1111"}] * 2}))
    for record in priced[:2]:
        record["asked"] = {}
        record["rows"].append({"kind": "training", "fine_tuning_flops": 2e13 + record["seed"] * 1e13, "fine_tuning_seconds": 50.0})
    priced[2]["asked"] = priced[3]["asked"] = {}
    text = {"title": "t", "tables": [{"rows": "answers", "by": ["threshold"], "columns": ["exact_match"]}]}
    ((_, rows),) = results.tables(files.Sweep("s", text, (0, 1), ()), priced)
    assert str(rows[0]["fine-tuning FLOP"]) == "2.5e+13 (2.0e+13–3.0e+13)" and str(rows[0]["fine-tuning s"]) == "50.00"
    assert rows[1]["configuration"] == "B" and rows[1]["fine-tuning FLOP"] is None
    text["tables"][0]["labels"] = False
    ((caption, rows),) = results.tables(files.Sweep("s", text, (0, 1), ()), priced[:2])
    assert caption == "fine-tuning FLOP 2.5e+13 (2.0e+13–3.0e+13), fine-tuning s 50.00"
    assert "fine-tuning FLOP" not in rows[0]
    rows = results.paired_rows(priced, "b", ["a"])
    assert str(rows[0]["fine-tuning s"]) == "50.00"


def test_paired_against_a_cell():
    measured = list(records({"AR": [{None: "1110"}] * 2, "D": [{0.9: "0111"}, {0.9: "0111"}]}))
    (row,) = results.paired_rows(measured, "ar", ())
    assert row["difference (95 % interval)"].startswith("+0.000 (-")
    assert (row["only it right"], row["only AR right"]) == (2, 2)
    assert row["a loss above 0.02 is excluded"] == "no"


def test_paired_at_the_same_setting():
    measured = list(records({"AR": [{0.9: "1110", 0.95: "0000"}], "D": [{0.9: "1110", 0.95: "1111", 0.99: "1111"}]}))
    first, second = results.paired_rows(measured, "ar", ())
    assert (first["threshold"], first["only it right"], first["only AR right"]) == (0.9, 0, 0)
    assert (second["threshold"], second["only it right"], second["only AR right"]) == (0.95, 4, 0)


def test_sweeps_that_need_their_name_are_not_among_all(toy, capsys):
    like = (toy / "notebooks/sweeps/toy.yaml").read_text("utf-8")
    (toy / "notebooks/sweeps/apart.yaml").write_text(like + "by_name: true\n", "utf-8")
    for names, listed in (["all"], False), ([], False), (["apart"], True), (["all", "apart"], True):
        assert main(["sweep", *names, "--list"]) == 0
        said = capsys.readouterr().out
        assert ("would run apart" in said) == listed and ("would run toy" in said) == (names != ["apart"])


# The sweeps that come with the project


@pytest.mark.parametrize("scale", files.SCALES)
def test_every_sweep_fits_its_notebooks(project, monkeypatch, scale):
    monkeypatch.chdir(project)
    sweeps = files.find_sweeps([], scale)
    assert len(sweeps) >= 10 and all(len(sweep.seeds) >= 3 for sweep in sweeps)
    for sweep in sweeps:
        rows = [row for record in sweep.records() for row in record["rows"]]
        measured = {name for row in rows for name in (*row, *row.get("groups", ()))}
        for table in sweep.text.get("tables", ()) if measured else ():
            assert set(table["columns"]) | set(table.get("by", ())) <= measured, sweep.name
    names = run.training_names(sweeps)
    of = {(c.sweep, c.name): list(run.trainings(c))[-1] for s in sweeps for c in s.trials if c.steps and c.seed == 0}
    assert names[of["cap", "lambda-0.1"]] == names[of["complementary", "twin"]] == names[of["filling", "scored"]]
    assert names[of["curriculum", "wsd"]] == names[of["merge", "falling"]] == names[of["shift", "plain"]]


def test_the_chains_of_all_seeds_are_one_plan(project, monkeypatch):
    """Stages of one seed wait for their own seed's alone, write to its folder, and run on one thread."""
    monkeypatch.chdir(project)
    (paired,) = files.find_sweeps(["paired"], "cpu")
    jobs = run.chain_jobs(paired.trials)
    names = [job.stage.name for job in jobs]
    assert len(set(names)) == len(names) and {name.rpartition(".")[2] for name in names} == {"0", "1", "2"}
    for job in jobs:
        seed = job.stage.name.rpartition(".")[2]
        assert job.threads == 1 and job.parameters["seed"] == int(seed) and job.weights.name == f"seed{seed}"
        assert {need.rpartition(".")[2] for need in job.stage.needs} <= {seed}
        assert set(job.stage.needs) <= set(names)
        assert job.overrides["dtype"] == job.parameters["dtype"] == "float32"  # whatever the processor
        assert (
            job.overrides.get("eval_every") == job.parameters["eval_every"] == 100_000
        ) == job.stage.name.startswith("05")
        assert all(f"seed{seed}" in str(path) for path in (job.executed, *job.upstream))
    assert run.chain_jobs([]) == []
    (paired,) = files.find_sweeps(["paired"], "h100")
    assert "dtype" not in run.chain_jobs(paired.trials)[0].overrides


def test_how_a_chains_training_ended_is_recorded(tmp_path, monkeypatch):
    """The mean of the last 50 losses, the last validation; `show.expected` reads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    folder = tmp_path / "weights" / "tried"
    folder.mkdir(parents=True)
    step = {"step": 1, "loss": 100.0, "learning_rate": 0.1, "tokens": 1, "seconds": 1.0, "grad_norm": 1.0}
    lines = [step, *({**step, "loss": loss} for loss in (1.0, 3.0) * 25)]
    lines[-1]["validation"] = 1.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = SimpleNamespace(run_folder=folder, stage=SimpleNamespace(name="05-llada1.2"))
    record = json.loads(run.write_chain_record(job).read_text())
    assert record == {"stage": "05-llada1", "seed": 2, "date": record["date"], "steps": 51, "loss": 2.0, "validation": 1.5}
    shown = show.expected("05-llada1", [TrainStep(**{**step, "loss": 7.0})])
    shown = str(shown)
    assert "2.000" in shown and "7.000" in shown and "1.500" in shown and "seeds 2" in shown and "expected" not in shown
    for seed, value in ((0, 1.0), (1, 2.5)):  # with seed 2: mean 5/3, s = 0.7638, t = 4.303, √(4/3): ± 3.795
        other = {**record, "seed": seed, "validation": value}
        (tmp_path / f"notebooks/sweeps/records/chain/05-llada1-seed{seed}.json").write_text(json.dumps(other))
    assert "1.000, 2.500, 1.500" in str(show.expected("05-llada1", [])) and "0.000 to 5.4" in str(show.expected("05-llada1", []))
    with pytest.raises(UsageError, match="no record of stage '01'.*dllm sweep all"):
        show.expected("01", [])


@pytest.mark.parametrize("ends", ["done", "failed"])
def test_a_trial_waits_only_for_its_stages(project, monkeypatch, ends):
    """Chains and trials are one plan; what is timed runs by itself after it, unless a chain did not come through."""
    monkeypatch.chdir(project)
    calls = []

    def pretend(planned, at_once, *_, **__):
        calls.append((planned, at_once))
        states = {job.stage.name: ends if job.stage.name.startswith("04.") else "done" for job in planned}
        return {name: Result(state, {}) for name, state in states.items()}, 0

    monkeypatch.setattr(run, "run_jobs", pretend)
    chosen = files.find_sweeps(["merge", "paired", "real", "speed"], "cpu")
    trials = [trial for sweep in chosen for trial in sweep.trials]
    screen = SimpleNamespace(say=lambda _: None)
    jobs = run.plan_trials(trials, run.training_names(chosen))
    assert run.run_trials(jobs, 2, screen) is (ends == "done")
    needs = {job.stage.name: set(job.stage.needs) for job in calls[0][0]}
    assert needs["merge-falling.1"] == {"01.1"} and needs["real-ar.2"] == set()
    assert needs["paired-ar.measure.0"] == {"04.0", "05-llada1.0", "05-llada2.0"}
    assert needs["merge-falling.measure.1"] == {"01.1", "merge-falling.1"}
    names = list(needs)
    assert all(need in names[: names.index(name)] for name in names for need in needs[name])
    trained = [job for job in calls[0][0] if job.stage.name in ("merge-falling.1", "real-ar.2")]
    assert [job.overrides["dtype"] for job in trained] == ["float32"] * 2
    assert [at_once for _, at_once in calls] == [2, 1] if ends == "done" else [2]
    if ends == "done":
        assert {job.stage.name for job in calls[1][0]} == {f"speed-all.measure.{seed}" for seed in (0, 1, 2)}
        assert all(len(job.upstream) == 3 for job in calls[1][0])  # a chain trained again makes them run again
