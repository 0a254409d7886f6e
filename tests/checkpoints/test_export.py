"""Exported folders: other programs compute what this project computes, and a folder opens here again as it was."""

import json

import pytest
import torch
from small import CHARACTERS, logits_of, tiny

from dllm_core.checkpoints.export import export
from dllm_core.checkpoints.formats import LoadedCheckpoint, load_checkpoint
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.tokenizer import character_tokenizer
from dllm_core.samplers import generate

BLOCK = 4
INFOS = {
    "ar": CheckpointInfo("ar", label_shift=True, chat=True), "llada1": CheckpointInfo("llada1"),
    "llada2": CheckpointInfo("llada2", block_size=BLOCK),
}  # fmt: skip
TOKENS = [1, 9, 14, 14, 21, 7, 30, 11, 12, 6]


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """Where transformers keeps the code of folders that it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))


def checkpoint(objective: str, seed: int = 0, **shape) -> LoadedCheckpoint:
    tokenizer = character_tokenizer([CHARACTERS])
    model = tiny(seed, vocab=len(tokenizer), **shape)
    return LoadedCheckpoint(model, INFOS[objective], tokenizer)


def written(home, objective: str, reader: str = "transformers", seed: int = 0, **shape) -> LoadedCheckpoint:
    """A checkpoint that was exported to out/."""
    loaded = checkpoint(objective, seed, **shape)
    export(loaded, home / "out", reader)
    return loaded


def open_in_transformers(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def block_causal(q: int, k: int) -> bool:
    return k // BLOCK <= q // BLOCK


# --- here again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"qk_norm": False}, {"tie_word_embeddings": False, "head_dim": 6}], ids=str)
@pytest.mark.parametrize("objective, reader", [
    ("ar", "transformers"), ("llada1", "transformers"), ("llada2", "transformers"),
    ("llada1", "dllm"), ("llada2", "sdar"),
])  # fmt: skip
def test_an_exported_folder_opens_here_as_it_was(home, objective, reader, shape):
    if reader == "sdar":
        shape = {**shape, "qk_norm": True}
    loaded = written(home, objective, reader, **shape)
    again = load_checkpoint(home / "out")
    assert (again.info, again.model.config) == (loaded.info, loaded.model.config)
    assert again.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    ours, theirs = loaded.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("objective, reader, fields", [
    ("ar", "transformers", {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}),
    ("llada1", "transformers", {"model_type": "qwen3", "is_causal": False}),
    ("llada2", "transformers", {"model_type": "block_diffusion_qwen3", "block_size": BLOCK}),
    ("llada2", "sdar", {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "block_size": BLOCK}),
    ("llada1", "dllm", {"model_type": "a2d-qwen3", "architectures": ["A2DQwen3LMHeadModel"]}),
])  # fmt: skip
def test_the_configuration_says_what_the_model_is(home, objective, reader, fields):
    tokenizer = written(home, objective, reader).tokenizer
    config = json.loads((home / "out/config.json").read_text())
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
    fields = {**fields, **{name: getattr(tokenizer, name) for name in names}}
    assert {name: config.get(name) for name in fields} == fields
    assert "settings" not in config["dllm"]


def test_an_exported_folder_is_read_as_one_of_sdars_own(home):
    """SDAR's own folders have no "dllm"."""
    written(home, "llada2", "sdar")
    config = json.loads((home / "out/config.json").read_text())
    del config["dllm"]
    (home / "out/config.json").write_text(json.dumps(config))
    info = load_checkpoint(home / "out").info
    assert (info.objective, info.block_size, info.label_shift) == ("llada2", config["block_size"], False)


# --- transformers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qk_norm", [True, False])
def test_transformers_writes_the_tokens_of_an_ar_model_and_stops(home, qk_norm):
    loaded = written(home, "ar", seed=1, qk_norm=qk_norm)
    theirs, eos = open_in_transformers(home / "out"), loaded.tokenizer.eos_token_id
    prompts = [[1, token] for token in range(5, 25)]
    answers = []
    for trace in generate(loaded, prompts, DecodeConfig("ar", 16)):
        answers.append([commit.token for step in trace.steps for commit in step.commits])
        written_there = theirs.generate(torch.tensor([trace.prompt]), max_new_tokens=16)[0, 2:].tolist()
        assert written_there == answers[-1]
    assert {answer[-1] == eos for answer in answers} == {True, False}  # some end, others are cut off


