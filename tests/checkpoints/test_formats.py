"""Weights on disk: names that resolve, layouts of other libraries, and errors that say what is wrong."""

import json

import pytest
import torch
from run_folders import changed, finished, same
from safetensors.torch import load_file, save_file
from small import MASK, VOCAB, NoTokenizer, logits_of, tiny

from dllm_core.checkpoints.configs import model_config
from dllm_core.checkpoints.formats import find_checkpoint, load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.checkpoints.tensors import mean_weights, read_state, save_weights
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.data.tokenizer import character_tokenizer

TOKENS = [3, 9, 4, 4, 11, 7]


def causal(q, k):
    return k <= q


# --- saving and loading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": False}, {"qk_norm": False}, {"head_dim": 6}])
def test_a_saved_run_loads_as_it_was(home, shape):
    model = tiny(**shape)
    finished(model=model, checkpoint=CheckpointInfo("llada2", 4, label_shift=True, chat=True, extra={"a": [1]}))
    loaded = load_checkpoint("weights/story")
    assert loaded.model.config == model.config and loaded.tokenizer is None
    assert loaded.info == CheckpointInfo("llada2", 4, True, True, {"a": [1]})
    assert torch.equal(logits_of(loaded.model, TOKENS, causal), logits_of(model, TOKENS, causal))
    assert (
        "lm_head.weight" in load_file(home / "weights/story/model.safetensors")
    ) is not model.config.tie_word_embeddings
    assert not list(home.rglob("*.partial"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(home, value):
    run = finished()
    state = load_file(run.folder / "model.safetensors")
    state["model.norm.weight"][2] = value
    save_file(state, run.folder / "model.safetensors")
    torch.save(state, home / "bare.pt")
    for name in ("story", "bare.pt"):
        with pytest.raises(RunError, match="tensor model.norm.weight holds nan, inf or too large numbers: .*take weights saved before"):
            load_checkpoint(name, num_attention_heads=4)
    load_checkpoint("story_best")  # the other variants are as good as before


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_named(home, dtype):
    state = {name: tensor.to(dtype) if "up_proj" in name else tensor for name, tensor in tiny().state_dict().items()}
    torch.save(state, home / "bare.pt")
    with pytest.raises(RunError, match=r"bare.pt: tensor model.layers.0.mlp.up_proj.weight is of torch\.\w+, not of floating"):
        load_checkpoint("bare.pt", num_attention_heads=4)


def test_a_run_carries_its_tokenizer(home):
    tokenizer = character_tokenizer(["今天天气很好"])
    finished(model=tiny(vocab=len(tokenizer)), tokenizer=tokenizer)
    loaded = load_checkpoint("story")
    ids = loaded.tokenizer.encode("今天")
    assert ids == tokenizer.encode("今天") and loaded.tokenizer.mask_token_id == tokenizer.mask_token_id


def test_the_reports_names_resolve(home):
    run = finished()
    for amount, name in ((1.0, "best"), (2.0, "merged")):
        save_weights(changed(amount), run.folder / f"{name}.safetensors")
    folder = home / "weights/story"
    for name, variant in {
        "weights/story.pt": "last", "weights/story_state_dict.pt": "last", "weights/story_best.pt": "best",
        "weights/story_merged.pt": "merged", "weights/story": "last", "story": "last", "story_best": "best",
        "story.pth": "last", str(folder): "last", str(folder) + "_best.pt": "best", "../x/story_best.pt": "best",
    }.items():  # fmt: skip
        assert find_checkpoint(name) == (folder, variant), name
    bests = [load_checkpoint("weights/story_best.pt").model, changed(1.0)]
    assert same(bests[0].state_dict(), bests[1].state_dict())


def test_a_run_named_like_a_variant_goes_first(home):
    finished("story"), finished("story_best", model=changed(3.0))
    assert find_checkpoint("weights/story_best.pt") == (home / "weights/story_best", "last")


def test_a_real_file_goes_before_a_run(home):
    finished()
    torch.save({}, home / "weights/story.pt")
    assert find_checkpoint("weights/story.pt") == (home / "weights/story.pt", "file")


def test_weights_may_be_in_another_folder(home, monkeypatch):
    monkeypatch.setenv("DLLM_WEIGHTS", "seeds/1")
    finished()
    assert (home / "seeds/1/story/model.safetensors").is_file() and not (home / "weights").exists()
    assert find_checkpoint("weights/story_best.pt") == (home / "seeds/1/story", "best")


def test_the_error_of_an_absent_checkpoint_lists_existing_ones(home):
    with pytest.raises(RunError, match="weights/poem.pt: no such file or finished run; runs here: none"):
        load_checkpoint("weights/poem.pt")
    finished("story"), finished("other")
    RunFolder.open("begun", tiny(), CheckpointInfo("ar"), NoTokenizer(), {})
    for name in ("poem", "story_merged.pt", "begun"):
        with pytest.raises(RunError, match="runs here: other, story. Train it first"):
            load_checkpoint(name)


# --- Hugging Face -------------------------------------------------------------------------------------------------


def hf_logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_hugging_face_reads_a_run_and_finds_the_same_logits(home, qk_norm, tied):
    """Qwen3's layout; without QK-norm Llama's, which is MiniMind2's."""
    from transformers import AutoModelForCausalLM

    model = tiny(qk_norm=qk_norm, tie_word_embeddings=tied, qk_norm_init=1.4, rms_norm_eps=1e-3, rope_theta=50.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.rand_like(parameter))
    run = finished(model=model)
    theirs, info = AutoModelForCausalLM.from_pretrained(run.folder, output_loading_info=True)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits_of(model, TOKENS, causal), hf_logits(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["Qwen3", "Llama"])
def test_a_folder_that_hugging_face_wrote(home, architecture, tied):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        intermediate_size=24, tie_word_embeddings=tied, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    theirs = getattr(transformers, f"{architecture}ForCausalLM")(config)
    theirs.save_pretrained(home / "theirs")
    loaded = load_checkpoint(str(home / "theirs"))
    assert loaded.model.config.qk_norm is (architecture == "Qwen3") and loaded.model.config.tie_word_embeddings is tied
    assert loaded.info == CheckpointInfo("ar", label_shift=True)
    torch.testing.assert_close(logits_of(loaded.model, TOKENS, causal), hf_logits(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fields", [
    {"hidden_act": "gelu"}, {"attention_bias": True}, {"mlp_bias": True}, {"num_experts": 8}, {"num_local_experts": 8},
    {"use_moe": True, "n_routed_experts": 4}, {"sliding_window": 32}, {"use_sliding_window": True, "sliding_window": 32},
    {"layer_types": ["full_attention", "sliding_attention"]}, {"layer_types": 2}, {"partial_rotary_factor": 0.5},
    {"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_scaling": {"rope_type": "yarn", "factor": 4}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4}}, {"rope_scaling": "yarn"}, {"model_type": "granite"},
    {"quantization_config": {"quant_method": "fp8"}}, {"dllm": 3}, {"vocab_size": "17"},
    {"dllm": {"checkpoint": {"objective": "gpt"}}}, {"dllm": {"checkpoint": {"objektive": "ar"}}},
    {"dllm": {"checkpoint": ["ar"]}}, {"num_key_value_heads": "4"}, {"num_key_value_heads": 2.0}, {"rope_theta": 0},
    {"max_position_embeddings": "64"}, {"rms_norm_eps": float("nan")}, {"head_dim": 0}, {"num_hidden_layers": True},
    {"dllm": {"checkpoint": {"objective": "llada2", "chat": "no"}}},
], ids=str)  # fmt: skip
def test_a_config_that_the_model_cannot_honour_is_refused(home, fields):
    run = finished()
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(RunError, match=f"config.json: .*({next(iter(fields))}|rope_type|obje|mapping|chat)"):
        load_checkpoint("story")


@pytest.mark.parametrize("fields", [
    {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28}, {"sliding_window": None},
    {"attention_bias": None, "mlp_bias": False}, {"hidden_act": None}, {"rope_scaling": None},
    {"rope_scaling": {"rope_type": "default"}}, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    {"layer_types": ["full_attention"] * 2}, {"partial_rotary_factor": 1.0}, {"head_dim": None},
    # MiniMind writes these whether it uses them or not
    {"model_type": "minimind", "use_moe": False, "num_experts": 4, "n_routed_experts": 4},
], ids=str)  # fmt: skip
def test_what_a_config_switches_off_is_accepted(home, fields):
    run = finished()
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**config, **fields}))
    assert load_checkpoint("story").model.config == tiny().config


