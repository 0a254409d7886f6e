"""Models of transformers under this project's decoders: the same answers as our own model, and as their own `generate`."""

import pytest
import torch
import transformers
from small import EOS, IDS, MASK, PAD, VOCAB

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.wrapped import wrap
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.samplers import decode

SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64, "initializer_range": 0.5,
    "pad_token_id": PAD, "bos_token_id": None, "eos_token_id": EOS,
}  # fmt: skip
PROMPTS = [[3, 9, 4], [11, 7, 5, 5, 8, 3, 12], [6]]
STYLES = {
    "ar": DecodeConfig("ar", 9, eos_early_stop=False),
    "llada1": DecodeConfig("llada1", 8, steps=8, block_length=4, eos_early_stop=False),
    "llada2": DecodeConfig("llada2", 10, block_length=4, threshold=0.4, eos_early_stop=False),
}


def model_of(name: str, seed: int = 0, **options):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **options})
    return getattr(transformers, name + ("LMHeadModel" if name == "GPT2" else "ForCausalLM"))(config).eval()


def answers(checkpoint, prompts, config) -> list[list[int]]:
    tokens = [prompt + [MASK] * config.max_new_tokens for prompt in prompts]
    checkpoint.tokenizer = IDS
    for step in decode(checkpoint, prompts, config):
        for commit in step.commits:
            tokens[step.row][commit.position] = commit.token
    return tokens


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("label_shift", [False, True])
def test_wrapped_is_native(home, style, label_shift):
    theirs = model_of("Qwen3")
    theirs.save_pretrained(home / "theirs")
    info = CheckpointInfo(style, 4 if style == "llada2" else None, label_shift)
    native = load_checkpoint(
        str(home / "theirs"), objective=style, label_shift=label_shift if style != "ar" else None, block_size=info.block_size
    )
    wrapped, config = wrap(theirs, IDS, info), STYLES[style]
    expected = answers(native, PROMPTS, config)
    assert answers(wrapped, PROMPTS, config) == expected
    assert [answers(wrapped, [prompt], config)[0] for prompt in PROMPTS] == expected
    uncached = DecodeConfig(**{**config.to_dict(), "use_cache": False})
    assert answers(wrapped, PROMPTS, uncached) == expected


@pytest.mark.parametrize("name, options", [
    ("Qwen2", {}), ("Llama", {}), ("Gemma", {}), ("Granite", {"logits_scaling": 3.0, "attention_multiplier": 0.3}),
    ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}), ("SmolLM3", {"use_sliding_window": False}),
    ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}),
    ("Mistral", {"sliding_window": None}),
])  # fmt: skip
def test_another_architecture_writes_what_its_own_generate_writes(name, options):
    theirs = model_of(name, **options)
    checkpoint = wrap(theirs, IDS, CheckpointInfo("ar", label_shift=True))
    config = STYLES["ar"]
    found = answers(checkpoint, PROMPTS, config)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        with torch.inference_mode():
            own = theirs.generate(
                torch.tensor([prompt]), max_new_tokens=9, min_new_tokens=9, do_sample=False, suppress_tokens=[MASK],
                eos_token_id=None,
            )[0].tolist()  # fmt: skip
        assert tokens == own
    uncached = DecodeConfig(**{**config.to_dict(), "use_cache": False})
    assert answers(checkpoint, PROMPTS, uncached) == found


@pytest.mark.parametrize("name, options, named", [
    ("Mistral", {"sliding_window": 4}, "sliding_window=4"),
    ("Gemma2", {}, "layer_types with sliding_attention"),
    ("Qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "sliding_attention"),
])  # fmt: skip
def test_layers_with_a_window_are_refused(name, options, named):
    with pytest.raises(RunError, match=f"{name}ForCausalLM: .*{named}.*do not see all positions"):
        wrap(model_of(name, **options), IDS, CheckpointInfo("ar"))


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_its_mask_or_positions_is_refused(ignored):
    theirs = model_of("Llama")
    forward = theirs.forward
    theirs.forward = lambda input_ids, attention_mask=None, position_ids=None, logits_to_keep=0, **options: forward(
        input_ids, **({"attention_mask": attention_mask} if ignored == "position_ids" else {"position_ids": position_ids}),
        **options,
    )  # fmt: skip
    with pytest.raises(RunError, match=f"LlamaForCausalLM: ignores the .*{ignored}"):
        wrap(theirs, IDS, CheckpointInfo("ar"))


def test_a_model_without_a_cache_decodes_without_one():
    theirs = model_of("Qwen3")
    forward, config = theirs.forward, STYLES["llada2"]
    expected = answers(wrap(theirs, IDS, CheckpointInfo("llada2", 4)), PROMPTS, config)

    def without_cache(input_ids, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=False):
        assert not use_cache
        return forward(input_ids, attention_mask, position_ids, logits_to_keep=logits_to_keep, use_cache=False)

    theirs.forward = without_cache
    checkpoint = wrap(theirs, IDS, CheckpointInfo("llada2", 4))
    assert answers(checkpoint, PROMPTS, DecodeConfig(**{**config.to_dict(), "use_cache": False})) == expected
    with pytest.raises(RunError, match="Qwen3ForCausalLM: keeps no keys and values: decode with use_cache=False"):
        answers(checkpoint, PROMPTS, config)