@pytest.mark.parametrize("qk_norm", [True, False])
def test_transformers_lets_llada_1_attend_to_all(home, qk_norm):
    import transformers
    from packaging.version import Version

    if Version(transformers.__version__) < Version("5.2"):
        pytest.skip("transformers heeds is_causal from 5.2 on")
    loaded = written(home, "llada1", qk_norm=qk_norm)
    with torch.no_grad():
        logits = open_in_transformers(home / "out")(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(logits, logits_of(loaded.model, TOKENS, lambda q, k: True), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_transformers_never_takes_llada_2_for_an_autoregressive_model(home, modules, qk_norm):
    from transformers import AutoConfig

    written(home, "llada2", qk_norm=qk_norm)
    with pytest.raises(ValueError, match="trust_remote_code"):
        open_in_transformers(home / "out", trust_remote_code=False)
    (home / "out/modeling_block_diffusion.py").unlink()
    config = json.loads((home / "out/config.json").read_text())
    del config["auto_map"]  # as in the folder of a run
    (home / "out/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="block_diffusion_"):
        AutoConfig.from_pretrained(home / "out")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_modelling_file_is_block_causal(home, modules, qk_norm, attention):
    """Alone, padded on the left or on the right, and with the keys of the first blocks in a cache."""
    loaded = written(home, "llada2", qk_norm=qk_norm)
    theirs = open_in_transformers(home / "out", trust_remote_code=True, attn_implementation=attention)
    close = {"atol": 2e-5, "rtol": 1e-5}
    ours = logits_of(loaded.model, TOKENS, block_causal)
    short = logits_of(loaded.model, TOKENS[:7], block_causal)
    with torch.no_grad():
        torch.testing.assert_close(theirs(torch.tensor([TOKENS])).logits[0], ours, **close)
        rows = torch.tensor([TOKENS, [0] * 3 + TOKENS[:7], TOKENS[:7] + [0] * 3])
        shown = torch.ones_like(rows)
        shown[1, :3] = shown[2, 7:] = 0
        logits = theirs(rows, attention_mask=shown).logits
        torch.testing.assert_close(logits[0], ours, **close)
        torch.testing.assert_close(logits[1, 3:], short, **close)
        torch.testing.assert_close(logits[2, :7], short, **close)
        first = theirs(torch.tensor([TOKENS[:8]]), use_cache=True)
        rest = theirs(torch.tensor([TOKENS[8:]]), past_key_values=first.past_key_values, use_cache=True)
        torch.testing.assert_close(rest.logits[0], ours[8:], **close)
    with pytest.raises(NotImplementedError, match="left to right"):
        theirs.generate(torch.tensor([TOKENS]))


def test_the_pipeline_of_diffusers_writes_the_same_tokens(home, modules):
    """Once the model cannot predict the mask, which diffusers lets it and this project does not."""
    diffusers = pytest.importorskip("diffusers", "0.42")
    loaded = written(home, "llada2")

    def without_mask(model, inputs, output):
        output.logits[..., loaded.tokenizer.mask_token_id] = -1e30

    theirs = open_in_transformers(home / "out", trust_remote_code=True)
    theirs.register_forward_hook(without_mask)
    scheduler = diffusers.BlockRefinementScheduler(block_length=BLOCK)
    pipeline = diffusers.LLaDA2Pipeline(theirs, scheduler, loaded.tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": BLOCK, "editing_threshold": None, "eos_early_stop": False, "output_type": "seq"}
    for threshold in (0.2, 0.9):
        for prompt in (TOKENS[:6], TOKENS[2:]):
            length = 24 - len(prompt)  # the answer fills its last block
            config = DecodeConfig("llada2", length, block_length=BLOCK, threshold=threshold, eos_early_stop=False)
            (trace,) = generate(loaded, [prompt], config)
            ours = {commit.position: commit.token for step in trace.steps for commit in step.commits}
            there = pipeline(input_ids=torch.tensor([prompt]), gen_length=length, threshold=threshold, **options)
            assert there.sequences[0].tolist() == [ours[position] for position in range(len(prompt), 24)]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("info, reader, shape, message", [
    (INFOS["ar"], "sdar", {}, "SDAR is block diffusion"), (INFOS["llada1"], "sdar", {}, "SDAR is block diffusion"),
    (INFOS["llada2"], "sdar", {"qk_norm": False}, "SDAR is block diffusion with QK-norm"),
    (INFOS["ar"], "dllm", {}, "dllm decodes diffusion alone"),
    (INFOS["llada2"], "dllm", {}, "counts blocks from the answer"),
    (CheckpointInfo("llada2"), "transformers", {}, "config.json has no block_size"),
    (CheckpointInfo("llada2", 4, label_shift=True), "transformers", {}, "label_shift"),
])  # fmt: skip
def test_a_checkpoint_that_a_reader_would_misread_is_refused(home, info, reader, shape, message):
    loaded = checkpoint("ar", **shape)
    loaded.info, loaded.path = info, home / "story"
    with pytest.raises(RunError, match=rf"story \({info.objective}\), --to {reader}: .*{message}"):
        export(loaded, home / "out", reader)
    assert not (home / "out").exists()


def test_a_bare_state_dict_and_a_folder_with_files_are_refused(home):
    loaded = checkpoint("ar")
    loaded.path = home / "story.pt"
    with pytest.raises(RunError, match="holds files already"):
        export(loaded, home, "transformers")
    loaded.tokenizer = None
    with pytest.raises(RunError, match="no tokenizer with it"):
        export(loaded, home / "out", "transformers")