def test_the_rope_base_of_transformers_5_goes_before_that_of_4(home):
    """transformers does so where a config.json has both."""
    record = {**tiny().config.to_dict(), "rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
    assert model_config(record, {}, home).rope_theta == 50.0


@pytest.mark.parametrize("name, options", [
    ("Qwen3", {}), ("Qwen2", {}), ("Llama", {}), ("Mistral", {"sliding_window": None}), ("Qwen3", {"rope_theta": 1e6}),
    ("Qwen3", {"num_key_value_heads": 2, "head_dim": 64, "sliding_window": 4096}),
    ("Qwen2", {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 1}),
])  # fmt: skip
def test_the_configs_of_hugging_face_are_accepted(home, name, options):
    import transformers

    written = getattr(transformers, f"{name}Config")(num_hidden_layers=2, **options)
    for record in (json.loads(written.to_json_string()), json.loads(written.to_json_string(use_diff=False))):
        config = model_config(record, {}, home)
        assert (config.hidden_size, config.num_attention_heads) == (written.hidden_size, written.num_attention_heads)
        assert (config.num_key_value_heads, config.rms_norm_eps) == (written.num_key_value_heads, written.rms_norm_eps)
        assert config.rope_theta == options.get("rope_theta", 10_000)


@pytest.mark.parametrize("name, options", [
    ("Mistral", {}), ("Qwen3Moe", {}), ("Gemma2", {}), ("Granite", {}), ("SmolLM3", {}), ("Llama", {"mlp_bias": True}),
    ("Qwen3", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
])  # fmt: skip
def test_the_configs_of_other_architectures_are_refused(home, name, options):
    import transformers

    written = getattr(transformers, f"{name}Config")(num_hidden_layers=2, **options)
    with pytest.raises(RunError, match="is not supported. This model has SiLU gates"):
        model_config(json.loads(written.to_json_string(use_diff=False)), {}, home)


@pytest.mark.parametrize("content", ["5", "[]", "null", "{}", "[" * 100_000], ids=lambda content: content[:4])
def test_a_config_that_is_none_is_named(home, content):
    run = finished()
    (run.folder / "config.json").write_text(content)
    with pytest.raises(RunError, match="config.json: (not|expected)"):
        load_checkpoint("story")


# --- the tokenizer beside the weights -----------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused(home):
    few = character_tokenizer(["今天天气很好"])
    for rows in (len(few) + 40, len(few) - 2):
        finished("wrong", model=tiny(vocab=rows), tokenizer=few)
        with pytest.raises(RunError, match=rf"the tokenizer has {len(few)} tokens, the embedding {rows} rows"):
            load_checkpoint("wrong")
    finished()
    with pytest.raises(RunError, match="the tokenizer has 100 tokens, the embedding 17 rows"):
        load_checkpoint("story", vocab_size=100)


def test_padded_rows_are_fine_and_a_mask_that_is_new_gets_a_row(home):
    tokenizer = character_tokenizer(["今天天气很好"])
    size = len(tokenizer)
    finished("padded", model=tiny(vocab=size + 5), tokenizer=tokenizer)
    assert load_checkpoint("padded").model.config.vocab_size == size + 5
    folder = finished("without", model=tiny(vocab=size - 1), tokenizer=tokenizer).folder
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {t: i - (i > 3) for t, i in content["model"]["vocab"].items() if t != "<|mask|>"}
    content["added_tokens"] = [{**t, "id": t["id"] - (t["id"] > 3)} for t in content["added_tokens"] if t["id"] != 3]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": None}), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "mask_token_id": None}), encoding="utf-8")
    loaded = load_checkpoint("without")
    assert loaded.tokenizer.mask_token_id == size - 1 and loaded.model.config.vocab_size == size


# --- bare state dicts ---------------------------------------------------------------------------------------------


def bare(home, model, name: str = "minimind.pt", change=lambda state: state):
    (home / "weights").mkdir(exist_ok=True)
    torch.save(change({k: v.clone() for k, v in model.state_dict().items()}), home / "weights" / name)
    return f"weights/{name}"


def test_a_bare_state_dict_needs_its_head_count(home):
    model = tiny(qk_norm=False, rms_norm_eps=1e-5, rope_theta=1e6)
    name = bare(home, model)
    with pytest.raises(
        RunError, match="minimind.pt: a bare state dict does not tell its number of heads; give num_attention_heads"
    ):
        load_checkpoint(name)
    loaded = load_checkpoint(name, num_attention_heads=4)
    assert loaded.model.config == ModelConfig(
        VOCAB,
        16,
        2,
        4,
        num_key_value_heads=2,
        intermediate_size=model.config.intermediate_size,
        qk_norm=False,
        rms_norm_eps=1e-5,
    )
    torch.testing.assert_close(logits_of(loaded.model, TOKENS, causal), logits_of(model, TOKENS, causal))
    assert loaded.info.objective == "ar" and loaded.tokenizer is None


def test_a_config_beside_a_bare_state_dict_gives_the_head_count(home):
    name = bare(home, tiny(rope_theta=77.0))
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 77.0,
        "intermediate_size": None,
        "model_type": "minimind",
    }
    (home / "weights/config.json").write_text(json.dumps(shape))
    loaded = load_checkpoint(name)
    assert loaded.model.config.rope_theta == 77.0 and loaded.model.config.num_attention_heads == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"model": s},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {**s, "freqs_cos": torch.ones(3), "freqs_sin": torch.ones(3)},
    ],
)
def test_the_wrappings_of_a_state_dict(home, change):
    model = tiny(tie_word_embeddings=False)
    loaded = load_checkpoint(bare(home, model, change=change), num_attention_heads=4)
    assert same(loaded.model.state_dict(), model.state_dict())


