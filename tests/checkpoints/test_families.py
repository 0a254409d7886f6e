"""Folders of other projects: what their own code computes and writes is what it is here, and what is not understood is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from published_models import (
    CONFIGS,
    EOS,
    MASK,
    PAD,
    PROMPTS,
    TENSORS,
    TOKENS,
    VOCAB,
    figures,
    published,
    qwen_tensors,
    weights,
)
from run_folders import finished
from safetensors.torch import load_file, save_file
from small import logits_of, tiny

from dllm_core import reference
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.model import Transformer
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens

IDS = SpecialTokens(MASK, EOS, PAD)
FULL, CAUSAL, BLOCKS = (lambda q, k: True), (lambda q, k: k <= q), (lambda q, k: k // 4 <= q // 4)


def opened(folder, **declared):
    checkpoint = load_checkpoint(str(folder), **declared)
    checkpoint.tokenizer = IDS
    return checkpoint


def written(checkpoint, config) -> list[list[int]]:
    """The answers to `PROMPTS`, in one batch; each alone is the same."""
    tokens = [prompt + [MASK] * config.max_new_tokens for prompt in PROMPTS]
    for step in decode(checkpoint, PROMPTS, config):
        for commit in step.commits:
            tokens[step.row][commit.position] = commit.token
    return [row[len(prompt) :] for row, prompt in zip(tokens, PROMPTS, strict=True)]


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, declared, mask, kind", [
    ("llada", {}, FULL, CheckpointInfo("llada1")),
    ("dream", {}, FULL, CheckpointInfo("llada1", label_shift=True)),
    ("sdar", {}, BLOCKS, CheckpointInfo("llada2", 4)),
    ("a2d-qwen3", {"objective": "llada1"}, FULL, CheckpointInfo("llada1", grid="answer")),
    ("a2d-qwen2", {"objective": "llada2", "block_size": 4}, FULL, CheckpointInfo("llada2", 4, grid="answer")),
    ("minimind", {}, CAUSAL, CheckpointInfo("ar", label_shift=True)),
    ("fast-dllm", {}, BLOCKS, CheckpointInfo("llada2", 4, label_shift=True)),
    ("nano-llada", {"objective": "llada1"}, FULL, CheckpointInfo("llada1")),
])  # fmt: skip
def test_a_published_folder_computes_what_its_own_code_computes(home, family, declared, mask, kind):
    checkpoint = opened(published(family, home / family), **declared)
    assert checkpoint.info == kind
    logits = logits_of(checkpoint.model, TOKENS, mask)[[0, 4, 9]]
    torch.testing.assert_close(logits, torch.tensor(figures()[family]["logits"]), atol=2e-5, rtol=0)


def test_minimind_diffusion_opens_from_its_bare_file(home):
    torch.save({name: tensor for name, tensor in weights(TENSORS["minimind-diffusion"]).items()}, home / "sft_16.pth")
    checkpoint = opened(home / "sft_16.pth", num_attention_heads=4)
    assert checkpoint.info == CheckpointInfo("llada1")
    logits = logits_of(checkpoint.model, TOKENS, FULL)[[0, 4, 9]]
    torch.testing.assert_close(logits, torch.tensor(figures()["minimind-diffusion"]["logits"]), atol=2e-5, rtol=0)


def test_it_writes_what_its_own_sampler_writes(home):
    found = {family: opened(published(family, home / family)) for family in ("llada", "dream", "sdar")}
    expected, plain = figures(), {"eos_early_stop": False}
    llada = [written(found["llada"], DecodeConfig("llada1", 8, steps=s, block_length=s, **plain)) for s in (8, 4)]
    assert [[llada[0][i], llada[1][i]] for i in (0, 1)] == [expected["llada"]["written"][:2], expected["llada"]["written"][2:]]
    assert written(found["dream"], DecodeConfig("llada1", 8, **plain)) == expected["dream"]["written"]
    for name, threshold in (("static", None), ("dynamic", 0.3)):
        config = DecodeConfig("llada2", 8, block_length=4, threshold=threshold, **plain)
        assert written(found["sdar"], config) == expected["sdar"][name]


def test_fast_dllm_writes_its_samplers_text_by_its_samplers_rules(home):
    """A token is read one position to its left. A block's first token is its most probable one, at once; then sub-blocks
    of 2 are finished from left to right, here a token a step. `decode` opens the whole block of 4 instead."""
    model = opened(published("fast-dllm", home / "fast")).model
    for prompt, expected in zip(PROMPTS, figures()["fast-dllm"]["written"], strict=True):
        x = list(prompt)
        while len(x) < len(prompt) + len(expected):
            start = len(x) // 4 * 4
            x += [MASK] * (start + 4 - len(x))
            for sub_block in (range(start, start + 2), range(start + 2, start + 4)):
                while masked := [i for i in sub_block if x[i] == MASK]:
                    confidence, token = logits_of(model, x, BLOCKS).softmax(dim=-1).max(dim=-1)
                    best = max(masked, key=lambda i: float(confidence[i - 1]))
                    x[best] = int(token[best - 1])
            x.append(int(logits_of(model, x, BLOCKS)[-1].argmax()))
        assert x[len(prompt) :] == expected


@pytest.mark.parametrize("family", ["a2d-qwen3", "a2d-qwen2"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_blocks_may_be_counted_from_the_answer(home, family, use_cache):
    """dllm's BD3LM: a block begins where the answer does, whatever the length of the prompt."""
    folder, expected = published(family, home / family), figures()[family]
    blocks = opened(folder, objective="llada2", block_size=4)
    config = DecodeConfig("llada2", 8, block_length=4, threshold=None, eos_early_stop=False, use_cache=use_cache)
    assert written(blocks, config) == expected["bd3lm"]
    for prompt, answer in zip(PROMPTS, expected["bd3lm"], strict=True):  # a threshold of 1: one token a step
        slow = reference.decode_llada2(blocks.model, torch.tensor([prompt]), 8, 4, 1.0, MASK, "answer")
        assert slow[0].tolist() == prompt + answer
    first = {step.row: step.block[0] for step in reversed(list(decode(blocks, PROMPTS, config)))}
    assert first == {row: len(prompt) for row, prompt in enumerate(PROMPTS)}
    whole = opened(folder, objective="llada1")
    assert written(whole, DecodeConfig("llada1", 8, eos_early_stop=False)) == expected["mdlm"]
    from_start = opened(folder, objective="llada2", block_size=4, grid="start")
    assert written(from_start, config) != expected["bd3lm"]


