"""One Transformer for all three styles, in Qwen3's layout: RMSNorm, RoPE, QK-norm, grouped-query attention, SwiGLU.

Parameters are named as in Hugging Face's Qwen3 and in MiniMind, so weights fit key for key. The model has no part in
losses, noise or styles: AR and diffusion differ in the attention mask that its caller passes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_core.compute.attention import Mask, Tiles, attend
from dllm_core.compute.cpu import MIN_SIZE, onednn_matmul, rms_norm, rotate
from dllm_core.compute.kv_cache import KVCache
from dllm_core.config import ModelConfig

YARN_POSITIONS, YARN_TURNS = 2048, (32, 1)  # of the training before the stretch; as MiniMind and Nano-LLaDA have them


def yarn(frequency: Tensor, config: ModelConfig) -> Tensor:
    """RoPE's frequencies [D/2] stretched by YaRN (arXiv 2309.00071 §3.2), without its temperature: those that turn 32
    times or more within 2,048 positions stay, those that turn once or less are divided by `yarn_factor`, and between
    these two dimensions the share that is divided grows evenly. A model of 2,048 positions or fewer stays as it is."""
    if config.max_position_embeddings <= YARN_POSITIONS:
        return frequency
    size, log_theta = len(frequency), math.log(config.rope_theta)
    first, last = (size * math.log(YARN_POSITIONS / (turns * 2 * math.pi)) / log_theta for turns in YARN_TURNS)
    first, last = max(math.floor(first), 0), min(math.ceil(last), size - 1)
    divided = ((torch.arange(size, device="cpu") - first) / max(last - first, 1e-3)).clamp(0, 1)
    return frequency * (1 - divided + divided / config.yarn_factor)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · gain over the last dimension."""

    def __init__(self, size: int, eps: float, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), gain))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with RoPE and, if configured, QK-norm."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        has_bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=has_bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=has_bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=has_bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps, config.qk_norm_init)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps, config.qk_norm_init)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(
        self, x: Tensor, rope, mask: Mask, cache: KVCache | None, slots: Tensor | None, read=None, queries=None
    ) -> Tensor:
        """x [B, S, hidden] → [B, S, hidden], or [n, hidden] at `read`; read, queries: see `Transformer.forward`."""
        # 1. projections, [B, heads, S, head_dim]
        x_q = x[:, :queries]
        q, k, v = self.split_heads(self.q_proj(x_q)), self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))
        # 2. QK-norm and RoPE
        rope_q = (part[:, :, :queries] for part in rope)
        q, k = rotate(self.q_norm(q), *rope_q), rotate(self.k_norm(k), *rope)
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast gains and rotations are float32
        # 3. attention, also to what is cached
        if cache is not None:
            k, v = cache.write(self.layer, k, v, slots, mask.shape[-1])
        y = attend(q, k, v, mask).transpose(1, 2).reshape(len(x), x_q.shape[1], -1)
        return self.o_proj(y if read is None else y[read])

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, S, heads · head_dim] → [B, heads, S, head_dim]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, rope, mask: Mask, cache: KVCache | None, slots: Tensor | None, read=None, queries=None
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rope, mask, cache, slots, read, queries)
        x = attended + (x if read is None else x[read])
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embedding, layers and final norm, which Qwen3 names `model`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """The language model: a call returns hidden states, `logits` maps them to scores over the vocabulary."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        # on the host also while the parameters are on the meta device, from which no table could be computed later
        exponent = torch.arange(0, config.head_dim, 2, device="cpu") / config.head_dim
        position = torch.arange(config.max_position_embeddings, device="cpu")
        frequency = config.rope_theta**-exponent
        angles = position[:, None] * (yarn(frequency, config) if config.yarn_factor else frequency)
        self.register_buffer("rope_cos", angles.cos(), persistent=False)
        self.register_buffer("rope_sin", angles.sin(), persistent=False)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        mask: Mask,
        cache: KVCache | None = None,
        slots: Tensor | None = None,
        embeddings: Tensor | None = None,
        read: tuple[Tensor, Tensor] | None = None,
        last: tuple[Mask, int] | None = None,
    ) -> Tensor:
        """tokens, position: [B, S] int64; mask: [B, S, K] bool, or a pattern's from `attention.prepare_mask` → hidden
        states [B, S, D].

        read: (rows [n], elements [n]) of the only states that are needed; the result is [n, D], and the last layer
        computes no others. last: (mask, Q) of the last layer (`attention.last_layer_mask`), where all states read are
        among the first Q elements; of the others it computes keys and values alone.
        cache: keys and values are stored at `slots` [B, S] (None: at the positions), and attention is to the cache's
        first K positions. embeddings: [B, S, D] in place of those of `tokens`.
        Raises ValueError, on a CPU, for a position beyond `max_position_embeddings`; for other devices the caller
        checks (`check_positions`).
        """
        if position.device.type == "cpu":  # on a GPU the check would wait for it
            self.check_positions(position, tokens.shape[1] if cache is None else mask.shape[-1])
        x = self.model.embed_tokens(tokens) if embeddings is None else embeddings
        rope = (self.rope_cos[position][:, None], self.rope_sin[position][:, None])
        slots = position if slots is None else slots
        tiling_pays = x.numel() >= (MIN_SIZE if x.dtype == torch.float32 else 4 * MIN_SIZE)
        if isinstance(mask, Tensor) and mask.device.type == "cpu" and tiling_pays:
            mask = Tiles.of(lambda queries: mask[:, queries], mask.shape)
        with onednn_matmul(tokens.numel(), x.shape[-1], tokens.device):
            for layer in self.model.layers[:-1]:
                x = layer(x, rope, mask, cache, slots)
            last_mask, queries = last or (mask, None)
            x = self.model.layers[-1](x, rope, last_mask, cache, slots, read, queries)
        return self.model.norm(x)

    def check_positions(self, position: Tensor, keys: int = 0) -> None:
        """Raise ValueError when one of the positions [B, S] is beyond `max_position_embeddings`. keys: how many keys
        the elements attend to, if more than S."""
        most = self.config.max_position_embeddings
        if max(position.shape[1], keys) > most and int(position.max()) >= most:  # fewer elements are never beyond it
            raise ValueError(f"position {int(position.max())}: beyond max_position_embeddings={most}; shorten the row")

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] → [..., V]; on a CPU in float32 also under autocast, for bfloat16 logits near 16 lie 0.125 apart."""
        if hidden.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.logits(hidden.to(self.lm_head.weight.dtype))
        with onednn_matmul(hidden.numel() // hidden.shape[-1], hidden.shape[-1], hidden.device):
            return self.lm_head(hidden)

    @property
    def num_parameters(self) -> int:
        """Parameters; those shared by embedding and head count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device
