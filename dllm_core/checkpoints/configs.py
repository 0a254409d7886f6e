"""What a config.json says: the family, the shape, how the model was trained. What is not understood is refused by name."""

import reprlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from dllm_core.checkpoints.families import ANY, AR, DIFFULLAMA, FAMILIES, Family
from dllm_core.checkpoints.tensors import EMBEDDING, HEAD
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.config import CheckpointInfo, ModelConfig

# Fields that change what a model computes, with the values under which it computes what `Transformer` does: SiLU gates,
# no biases, no experts, attention to all positions, plain RoPE.
HONOURED = {
    "hidden_act": (None, "silu", "swish"), "attention_bias": (None, False), "mlp_bias": (None, False),
    "use_sliding_window": (None, False), "sliding_window": (None,), "layer_types": (None,), "use_moe": (None, False),
    "num_experts": (None, 0), "num_local_experts": (None, 0), "n_routed_experts": (None, 0),
    "rope_type": (None, "default"), "partial_rotary_factor": (None, 1), "quantization_config": (None,),
    "inference_rope_scaling": (None, False), "is_encoder_decoder": (None, False), "add_cross_attention": (None, False),
}  # fmt: skip
# Fields that change nothing of what is computed: of training, of generation, of storing, and those read elsewhere.
NEUTRAL = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "architectures",
    "attention_dropout", "attn_implementation", "auto_map", "aux_loss_alpha", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size", "debug", "decoder_start_token_id",
    "diversity_penalty", "dllm", "do_sample", "dropout", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "eos_token_id", "ep_size", "exponential_decay_length_penalty", "finetuning_task", "flash_attn",
    "forced_bos_token_id", "forced_eos_token_id", "fuse_cross_entropy", "id2label", "is_causal", "is_decoder",
    "label2id", "length_penalty", "mask_token_id", "max_length", "max_seq_len", "max_window_layers", "micro_forward",
    "min_length", "model_type", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "rope_parameters", "rope_scaling", "sep_token_id", "skip_checkpoint", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version",
    "use_bfloat16", "use_cache", "use_deepep",
})  # fmt: skip
OWN_TYPES = ("block_diffusion_qwen3", "block_diffusion_qwen2", "block_diffusion_llama")  # of our block diffusion, which no program is to mistake
INFERENCE_YARN = 16.0  # the factor of MiniMind's and Nano-LLaDA's code where a config.json has inference_rope_scaling
DIFFUSION_FIELDS = ("mask_token_id", "block_size", "bd_size", "is_causal", "auto_map")  # which no plain AR model has


def family_of(record: dict, declared: Mapping, where: Path) -> Family:
    """The family of a config.json. Raises RunError for one that is not supported, and for a field that is not understood.

    declared: the fields of `CheckpointInfo` that are declared.
    """
    flat, model_type = flattened(record, where), record.get("model_type")
    if isinstance(model_type, str) and model_type.startswith("diffusion_gemma"):
        raise RunError(
            f"{where}: model_type={model_type!r}: DiffusionGemma is another diffusion (uniform noise on a canvas, without a "
            "mask), which no sampler here draws"
        )
    is_ours = "checkpoint" in (record.get("dllm") or {})
    if not (model_type is None or isinstance(model_type, str)) or model_type not in (*FAMILIES, *OWN_TYPES * is_ours):
        _refuse("model_type", model_type, where)
    family = FAMILIES.get(model_type)
    if is_ours and (family is None or family.usual is not AR):
        family = FAMILIES["qwen2"]  # our own record says what it is, whatever other programs are told; it may have biases
    is_diffusion = declared.get("objective") not in (None, "ar")
    if model_type == "llama" and is_diffusion and declared.get("label_shift"):
        family = DIFFULLAMA
    _refuse_unsupported(flat, family, where)
    if family.usual is AR and "dllm" not in record and not declared.get("objective"):
        _refuse_undeclared(record, family, where)
    return family


def flattened(record: dict, where: Path) -> dict:
    """A config.json with the fields of its rope_scaling and rope_parameters among its own, as transformers reads it."""
    parts = [record.get(name) or {} for name in ("rope_scaling", "rope_parameters", "dllm")]
    if not all(isinstance(part, dict) for part in parts):
        raise RunError(f"{where}: rope_scaling, rope_parameters and dllm must be objects or null")
    if parts[2].get("yarn_factor"):  # ours, which `rope_scaling` tells to other programs
        return record
    scaling = {"rope_type" if name == "type" else name: value for name, value in parts[0].items()}
    return {**record, **scaling, **parts[1]}


def _refuse_unsupported(asked: dict, family: Family, where: Path) -> None:
    """Raise RunError for a field that `Transformer` would ignore. A field that is switched off may have any value."""
    asked = dict(asked)
    if asked.get("use_sliding_window") is False:
        asked.pop("sliding_window", None)
    if asked.get("use_moe") is False:
        experts = ("expert", "router", "norm_topk_prob", "moe_", "scoring_func", "seq_aux")
        asked = {name: value for name, value in asked.items() if not any(part in name for part in experts)}
    layers = asked.get("layer_types")
    if isinstance(layers, list) and all(layer == "full_attention" for layer in layers):
        del asked["layer_types"]
    honoured = {**HONOURED, **family.allows}
    for name, values in honoured.items():
        if values is not ANY and asked.get(name) not in values:
            _refuse(name, asked.get(name), where)
    known = {field.name for field in fields(ModelConfig)} | set(family.fields) | set(honoured) | NEUTRAL
    known |= set(DIFFUSION_FIELDS) if family.usual is AR else {family.block_field}
    for name, value in asked.items():
        if value is not None and name not in known:
            raise RunError(
                f"{where}: {name}={reprlib.repr(value)} is not understood and may change what the model computes. If you "
                "know that it does not, delete it from the file"
            )