@pytest.mark.parametrize("name, options, family, kind", [
    ("Qwen2", {}, {"model_type": "Fast_dLLM_Qwen", "bd_size": 4}, CheckpointInfo("llada2", 4, label_shift=True)),
    ("Llama", {"rope_theta": 1e4}, {}, CheckpointInfo("llada1", label_shift=True)),
])  # fmt: skip
def test_qwens_and_llamas_layouts_of_diffusion_models(home, name, options, family, kind):
    """Fast-dLLM v2, and DiffuLLaMA, whose config.json leaves out rope_theta: 10,000."""
    import transformers

    torch.manual_seed(0)
    shape = {name: CONFIGS["dream"][name] for name in CONFIGS["dream"] if name.startswith(("num_", "hidden_s", "vocab"))}
    theirs = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**shape, intermediate_size=24, initializer_range=0.4, **options)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # so that biases are not zero
    theirs.save_pretrained(home / "theirs")
    config = json.loads((home / "theirs/config.json").read_text()) | family
    config = {name: config[name] for name in config if name not in ("rope_theta", "rope_parameters", "rope_scaling")}
    (home / "theirs/config.json").write_text(json.dumps(config))
    checkpoint = opened(home / "theirs", **({} if family else {"objective": "llada1", "label_shift": True}))
    assert (checkpoint.info, checkpoint.model.config.rope_theta) == (kind, 1e4)
    mask = FULL if kind.objective == "llada1" else BLOCKS
    count = torch.arange(len(TOKENS))
    closed = ~torch.tensor([[mask(q, k) for k in range(len(TOKENS))] for q in range(len(TOKENS))])
    added = torch.zeros(1, 1, *closed.shape).masked_fill(closed, -1e9)
    with torch.inference_mode():
        expected = theirs(torch.tensor([TOKENS]), attention_mask=added, position_ids=count[None]).logits[0]
    torch.testing.assert_close(logits_of(checkpoint.model, TOKENS, mask), expected, atol=2e-5, rtol=1e-5)


