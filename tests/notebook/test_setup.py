"""What stands around the notebooks' own ideas: devices, the estimate, opening things, gaps, graded questions, records."""

import json
import math

import pytest
import torch

from dllm_core import reference as plain
from dllm_core.checkpoints.run_folder import LoadedCheckpoint, RunFolder
from dllm_core.common.errors import DataError, RunError
from dllm_core.compute import devices
from dllm_core.compute.devices import pick_device, pick_dtype
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig, TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.model import Transformer
from dllm_core.notebook import comparison as compare
from dllm_core.notebook import setup as notebook
from dllm_core.notebook.training_cost import estimate
from dllm_core.schedules import BlockSchedule


@pytest.fixture(scope="module")
def tokenizer(project):
    return load_tokenizer(project / "data/tokenizer")


def small(tokenizer, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(ModelConfig(len(tokenizer), 32, 1, 2, intermediate_size=64))


# --- devices --------------------------------------------------------------------------------------------------------


def test_devices_are_picked_or_refused():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", torch.device("cpu")) == pick_dtype("auto", torch.device("cpu"), devices.WIDE - 1) == "float32"
    assert pick_dtype("bfloat16", torch.device("cpu")) == "bfloat16"
    for call, message in (
        (lambda: pick_device("gpu"), "device='gpu'.*auto, cpu, cuda, mps"),
        (lambda: pick_dtype("float16", torch.device("cpu")), "dtype='float16'.*bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda'.*device='auto' or 'cpu'"):
            pick_device("cuda")


@pytest.mark.parametrize("units", [False, True])
def test_bfloat16_on_a_cpu_is_for_wide_models_and_units_of_its_own(units, monkeypatch):
    monkeypatch.setattr(devices, "bfloat16_units", lambda: units)
    assert pick_dtype("auto", torch.device("cpu"), devices.WIDE) == ("bfloat16" if units else "float32")
    assert pick_dtype("float32", torch.device("cpu"), devices.WIDE) == "float32"


# --- estimate -------------------------------------------------------------------------------------------------------


def test_positions_count_the_clean_half_and_both_views(tokenizer):
    model, config = small(tokenizer), TrainConfig(10, batch_size=2, seq_len=16)
    blocks = BlockSchedule(16, 10, (0.3, 0.5, 0.2), (4,), (8,))  # 3 + 2 steps of block diffusion, 5 of full
    plain = estimate(model, config)
    assert plain.tokens == plain.positions == 320
    assert plain.flops == 6 * model.num_parameters * 320
    assert estimate(model, config, blocks=blocks).positions == 320 + 5 * 32
    assert estimate(model, config, blocks=blocks, views=2).positions == 2 * 320 + 5 * 32
    assert plain.seconds > 0 and "320" not in str(plain)


def test_memory_and_disk_follow_the_optimiser_and_the_kept_checkpoints(tokenizer):
    model = small(tokenizer)
    size = model.num_parameters
    adamw = estimate(model, TrainConfig(1))
    assert adamw.memory_bytes == 16 * size and adamw.disk_bytes == 4 * (3 + 1 + 3) * size
    matrices = 4 * 32 * 32 + 3 * 32 * 64
    assert estimate(model, TrainConfig(1, optimizer="muon")).memory_bytes == 16 * size - 4 * matrices
    assert estimate(model, TrainConfig(1, keep_best=3)).disk_bytes == adamw.disk_bytes + 8 * size
    documents = TokenDataset.of([[1, 2, 3]], [[False, True, True]])
    assert estimate(model, TrainConfig(1), documents=documents).disk_bytes - adamw.disk_bytes == 3 * 4 + 2 * 8 + 3


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tokenizer, tmp_path):
    """A finished run at `tmp_path/weights/tried`."""
    model = small(tokenizer)
    folder = tmp_path / "weights" / "tried"
    RunFolder.open(str(folder), model, CheckpointInfo("llada2", 16, chat=True), tokenizer, {}).finish(model)
    return folder


def test_a_checkpoint_brings_its_tokenizer_and_refuses_another(saved, tokenizer):
    loaded = notebook.open_checkpoint(saved)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded.checkpoint == CheckpointInfo("llada2", 16, chat=True)
    assert notebook.open_checkpoint(f"{saved}_best.pt", tokenizer=tokenizer).path == saved
    with pytest.raises(RunError, match="is not the tokenizer that .*tried was trained with"):
        notebook.open_checkpoint(saved, tokenizer=character_tokenizer(["另一个"]))


def test_absent_weights_name_their_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", str(tmp_path / "none"))  # the project's own runs may be there
    for name, command in (("diffusion_llada1_sft_best.pt", "05-llada1"), ("minimind_pretrain_state_dict.pt", "01")):
        with pytest.raises(RunError, match=f"{name}.*Notebook {command[:2]} makes it, .*dllm run {command}"):
            notebook.open_checkpoint(tmp_path / name)


def test_a_bare_state_dict_needs_a_tokenizer_and_grows_to_it(tokenizer, tmp_path):
    model = small(tokenizer)
    rows = model.lm_head.weight.detach().clone()
    state = {name: tensor[:-1] if tensor.shape[0] == len(tokenizer) else tensor for name, tensor in
             model.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(RunError, match="bare.pt.*num_attention_heads"):
        notebook.open_checkpoint(tmp_path / "bare.pt", tokenizer=tokenizer)
    with pytest.raises(RunError, match="bare.pt.*no tokenizer with it; give tokenizer_dir"):
        notebook.open_checkpoint(tmp_path / "bare.pt", num_attention_heads=2)
    grown = notebook.open_checkpoint(tmp_path / "bare.pt", tokenizer=tokenizer, num_attention_heads=2).model
    torch.testing.assert_close(grown.lm_head.weight[:-1], rows[:-1])
    torch.testing.assert_close(grown.lm_head.weight[-1], rows[:-1].mean(dim=0))


def test_settings_are_what_the_notebook_declares_with_the_values_in_force():
    scope = {name: 1 for name in notebook.parameters.read_parameters(notebook.resolve("notebooks/04_ar_sft.ipynb"))}
    assert notebook.settings("04_ar_sft", scope | {"epochs": 2.5, "something": "else"}) == scope | {"epochs": 2.5}


def test_flags_that_are_lists():
    assert notebook.parse_numbers("32,64,128") == (32, 64, 128)
    assert notebook.parse_numbers("0.3,0.5,0.2", float) == (0.3, 0.5, 0.2)
    with pytest.raises(ValueError, match="'32;64'.*commas"):
        notebook.parse_numbers("32;64")


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_gaps_hide_whole_tokens_of_the_text_as_it_is_tokenised(tokenizer):
    mask = tokenizer.mask_token_id
    hidden, true = notebook.mask_gaps(tokenizer, "我是[[小言]]，你好[[。]]")
    assert true == tokenizer.encode("我是小言，你好。", add_special_tokens=False)
    assert hidden == [*true[:2], mask, mask, *true[4:7], mask]
    hidden, true = notebook.mask_gaps(tokenizer, "the small c[[a]]t")  # within a word: its token goes
    assert [t for h, t in zip(hidden, true) if h == mask] != [] and hidden.count(mask) <= 2
    assert all(h in (t, mask) for h, t in zip(hidden, true))
    for bad in ("no gap", "今天[[天气很好", "今天[[]]很好"):
        with pytest.raises(ValueError, match="double brackets"):
            notebook.mask_gaps(tokenizer, bad)


# --- before a training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style, chat", [("ar", False), ("llada1", True), ("llada2", False)])
def test_a_prompt_too_long_is_told_before_the_training(tokenizer, style, chat):
    model = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, max_position_embeddings=32))
    loaded = LoadedCheckpoint(model, CheckpointInfo(style, label_shift=style == "ar", chat=chat), tokenizer, None)
    prompt = "你好"
    room = 32 - len(notebook.prompt_ids(tokenizer, prompt, chat))
    block = 1 if style == "llada2" else None
    notebook.preflight(loaded, prompt, DecodeConfig(style, room, block_length=block))
    notebook.generate_answers(loaded, [prompt], DecodeConfig(style, room, block_length=block))  # it does fit
    with pytest.raises(
        ValueError, match=f"prompt: .*max_new_tokens={room + 1} take 33 positions.*embeddings=32: shorten"
    ):
        notebook.preflight(loaded, prompt, DecodeConfig(style, room + 1, block_length=block))
    if style == "llada2":  # the last block is filled: 24 would do, 3 times 12 would not
        with pytest.raises(ValueError, match="take 36 positions"):
            notebook.preflight(loaded, prompt, DecodeConfig(style, 24, block_length=12))


