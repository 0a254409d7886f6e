"""The benchmark runs whole, writes what it measured, and refuses what it does not know."""

import json
import sys
from pathlib import Path

import pytest
import torch
from small import ROOT

from dllm_core.cli.main import main
from dllm_core.workshop.benchmark import feed, results, timing, train
from dllm_core.workshop.benchmark import main as benchmark
from dllm_core.workshop.benchmark.timing import Setting, compare
from dllm_core.workshop.benchmark.train import AR, GPU_STEPS, TrainJobs


@pytest.fixture(autouse=True)
def same_threads():
    """The command sets PyTorch's threads for its process, which here has other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quick_run_of_the_training_part_compares_every_pair(dtype):
    rows = list(train.measure(Setting("train", "tiny", dtype, 2, 1, quick=True)))
    assert "2 threads" in rows[0]["case"]
    assert [(row["name"], row["against"]) for row in rows] == [
        ("AR", "Hugging Face AR"),
        ("AR", "Hugging Face AR, matrix products by our library"),
        ("LLaDA 1", "Hugging Face, full diffusion"),
        ("LLaDA 2", "AR"),
        ("LLaDA 2, both views", "LLaDA 2"),
        *((name, f"{name} in float32") for name in ("AR", "LLaDA 1", "LLaDA 2") if dtype == "bfloat16"),
    ]
    for row in rows:
        assert row["part"] == "train" and row["more"]["tokens per second"] > 0
        medians = {job: seconds["median"] for job, seconds in row["seconds"].items()}
        assert row["ratio"]["median"] == pytest.approx(medians[row["against"]] / medians[row["name"]])


def row(part: str, case: str = "case", seconds: dict | None = None, target: str = "", **more) -> dict:
    """As of two rounds, in which the first job took one second and the second 1.5 and 2.5."""
    seconds = seconds or {"fast": [1.0, 1.0], "slow": [1.5, 2.5]}
    return compare(part, case, *seconds, seconds, target=target, **more)


def test_each_combination_is_written_to_a_file_in_the_machines_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "machine", lambda device: "cpu: A Chip (2), 2 cores")
    for name, rows in (("train", [row("train"), row("train along row length")]), ("feed", [row("feed")])):
        monkeypatch.setattr(benchmark.PARTS[name], "measure", lambda *_, rows=rows: iter(rows))
    assert main(["bench", "train", "feed", "--shape", "tiny", "--threads", "1", "2"]) == 0
    folder = tmp_path / "notebooks/benchmarks/cpu-a-chip-2-2-cores"
    assert sorted(path.name for path in folder.iterdir()) == [
        "feed-tiny-1.json",
        "feed-tiny-2.json",
        *(f"train-tiny-{dtype}-{threads}.json" for dtype in ("bfloat16", "float32") for threads in (1, 2)),
    ]
    written = json.loads((folder / "train-tiny-float32-2.json").read_text())
    assert list(written) == [
        *("machine", "torch", "date", "code", "gflops_float32", "gflops_bfloat16"),
        *("part", "shape", "dtype", "threads", "rounds", "rows"),
    ]
    assert written["machine"] == "cpu: A Chip (2), 2 cores" and len(written["rows"]) == 2 and written["threads"] == 2
    assert written["rows"][0]["ratio"] == {"median": 2.0, "low": 1.5, "high": 2.5}
    assert written["gflops_float32"] > 0 and written["gflops_bfloat16"] > 0
    assert "case: fast 2 (1.5–2.5) times as fast as slow" in capsys.readouterr().out


def test_what_was_finished_stays_when_the_rest_fails(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)

    def measured(setting):
        assert torch.get_num_threads() == setting.threads
        yield row("train")
        if setting.threads == 2:
            raise RuntimeError("no second core")
        yield row("train")

    monkeypatch.setattr(benchmark.PARTS["train"], "measure", measured)
    with pytest.raises(RuntimeError):
        main(["bench", "train", "--shape", "tiny", "--dtype", "float32"])
    complete, part = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("notebooks/benchmarks/*/*")))
    assert (complete["threads"], len(complete["rows"])) == (1, 2) and "stopped" not in complete
    assert (part["threads"], len(part["rows"]), part["stopped"]) == (2, 1, "RuntimeError: no second core")
    assert results.origin(part).endswith("incomplete, it stopped with RuntimeError: no second core")
    (path,) = tmp_path.glob("notebooks/benchmarks/*/*-2.json")
    path.write_text(json.dumps(complete | {"rows": []}))
    with pytest.raises(RuntimeError):
        main(["bench", "train", "--shape", "tiny", "--dtype", "float32", "--threads", "2"])
    assert json.loads(path.read_text())["rows"] == []  # a part replaces no complete record


def record(part: str, rows: list[dict]) -> dict:
    origin = {"machine": "cpu: A Chip", "torch": "2", "date": "2026-01-02"}
    origin |= {"gflops_float32": 50.0, "gflops_bfloat16": 90.0}
    return origin | {"part": part, "shape": "tiny", "dtype": "float32", "threads": 1, "rounds": 3, "rows": rows}


def test_curves_have_a_point_for_each_length():
    seconds = {"fast": [0.1, 0.1, 0.2], "slow": [0.4, 0.3, 0.5]}
    points = [row("decode along prompt", seconds=seconds, prompt=length, tokens=100) for length in (8, 32)]
    curves = results.curves(record("decode", [row("decode"), *points]))
    assert list(curves) == ["prompt"] and set(curves["prompt"]) == {"fast", "slow"}
    assert curves["prompt"]["fast"][32] == pytest.approx({"median": 1.0, "low": 1.0, "high": 2.0})  # ms per token
    assert curves["prompt"]["slow"][8]["median"] == pytest.approx(4.0)


def test_rows_of_one_line_are_its_points():
    seconds = {"rows of 64": [0.2], "rows of 128": [0.1]}
    point = row("train along row length", seconds=seconds, line="AR", **{"row length": 64, "tokens": 1000})
    (lines,) = results.curves(record("train", [point])).values()
    assert lines == {"AR": {64: pytest.approx({k: 200.0 for k in ("median", "low", "high")}),
                            128: pytest.approx({k: 100.0 for k in ("median", "low", "high")})}}  # fmt: skip


def test_the_page_has_a_section_for_each_record(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    folder = tmp_path / "notebooks/benchmarks/chip"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "|" not in results.page() and results.headlines() == []
    aimed = row("decode", "tiny float32, batch 1", target="at least 1.8", **{"ms per token": 0.1234})
    for part, rows in (("train", [row("train")]), ("decode", [aimed])):
        (folder / f"{part}.json").write_text(json.dumps(record(part, rows)))
    for name, content in (("cut", "{"), ("empty", "{}"), ("number", "5"), ("rows", json.dumps(record("feed", [5])))):
        (folder / f"{name}.json").write_text(content)  # a damaged record counts as absent
    page = results.page()
    assert page.index("## Decoding, tiny, float32, 1 thread") < page.index("## Training, tiny")
    assert "| batch 1 | **fast** against slow | 2 (1.5–2.5) | at least 1.8 | ms per token 0.123 |" in page
    assert "`dllm bench decode --shape tiny --dtype float32 --threads 1 --rounds 3` · cpu: A Chip" in page
    picture = results.ratios(results.read_records())
    assert "fast / slow tiny, batch 1 2.00" in picture.text and results.growth(results.read_records()) is None


def test_committed_records_are_read():
    """Their tables stand in BENCHMARKS.md, whatever has changed in the code that wrote them."""
    rows = results.headlines()
    assert len(rows) == len(results.HEADLINES) and all("(" in "".join(list(row.values())[1:]) for row in rows)
    assert results.page() == (ROOT / "BENCHMARKS.md").read_text("utf-8")


def test_a_quick_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: iter([row("train")]))
    assert main(["bench", "train", "--quick"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["speed"], ["train", "--rounds", "0"], ["train", "--threads", "0"], ["feed", "--shape", "100m"]]
)
def test_bad_arguments_end_it_before_anything_is_measured(words, monkeypatch):
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["bench", *words]))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_a_jobs_memory_is_that_of_a_child_process():
    """Also where this process has held much more."""
    held = torch.ones(2**28)
    del held
    jobs = TrainJobs(Setting("train", "tiny", "float32", 1, 1), 32, 64, torch.device("cpu"))
    peaks = timing.child_peaks(jobs.job, ["AR"], threads=1)
    assert list(peaks) == ["AR"] and 0.005 < peaks["AR"] < 0.5  # GiB; the optimizer alone takes 0.015


def test_what_compiling_saves_is_counted_in_steps(monkeypatch):
    """The compiler itself is tried in test_train; here a stand-in that computes as before."""
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(train, "child_peaks", lambda *_: {})
    monkeypatch.setattr(train, "TOKENS", 64)
    monkeypatch.setattr(train, "LENGTHS", {"tiny": 32, "100m": 32})
    monkeypatch.setattr(train, "ROWS", [32])
    monkeypatch.setitem(train.SHAPES, "100m", train.SHAPES["tiny"])
    small, large = (list(train.measure(Setting("train", shape, "float32", 1, 1))) for shape in ("tiny", "100m"))
    assert large and not any(row["name"].endswith(", compiled") for row in large)  # on a CPU it does not end
    rows = {row["name"]: row for row in small if row["name"].endswith(", compiled")}
    assert list(rows) == ["AR, compiled", "LLaDA 1, compiled", "LLaDA 2, compiled"]
    for name, compiled in rows.items():
        assert compiled["against"] == name.removesuffix(", compiled") and compiled["more"]["first step, s"] >= 0
        steps = compiled["more"]["steps until it has paid"]
        assert steps == "never" if compiled["ratio"]["median"] <= 1 else steps >= 0


def test_a_large_file_is_a_record_of_feeding(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(feed, "first_and_next", lambda setting, size: [row("feed", f"{setting.shape}, {size:g}")])
    assert main(["bench", "large"]) == 0
    (path,) = tmp_path.glob("notebooks/benchmarks/*/*")
    written = json.loads(path.read_text())
    assert path.name == f"feed-large-{written['threads']}.json" and written["rounds"] == 1
    assert written["rows"][0]["case"] == "26m, 1.6e+09" and "`dllm bench large`" in results.origin(written)


def test_steps_along_the_length_of_rows(monkeypatch):
    monkeypatch.setattr(train, "ROWS", [32, 64])
    rows = list(train.growth(Setting("train", "tiny", "float32", 1, 1), torch.device("cpu")))
    (lines,) = results.curves(record("train", rows)).values()
    assert list(lines) == ["AR", "LLaDA 1", "LLaDA 2"] and all(sorted(points) == [32, 64] for points in lines.values())


def test_a_turn_on_a_gpu_is_several_steps(monkeypatch):
    """No job is prepared on the GPU: the test needs none."""
    taken = []
    for device, count in (("cpu", 1), ("cuda", GPU_STEPS)):
        jobs = TrainJobs(Setting("train", "tiny", "float32", 1, 1), 32, 64, torch.device(device))
        monkeypatch.setattr(jobs, "step", lambda name: lambda: taken.append(name))
        jobs.job(AR)()
        assert taken == [AR] * count and GPU_STEPS > 1
        taken.clear()