def test_a_file_of_nano_llada_must_say_which_rope_it_has(home):
    torch.save({"model_state_dict": weights(TENSORS["nano-llada"]), "args": {}}, home / "diffusion.pt")
    with pytest.raises(RunError, match="diffusion.pt: the tensors are Nano-LLaDA's .*put a config.json beside the file"):
        opened(home / "diffusion.pt", num_attention_heads=4, objective="llada1")
    beside = CONFIGS["nano-llada"]
    (home / "config.json").write_text(json.dumps(beside))
    assert opened(home / "diffusion.pt", objective="ar").info == CheckpointInfo("ar", label_shift=True)
    (home / "config.json").write_text(json.dumps(beside | {"inference_rope_scaling": True}))
    assert opened(home / "diffusion.pt", objective="ar").model.config.yarn_factor == 16
    for family in ("minimind", "sdar"):
        with pytest.raises(RunError, match="inference_rope_scaling=True is not supported"):
            opened(published(family, home / family, inference_rope_scaling=True))


def test_nano_llada_with_yarn_has_the_frequencies_of_its_own_code():
    """Those of `precompute_freqs_cis` (core/model_minimind.py, 28f02d8) for heads of 64 and 4,096 positions; for no more
    than the 2,048 of its first training it has plain RoPE."""
    theirs = {0: 1.0, 5: 0.1154782, 6: 0.06717802, 9: 0.0119789, 13: 0.0006086236, 14: 0.0001482109, 31: 9.624541e-08}
    config = ModelConfig(VOCAB, 64, 1, 1, head_dim=64, max_position_embeddings=4096, yarn_factor=16.0)
    frequency = Transformer(config).rope_sin[1].asin()
    torch.testing.assert_close(frequency[list(theirs)], torch.tensor(list(theirs.values())), rtol=2e-6, atol=0)
    short, plain = (Transformer(replace(config, max_position_embeddings=64, yarn_factor=f)) for f in (16.0, None))
    assert torch.equal(short.rope_cos, plain.rope_cos)


@pytest.mark.parametrize("info", [CheckpointInfo("ar", label_shift=True), CheckpointInfo("llada1")], ids=str)
def test_a_run_with_yarn_is_read_here_and_in_transformers(home, info):
    import transformers

    model = tiny(vocab=VOCAB, head_dim=32, max_position_embeddings=4096, rope_theta=1e6, yarn_factor=16.0)
    run = finished("far", model, info)
    again = load_checkpoint("far").model
    assert again.config == model.config and torch.equal(again.rope_cos, model.rope_cos)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run.folder).eval()
    tokens = torch.tensor([TOKENS * 8])
    with torch.inference_mode():
        expected = theirs(tokens).logits[0]
    computed = logits_of(model, TOKENS * 8, CAUSAL if info.objective == "ar" else FULL)
    torch.testing.assert_close(computed, expected, atol=2e-5, rtol=1e-5)


# --- what must be declared, and what may not be -----------------------------------------------------------------------


@pytest.mark.parametrize("family, declared, named", [
    ("a2d-qwen3", {}, "nothing says objective of this model: declare objective"),
    ("a2d-qwen3", {"objective": "llada2"}, "nothing says block_size"),
    ("sdar", {"objective": "ar"}, "objective='ar' is declared, but it is 'llada2' there"),
    ("sdar", {"block_size": 16}, "block_size=16 is declared, but it is 4 there"),
    ("llada", {"label_shift": True}, "label_shift=True is declared, but it is False there"),
    ("minimind", {"objective": "llada1"}, "nothing says label_shift of this model"),
    ("dream", {"objective": "gpt"}, "objective='gpt' is declared"),
    ("a2d-qwen2", {"objective": "llada1", "grid": "end"}, "grid='end': must be"),
])  # fmt: skip
def test_a_kind_that_is_not_known_must_be_declared_and_a_known_one_not_otherwise(home, family, declared, named):
    with pytest.raises(RunError, match=f"config.json: .*{named}"):
        load_checkpoint(str(published(family, home / family)), **declared)


