"""The benchmark runs whole, writes what it measured, and refuses what it does not know."""

import json
from pathlib import Path

import pytest
import torch
from small import batch_of, tiny

from dllm_core.losses import Diffusion
from dllm_core.workshop.benchmark import main as benchmark
from dllm_core.workshop.benchmark import peak as benchmark_peak
from dllm_core.workshop.benchmark import pictures as show_benchmark
from dllm_core.workshop.benchmark import results as benchmark_results
from dllm_core.workshop.benchmark import train as benchmark_train
from dllm_core.workshop.benchmark.jobs import SHAPES
from dllm_core.workshop.benchmark.timing import MeasuredRow, Spread
from dllm_core.workshop.benchmark.train import AR, BAND, TURN, EverythingComputed, OnePassAView, Steps, measure
from dllm_core.workshop.results_page import markdown

MASK = 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quick_run_of_the_training_part_compares_every_pair(dtype):
    before = torch.get_num_threads()
    rows = list(measure("tiny", dtype, before + 1, 1, quick=True))
    assert torch.get_num_threads() == before and f"{before + 1} threads" in rows[0].case
    assert [(row.name, row.against) for row in rows] == [
        ("AR", "Hugging Face AR"),
        ("AR", "Hugging Face AR, matrix products by our library"),
        ("LLaDA 1", "Hugging Face, full diffusion"),
        ("LLaDA 2", "AR"),
        ("LLaDA 2", "LLaDA 2, everything computed"),
        ("LLaDA 2, both views", "LLaDA 2, one pass a view"),
        ("LLaDA 2, both views", "LLaDA 2, everything computed, one pass a view"),
        *((name, f"{name} in float32") for name in ("AR", "LLaDA 1", "LLaDA 2") if dtype == "bfloat16"),
    ]
    for row in rows:
        assert row.part == "train" and row.more["tokens per second"] > 0
        assert row.ratio.median == pytest.approx(row.seconds[row.against].median / row.seconds[row.name].median)


@pytest.mark.parametrize("plain", [OnePassAView(MASK), EverythingComputed(MASK, twice=True), EverythingComputed(MASK)])
def test_the_plain_ways_train_on_the_same_loss_and_gradient(plain):
    batch, found = batch_of([12, 9], [21]), []
    for objective in (Diffusion(BAND, MASK, complementary=getattr(plain, "views", 2) == 2), plain):
        model = tiny()
        loss = objective(model, batch, block_size=4, generator=torch.Generator().manual_seed(0))
        loss.total.backward()
        found.append((loss, [p.grad for p in model.parameters()]))
    (one, first), (two, second) = found
    assert one.count == two.count
    torch.testing.assert_close(one.total, two.total)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def row(part: str) -> MeasuredRow:
    return MeasuredRow(part, "case", "fast", "slow", Spread(2.0, 1.5, 2.5), {"fast": Spread(1, 1, 1), "slow": Spread(2, 2, 2)})


def test_each_combination_is_written_to_a_file_in_the_machines_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "machine", lambda device: "cpu: A Chip (2), 2 cores")
    for name, rows in (("train", [row("train"), row("train along row length")]), ("feed", [row("feed")])):
        monkeypatch.setattr(benchmark.PARTS[name], "measure", lambda *_, rows=rows: iter(rows))
    before = torch.get_num_threads()
    assert benchmark.main(["train", "feed", "--shape", "tiny", "--threads", "1", "2"]) == 0
    assert torch.get_num_threads() == before
    folder = tmp_path / "notebooks/benchmarks/cpu-a-chip-2-2-cores"
    assert sorted(path.name for path in folder.iterdir()) == [
        "feed-tiny-1.json",
        "feed-tiny-2.json",
        *(f"train-tiny-{dtype}-{threads}.json" for dtype in ("bfloat16", "float32") for threads in (1, 2)),
    ]
    record = json.loads((folder / "train-tiny-float32-2.json").read_text())
    assert record["machine"] == "cpu: A Chip (2), 2 cores" and len(record["rows"]) == 2 and record["threads"] == 2
    assert record["rows"][0]["ratio"] == {"median": 2.0, "low": 1.5, "high": 2.5}
    assert record["gflops_float32"] > 0 and record["gflops_bfloat16"] > 0
    assert "case: fast 2.00 × (1.50–2.50) slow" in capsys.readouterr().out


