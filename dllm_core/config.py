"""Settings of a model, of its training and of one decoding, and what is recorded of a checkpoint. No torch, no files.

Each is a frozen dataclass. The type of a setting says which values it may have: `Count` is an integer from 1, `Share` a
number from 0 to 1. Another value raises ValueError: the setting's name, its value and what it must be.
"""

from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Annotated

from dllm_core.common.limits import (
    Amount,
    Choice,
    Count,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Seed,
    Share,
    Width,
    check,
)  # fmt: skip

OBJECTIVES = ("ar", "llada1", "llada2")
MOST_TOKENS = 2**27  # of a batch
Objective = Annotated[str, Choice(OBJECTIVES)]


class Settings:
    """The check and the dict that all settings share, also those of `schedules` and `losses`."""

    def __post_init__(self):
        for setting in fields(self):
            check(setting.name, getattr(self, setting.name), setting.type)

    def _require(self, name: str, is_valid: bool, wanted: str) -> None:
        if not is_valid:
            raise ValueError(f"{name}={getattr(self, name)!r}: must be {wanted}")

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Shape of the Transformer, under Hugging Face's Qwen3 names.

    `num_key_value_heads`, `head_dim` and `intermediate_size` are derived when left out (MiniMind's rule for the last:
    64 * ceil(hidden * 8/3 / 64)). `qk_norm=False` gives MiniMind2's layout, with `attention_bias` (a bias on queries,
    keys and values, none on their output) Qwen2.5's. `yarn_factor` stretches RoPE by so many times (`model.yarn`); None:
    plain RoPE. `qk_norm_init` is the starting gain of the QK-norms: 1.0 is Qwen3's; above 1 attention starts sharper, and
    small models learn to copy earlier.
    """

    vocab_size: Count
    hidden_size: Width = 128
    num_hidden_layers: Width = 4
    num_attention_heads: Width = 4
    num_key_value_heads: Width | None = None
    head_dim: Width | None = None
    intermediate_size: Width | None = None
    max_position_embeddings: Count = 2048
    rope_theta: Positive = 1e6
    yarn_factor: Positive | None = None
    rms_norm_eps: NotNegative = 1e-6
    qk_norm: bool = True
    qk_norm_init: Positive = 1.0
    attention_bias: bool = False
    initializer_range: NotNegative = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self):
        super().__post_init__()
        heads, hidden = self.num_attention_heads, self.hidden_size
        if self.head_dim is None:
            self._require("hidden_size", hidden % heads == 0, f"divisible by num_attention_heads={heads}")
            object.__setattr__(self, "head_dim", hidden // heads)
        self._require("head_dim", self.head_dim % 2 == 0, "even (RoPE rotates pairs)")
        self._require("attention_bias", not (self.attention_bias and self.qk_norm), "False with qk_norm=True")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", heads)
        is_divisor = heads % self.num_key_value_heads == 0
        self._require("num_key_value_heads", is_divisor, f"a divisor of num_attention_heads={heads}")
        if self.intermediate_size is None:
            object.__setattr__(self, "intermediate_size", 64 * -(-hidden * 8 // (3 * 64)))


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Optimization of one stage.

    max_iters: optimizer steps. batch_size: rows per step. seq_len: tokens per row.
    micro_batch_size: rows computed at a time (with several processes, of each one's share), 0 = all; fewer take less
        memory. The step of AR does not depend on it. Diffusion draws noise and strata, and takes CAP's mean, per
        micro-batch, so its numbers differ as those of another seed do.
    optimizer: "adamw", or "muon": Muon on the hidden matrices at `muon_learning_rate`, AdamW on embeddings and gains at
        `learning_rate`.
    learning rate: rises linearly over `warmup_steps`, stays, and falls over the last `decay_ratio` of the run to
        `min_lr_ratio` of itself.
    eval_every, save_every: in steps, 0 = only at the end. keep_best: best checkpoints that are kept.
    embedding_noise: standard deviation of Gaussian noise on the mask embedding's output in the first
        `embedding_noise_steps` steps (LLaDA 2.0 §7.1).
    activation_checkpointing: store only each layer's input and compute the layer again in the backward pass; one more
        forward for much less memory with long rows and large models.
    """

    max_iters: Count
    batch_size: Count = 16
    seq_len: Annotated[int, Range(2, 2**24)] = 128
    micro_batch_size: Amount = 0
    optimizer: Annotated[str, Choice(("adamw", "muon"))] = "adamw"
    learning_rate: Positive = 4e-4
    muon_learning_rate: Positive = 0.03
    warmup_steps: Amount = 0
    min_lr_ratio: Share = 0.025
    decay_ratio: Share = 0.2
    weight_decay: NotNegative = 0.1
    grad_clip: Annotated[float, Range(0, inf, open=True)] = 1.0
    eval_every: Amount = 0
    save_every: Amount = 0
    keep_best: Count = 1
    embedding_noise: NotNegative = 0.0
    embedding_noise_steps: Amount = 0
    dtype: Annotated[str, Choice(("float32", "bfloat16"))] = "float32"
    compile: bool = False
    activation_checkpointing: bool = False
    seed: Seed = 0

    def __post_init__(self):
        super().__post_init__()
        most = MOST_TOKENS // self.seq_len
        self._require("batch_size", self.batch_size <= most, f"at most {most} with seq_len={self.seq_len}")