@pytest.mark.parametrize("changed", [
    {"mask_token_id": MASK}, {"block_size": 4}, {"bd_size": 32}, {"is_causal": False},
    {"auto_map": {"AutoModel": "modeling_qwen2.Qwen2ForCausalLM"}},
], ids=str)  # fmt: skip
def test_a_diffusion_model_in_an_ar_layout_is_not_taken_for_ar(home, changed):
    folder = published("a2d-qwen2", home / "theirs", model_type="qwen2", **changed)
    with pytest.raises(RunError, match=f"config.json: {next(iter(changed))}=.*: a plain AR model has none.*Declare it: objective"):
        load_checkpoint(str(folder))
    assert load_checkpoint(str(folder), objective="llada1", label_shift=True).info == CheckpointInfo("llada1", label_shift=True)
    assert load_checkpoint(str(folder), objective="ar").info == CheckpointInfo("ar", label_shift=True)


def test_a_mask_in_the_tokenizer_tells_of_a_diffusion_model(home):
    folder = published("a2d-qwen2", home / "theirs", model_type="qwen2")
    assert load_checkpoint(str(folder)).info.objective == "ar"
    (folder / "tokenizer_config.json").write_text('{"mask_token": "<M>"}')
    with pytest.raises(RunError, match="tokenizer_config.json: mask_token='<M>': a plain AR model has none"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("changed, named", [
    ({"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh"}, "model_type='gemma'"),
    ({"hidden_activation": "gelu_pytorch_tanh"}, "hidden_activation='gelu_pytorch_tanh' is not understood"),
    ({"sliding_window": 8}, "sliding_window=8"),
    ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types=.*sliding_attention"),
    ({"model_type": "granite"}, "model_type='granite'"),
    ({"embedding_multiplier": 12.0}, "embedding_multiplier=12.0 is not understood"),
    ({"logits_scaling": 4.0}, "logits_scaling=4.0 is not understood"),
    ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"model_type": "ernie4_5"}, "model_type='ernie4_5'"), ({"model_type": "helium"}, "model_type='helium'"),
    ({"rope_interleave": True}, "rope_interleave=True is not understood"),
    ({"no_rope_layers": [1, 0]}, r"no_rope_layers=\[1, 0\] is not understood"),
    ({"no_rope_layer_interval": 4}, "no_rope_layer_interval=4 is not understood"),
    ({"model_type": "llama", "rope_theta": None}, "has no rope_theta"),
    ({"model_type": "qwen3", "rope_theta": None}, "has no rope_theta"),
    ({"model_type": "a2d-qwen3"}, "nothing says objective"),
    ({"model_type": "diffusion_gemma"}, "DiffusionGemma is another diffusion"),
    ({"model_type": ["qwen3"]}, "model_type="), ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
    ({"attention_bias": True}, "attention_bias=True"), ({"quantization_config": {"bits": 4}}, "quantization_config="),
], ids=str)  # fmt: skip
def test_what_would_open_and_be_wrong_is_refused_with_its_field(home, changed, named):
    folder = published("minimind", home / "theirs", **({"model_type": "qwen3"} | changed))
    with pytest.raises(RunError, match=f"theirs/config.json: .*{named}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("changed", [
    {"block_type": "sequential"}, {"activation_type": "swiglu"}, {"layer_norm_type": "default"}, {"rope": False},
    {"alibi": True}, {"attention_layer_norm": True}, {"scale_logits": True}, {"input_emb_norm": True}, {"block_type": None},
], ids=str)  # fmt: skip
def test_another_variant_of_lladas_code_is_refused(home, changed):
    with pytest.raises(RunError, match=f"config.json: {next(iter(changed))}=.* is not supported"):
        load_checkpoint(str(published("llada", home / "llada", **changed)))