def test_what_was_finished_stays_when_the_rest_fails(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)

    def measured(shape, dtype, threads, *_):
        yield row("train")
        if threads == 2:
            raise RuntimeError("no second core")
        yield row("train")

    monkeypatch.setattr(benchmark.PARTS["train"], "measure", measured)
    with pytest.raises(RuntimeError):
        benchmark.main(["train", "--shape", "tiny", "--dtype", "float32"])
    whole, part = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("notebooks/benchmarks/*/*")))
    assert (whole["threads"], len(whole["rows"])) == (1, 2) and "stopped" not in whole
    assert (part["threads"], len(part["rows"]), part["stopped"]) == (2, 1, "RuntimeError: no second core")
    assert benchmark_results.origin(part).endswith("not the whole of it: RuntimeError: no second core")
    (path,) = tmp_path.glob("notebooks/benchmarks/*/*-2.json")
    path.write_text(json.dumps(part | {"stopped": ""} | {"rows": []}).replace(', "stopped": ""', ""))
    with pytest.raises(RuntimeError):
        benchmark.main(["train", "--shape", "tiny", "--dtype", "float32", "--threads", "2"])
    assert json.loads(path.read_text())["rows"] == []  # what is whole is not replaced by a part


def record(part: str, rows: list[MeasuredRow], **more) -> dict:
    origin = {
        "machine": "cpu: A Chip",
        "torch": "2",
        "date": "2026-01-02",
        "gflops_float32": 50.0,
        "gflops_bfloat16": 90.0,
    }
    asked = {"part": part, "shape": "tiny", "dtype": "float32", "threads": 1, "rounds": 3}
    return origin | asked | more | {"rows": [one.to_dict() for one in rows]}


def test_curves_have_a_point_for_each_length():
    seconds = {"fast": Spread(0.1, 0.1, 0.2), "slow": Spread(0.4, 0.3, 0.5)}
    along = lambda n: MeasuredRow(
        "decode along prompt", "c", "fast", "slow", Spread(4, 3, 5), seconds, more={"prompt": n, "tokens": 100}
    )
    found = benchmark_results.curves(record("decode", [row("decode"), along(8), along(32)]))
    assert list(found) == ["prompt"] and set(found["prompt"]) == {"fast", "slow"}
    assert found["prompt"]["fast"][32] == pytest.approx({"median": 1.0, "low": 1.0, "high": 2.0})  # ms per token
    assert found["prompt"]["slow"][8]["median"] == pytest.approx(4.0)


def test_rows_of_one_line_are_its_points():
    seconds = {"rows of 64": Spread(0.2, 0.2, 0.2), "rows of 128": Spread(0.1, 0.1, 0.1)}
    at = {"line": "AR", "row length": 64, "tokens": 1000}
    one = MeasuredRow("train along row length", "c", "rows of 64", "rows of 128", Spread(0.5, 0.5, 0.5), seconds, more=at)
    (lines,) = benchmark_results.curves(record("train", [one])).values()
    assert lines == {"AR": {64: pytest.approx({k: 200.0 for k in ("median", "low", "high")}),
                            128: pytest.approx({k: 100.0 for k in ("median", "low", "high")})}}  # fmt: skip


