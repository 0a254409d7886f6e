"""The families of published models: how each names what `Transformer` computes, and what kind of model it is.

| `model_type` | models | facts from |
|---|---|---|
| qwen3, qwen2, llama, mistral | AR models of these layouts; what another project trained from one must be declared | transformers 5.23 |
| minimind | MiniMind 2 and 3 | jingyaogong/minimind d65ef2c |
| a2d-qwen3, a2d-qwen2, a2d-llama | dllm's diffusion models | ZHZisZZ/dllm ca17675, pipelines/a2d |
| sdar | SDAR | JetAstra/SDAR c2041a8, training/model |
| llada | LLaDA-8B, LLaDA-1.5 | ZHZisZZ/dllm ca17675, pipelines/llada |
| Dream | Dream-7B, DiffuCoder | ZHZisZZ/dllm ca17675, pipelines/dream |
| Fast_dLLM_Qwen | Fast-dLLM v2 | public copies of the code beside its weights |
| llama, declared as diffusion with shifted labels | DiffuLLaMA | HKUNLP/DiffuLLaMA c17e897 |
| none: tensors named `model.embed` | minimind-diffusion | adenzhou1350/minimind-diffusion cb73fe2 |
| nano-llada, in a config.json of the user's | Nano-LLaDA, with YaRN or without | JayCheng113/Nano-LLaDA 28f02d8 |
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dllm_core.checkpoints.tensors import EMBEDDING
from dllm_core.compute.cpu import rms_norm
from dllm_core.config import ModelConfig

ANY = object()  # in `Family.allows`: every value


@dataclass(frozen=True)
class Family:
    """How the folders of one family are read.

    kind: fields of `CheckpointInfo` that hold for all its models; a contrary declaration is an error. usual: those that
        hold unless they are declared; what neither has must be declared. block_field: of config.json, the block size.
    fields: config.json's name → `ModelConfig`'s. defaults: `ModelConfig` fields that its config.json may leave out.
    allows: beside `HONOURED`, the values under which other fields change nothing.
    layer, parts, outer: the prefix of a layer's tensors, the names within it and those outside → Qwen3's.
    layout: `ModelConfig` fields that the tensors would tell otherwise. change: applied to the renamed state dict, in place.
    """

    kind: Mapping = field(default_factory=dict)
    usual: Mapping = field(default_factory=dict)
    block_field: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping = field(default_factory=dict)
    allows: Mapping[str, Collection] = field(default_factory=dict)
    layer: str = "model.layers."
    parts: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    layout: Mapping = field(default_factory=dict)
    change: Callable[[dict[str, Tensor], ModelConfig], None] | None = None

    def rename(self, name: str) -> str:
        """A tensor's name → the name that it has in `Transformer`."""
        stem, _, end = name.rpartition(".")
        if stem in self.outer:
            return f"{self.outer[stem]}.{end}"
        number, _, part = stem.removeprefix(self.layer).partition(".")
        if stem.startswith(self.layer) and part in self.parts:
            return f"model.layers.{number}.{self.parts[part]}.{end}"
        return name


