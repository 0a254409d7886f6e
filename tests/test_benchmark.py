"""The benchmark runs whole, writes what it measured, and refuses what it does not know."""

import json

import pytest
import torch
from small import batch_of, tiny

from dllm_core import benchmark
from dllm_core.benchmark_train import BAND, OnePassAView, measure
from dllm_core.objectives import Diffusion
from dllm_core.timing import Row, Spread

MASK = 16


def test_a_quick_run_of_the_training_part_compares_every_pair():
    rows = list(measure("tiny", "float32", 1, 1, quick=True))
    assert [(row.name, row.against) for row in rows] == [
        ("AR", "Hugging Face AR"),
        ("AR", "Hugging Face AR, matrix products by our library"),
        ("LLaDA 1", "Hugging Face, full diffusion"),
        ("LLaDA 2", "AR"),
        ("LLaDA 2, both views", "LLaDA 2, one pass a view"),
    ]
    for row in rows:
        assert row.part == "train" and row.more["tokens per second"] > 0
        assert row.ratio.median == pytest.approx(row.seconds[row.against].median / row.seconds[row.name].median)


def test_both_views_at_once_cost_what_one_pass_a_view_does():
    """The two jobs of that pair train on the same loss and gradient."""
    batch, found = batch_of([12, 9], [21]), []
    for objective in (Diffusion(BAND, MASK, complementary=True), OnePassAView(MASK)):
        model = tiny()
        loss = objective(model, batch, block_size=4, generator=torch.Generator().manual_seed(0))
        loss.total.backward()
        found.append((loss, [p.grad for p in model.parameters()]))
    (one, first), (two, second) = found
    assert one.count == two.count
    torch.testing.assert_close(one.total, two.total)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def row(part: str) -> Row:
    return Row(part, "case", "fast", "slow", Spread(2.0, 1.5, 2.5), {"fast": Spread(1, 1, 1), "slow": Spread(2, 2, 2)})


def test_each_part_is_written_to_a_file_of_the_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "resolve", lambda path: tmp_path / path)
    monkeypatch.setattr(benchmark, "machine", lambda device: "cpu: A Chip (2), 2 cores")
    for name, rows in (("train", [row("train"), row("train length")]), ("decode", [row("decode")]), ("feed", [])):
        monkeypatch.setattr(benchmark.PARTS[name], "measure", lambda *_, rows=rows: iter(rows))
    assert benchmark.main(["train", "decode", "--shape", "tiny", "--dtype", "float32", "--threads", "1"]) == 0
    folder = tmp_path / benchmark.RECORDS
    assert sorted(path.name for path in folder.iterdir()) == [
        "cpu-a-chip-2-2-cores.decode.json",
        "cpu-a-chip-2-2-cores.train.json",
    ]
    record = json.loads((folder / "cpu-a-chip-2-2-cores.train.json").read_text())
    assert record["machine"] == "cpu: A Chip (2), 2 cores" and len(record["rows"]) == 2
    assert record["rows"][0]["ratio"] == {"median": 2.0, "low": 1.5, "high": 2.5}
    assert "case: fast 2.00 × (1.50–2.50) slow" in capsys.readouterr().out


def test_a_quick_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "resolve", lambda path: tmp_path / path)
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: iter([row("train")]))
    assert benchmark.main(["train", "--quick"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["speed"], ["train", "--rounds", "0"], ["train", "--threads", "0"]])
def test_bad_arguments_end_it_before_anything_is_measured(words, monkeypatch):
    monkeypatch.setattr(benchmark.PARTS["train"], "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as end:
        benchmark.main(words)
    assert end.value.code == 2
