"""Files that version 0.1.0 wrote before the package had rooms: run folders, decoding traces, sweep records.

They lie in tests/old_files. The runs are of one network of 800 weights: `ar` and `llada2` finished, `killed-ar` was
killed after step 12 (its last state is of step 8), `stopped-llada2` was interrupted after step 12. All trained on `TEXTS`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dllm_core import patterns
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.config import CheckpointInfo, DecodeConfig, TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.likelihood import ar_nll, nll_bound
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.notebook.asking import generate_answers
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.show.player.page import player
from dllm_core.trace import Trace
from dllm_core.train import train
from dllm_core.workshop.sweeps.results import gather

OLD = Path(__file__).parent / "old_files"
TEXTS = ("你是谁？我是小言。", "abcdefgh", "你好。我是小言。", "hgfedcba", "abab我是abab", "谁是小言？我是。")
SETTINGS = {"run_name": "x", "seed": 0, "prompt": "你是谁？"}
STEPS = 20


# --- finished runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, first_logits", [
    ("ar", [-0.88788, 0.2119, -0.36434, -0.82241, -0.83321, -0.86283]),
    ("ar_best.pt", [-0.88788, 0.2119, -0.36434, -0.82241, -0.83321, -0.86283]),
    ("llada2.pt", [-2.14916, 0.9735, 0.82432, 0.41762, -2.19261, -2.16476]),
    ("llada2_best.pt", [-1.95446, 0.8499, 0.78961, 0.41583, -1.9425, -1.94456]),
    ("llada2_merged.pt", [-1.95446, 0.8499, 0.78961, 0.41583, -1.9425, -1.94456]),
])  # fmt: skip
def test_a_finished_run_gives_the_logits_it_gave(name, first_logits):
    model = load_checkpoint(OLD / "runs" / name).model
    pattern = patterns.causal(torch.zeros(1, 8, dtype=torch.long), torch.arange(8)[None])
    with torch.no_grad():
        logits = model.logits(model(torch.arange(4, 12)[None], pattern.position, pattern.mask()))
    assert logits[0, -1, :6].tolist() == pytest.approx(first_logits, abs=1e-4)


def test_a_finished_run_has_its_training_info_and_decodes_as_before():
    ar, llada2 = load_checkpoint(OLD / "runs/ar"), load_checkpoint(OLD / "runs/llada2")
    assert ar.info == CheckpointInfo("ar", label_shift=True, chat=True)
    assert llada2.info == CheckpointInfo("llada2", block_size=8)
    (trace,) = generate_answers(ar, ["你是谁？"], DecodeConfig("ar", 16))
    assert (trace.text, trace.forwards) == ("r" * 16, 16)
    (trace,) = generate_answers(llada2, ["你是谁"], DecodeConfig("llada2", 16, block_length=8))
    assert (trace.text, trace.forwards) == ("a" * 16, 19)  # 4 more complete the block; 3 of them are written before


def test_a_finished_run_keeps_its_metrics_and_its_best_checkpoints():
    run = RunFolder(OLD / "runs/llada2", keep_best=2)
    metrics = run.metrics()
    assert [step["step"] for step in metrics] == list(range(1, STEPS + 1))
    assert [step["block_size"] for step in metrics][::5] == [4, 16, 32, 16]
    assert [file.name for _, file in run.checkpoints()] == ["0000020.safetensors", "0000015.safetensors"]
    assert run.checkpoints()[0][0] == metrics[-1]["validation"]


# --- unfinished runs --------------------------------------------------------------------------------------------------


def resumed(name: str, folder: Path, objective, measure, checkpoint: CheckpointInfo, keep_best: int = 1, blocks=None) -> tuple:
    """(the steps that the rest of the training yields, its run folder) of a copy of the unfinished run `name`."""
    shutil.copytree(OLD / "runs" / name, folder)
    start = load_checkpoint(OLD / "runs/ar")  # the same shape and tokenizer
    tokenizer = start.tokenizer
    rows = [
        [tokenizer.bos_token_id, *tokenizer.encode(text * (1 + i % 2), add_special_tokens=False), tokenizer.eos_token_id]
        for i in range(4)
        for text in TEXTS
    ]
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    documents = TokenDataset.of(rows, **ids)
    batches = PackedBatches(documents, batch_size=4, seq_len=32, seed=3)
    valid = [next(PackedBatches(documents, batch_size=4, seq_len=32, seed=3))]
    config = TrainConfig(
        STEPS, batch_size=4, seq_len=32, optimizer="muon", learning_rate=0.02, muon_learning_rate=0.06, warmup_steps=4,
        decay_ratio=0.4, eval_every=5, save_every=8, keep_best=keep_best, seed=5,
    )  # fmt: skip
    run = RunFolder.open(str(folder), start.model, checkpoint, tokenizer, SETTINGS, keep_best)
    validate = lambda model: measure(model, valid)
    steps = list(train(start.model, batches, objective, config, blocks=blocks, validate=validate, run=run))
    run.finish(start.model)
    return steps, run


def test_a_killed_ar_run_ends_as_the_run_that_was_not_killed(tmp_path):
    """AR draws no noise in training: what is left of the run must be the landed code's own steps."""
    measure = lambda model, valid: ar_nll(model, valid).mean
    steps, run = resumed("killed-ar", tmp_path / "run", ar_loss, measure, CheckpointInfo("ar", label_shift=True))
    whole = RunFolder(OLD / "runs/ar").metrics()
    assert [step.step for step in steps] == list(range(9, STEPS + 1))  # the state was saved after step 8
    for step, before in zip(steps, whole[8:], strict=True):
        assert (step.loss, step.grad_norm) == pytest.approx((before["loss"], before["grad_norm"]), abs=1e-4)
        assert (step.tokens, step.learning_rate) == (before["tokens"], pytest.approx(before["learning_rate"]))
    assert [line["step"] for line in run.metrics()] == list(range(1, STEPS + 1))  # half a line and steps 9 to 12 dropped
    assert not (run.folder / "state.pt").exists()