def _split_pairs(state: dict[str, Tensor], config: ModelConfig) -> None:
    """RoPE turns the pairs (2i, 2i + 1) there and (i, i + D/2) here: the rows of queries and keys change places."""
    for name, tensor in state.items():
        if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            heads = tensor.unflatten(0, (-1, config.head_dim // 2, 2))
            state[name] = heads.transpose(1, 2).flatten(0, 2).contiguous()


def _fold_norms(state: dict[str, Tensor], config: ModelConfig) -> None:
    """Norms without a gain have a gain of 1. The norm of the embedding's output is that of its rows; QK-norm after RoPE
    is QK-norm before it, since a rotation keeps the length."""
    rows = state[EMBEDDING]
    state[EMBEDDING] = rms_norm(rows, torch.ones(config.hidden_size, dtype=rows.dtype), config.rms_norm_eps)
    state["model.norm.weight"] = rows.new_ones(config.hidden_size)
    for layer in range(config.num_hidden_layers):
        for part in ("input_layernorm", "post_attention_layernorm"):
            state[f"model.layers.{layer}.{part}.weight"] = rows.new_ones(config.hidden_size)
        for part in ("q_norm", "k_norm"):
            state[f"model.layers.{layer}.self_attn.{part}.weight"] = rows.new_ones(config.head_dim)


AR = {"objective": "ar", "label_shift": True}
BIASED = {"attention_bias": ANY}  # the tensors tell whether queries, keys and values have one
A2D = Family(usual={"label_shift": False, "grid": "answer"}, allows=BIASED)
DIFFULLAMA = Family(kind={"label_shift": True}, defaults={"rope_theta": 1e4})
FAMILIES: dict[str | None, Family] = {
    None: Family(usual=AR), "qwen3": Family(usual=AR), "llama": Family(usual=AR), "mistral": Family(usual=AR),
    "qwen2": Family(usual=AR, allows=BIASED),
    "minimind": Family(usual=AR, defaults={"rope_theta": 1e6}, allows={"auto_map": ANY}),
    "a2d-qwen3": A2D, "a2d-qwen2": A2D, "a2d-llama": A2D,
    "sdar": Family(
        kind={"objective": "llada2", "label_shift": False}, block_field="block_size", defaults={"rope_theta": 1e4},
    ),
    "Dream": Family(
        kind={"objective": "llada1", "label_shift": True}, defaults={"rope_theta": 1e4},
        allows=BIASED | {"use_mrope": (None, False)},
    ),
    "Fast_dLLM_Qwen": Family(
        kind={"objective": "llada2", "label_shift": True}, usual={"block_size": 32}, block_field="bd_size",
        defaults={"rope_theta": 1e4}, allows=BIASED,
    ),
    "llada": Family(
        kind={"objective": "llada1", "label_shift": False},
        fields={
            "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads", "mlp_hidden_size": "intermediate_size",
            "max_sequence_length": "max_position_embeddings", "embedding_size": "vocab_size",
        },
        defaults={"rope_theta": 1e4, "rms_norm_eps": 1e-5},
        allows={
            "block_type": ("llama",), "activation_type": ("silu",), "layer_norm_type": ("rms",), "rope": (True,),
            "alibi": (None, False), "attention_layer_norm": (None, False), "include_bias": (None, False),
            "include_qkv_bias": (None, False), "bias_for_layer_norm": (None, False), "scale_logits": (None, False),
            "layer_norm_with_affine": (None, True), "input_emb_norm": (None, False), "block_group_size": (None, 1),
            "multi_query_attention": (None, False), "rope_full_precision": (None, True), "alibi_bias_max": ANY,
            "attention_layer_norm_with_affine": ANY, "embedding_dropout": ANY, "flash_attention": ANY,
            "init_cutoff_factor": ANY, "init_device": ANY, "init_fn": ANY, "init_std": ANY, "mlp_ratio": ANY,
            "precision": ANY, "residual_dropout": ANY, "weight_tying": ANY,
        },
        layer="model.transformer.blocks.",
        parts={
            "attn_norm": "input_layernorm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
            "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj", "ff_norm": "post_attention_layernorm",
            "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
        },
        outer={
            "model.transformer.wte": "model.embed_tokens", "model.transformer.ln_f": "model.norm",
            "model.transformer.ff_out": "lm_head",
        },
    ),
    "nano-llada": Family(
        usual={"label_shift": False}, defaults={"rope_theta": 1e6, "rms_norm_eps": 1e-5},
        allows={"inference_rope_scaling": (None, False, True)}, layout={"qk_norm": True}, layer="blocks.",
        parts={
            "attn.c_q": "self_attn.q_proj", "attn.c_k": "self_attn.k_proj", "attn.c_v": "self_attn.v_proj",
            "attn.c_proj": "self_attn.o_proj", "mlp.gate_proj": "mlp.gate_proj", "mlp.up_proj": "mlp.up_proj",
            "mlp.down_proj": "mlp.down_proj",
        },
        outer={"token_emb": "model.embed_tokens"}, change=_fold_norms,
    ),
}  # fmt: skip
MINIMIND_DIFFUSION = Family(
    kind={"objective": "llada1", "label_shift": False},
    defaults={"rope_theta": 1e6, "rms_norm_eps": 0.0},  # its norms have no eps
    parts={
        "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
        **{f"attn.{part}": f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")},
        **{f"ffn.{part}": f"mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")},
    },
    outer={"model.embed": "model.embed_tokens"}, change=_split_pairs,
)  # fmt: skip
