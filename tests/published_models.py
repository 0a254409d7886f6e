"""Folders of published families with made-up weights, and what the families' own code computes and writes for them.

`figures.json` beside the tests of checkpoints holds the numbers; each was made with the code named there, which is no part of
this project.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCAB, MASK, EOS, PAD = 20, 17, 18, 19
TOKENS = [3, 9, 14, 5, 5, 11, 0, 7, 12, 2]
PROMPTS = [[3, 9, 4], [11, 7, 5, 5, 8, 3, 12]]
HIDDEN, LAYERS, HEADS, KV_HEADS, SIZE, INNER = 16, 2, 4, 2, 4, 24
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "intermediate_size": INNER, "max_position_embeddings": 64,
}  # fmt: skip
QWEN = SHAPE | {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False}
CONFIGS = {  # as the families' published config.json have them, with small numbers
    "sdar": QWEN | {
        "architectures": ["SDARForCausalLM"], "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig"},
        "attention_bias": False, "attention_dropout": 0.0, "attn_implementation": "flex_attention", "head_dim": SIZE,
        "bos_token_id": EOS, "debug": False, "eos_token_id": EOS, "block_size": 4, "mask_token_id": MASK, "ep_size": 1,
        "fuse_cross_entropy": True, "max_window_layers": 2, "micro_forward": False, "model_type": "sdar",
        "rope_scaling": None, "skip_checkpoint": False, "sliding_window": None, "torch_dtype": "bfloat16",
        "use_cache": False, "use_deepep": False, "use_sliding_window": False,
    },
    "llada": {
        "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": HIDDEN,
        "embedding_dropout": 0.0, "embedding_size": VOCAB, "eos_token_id": EOS, "flash_attention": False,
        "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
        "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
        "layer_norm_with_affine": True, "mask_token_id": MASK, "max_sequence_length": 64, "mlp_hidden_size": INNER,
        "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": HEADS, "n_kv_heads": HEADS,
        "n_layers": LAYERS, "pad_token_id": EOS, "precision": "amp_bf16", "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
        "use_cache": False, "vocab_size": VOCAB, "weight_tying": False,
    },
    "dream": QWEN | {
        "architectures": ["DreamModel"], "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "mask_token_id": MASK, "max_window_layers": 2, "model_type": "Dream", "pad_token_id": PAD, "rope_scaling": None,
        "sliding_window": None, "use_cache": True, "use_mrope": False, "use_sliding_window": False,
    },
    "fast-dllm": QWEN | {
        "architectures": ["Fast_dLLM_QwenForCausalLM"], "attention_dropout": 0.0, "bd_size": 4, "max_window_layers": 2,
        "model_type": "Fast_dLLM_Qwen", "rope_scaling": None, "sliding_window": None, "use_cache": True,
        "use_sliding_window": False,
    },
    "a2d-qwen3": QWEN | {"model_type": "a2d-qwen3", "head_dim": SIZE},
    "a2d-qwen2": QWEN | {"model_type": "a2d-qwen2"},
    "minimind": QWEN | {
        "model_type": "minimind", "head_dim": SIZE, "use_moe": False, "num_experts": 4, "num_experts_per_tok": 1,
        "inference_rope_scaling": False, "flash_attn": True, "dropout": 0.0, "norm_topk_prob": True,
        "router_aux_loss_coef": 5e-4, "moe_intermediate_size": 24,
    },
    "nano-llada": SHAPE | {"model_type": "nano-llada", "num_key_value_heads": HEADS, "inference_rope_scaling": False},
}  # fmt: skip


def qwen_tensors(biased: bool = False, normed: bool = True) -> dict[str, tuple[int, ...]]:
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    rows = {"q_proj": HEADS * SIZE, "k_proj": KV_HEADS * SIZE, "v_proj": KV_HEADS * SIZE}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        tensors |= {f"{name}self_attn.{part}.weight": (count, HIDDEN) for part, count in rows.items()}
        tensors |= {f"{name}self_attn.{part}.bias": (count,) for part, count in rows.items() if biased}
        tensors |= {f"{name}self_attn.{part}.weight": (SIZE,) for part in ("q_norm", "k_norm") if normed}
        tensors |= {f"{name}self_attn.o_proj.weight": (HIDDEN, HEADS * SIZE)}
        tensors |= {f"{name}mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        tensors |= {f"{name}mlp.down_proj.weight": (HIDDEN, INNER)}
        tensors |= {f"{name}{part}_layernorm.weight": (HIDDEN,) for part in ("input", "post_attention")}
    return tensors


def _llada_tensors() -> dict[str, tuple[int, ...]]:
    outer = {"wte": (VOCAB, HIDDEN), "ln_f": (HIDDEN,), "ff_out": (VOCAB, HIDDEN)}
    square, wide = (HIDDEN, HIDDEN), (INNER, HIDDEN)
    inner = {
        "attn_norm": (HIDDEN,), "ff_norm": (HIDDEN,), "q_proj": square, "k_proj": square, "v_proj": square,
        "attn_out": square, "ff_proj": wide, "up_proj": wide, "ff_out": (HIDDEN, INNER),
    }  # fmt: skip
    tensors = {f"model.transformer.{name}.weight": shape for name, shape in outer.items()}
    for layer in range(LAYERS):
        tensors |= {f"model.transformer.blocks.{layer}.{name}.weight": shape for name, shape in inner.items()}
    return tensors


def _minimind_diffusion_tensors() -> dict[str, tuple[int, ...]]:
    names = {
        "embed_tokens": "embed", "self_attn": "attn", "mlp": "ffn", "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2",
    }  # fmt: skip
    return {".".join(names.get(part, part) for part in name.split(".")): shape for name, shape in qwen_tensors().items()}


def _nano_llada_tensors() -> dict[str, tuple[int, ...]]:
    tensors = {"token_emb.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        tensors |= {f"blocks.{layer}.attn.c_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "proj")}
        tensors |= {f"blocks.{layer}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        tensors |= {f"blocks.{layer}.mlp.down_proj.weight": (HIDDEN, INNER)}
    return tensors


TENSORS = {
    "sdar": qwen_tensors(), "a2d-qwen3": qwen_tensors(), "minimind": qwen_tensors(), "llada": _llada_tensors(),
    "fast-dllm": qwen_tensors(biased=True, normed=False),
    "dream": qwen_tensors(biased=True, normed=False), "a2d-qwen2": qwen_tensors(biased=True, normed=False),
    "minimind-diffusion": _minimind_diffusion_tensors(), "nano-llada": _nano_llada_tensors(),
}  # fmt: skip
FIGURES = Path(__file__).parent / "checkpoints" / "figures.json"


def weights(tensors: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Numbers that look drawn and are the same everywhere; gains around 1."""
    state = {}
    for name, shape in tensors.items():
        count = torch.arange(math.prod(shape), dtype=torch.float64)
        noise = (torch.sin(count * 12.9898 + sum(name.encode())) * 43758.5453) % 1 - 0.5
        is_gain = len(shape) == 1 and not name.endswith("bias")
        state[name] = (1 + noise if is_gain else noise).reshape(shape).float()
    return state


def published(family: str, folder: Path, **changed) -> Path:
    """A folder of the family; changed: fields of its config.json, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[family] | changed
    (folder / "config.json").write_text(json.dumps({name: config[name] for name in config if changed.get(name, 0) is not None}))
    save_file(weights(TENSORS[family]), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def figures() -> dict:
    return json.loads(FIGURES.read_text("utf-8"))