def test_the_page_has_a_section_for_each_record(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    folder = tmp_path / "notebooks/benchmarks/chip"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert benchmark_results.section(markdown) == "" and benchmark_results.headlines() == []
    aimed = MeasuredRow(
        "decode",
        "tiny float32, batch 1",
        "fast",
        "slow",
        Spread(2.0, 1.5, 2.5),
        {},
        "at least 1.8",
        {"ms per token": 0.1234},
    )
    for part, rows in (("train", [row("train")]), ("decode", [aimed])):
        (folder / f"{part}.json").write_text(json.dumps(record(part, rows)))
    page = benchmark_results.section(markdown)
    assert page.index("### Decoding, tiny, float32, 1 thread") < page.index("### Training, tiny")
    assert "| batch 1 | **fast** against slow | 2 (1.5–2.5) | at least 1.8 | ms per token 0.123 |" in page
    assert (
        "`python -m dllm_core.workshop.benchmark.main decode --shape tiny --dtype float32 --threads 1 --rounds 3` · cpu: A Chip"
        in page
    )
    drawn = show_benchmark.ratios(benchmark_results.records())
    assert "fast / slow tiny, batch 1 2.00" in drawn.alt and show_benchmark.growth(benchmark_results.records()) is None


def test_a_quick_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: iter([row("train")]))
    assert benchmark.main(["train", "--quick"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["speed"], ["train", "--rounds", "0"], ["train", "--threads", "0"], ["feed", "--shape", "100m"]]
)
def test_bad_arguments_end_it_before_anything_is_measured(words, monkeypatch):
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as end:
        benchmark.main(words)
    assert end.value.code == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is Linux's to tell")
def test_a_jobs_memory_is_of_a_process_of_its_own():
    """Also where the process that asks has held much more."""
    held = torch.ones(2**28)
    del held
    asked = {"AR": ["AR", "tiny", 32, 64, "float32"]}
    found = benchmark_peak.apart("train", asked, 1)
    assert list(found) == ["AR"] and 0.005 < found["AR"] < 0.5  # GiB; the optimiser alone takes 0.015


def test_what_compiling_pays_is_told_in_steps(monkeypatch):
    """The compiler itself is tried in test_train; here a stand-in that computes as before."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(benchmark_train.benchmark_peak, "apart", lambda *_: {})
    monkeypatch.setattr(benchmark_train, "TOKENS", 64)
    monkeypatch.setattr(benchmark_train, "LENGTHS", {"tiny": 32, "100m": 32})
    monkeypatch.setattr(benchmark_train, "ROWS", [32])
    monkeypatch.setitem(benchmark_train.SHAPES, "100m", benchmark_train.SHAPES["tiny"])
    small, large = (list(measure(shape, "float32", 1, 1, quick=False)) for shape in ("tiny", "100m"))
    assert large and not any(row.name.endswith(", compiled") for row in large)  # on a CPU it does not end
    rows = {row.name: row for row in small if row.name.endswith(", compiled")}
    assert list(rows) == ["AR, compiled", "LLaDA 1, compiled", "LLaDA 2, compiled"]
    for name, found in rows.items():
        assert found.against == name.removesuffix(", compiled") and found.more["first step, s"] >= 0
        steps = found.more["steps until it has paid"]
        assert steps == "never" if found.ratio.median <= 1 else steps >= 0


def test_a_large_file_is_a_record_of_feeding(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark.benchmark_feed, "large_file", lambda gigabytes: [row("feed")])
    assert benchmark.main(["large"]) == 0
    (path,) = tmp_path.glob("notebooks/benchmarks/*/*")
    made = json.loads(path.read_text())
    assert path.name == f"feed-large-{made['threads']}.json" and "`python -m dllm_core.workshop.benchmark.main large`" in benchmark_results.origin(made)


def test_steps_along_the_length_of_rows(monkeypatch):
    monkeypatch.setattr(benchmark_train, "ROWS", [32, 64])
    rows = list(benchmark_train._by_length("tiny", "float32", 1, torch.device("cpu"), "1 thread"))
    (lines,) = benchmark_results.curves(record("train", rows)).values()
    assert {name: sorted(points) for name, points in lines.items()} == {n: [32, 64] for n in ("AR", "LLaDA 1", "LLaDA 2")}
    assert not list(benchmark_train._by_length("26m", "float32", 1, torch.device("cpu"), "1 thread"))


def test_a_turn_on_a_gpu_is_several_steps(monkeypatch):
    """Of a device that is not asked for anything: no job is made on it."""
    taken = []
    for device, count in (("cpu", 1), ("cuda", TURN)):
        jobs = Steps(SHAPES["tiny"], 32, 64, "float32", torch.device(device))
        monkeypatch.setattr(jobs, "step", lambda name: lambda: taken.append(name))
        jobs.job(AR)()
        assert taken == [AR] * count and TURN > 1
        taken.clear()
