"""Settings: derived values, and errors that name the parameter and what it must be."""

import dataclasses
import json
import math
import re

import pytest

from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig, TrainConfig


def test_model_shape_is_completed():
    config = ModelConfig(6400, 512, 8, 8)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (
        64,
        8,
        1408,
    )  # MiniMind's numbers
    assert ModelConfig(6400, 768, 8, 8).intermediate_size == 2048
    explicit = ModelConfig(100, 32, 1, 4, num_key_value_heads=2, head_dim=16, intermediate_size=48)
    assert (explicit.head_dim, explicit.num_key_value_heads, explicit.intermediate_size) == (16, 2, 48)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"vocab_size": 0}, "vocab_size=0: must be an integer from 1 to 16,777,216"),
        ({"hidden_size": 30}, "hidden_size=30: must be divisible by num_attention_heads=4"),
        ({"hidden_size": 12}, "head_dim=3: must be even"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers=2.0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3: must be a divisor of num_attention_heads=4"),
    ],
)
def test_bad_model_shape_is_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig(**{"vocab_size": 10, "hidden_size": 32, "num_attention_heads": 4, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_iters": 0}, {"batch_size": 0}, {"seq_len": 1.5}, {"micro_batch_size": -1}, {"keep_best": 0},
        {"optimizer": "sgd"}, {"learning_rate": 0.0}, {"muon_learning_rate": -1.0}, {"warmup_steps": -1},
        {"min_lr_ratio": 1.5}, {"decay_ratio": -0.1}, {"grad_clip": 0.0}, {"eval_every": -1}, {"save_every": -1},
        {"embedding_noise": -1.0}, {"dtype": "float16"},
    ],
)  # fmt: skip
def test_bad_training_setting_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be "):
        TrainConfig(**{"max_iters": 1, **wrong})


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"style": "bert"}, "style='bert': must be 'ar' or 'llada1' or 'llada2'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"cfg_scale": -0.5}, "cfg_scale=-0.5"),
        ({"steps": 0}, "steps=0"),
        ({"block_length": 0}, "block_length=0"),
        ({"remasking": "none"}, "remasking='none': must be 'low_confidence' or 'random'"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"minimal_topk": 0}, "minimal_topk=0"),
        ({"cap_start_ratio": 0.5}, "cap_start_ratio, cap_end_ratio=.0.5, None.: must be set both or neither"),
        ({"cap_start_ratio": 0.5, "cap_end_ratio": 1.5}, "cap_end_ratio=1.5: must be a number above 0 and at most 1, or None"),
        ({"max_decode_per_step": 0}, "max_decode_per_step=0: must be an integer from 1 "),
        ({"alternatives": -1}, "alternatives=-1"),
        ({"style": "ar", "cfg_scale": 1.0}, "cfg_scale=1.0: must be 0 for style 'ar'"),
        ({"style": "llada1", "steps": 65}, "steps=65: must be at most max_new_tokens=64 for LLaDA 1"),
        ({"style": "llada1", "block_length": 48}, "block_length=48: must be a divisor of max_new_tokens=64"),
        (
            {"style": "llada1", "block_length": 16, "steps": 6},
            "steps=6: must be a multiple of the 4 blocks of 16",
        ),
    ],
)
def test_bad_decoding_setting_is_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        DecodeConfig(**wrong)


NUMBERS = [
    (config, setting.name)
    for config in (ModelConfig, TrainConfig, DecodeConfig)
    for setting in dataclasses.fields(config)
    if type(setting.default) in (int, float) or setting.default is dataclasses.MISSING
]


@pytest.mark.parametrize("config, name", NUMBERS, ids=lambda part: getattr(part, "__name__", part))
@pytest.mark.parametrize("value", [math.nan, -math.inf, -1, True, "1", None, 10**30])
def test_what_is_no_number_or_out_of_range_is_refused(config, name, value):
    required = {ModelConfig: {"vocab_size": 50}, TrainConfig: {"max_iters": 5}, DecodeConfig: {}}[config]
    if (name, value) in (("threshold", None), ("grad_clip", 10**30)):
        return  # no threshold, no clipping
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be a")):
        config(**{**required, name: value})


@pytest.mark.parametrize(
    "config, wrong",
    [
        (ModelConfig, {"head_dim": 0}), (ModelConfig, {"intermediate_size": -5}), (ModelConfig, {"num_key_value_heads": 2.0}),
        (ModelConfig, {"rope_theta": 0}), (ModelConfig, {"tie_word_embeddings": "no"}), (TrainConfig, {"seq_len": 1}),
        (TrainConfig, {"compile": 1}), (TrainConfig, {"batch_size": 10**11}), (TrainConfig, {"warmup_steps": 0.5}),
        (DecodeConfig, {"steps": 2.0}), (DecodeConfig, {"cfg_scale": math.inf}), (DecodeConfig, {"draft": "no"}),
        (DecodeConfig, {"temperature": 1e-320}),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_of_another_kind_or_size_is_named(config, wrong):
    required = {ModelConfig: {"vocab_size": 50}, TrainConfig: {"max_iters": 5}, DecodeConfig: {}}[config]
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be ")):
        config(**required, **wrong)


def test_a_batch_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match="batch_size=1000000: must be at most 131072 with seq_len=1024"):
        TrainConfig(1, batch_size=10**6, seq_len=1024)
    assert TrainConfig(1, grad_clip=math.inf).grad_clip == math.inf  # no clipping
    assert ModelConfig(50, rope_theta=10_000).rope_theta == 10_000  # a whole number is a number


def test_more_steps_than_the_block_holds_are_legal_for_llada2():
    assert DecodeConfig("llada2", steps=500, block_length=32).steps == 500


def test_unknown_objective_is_named():
    with pytest.raises(ValueError, match="objective='gpt': must be 'ar' or 'llada1' or 'llada2'"):
        CheckpointInfo("gpt")


@pytest.mark.parametrize("config", [ModelConfig(10), TrainConfig(5), DecodeConfig(), DecodeConfig("llada1", steps=8)])
def test_settings_survive_json(config):
    again = json.loads(json.dumps(config.to_dict()))
    assert type(config)(**{k: tuple(v) if isinstance(v, list) else v for k, v in again.items()}) == config
