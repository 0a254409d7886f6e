"""What the sweeps measure: rows that name their settings, on the small weights that come with the project."""

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from dllm_core import likelihood as likelihood_module
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.batches import validation_batches
from dllm_core.data.jsonl import chat_documents
from dllm_core.likelihood import Estimate
from dllm_core.notebook.grading import Question
from dllm_core.train import TrainStep
from dllm_core.workshop.sweeps import measure

ITEMS = [
    Question("a", "你是谁？", "我是小言，一个刚刚学会说话的小小语言模型。"),
    Question("b", "请介绍你自己。", "不是这个"),
]


@pytest.fixture(scope="module")
def loaded(project):
    return {name: load_checkpoint(project / f"weights/tiny-{name}") for name in ("ar", "llada1", "llada2")}


@pytest.fixture(scope="module")
def batches(loaded, project):
    ids = loaded["ar"].tokenizer
    texts = chat_documents(project / "data/sft_valid.jsonl", ids, 64)
    return validation_batches(texts, rows=4, batch_size=4, seq_len=64, pack="whole")


def test_likelihood_rows_name_block_and_estimator(loaded, batches):
    (row,) = measure.likelihood(loaded["ar"], batches, (16,), ("iid_t",), 2, 0)
    assert (row["estimator"], row["block_size"], row["error"] >= 0) == ("exact", 1, True)
    rows = list(measure.likelihood(loaded["llada2"], batches, (16, 0), ("iid_t", "exact_masks"), 2, 0))
    assert [(row["block_size"], row["estimator"]) for row in rows] == [
        (16, "iid_t"), (16, "exact_masks"), (0, "iid_t"), (0, "exact_masks")]  # fmt: skip
    assert all(set(row["settings"]) == {"block_size", "estimator"} and row["mean"] > 0 for row in rows)
    assert rows[0]["mean"] < rows[2]["mean"]  # nearer to the training's block


def test_answers_cross_the_settings_and_skip_what_a_style_does_not_have(loaded):
    config = DecodeConfig("llada1", 32, block_length=16)
    grid = {"block_length": (16, 24), "steps": (32, 16)}  # 24 does not divide 32
    rows = list(measure.answers(loaded["llada1"], ITEMS, config, grid, keep_items=True))
    assert [(row["block_length"], row["steps"]) for row in rows] == [(16, 32), (16, 16)]
    assert (
        rows[0]["right"] == "10" and rows[0]["exact_match"] == 0.5 and rows[0]["groups"] == {"a": [1, 1], "b": [0, 1]}
    )
    assert rows[0]["tokens_per_forward"] < rows[1]["tokens_per_forward"]
    assert rows[0]["too_long"] == 0.5  # of the two answers the second is longer than what was wanted
    (plain,) = measure.answers(loaded["llada1"], ITEMS, config, {"steps": (None,)})
    assert "right" not in plain and plain["steps"] == -1


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_baseline_answers_are_those_of_one_token_a_forward(loaded, project, style):
    checkpoint = loaded[style]
    texts = chat_documents(project / "data/sft_valid.jsonl", checkpoint.tokenizer, 64)
    config = DecodeConfig(style, 32, block_length=None if style == "ar" else 16)
    items = measure.own_questions(checkpoint, texts, 6, config)
    for item, (tokens, scored) in zip(items, texts, strict=False):
        assert len(items) == 6 and list(item.prompt) == tokens[: len(item.prompt)].tolist()
        assert scored[len(item.prompt)] and not scored[: len(item.prompt)].any()
    grid = {"ar": {"seed": (0,)}, "llada1": {"steps": (None, 8)}, "llada2": {"threshold": (None, 0.3)}}[style]
    careful, *faster = measure.answers(checkpoint, items, config, grid)
    assert careful["exact_match"] == 1 and careful["tokens_per_forward"] <= 1 and careful["too_long"] == 0
    assert all(row["tokens_per_forward"] > 1.5 and row["groups"]["own"][1] == 6 for row in faster)