@dataclass(frozen=True)
class DecodeConfig(Settings):
    """How one decoding is done.

    style: "ar", "llada1" or "llada2". max_new_tokens: answer positions. seed: of the sampling.
    temperature: 0 = greedy. top_k, top_p: filters, 0 / 1.0 = off. cfg_scale: classifier-free guidance s, 0 = off.
    steps: all steps in LLaDA 1 (None: one per token), steps per block in LLaDA 2 (None: the block length).
    block_length: in LLaDA 1 of the semi-autoregressive blocks (None: the whole answer), in LLaDA 2 the block size.
    remasking: of LLaDA 1, "low_confidence" or "random".
    threshold: LLaDA 2 commits above it; None = by schedule alone. minimal_topk: least commits per step.
    cap_start_ratio → cap_end_ratio: decoding budget, the share of the still masked answer that one step may commit,
        linear in progress. max_decode_per_step: the most that a step may commit. None = off. (Not the paper's CAP.)
    eos_early_stop: stop once eos stands with no mask before it. use_cache: keep keys and values of finished blocks.
    alternatives: runners-up recorded per commit. draft: record predictions at positions that stay masked.
    """

    style: Objective = "llada2"
    max_new_tokens: Count = 64
    temperature: NotNegative = 0.0
    top_k: Amount = 0
    top_p: PositiveShare = 1.0
    cfg_scale: NotNegative = 0.0
    seed: Seed = 0
    steps: Count | None = None
    block_length: Count | None = None
    remasking: Annotated[str, Choice(("low_confidence", "random"))] = "low_confidence"
    threshold: Share | None = 0.9
    minimal_topk: Count = 1
    cap_start_ratio: PositiveShare | None = None
    cap_end_ratio: PositiveShare | None = None
    max_decode_per_step: Count | None = None
    eos_early_stop: bool = True
    use_cache: bool = True
    alternatives: Amount = 0
    draft: bool = False

    def __post_init__(self):
        super().__post_init__()
        is_usable = self.temperature == 0 or self.temperature >= 1e-6
        self._require("temperature", is_usable, "0 (greedy) or at least 1e-6")
        budget = (self.cap_start_ratio, self.cap_end_ratio)
        if budget.count(None) == 1:
            raise ValueError(f"cap_start_ratio, cap_end_ratio={budget}: must be set both or neither")
        if self.style == "ar":
            self._require("cfg_scale", self.cfg_scale == 0, "0 for style 'ar' (guidance needs masks)")
        if self.style == "llada1":
            self._check_llada1()

    def _check_llada1(self) -> None:
        answer, block = self.max_new_tokens, self.block_length or self.max_new_tokens
        self._require("block_length", answer % block == 0, f"a divisor of max_new_tokens={answer} for LLaDA 1")
        if self.steps is not None:
            blocks = answer // block
            limit = f"at most max_new_tokens={answer} for LLaDA 1, which writes a token or more per step"
            self._require("steps", self.steps <= answer, limit)
            self._require("steps", self.steps % blocks == 0, f"a multiple of the {blocks} blocks of {block} tokens")


@dataclass(frozen=True)
class CheckpointInfo(Settings):
    """How a saved model was trained, hence how it may be decoded.

    objective: "ar", "llada1" or "llada2". block_size: of block diffusion, None elsewhere. label_shift: token i is
    predicted at element i − 1 (always so for AR). chat: trained on conversations. grid: where the blocks of LLaDA 2 are
    counted from, the "start" of the sequence or of the "answer" (as dllm's BD3LM has them).
    """

    objective: Objective
    block_size: Count | None = None
    label_shift: bool = False
    chat: bool = False
    extra: dict = field(default_factory=dict)
    grid: Annotated[str, Choice(("start", "answer"))] = "start"

    def to_dict(self) -> dict:
        """The fields; `grid` only where it is not the "start", so that records of earlier runs stay equal."""
        fields_of = super().to_dict()
        return fields_of if self.grid != "start" else {name: fields_of[name] for name in fields_of if name != "grid"}