def test_dream_with_blocks_is_not_understood(home):
    """DreamReasoner has Dream's model_type and another kind."""
    with pytest.raises(RunError, match="block_size=32"):
        load_checkpoint(str(published("dream", home / "dream", block_size=32)))


# --- files ------------------------------------------------------------------------------------------------------------


def shard(folder, parts: int = 3) -> None:
    state = load_file(folder / "model.safetensors")
    names = {f"model-{i:05}-of-{parts:05}.safetensors": list(state)[i::parts] for i in range(parts)}
    for file, inside in names.items():
        save_file({name: state[name] for name in inside}, folder / file)
    index = {"weight_map": {name: file for file, inside in names.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_shards_open_like_one_file(home):
    folder = published("sdar", home / "sdar")
    whole = opened(folder).model.state_dict()
    shard(folder)
    parts = opened(folder).model.state_dict()
    assert whole.keys() == parts.keys() and all(whole[name].equal(parts[name]) for name in whole)
    (folder / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(RunError, match="index.json: model-00001-of-00003.safetensors is not in the folder"):
        load_checkpoint(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(RunError, match="index.json: weight_map must be an object"):
        load_checkpoint(str(folder))


def test_a_pickled_folder_opens(home):
    folder = published("minimind", home / "minimind")
    whole = opened(folder).model.state_dict()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert all(whole[name].equal(tensor) for name, tensor in opened(folder).model.state_dict().items())


def test_the_precision_of_the_file_where_it_is_asked(home):
    folder = published("llada", home / "llada")
    state = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    single, stored = opened(folder), opened(folder, dtype="file")
    assert {p.dtype for p in single.model.parameters()} == {torch.float32}
    assert {p.dtype for p in stored.model.parameters()} == {torch.bfloat16}
    assert stored.model.rope_cos.dtype == torch.float32
    assert stored.model.lm_head.weight.equal(state["model.transformer.ff_out.weight"])
    assert all(len(answer) == 8 for answer in written(stored, DecodeConfig("llada1", 8, eos_early_stop=False)))
    with pytest.raises(RunError, match="dtype='int8': must be one of float32, bfloat16, float16, file"):
        opened(folder, dtype="int8")


def test_half_precision_with_large_sums_is_finite(home):
    """float16 ends at 65,504; a sum of its numbers need not."""
    folder = published("minimind", home / "minimind")
    state = {name: torch.full_like(tensor, 300.0).half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    assert opened(folder, dtype="file").model.lm_head.weight.dtype == torch.float16


def test_a_run_that_starts_from_a_biased_model_opens_again(home):
    """Fine-tuning from Dream or Qwen2.5: an AR run's folder is Qwen2's, for transformers too."""
    from transformers import AutoModelForCausalLM

    start = opened(published("dream", home / "dream"))

    class NoTokenizer:
        def save_pretrained(self, folder):
            pass

    info = CheckpointInfo("llada2", 4, label_shift=True, grid="answer")
    RunFolder.open("tuned", start.model, info, NoTokenizer(), {}).finish(start.model)
    again = load_checkpoint("tuned")
    assert again.info == info and again.model.config == start.model.config
    assert logits_of(again.model, TOKENS, FULL).equal(logits_of(start.model, TOKENS, FULL))
    RunFolder.open("written", start.model, CheckpointInfo("ar", label_shift=True), NoTokenizer(), {}).finish(start.model)
    theirs = AutoModelForCausalLM.from_pretrained(home / "weights/written").eval()
    with torch.inference_mode():
        expected = theirs(torch.tensor([TOKENS])).logits[0]
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    torch.testing.assert_close(logits_of(again.model, TOKENS, CAUSAL), expected, atol=1e-4, rtol=1e-4)


def test_a_bias_on_the_output_has_no_place(home):
    """`attention_bias` of Llama and Qwen3 in transformers puts one on the output too; here there is none."""
    folder = published("a2d-qwen2", home / "theirs", model_type="qwen2")
    state = weights(qwen_tensors(biased=True, normed=False))
    state["model.layers.0.self_attn.o_proj.bias"] = torch.zeros(16)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(RunError, match=re.escape("o_proj.bias has no place in the model")):
        load_checkpoint(str(folder))