def test_first_steps(tmp_path):
    run = RunFolder(tmp_path)
    lines = [TrainStep(n, 10.0 - n / 10, 0.1, n, 1.0, float(n)) for n in range(1, 61)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    (row,) = measure.first_steps(run)
    assert row["step_1"] == 9.9 and math.isclose(row["step_10"], 9.45) and row["norm_10"] == 10.0
    assert math.isclose(row["step_50"], 10 - 45.5 / 10)


def test_a_training_and_those_before_it(loaded):
    entries = [
        {"run": name, "chat": chat, "steps": 5, "tokens": 10, "positions": 12, "flops": 3e9, "seconds": 1.5}
        for name, chat in (("base", False), ("ar", True), ("diffusion", True))
    ]
    (row,) = measure.training(replace(loaded["llada2"], trained=entries))
    assert (row["trained_steps"], row["tokens"], row["flops"]) == (5, 10, 3e9)
    assert (row["fine_tuning_flops"], row["fine_tuning_seconds"], row["all_positions"]) == (6e9, 3.0, 36)
    unknown = [{"run": "foreign"}, *entries[1:]]
    (row,) = measure.training(replace(loaded["llada2"], trained=unknown))
    assert row["tokens"] == 10 and row["fine_tuning_flops"] == 6e9 and "all_flops" not in row
    assert list(measure.training(replace(loaded["llada2"], trained=[]))) == []


def test_merges_measure_the_last_the_best_and_their_mean(loaded, tmp_path):
    checkpoint = load_checkpoint(loaded["llada2"].path)
    checkpoint.path = tmp_path
    run, weight = RunFolder(tmp_path, keep_best=2), checkpoint.model.model.norm.weight
    for step, value in ((1, 3.0), (2, 5.0)):
        torch.nn.init.constant_(weight, value)
        run.record(TrainStep(step, 1.0, 0.1, 1, 1.0, 1.0, validation=value), checkpoint.model)
    torch.nn.init.constant_(weight, 7.0)
    value = lambda model: Estimate(float(model.model.norm.weight.detach()[0]), 0.0, 1, 1)
    rows = list(measure.merges(checkpoint, (1, 2), value))
    assert [(row["k"], row["mean"]) for row in rows] == [(0, 7.0), (1, 3.0), (2, 4.0)]
    assert weight[0].item() == 7.0  # left as it was
    with pytest.raises(ValueError, match="kept 2; raise llada2_topk_merge_k"):
        list(measure.merges(checkpoint, (3,), value))


def test_speeds_are_medians_of_turns_and_ratios_of_the_same_turn(monkeypatch):
    pace = {"ar": iter([9.0, 100.0, 200.0, 400.0]), "llada2": iter([9.0, 300.0, 200.0, 2000.0])}
    measured = lambda loaded, prompts, config: {
        "tokens_per_second": next(pace[config.style]),
        "tokens_per_forward": 2.0,
    }
    monkeypatch.setattr(measure, "speed", measured)
    checkpoint = SimpleNamespace(model=None, tokenizer=None, info=CheckpointInfo("ar"))
    ar, llada2 = measure.speeds(
        [(checkpoint, DecodeConfig("ar")), (checkpoint, DecodeConfig("llada2"))], [Question("a", "?", "!")]
    )
    assert (ar["tokens_per_second"], ar["times"]) == pytest.approx((200, 1))
    assert (llada2["tokens_per_second"], llada2["times"]) == pytest.approx((300, 3))  # of the medians it would be 1.5
    assert (llada2["least"], llada2["most"]) == pytest.approx((1, 5))
    assert not any(list(turns) for turns in pace.values())


def test_reversal_ranks_every_name(loaded, monkeypatch):
    facts = [("甲", "山"), ("乙", "水"), ("丙", "云")]
    texts = []

    def price(_, text, draws, seed):  # knows the facts as they were told, and nothing the other way round
        texts.append(text)
        return 0.0 if text in [f"[[{k}]]写了{v}" for k, v in facts] else 1.0

    monkeypatch.setattr(measure, "_gap_nats", price)
    written = [SimpleNamespace(text=text) for text in ("甲写的", "水乙", "丙")]
    monkeypatch.setattr(measure, "generate_answers", lambda *_, **__: written)
    config = DecodeConfig("ar", 4)
    rows = list(measure.reversal(loaded["ar"], facts, "{k}写了{v}", "{v}是{k}写的", config, 2, 0, "one way"))
    assert [row["way"] for row in rows] == ["written", "likeliest as asked", "likeliest as told"]
    assert rows[0]["right"] == pytest.approx(2 / 3)  # begins with the name
    assert rows[1]["right"] == pytest.approx(1 / 3) and rows[2]["right"] == 1.0  # all equal: the first name, once right
    assert len(texts) == 2 * 9 and all(row["direction"] == "one way" for row in rows)


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_the_price_of_a_gap_is_lower_where_it_is_likely(loaded, style):
    likely, unlikely = (measure._gap_nats(loaded[style], f"我是[[{name}]]，一个", 8, 0) for name in ("小言", "一云"))
    assert likely < unlikely


@pytest.mark.parametrize("style", ["llada1", "llada2"])
def test_the_cost_of_a_gap_is_conditional_on_the_rest(loaded, style, monkeypatch):
    checkpoint, seen = loaded[style], []
    corrupt = likelihood_module.corrupt_exactly

    def recorded(*args):
        seen.append(corrupt(*args))
        return seen[-1]

    monkeypatch.setattr(likelihood_module, "corrupt_exactly", recorded)
    price = measure._gap_nats(checkpoint, "我是[[小言]]，一个", 6, 0)
    (view,) = seen
    ids = checkpoint.tokenizer.encode("我是小言，一个", add_special_tokens=False)
    gap = checkpoint.tokenizer.encode("小言", add_special_tokens=False)
    start = 1 + next(i for i in range(len(ids)) if ids[i : i + len(gap)] == gap)
    open_ = torch.zeros(view.masked.shape, dtype=torch.bool)
    open_[:, start : start + len(gap)] = True
    assert len(view.masked) == 6 and not (view.masked & ~open_).any() and view.masked.any(dim=1).all()
    assert {int(n) for n in view.masked.sum(dim=1)} == set(range(1, len(gap) + 1))  # every count of masks has its turn
    # the mean over the copies, nats of the gap: of a model that knows nothing, the log of the vocabulary for each token
    for parameter in checkpoint.model.parameters():
        monkeypatch.setattr(parameter, "data", torch.zeros_like(parameter))
    blind = measure._gap_nats(checkpoint, "我是[[小言]]，一个", 6, 0)
    assert price < blind == pytest.approx(len(gap) * math.log(checkpoint.model.config.vocab_size))


def test_cost_counts_the_same_work_with_and_without_the_cache(loaded):
    rows = list(measure.cost(loaded["llada2"], (5, 40), (8,), 16, 4, 0, repeats=1))
    assert [(row["prompt_length"], row["cache"]) for row in rows] == [
        (5, "with"), (5, "without"), (40, "with"), (40, "without")]  # fmt: skip
    for with_cache, without in zip(rows[::2], rows[1::2]):
        assert with_cache["forwards"] == without["forwards"]
    assert rows[2]["forwards"] == 4  # 16 tokens in two blocks of eight, four a forward
    assert all(row["milliseconds"] > 0 for row in rows)


def test_hidden_words_are_complete_tokens_of_the_tokenized_text(loaded):
    tokenizer = loaded["ar"].tokenizer
    ids, in_gap = measure._hidden(tokenizer, "我是[[小言]]，你好")
    assert ids == tokenizer.encode("我是小言，你好", add_special_tokens=False)
    assert tokenizer.decode([i for i, hidden in zip(ids, in_gap, strict=True) if hidden]) == "小言"
    ids, in_gap = measure._hidden(tokenizer, "the small c[[a]]t")  # within a word: its token goes
    assert 1 <= sum(in_gap) <= 2