def test_half_precision_becomes_single(home):
    loaded = load_checkpoint(bare(home, tiny(), change=lambda s: {k: v.half() for k, v in s.items()}), num_attention_heads=4)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}


def test_an_untied_head_is_kept(home):
    """Whatever config.json says or leaves out: a head of its own is never overwritten by the embedding."""
    model = tiny(tie_word_embeddings=False)
    run = finished(model=model)
    config = json.loads((run.folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (run.folder / "config.json").write_text(json.dumps(config))
    assert same(load_checkpoint("story").model.state_dict(), model.state_dict())


def test_only_tensors_are_unpickled(home):
    (home / "weights").mkdir()
    torch.save({"model.embed_tokens.weight": print}, home / "weights/evil.pt")
    with pytest.raises(RunError, match="evil.pt: cannot be read as a plain state dict"):
        load_checkpoint("weights/evil.pt", num_attention_heads=4)


# --- checkpoints that do not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, named",
    [
        (
            lambda s: {k: v for k, v in s.items() if "layers.1.mlp.up" not in k},
            "tensor model.layers.1.mlp.up_proj.weight is absent",
        ),
        (
            lambda s: {**s, "model.norm.weight": torch.ones(8)},
            r"tensor model.norm.weight is \(8,\), the model needs \(16,\)",
        ),
        (
            lambda s: {**s, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)},
            "q_proj.bias has no place in the model",
        ),
        (
            lambda s: {"a": torch.ones(1)},
            "no tensor 'model.embed_tokens.weight'; expected the keys of MiniMind or Qwen3",
        ),
        (lambda s: {"step": 3}, "has no state dict of tensors"),
        (lambda s: [1, 2], "has no state dict of tensors"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_named(home, change, named):
    with pytest.raises(RunError, match=f"minimind.pt: .*{named}"):
        load_checkpoint(bare(home, tiny(), change=change), num_attention_heads=4)


def test_a_head_count_that_does_not_fit_is_named(home):
    with pytest.raises(RunError, match="num_attention_heads=3 does not fit query rows 16 and key rows 8"):
        load_checkpoint(bare(home, tiny()), num_attention_heads=3)


def test_a_run_of_another_shape_is_named(home):
    run = finished()
    config = json.loads((run.folder / "config.json").read_text())
    (run.folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(RunError, match="model.safetensors: tensor model.layers.2.* is absent"):
        load_checkpoint("story")


def test_broken_files_are_named(home):
    run = finished()
    (run.folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunError, match="model.safetensors: cannot be read"):
        load_checkpoint("story")
    (run.folder / "config.json").write_text("{")
    with pytest.raises(RunError, match="config.json: not valid JSON"):
        load_checkpoint("story")
    (run.folder / "config.json").write_text('{"hidden_size": 3}')
    save_weights(tiny(), run.folder / "model.safetensors")
    with pytest.raises(
        RunError, match="config.json: not a model config .no num_attention_heads, num_hidden_layers, vocab_size"
    ):
        load_checkpoint("story")


# --- a grown vocabulary -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_start_as_the_mean_and_change_no_old_logit(home, tied):
    model = tiny(tie_word_embeddings=tied)
    finished(model=model)
    grown = load_checkpoint("story", vocab_size=VOCAB + 2).model
    assert grown.config.vocab_size == VOCAB + 2
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = grown.state_dict()[name]
        torch.testing.assert_close(rows[VOCAB:], model.state_dict()[name].mean(dim=0).expand(2, -1))
    torch.testing.assert_close(logits_of(grown, TOKENS, causal)[:, :VOCAB], logits_of(model, TOKENS, causal))
    assert load_checkpoint("story", vocab_size=MASK).model.config.vocab_size == VOCAB  # never smaller


def test_a_mean_of_equals_is_the_same_and_sums_are_exact():
    state = {"a": torch.tensor([0.1, 1e8], dtype=torch.float32)}
    assert same(mean_weights([state] * 3), state)
    mean = mean_weights([{"a": torch.tensor([1e8])}, {"a": torch.tensor([1.0])}, {"a": torch.tensor([-1e8])}])["a"]
    assert mean.item() == pytest.approx(1 / 3)


def test_read_state_of_safetensors(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]
