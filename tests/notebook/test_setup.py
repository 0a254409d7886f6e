"""What a notebook opens first: settings, checkpoints, data; errors that name its parameters; checks before a training."""

import json
import math
from dataclasses import replace

import pytest
import torch
from published_models import published
from small import tiny_of

from dllm_core import notebook
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.errors import DataError, RunError
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig, TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.model import Transformer
from dllm_core.notebook import setup
from dllm_core.notebook.asking import generate_answers, prompt_ids
from dllm_core.notebook.parameters import read_parameters


@pytest.fixture(scope="module")
def tokenizer(project):
    return load_tokenizer(project / "data/tokenizer")


# --- under one name ---------------------------------------------------------------------------------------------------


def test_each_name_that_the_notebooks_use_exists_and_is_described():
    for names in notebook.NAMES.values():
        for name in names:
            assert getattr(notebook, name).__name__ == name
            assert name in notebook.__doc__


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tokenizer, tmp_path):
    """A finished run at `tmp_path/weights/tried`."""
    model = tiny_of(tokenizer)
    folder = tmp_path / "weights" / "tried"
    RunFolder.open(str(folder), model, CheckpointInfo("llada2", 16, chat=True), tokenizer, {}).finish(model)
    return folder


def test_a_checkpoint_brings_its_tokenizer_and_refuses_another(saved, tokenizer):
    loaded = setup.open_checkpoint(saved)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded.info == CheckpointInfo("llada2", 16, chat=True)
    assert setup.open_checkpoint(f"{saved}_best.pt", tokenizer=tokenizer).path == saved
    with pytest.raises(RunError, match="is not the tokenizer that .*tried was trained with"):
        setup.open_checkpoint(saved, tokenizer=character_tokenizer(["另一个"]))


def test_a_given_tokenizer_goes_before_the_folders_own(saved, tokenizer, tmp_path):
    """Also where the own one is refused; its mask is the one that the checkpoint's config.json names."""
    tokenizer.save_pretrained(tmp_path / "given")
    config = json.loads((saved / "tokenizer_config.json").read_text("utf-8"))
    (saved / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}), "utf-8")
    record = json.loads((saved / "config.json").read_text("utf-8"))
    (saved / "config.json").write_text(json.dumps(record | {"eos_token_id": None}), "utf-8")
    (saved / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match="tried: the tokenizer has no eos token"):
        setup.open_checkpoint(saved)
    loaded = setup.open_checkpoint(saved, tokenizer_dir=str(tmp_path / "given"))
    assert loaded.tokenizer.name_or_path == str(tmp_path / "given")
    assert loaded.model.config.vocab_size == len(tokenizer)
    unknown = tokenizer.unk_token_id  # a token of its own; the tokenizer's folder names another as its mask
    config = json.loads((saved / "config.json").read_text("utf-8"))
    (saved / "config.json").write_text(json.dumps(config | {"mask_token_id": unknown}), "utf-8")
    with pytest.warns(UserWarning, match=f"mask is .* .id {unknown}, as given"):
        assert setup.open_checkpoint(saved, tokenizer_dir=str(tmp_path / "given")).tokenizer.mask_token_id == unknown


def test_the_kind_of_another_projects_model_is_declared(tmp_path):
    folder, tokenizer = published("a2d-qwen3", tmp_path / "theirs"), character_tokenizer(["abcd"])
    for name, options in (("objective", {}), ("block_size", {"objective": "llada2"})):
        with pytest.raises(RunError, match=f"nothing says {name}"):
            setup.open_checkpoint(folder, tokenizer=tokenizer, **options)
    for setting in ("label_shift", "chat"):
        with pytest.raises(ValueError, match=f"{setting}='maybe': must be one of auto, yes, no"):
            setup.open_checkpoint(folder, tokenizer=tokenizer, **{setting: "maybe"})
    declared = {"objective": "llada2", "block_size": 4, "label_shift": "yes", "chat": "yes"}
    loaded = setup.open_checkpoint(folder, tokenizer=tokenizer, **declared)
    assert loaded.info == CheckpointInfo("llada2", 4, label_shift=True, chat=True, grid="answer")