def test_an_absent_checkpoint_is_told_before_the_training(saved, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", str(tmp_path / "weights"))
    loaded, way = notebook.open_checkpoint(saved), DecodeConfig(max_new_tokens=4)
    for there in ("", "tried", "weights/tried_best.pt"):
        notebook.preflight(loaded, "你好", way, there, "new")
    for name, trained in (
        ("weights/new_best.pt", "new"),
        ("new", "somewhere/new"),
        ("weights/new_state_dict.pt", "new"),
    ):
        notebook.preflight(loaded, "你好", way, name, trained)  # the training makes it
    with pytest.raises(RunError, match="other.pt: no such file or finished run; runs here: tried"):
        notebook.preflight(loaded, "你好", way, "weights/other.pt", "new")
    with pytest.raises(RunError, match="minimind_sft.*dllm run 04"):
        notebook.preflight(loaded, "你好", way, "weights/minimind_sft_best.pt", "new")


# --- graded questions -----------------------------------------------------------------------------------------------


def line(*contents: str, **more) -> str:
    roles = ("user", "assistant") * 2
    return json.dumps({"conversations": [{"role": r, "content": c} for r, c in zip(roles, contents)], **more})


def test_only_single_questions_with_a_group_are_graded(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join([
        line("1", "a", group="x"), line("2", "b"), line("3", "c", group="x"), line("4", "d", group="y"),
        line("5", "e", "6", "f", group="y"),
    ]))  # fmt: skip
    assert [(item.group, item.prompt, item.answer) for item in notebook.load_questions(str(file))] == [
        ("x", "1", "a"), ("x", "3", "c"), ("y", "4", "d"),
    ]  # fmt: skip
    assert [item.prompt for item in notebook.load_questions(str(file), 1)] == ["1", "4"]
    assert notebook.load_questions("") == []
    file.write_text('{"group": "x", "conversations": [{"role": "user"}, {"role": "assistant", "content": "a"}]}')
    with pytest.raises(DataError, match=r'test.jsonl:1: a turn has no string under "content"'):
        notebook.load_questions(str(file))


def test_examining_grades_each_answer_in_the_order_of_the_questions(tokenizer):
    loaded = LoadedCheckpoint(small(tokenizer), CheckpointInfo("ar", label_shift=True, chat=True), tokenizer, None)
    way = DecodeConfig("ar", max_new_tokens=4)
    asked = [notebook.Item("g", prompt, "") for prompt in ("你好", "请重复：一二三", "好")]
    _, traces = notebook.grade(loaded, asked, way, batch_size=2)
    singly = [notebook.generate_answers(loaded, [item.prompt], way)[0] for item in asked]
    assert [trace.final for trace in traces] == [trace.final for trace in singly]
    right = [notebook.Item("gh"[i % 2], item.prompt, trace.text) for i, (item, trace) in enumerate(zip(asked, singly))]
    scores, _ = notebook.grade(loaded, right, way)
    assert [(score.group, score.right, score.count) for score in scores] == [("g", 2, 2), ("h", 1, 1)]


def test_probability_under_an_even_judge_is_one_in_the_vocabulary(tokenizer):
    even = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, initializer_range=0.0))
    judge = LoadedCheckpoint(even, CheckpointInfo("ar", label_shift=True), tokenizer, None)
    writer = LoadedCheckpoint(small(tokenizer), CheckpointInfo("ar", label_shift=True), tokenizer, None)
    traces = notebook.generate_answers(writer, ["你好", "今天"], DecodeConfig("ar", max_new_tokens=5, eos_early_stop=False))
    assert notebook.probability_under(judge, traces) == pytest.approx(1 / len(tokenizer), rel=1e-4)
    assert math.isnan(notebook.probability_under(judge, []))
    # a judge with opinions: the geometric mean over the answers' tokens, each after all that stands before it
    torch.manual_seed(1)
    sure = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, initializer_range=0.3))
    costs = []
    for trace in traces:
        ids = [*trace.prompt, *trace.answer]
        with torch.no_grad():
            log_p = plain.forward(sure, torch.tensor(ids), 1).log_softmax(dim=-1)
        costs += [log_p[i - 1, ids[i]].item() for i in range(len(trace.prompt), len(ids))]
    judge = LoadedCheckpoint(sure, CheckpointInfo("ar", label_shift=True), tokenizer, None)
    wanted = math.exp(sum(costs) / len(costs))
    assert notebook.probability_under(judge, traces) == pytest.approx(wanted, rel=1e-4)
    assert abs(wanted * len(tokenizer) - 1) > 0.2