def _refuse(name: str, value: object, where: Path) -> None:
    raise RunError(
        f"{where}: {name}={reprlib.repr(value)} is not supported. This model has SiLU gates, no biases, no "
        "experts, attention to all positions and plain RoPE, as Qwen3 and Llama; it would compute something else. Another "
        "model of transformers can be decoded through `checkpoints.wrapped`"
    )


def _refuse_undeclared(record: dict, family: Family, where: Path) -> None:
    """Raise RunError where a folder of an AR layout shows that it is a diffusion model, or has code of its own."""
    for name in DIFFUSION_FIELDS:
        value = record.get(name)
        if name not in family.allows and value is not None and (name != "is_causal" or value is False):
            _refuse_unknown_kind(where, f"{name}={reprlib.repr(value)}")
    tokenizer = where.with_name("tokenizer_config.json")
    if tokenizer.is_file() and (mask := read_json(tokenizer, RunError).get("mask_token")):
        _refuse_unknown_kind(tokenizer, f"mask_token={reprlib.repr(mask)}")


def _refuse_unknown_kind(where: Path, what: str) -> None:
    raise RunError(
        f"{where}: {what}: a plain AR model has none, and nothing says what this one is. Declare it: objective 'ar', "
        "'llada1' (full attention) or 'llada2' (blocks), with label_shift, and block_size for 'llada2'"
    )


def model_config(record: dict, state: dict[str, Tensor], where: Path, family: Family | None = None) -> ModelConfig:
    """ModelConfig from a config.json and the renamed weights beside it; family: by default that of the config.json.
    Raises RunError for a config of something else, also for one that asks for what `Transformer` leaves out."""
    family = family or family_of(record, {}, where)
    names = {field.name for field in fields(ModelConfig)}
    flat = flattened(record, where)
    known = {name: value for name, value in flat.items() if name in names and value is not None}
    known |= {name: flat[theirs] for theirs, name in family.fields.items() if flat.get(theirs) is not None}
    known |= {name: value for name, value in (record.get("dllm") or {}).items() if name in names}
    missing = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"} - set(known)
    if missing:
        raise RunError(f"{where}: not a model config (no {', '.join(sorted(missing))})")
    known = {**family.defaults, **known}
    if flat.get("inference_rope_scaling"):
        known["yarn_factor"] = INFERENCE_YARN
    if "rope_theta" not in known:
        raise RunError(
            f"{where}: has no rope_theta, the base of RoPE's frequencies. Write the one that the model was trained with "
            "into the file (10000 for Llama 1 and 2, 500000 for Llama 3, 1000000 for MiniMind)"
        )
    gate = state.get("model.layers.0.mlp.gate_proj.weight")
    if "intermediate_size" not in known and gate is not None:
        known["intermediate_size"] = gate.shape[0]
    return checked(ModelConfig, {**known, **layout_of(state), **family.layout}, where)


def layout_of(state: dict[str, Tensor]) -> dict[str, bool]:
    """What only the tensors tell for sure; a config.json may leave it out."""
    embedding, head = state.get(EMBEDDING), state.get(HEAD)
    tied = head is None or (embedding is not None and embedding.equal(head))
    qk_norm, biased = (f"model.layers.0.self_attn.{part}" in state for part in ("q_norm.weight", "q_proj.bias"))
    return {"qk_norm": qk_norm, "tie_word_embeddings": tied, "attention_bias": biased and not qk_norm}


def checked(cls: type, values: dict, where: Path):
    """cls(**values). Raises RunError, which names the file, for a value that the class refuses."""
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise RunError(f"{where}: {error}") from error


def kind_of(record: dict, family: Family, declared: Mapping, where: Path) -> CheckpointInfo:
    """How a model was trained, by its own run's record, else by its family, its config.json and what is declared.
    Raises RunError for a declaration that contradicts what is known, and for what is neither known nor declared."""
    own_record = (record.get("dllm") or {}).get("checkpoint")
    if own_record:
        said = checked(CheckpointInfo, own_record, where).to_dict()
    else:
        block_size = record.get(family.block_field)
        said = {**family.kind, **({"block_size": block_size} if block_size is not None else {})}
    for name, value in declared.items():
        if name in said and value != said[name]:
            raise RunError(f"{where}: {name}={value!r} is declared, but it is {said[name]!r} there: leave it out")
    is_usual = family.usual.get("objective") in (None, declared.get("objective", family.usual.get("objective")))
    values = {**(family.usual if is_usual else {}), **said, **declared}
    needed = {"ar": (), "llada2": ("label_shift", "block_size")}.get(values.get("objective"), ("objective", "label_shift"))
    if values.get("objective") == "ar":
        values["label_shift"] = True
    absent = [name for name in needed if name not in values]
    if absent and not own_record:
        raise RunError(f"{where}: nothing says {' and '.join(absent)} of this model: declare {', '.join(absent)}")
    return checked(CheckpointInfo, values, where)