def test_a_stopped_diffusion_run_goes_on(tmp_path):
    """Its noise is drawn in another way today, so the rest of it is another sample of the same training."""
    mask = load_checkpoint(OLD / "runs/ar").tokenizer.mask_token_id
    measure = lambda model, valid: nll_bound(model, valid, mask, block_size=8, draws=64).mean  # its error: 0.05
    blocks = BlockSchedule(32, STEPS, (0.3, 0.4, 0.3), (4, 8, 16), (16, 8))
    objective, info = Diffusion(NoiseSchedule(), mask), CheckpointInfo("llada2", block_size=8)
    steps, run = resumed("stopped-llada2", tmp_path / "run", objective, measure, info, keep_best=2, blocks=blocks)
    whole = RunFolder(OLD / "runs/llada2").metrics()
    assert [step.step for step in steps] == list(range(13, STEPS + 1))
    assert [(step.block_size, step.phase, step.tokens) for step in steps] == [
        (line["block_size"], line["phase"], line["tokens"]) for line in whole[12:]
    ]
    assert steps[0].seconds > run.metrics()[11]["seconds"]
    assert steps[-1].validation == pytest.approx(whole[-1]["validation"], abs=0.3)
    assert len(run.checkpoints()) == 2


# --- traces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, text, tokens, forwards, reasons", [
    ("ar", "我是小言，一个刚刚学会说话的小小", 16, 16, {"ar"}),
    ("llada1", "我是小言，一个刚刚学会说话的小小", 16, 16, {"schedule"}),  # 8 steps under guidance
    ("llada2", "我的", 3, 8, {"budget", "fallback", "threshold"}),
    ("infill", "天天很好", 2, 2, {"schedule"}),
])  # fmt: skip
def test_a_trace_is_read_and_played(name, text, tokens, forwards, reasons, tmp_path):
    file = OLD / "traces" / f"{name}.json"
    trace = Trace.load(file)
    commits = [commit for step in trace.steps for commit in step.commits]
    assert (trace.text, trace.tokens, trace.forwards) == (text, tokens, forwards)
    assert {commit.reason for commit in commits} == reasons
    assert all(commit.alternatives for commit in commits)
    assert any(step.draft for step in trace.steps) or name == "ar"
    assert sum(step.held_back for step in trace.steps) == (13 if name == "llada2" else 0)
    assert Trace.load(trace.save(tmp_path / "again.json")) == trace
    assert "<script" in player(trace).html


# --- sweep records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, row_type, by, column, values", [
    ("paired-ar", "answers", ["temperature"], "exact_match", [0.90804]),
    ("curriculum-wsd", "likelihood", ["block_size"], "mean", [2.22703, 2.63938, 2.87607]),
    ("merge-falling", "merge", ["k"], "mean", [2.63938, 2.63938, 2.69249, 2.77795]),
])  # fmt: skip
def test_a_sweep_record_gives_the_rows_of_its_tables(name, row_type, by, column, values):
    record = json.loads((OLD / "records" / f"{name}.seed0.json").read_text("utf-8"))
    assert {"sweep", "cell", "label", "seed", "key", "date", "trained", "asked", "versions", "seconds"} <= set(record)
    rows = gather([record], row_type, by, [column])
    assert [row[column].mean for row in rows] == pytest.approx(values, abs=1e-5)
    assert all(row["label"] == record["label"] for row in rows)
