"""What a folder of weights says of itself to other programs: config.json and generation_config.json."""

from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.model import YARN_POSITIONS, YARN_TURNS

IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")


def hf_config(config: ModelConfig, checkpoint: CheckpointInfo, tokenizer=None, **record) -> dict:
    """A config.json that transformers reads; what only this project reads (`record`, too) stands under "dllm".

    AR: Qwen3, without QK-norm Llama, with biases Qwen2. LLaDA 1: the same with `is_causal: false`, which transformers heeds from 5.2 on.
    LLaDA 2: a `model_type` that no program knows, so that none takes block diffusion for an autoregressive model.
    tokenizer: its special tokens' ids are named, where it has them.
    """
    shape = config.to_dict()
    only_here = {name: shape.pop(name) for name in ("qk_norm", "qk_norm_init", "yarn_factor")}
    base = layout(config)
    model = {"architectures": [f"{base}ForCausalLM"], "model_type": base.lower()}
    if checkpoint.objective == "llada1":
        model["is_causal"] = False
    if checkpoint.objective == "llada2":
        model = {"architectures": [f"BlockDiffusion{base}ForCausalLM"], "model_type": f"block_diffusion_{base.lower()}"}
        model["block_size"] = checkpoint.block_size
    if only_here["yarn_factor"] and config.max_position_embeddings > YARN_POSITIONS:
        fast, slow = map(float, YARN_TURNS)
        scaling = {"rope_type": "yarn", "factor": only_here["yarn_factor"], "beta_fast": fast, "beta_slow": slow}
        shape["rope_scaling"] = scaling | {"original_max_position_embeddings": YARN_POSITIONS, "attention_factor": 1.0}
    own = {**only_here, "checkpoint": checkpoint.to_dict(), **record}
    return {**model, "hidden_act": "silu", "attention_bias": False, **shape, **token_ids(tokenizer), "dllm": own}


def layout(config: ModelConfig) -> str:
    """The architecture of Hugging Face whose layers compute the same, as its classes are named."""
    return "Qwen3" if config.qk_norm else "Qwen2" if config.attention_bias else "Llama"


def token_ids(tokenizer) -> dict[str, int]:
    """The ids of a tokenizer's special tokens, under the names of Hugging Face."""
    ids = {name: getattr(tokenizer, name, None) for name in IDS}
    return {name: value for name, value in ids.items() if value is not None}


def generation_config(tokenizer, objective: str) -> dict:
    """A generation_config.json: transformers' `generate` stops where an answer ends and, as here, never writes the mask.

    Empty where none is needed: `generate` does not decode diffusion, so that its folders keep only what else would be lost
    with the folder that they start from, several ends of an answer.
    """
    ids, ends = token_ids(tokenizer), getattr(tokenizer, "end_token_ids", None) or []
    if objective != "ar" and len(ends) < 2:
        return {}
    mask = ids.pop("mask_token_id", None)
    ids |= {"eos_token_id": list(ends)} if len(ends) > 1 else {}
    return ids if mask is None else {**ids, "suppress_tokens": [mask]}