def test_a_training_declares_what_its_start_does_not_say(tmp_path):
    folder, tokenizer = published("a2d-qwen3", tmp_path / "theirs"), character_tokenizer(["bcdf"])
    tokenizer.save_pretrained(folder)
    params = {"tokenizer_dir": "", "num_attention_heads": 0, "from_objective": "llada2", "llada2_block_size": 8}
    assert setup.open_start(folder, params, "cpu").info == CheckpointInfo("llada2", 8, grid="answer")
    params |= {"from_objective": "llada1", "from_label_shift": "yes"}
    assert setup.open_start(folder, params, "cpu").info == CheckpointInfo("llada1", label_shift=True, grid="answer")
    with pytest.raises(RunError, match="nothing says objective"):
        setup.open_start(folder, params | {"from_objective": ""}, "cpu")


def test_a_folder_whose_tokenizer_has_no_mask_gets_a_row_for_one(tmp_path):
    """MiniMind-3: as many entries as rows. Whether its own tokenizer is taken or the same one is given."""
    folder = published("minimind", tmp_path / "minimind-3")
    character_tokenizer(["abcdfg"]).save_pretrained(folder)  # with the mask, one entry too many
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] = {t: i - (i > 3) for t, i in content["model"]["vocab"].items() if t != "<|mask|>"}
    content["added_tokens"] = [{**t, "id": t["id"] - (t["id"] > 3)} for t in content["added_tokens"] if t["id"] != 3]
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del config["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    for options in ({}, {"tokenizer_dir": str(folder)}):
        loaded = setup.open_checkpoint(folder, **options)
        assert (loaded.tokenizer.mask_token_id, loaded.model.config.vocab_size) == (20, 21)
        loaded = replace(loaded, info=CheckpointInfo("llada1"))
        (trace,) = generate_answers(loaded, ["abc"], DecodeConfig("llada1", 4))  # the mask is read
        assert trace.initial.count(20) == 4


def test_absent_weights_name_their_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", str(tmp_path / "none"))  # the project's own runs may be there
    for name, command in (("diffusion_llada1_sft_best.pt", "05-llada1"), ("minimind_pretrain_state_dict.pt", "01")):
        with pytest.raises(RunError, match=f"{name}.*Notebook {command[:2]} trains it, .*dllm run {command}"):
            setup.open_checkpoint(tmp_path / name)


def test_a_bare_state_dict_needs_a_tokenizer_and_grows_to_it(tokenizer, tmp_path):
    model = tiny_of(tokenizer)
    rows = model.lm_head.weight.detach().clone()
    state = {name: tensor[:-1] if tensor.shape[0] == len(tokenizer) else tensor for name, tensor in
             model.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(RunError, match="bare.pt.*num_attention_heads"):
        setup.open_checkpoint(tmp_path / "bare.pt", tokenizer=tokenizer)
    with pytest.raises(RunError, match="bare.pt.*no tokenizer with it; give tokenizer_dir"):
        setup.open_checkpoint(tmp_path / "bare.pt", num_attention_heads=2)
    grown = setup.open_checkpoint(tmp_path / "bare.pt", tokenizer=tokenizer, num_attention_heads=2).model
    torch.testing.assert_close(grown.lm_head.weight[:-1], rows[:-1])
    torch.testing.assert_close(grown.lm_head.weight[-1], rows[:-1].mean(dim=0))


def test_a_training_starts_with_the_tokenizer_that_its_parameters_name(saved, tokenizer, tmp_path):
    params = {"tokenizer_dir": "", "num_attention_heads": 0, "data": str(tmp_path / "own.jsonl"), "jsonl_field": "text"}
    assert setup.open_start(saved, params, "cpu").tokenizer.get_vocab() == tokenizer.get_vocab()
    (tmp_path / "own.jsonl").write_text('{"text": "另一个"}\n', "utf-8")
    with pytest.raises(RunError, match="is not the tokenizer that"):
        setup.open_start(saved, params | {"use_tokenizer": False}, "cpu")


def test_a_config_takes_its_fields_from_the_parameters(tokenizer):
    params = {"batch_size": 3, "max_seq_len": 64, "torch_compile": True, "learning_rate": 0.5, "seed": 7,
              "dtype": "auto", "prompt": "你好", "eval_every": 11}  # fmt: skip
    config = setup.train_config(params, tiny_of(tokenizer), max_iters=5, keep_best=2)
    assert config == TrainConfig(
        5, batch_size=3, seq_len=64, compile=True, learning_rate=0.5, seed=7, eval_every=11, keep_best=2
    )  # a narrow model trains in float32
    assert setup.train_config(params | {"dtype": "bfloat16"}, tiny_of(tokenizer), 5).dtype == "bfloat16"
    with pytest.raises(ValueError, match="eval_every=-1"):
        setup.train_config(params | {"eval_every": -1}, tiny_of(tokenizer), 5)


def test_settings_are_what_the_notebook_declares_with_the_values_in_force(project):
    scope = defaults(project, "04_ar_sft")
    assert setup.settings("04_ar_sft", scope | {"epochs": 2.5, "something": "else"}) == scope | {"epochs": 2.5}


def defaults(project, notebook: str) -> dict:
    declared = read_parameters(project / f"notebooks/{notebook}.ipynb")
    return {name: parameter.default for name, parameter in declared.items()}


@pytest.mark.parametrize("notebook, wrong, message", [
    ("01_ar_pretrain", {"rope_theta": math.nan}, "rope_theta=nan: must be a number above 0"),
    ("02_llada1_pretrain", {"noise_schedule": "square"}, "kind='square': must be 'linear' or .*noise_schedule sets kind"),
    ("02_llada1_pretrain", {"random_length": 2.0}, "random_length=2.0: must be a number from 0 to 1"),
    ("03_llada2_pretrain", {"wsd_block_sizes_up": "4,7"}, "up=.4, 7.: .*wsd_block_sizes_up sets up"),
    ("03_llada2_pretrain", {"wsd_phase_ratios": "0.5,0.5"}, "phase_ratios=.*wsd_phase_ratios sets phase_ratios"),
    ("05_llada2_sft", {"llada2_alpha_min": 0.3}, "complementary masking with mask probabilities in .0.3, 0.95"),
    ("05_llada2_sft", {"llada2_alpha_min": 0.9, "llada2_alpha_max": 0.2}, "alpha_min=0.9, .*llada2_alpha_min sets alpha_min"),
    ("05_llada2_sft", {"llada2_cap_lambda": -1.0}, "cap_lambda=-1.0: must be .*llada2_cap_lambda sets cap_lambda"),
])  # fmt: skip
def test_a_value_that_no_config_takes_is_refused_before_anything_is_read(project, notebook, wrong, message):
    scope = defaults(project, notebook)
    with pytest.raises(ValueError, match=message):
        setup.settings(notebook, scope | wrong)


# --- errors that name the notebook's parameters -----------------------------------------------------------------------


def test_a_cell_shows_the_parameter(project):
    """In a kernel, from the call of `settings` on."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.showtraceback = lambda *_, **__: None  # nothing of this belongs to the tests' output
    try:
        names = read_parameters(project / "notebooks/06_parallel_decoding.ipynb")
        shell.user_ns.update({name: parameter.default for name, parameter in names.items()})
        shell.run_cell("from dllm_core.config import DecodeConfig\nfrom dllm_core.notebook.setup import settings")
        before = shell.run_cell("DecodeConfig(steps=0)").error_in_exec
        assert shell.run_cell("_ = settings('06_parallel_decoding', globals())").success
        after = shell.run_cell("DecodeConfig(steps=0)").error_in_exec
        set_up = shell.run_cell("gen_steps = -1\n_ = settings('06_parallel_decoding', globals())").error_in_exec
    finally:
        InteractiveShell.clear_instance()
    assert str(after) == f"{before} (in this notebook gen_steps sets steps)"
    assert str(set_up) == str(after).replace("=0", "=-1")  # named once


# --- before a training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style, chat", [("ar", False), ("llada1", True), ("llada2", False)])
def test_a_prompt_too_long_is_reported_before_the_training(tokenizer, style, chat):
    model = Transformer(ModelConfig(len(tokenizer), 32, 1, 2, max_position_embeddings=32))
    loaded = LoadedCheckpoint(model, CheckpointInfo(style, label_shift=style == "ar", chat=chat), tokenizer, None)
    prompt = "你好"
    room = 32 - len(prompt_ids(tokenizer, prompt, chat))
    block = 1 if style == "llada2" else None
    setup.preflight(loaded, prompt, DecodeConfig(style, room, block_length=block))
    generate_answers(loaded, [prompt], DecodeConfig(style, room, block_length=block))  # it does fit
    with pytest.raises(
        ValueError, match=f"prompt: .*max_new_tokens={room + 1} take 33 positions.*embeddings=32: shorten"
    ):
        setup.preflight(loaded, prompt, DecodeConfig(style, room + 1, block_length=block))
    if style == "llada2":  # the last block is filled: 24 would do, 3 times 12 would not
        with pytest.raises(ValueError, match="take 36 positions"):
            setup.preflight(loaded, prompt, DecodeConfig(style, 24, block_length=12))


def test_an_absent_checkpoint_is_reported_before_the_training(saved, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", str(tmp_path / "weights"))
    loaded, config = setup.open_checkpoint(saved), DecodeConfig(max_new_tokens=4)
    for there in ("", "tried", "weights/tried_best.pt"):
        setup.preflight(loaded, "你好", config, there, "new")
    for name, trained in (
        ("weights/new_best.pt", "new"),
        ("somewhere/new", "somewhere/new"),
        ("weights/new_state_dict.pt", "new"),
    ):
        setup.preflight(loaded, "你好", config, name, trained)  # the training makes it
    with pytest.raises(RunError, match="other.pt: no such file or finished run; runs here: tried"):
        setup.preflight(loaded, "你好", config, "weights/other.pt", "new")
    with pytest.raises(RunError, match="minimind_sft.*dllm run 04"):
        setup.preflight(loaded, "你好", config, "weights/minimind_sft_best.pt", "new")



# --- splits ---------------------------------------------------------------------------------------------


def test_validation_is_a_file_or_a_share_that_is_not_trained_on():
    ids = {"pad_token_id": 0, "eos_token_id": 2}
    datasets = {"a": TokenDataset.of([[i, i] for i in range(40)], **ids), "b": TokenDataset.of([[9]], **ids)}
    train, valid = setup.read_splits(datasets.get, "a", "b")
    assert train is datasets["a"] and valid is datasets["b"]
    train, valid = setup.read_splits(datasets.get, "a")
    tokens = [{int(tokens[0]) for tokens, _ in part} for part in (train, valid)]
    assert tokens[0] | tokens[1] == set(range(40)) and not tokens[0] & tokens[1] and len(tokens[1]) == 2
    assert setup.read_splits(datasets.get, "", "b")[0] is None
    PackedBatches(valid, batch_size=1, seq_len=2)


OWN, EMBEDDED = "data/my_text.jsonl", "data/pretrain_valid.jsonl"


@pytest.mark.parametrize("data, valid_data, warns", [
    (OWN, EMBEDDED, True), ("modelscope:a/b/c.jsonl", EMBEDDED, True), ("elsewhere/pretrain_tiny.jsonl", EMBEDDED, True),
    ("data/pretrain_tiny.jsonl", EMBEDDED, False), (OWN, OWN, False), (OWN, "", False), ("", EMBEDDED, False),
])  # fmt: skip
def test_user_text_validated_on_the_embedded_corpus_gives_a_warning(recwarn, data, valid_data, warns):
    setup.read_splits(lambda path: TokenDataset.of([[i] for i in range(40)], pad_token_id=0, eos_token_id=2), data, valid_data)
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == warns
    assert not warns or (f"data={data!r}" in messages[0] and 'Set valid_data = ""' in messages[0])