# --- splits and records ---------------------------------------------------------------------------------------------


def test_validation_is_a_file_or_a_share_that_is_not_trained_on():
    made = {"a": TokenDataset.of([[i, i] for i in range(40)]), "b": TokenDataset.of([[9]])}
    train, valid = notebook.read_splits(made.get, "a", "b")
    assert train is made["a"] and valid is made["b"]
    train, valid = notebook.read_splits(made.get, "a")
    tokens = [{int(tokens[0]) for tokens, _ in part} for part in (train, valid)]
    assert tokens[0] | tokens[1] == set(range(40)) and not tokens[0] & tokens[1] and len(tokens[1]) == 2
    assert notebook.read_splits(made.get, "", "b")[0] is None
    PackedBatches(valid, batch_size=1, seq_len=2, pad_token_id=0, eos_token_id=2)


OWN, EMBEDDED = "data/my_text.jsonl", "data/pretrain_valid.jsonl"


@pytest.mark.parametrize("data, valid_data, told", [
    (OWN, EMBEDDED, True), ("modelscope:a/b/c.jsonl", EMBEDDED, True), ("elsewhere/pretrain_tiny.jsonl", EMBEDDED, True),
    ("data/pretrain_tiny.jsonl", EMBEDDED, False), (OWN, OWN, False), (OWN, "", False), ("", EMBEDDED, False),
])  # fmt: skip
def test_own_text_validated_on_the_embedded_corpus_is_told(recwarn, data, valid_data, told):
    notebook.read_splits(lambda path: TokenDataset.of([[i] for i in range(40)]), data, valid_data)
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == told
    assert not told or (f"data={data!r}" in messages[0] and 'Set valid_data = ""' in messages[0])


def test_records_are_whole_lines(tokenizer, tmp_path):
    writer = LoadedCheckpoint(small(tokenizer), CheckpointInfo("llada2", 8), tokenizer, None)
    trace = notebook.generate_answers(writer, ["你好"], DecodeConfig("llada2", max_new_tokens=6, block_length=8))[0]
    record = compare.record(trace, prompt="你好", seed=3)
    assert list(record)[:3] == ["prompt", "seed", "style"] and record["settings"] == trace.settings
    assert 0 < record["confidence"]["min"] <= record["confidence"]["mean"] <= 1
    path = compare.write_jsonl(tmp_path / "new/compare.jsonl", [record, record])
    assert [json.loads(one) for one in path.read_text("utf-8").splitlines()] == [record, record]
    assert "你好" in path.read_text("utf-8") and not list(path.parent.glob("*.partial"))
    assert set(compare.versions(torch.device("cpu"))) == {"dllm_core", "torch", "python", "device", "threads"}
