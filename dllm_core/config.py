"""The three records of settings. Frozen; each says at once what is wrong with a bad value. No torch, no files."""

from dataclasses import asdict, dataclass, field

OBJECTIVES = ("ar", "llada1", "llada2")


def _require(ok: bool, name: str, value, wanted: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: must be {wanted}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Transformer, under Hugging Face's Qwen3 names.

    `num_key_value_heads`, `head_dim` and `intermediate_size` are derived when left out (MiniMind's rule for the last:
    64 * ceil(hidden * 8/3 / 64)). `qk_norm=False` gives MiniMind2's layout. `qk_norm_init` is the starting gain of the
    QK-norms: 1.0 is Qwen3's; above 1 attention starts sharper, which makes copying start early in small models.
    """

    vocab_size: int
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int = 2048
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    qk_norm: bool = True
    qk_norm_init: float = 1.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self):
        heads, hidden = self.num_attention_heads, self.hidden_size
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, name, value, "a positive integer")
        if self.head_dim is None:
            _require(hidden % heads == 0, "hidden_size", hidden, f"divisible by num_attention_heads={heads}")
            object.__setattr__(self, "head_dim", hidden // heads)
        _require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even (RoPE turns pairs)")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", heads)
        kv = self.num_key_value_heads
        _require(kv > 0 and heads % kv == 0, "num_key_value_heads", kv, f"a divisor of num_attention_heads={heads}")
        if self.intermediate_size is None:
            object.__setattr__(self, "intermediate_size", 64 * -(-hidden * 8 // (3 * 64)))

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation of one stage.

    max_iters: optimiser steps; batch_size: rows per step; seq_len: tokens per row; micro_batch_size: rows computed at a
    time, 0 = all (of several processes: each one's share); fewer take less memory. For AR it is the same step; diffusion
    draws its noise and its strata, and takes CAP's mean, for each part by itself, so its numbers differ as those of another
    seed do. Several processes share the parts of a step, and equal parts make equal steps.
    `optimizer`: "adamw", or "muon" (Muon on the hidden matrices at `muon_learning_rate`, AdamW on embeddings and gains at
    `learning_rate`).
    The learning rate is warm-up–stable–decay: linear over `warmup_steps`, flat, and over the last `decay_ratio` of the
    run down to `min_lr_ratio` of itself. `eval_every`, `save_every`: in steps, 0 = only at the end.
    `embedding_noise`: standard deviation of Gaussian noise on the mask embedding's output in the first
    `embedding_noise_steps` steps (LLaDA 2.0 §7.1). `activation_checkpointing`: keep each layer's input alone and compute
    the layer again in the backward pass: a forward more for much less memory with long rows and large models.
    """

    max_iters: int
    batch_size: int = 16
    seq_len: int = 128
    micro_batch_size: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 4e-4
    muon_learning_rate: float = 0.03
    warmup_steps: int = 0
    min_lr_ratio: float = 0.025
    decay_ratio: float = 0.2
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_every: int = 0
    save_every: int = 0
    keep_best: int = 1
    embedding_noise: float = 0.0
    embedding_noise_steps: int = 0
    dtype: str = "float32"
    compile: bool = False
    activation_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self):
        for name in ("max_iters", "batch_size", "seq_len", "keep_best"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, name, value, "a positive integer")
        _require(self.optimizer in ("adamw", "muon"), "optimizer", self.optimizer, "'adamw' or 'muon'")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "positive")
        _require(self.muon_learning_rate > 0, "muon_learning_rate", self.muon_learning_rate, "positive")
        _require(self.grad_clip > 0, "grad_clip", self.grad_clip, "positive (float('inf') = off)")
        _require(self.micro_batch_size >= 0, "micro_batch_size", self.micro_batch_size, "0 (all rows) or more")
        for name in ("warmup_steps", "eval_every", "save_every", "embedding_noise", "embedding_noise_steps"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "between 0 and 1")
        _require(0 <= self.decay_ratio <= 1, "decay_ratio", self.decay_ratio, "between 0 and 1")
        _require(self.dtype in ("float32", "bfloat16"), "dtype", self.dtype, "'float32' or 'bfloat16'")

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class DecodeConfig:
    """One way of decoding.

    style: "ar", "llada1" or "llada2". max_new_tokens: answer positions. temperature 0 = greedy; top_k, top_p: filters,
    0 / 1.0 = off. cfg_scale: classifier-free guidance s, 0 = off. seed: of the sampling.
    steps: all steps in LLaDA 1 (None: one per token), steps per block in LLaDA 2 (None: the block length).
    block_length: LLaDA 1: length of the semi-autoregressive blocks, None = the whole answer; LLaDA 2: the block size.
    remasking: LLaDA 1, "low_confidence" or "random".
    threshold: LLaDA 2 commits above it; None = by schedule alone. minimal_topk: least commits per step.
    cap_start_ratio → cap_end_ratio: the decoding budget, a share of the still masked answer that may be committed in
    one step, growing with progress; max_decode_per_step: a hard cap. Both None = off. (Not the paper's CAP.)
    eos_early_stop: stop once eos stands with no mask before it. use_cache: keys and values of finished blocks.
    alternatives: runners-up recorded per commit; draft: record the guesses at masked positions.
    """

    style: str = "llada2"
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    cfg_scale: float = 0.0
    seed: int = 0
    steps: int | None = None
    block_length: int | None = None
    remasking: str = "low_confidence"
    threshold: float | None = 0.9
    minimal_topk: int = 1
    cap_start_ratio: float | None = None
    cap_end_ratio: float | None = None
    max_decode_per_step: int | None = None
    eos_early_stop: bool = True
    use_cache: bool = True
    alternatives: int = 0
    draft: bool = False

    def __post_init__(self):
        _require(self.style in OBJECTIVES, "style", self.style, f"one of {', '.join(OBJECTIVES)}")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "a positive integer")
        _require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or more")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        _require(self.cfg_scale >= 0, "cfg_scale", self.cfg_scale, "0 (off) or more")
        _require(self.steps is None or self.steps > 0, "steps", self.steps, "a positive integer")
        _require(self.block_length is None or self.block_length > 0, "block_length", self.block_length, "positive")
        _require(
            self.remasking in ("low_confidence", "random"), "remasking", self.remasking, "'low_confidence' or 'random'"
        )
        _require(self.threshold is None or 0 <= self.threshold <= 1, "threshold", self.threshold, "in [0, 1]")
        _require(self.minimal_topk >= 1, "minimal_topk", self.minimal_topk, "1 or more")
        caps = (self.cap_start_ratio, self.cap_end_ratio)
        names = "cap_start_ratio, cap_end_ratio"
        _require((caps[0] is None) == (caps[1] is None), names, caps, "set both or neither")
        _require(caps[0] is None or all(0 < c <= 1 for c in caps), names, caps, "in (0, 1]")
        cap = self.max_decode_per_step
        _require(cap is None or cap >= 1, "max_decode_per_step", cap, "1 or more, or None (off)")
        _require(self.alternatives >= 0, "alternatives", self.alternatives, "0 or more")
        if self.style == "ar":
            _require(self.cfg_scale == 0, "cfg_scale", self.cfg_scale, "0 for style 'ar' (guidance needs masks)")
        if self.style == "llada1":
            self._check_llada1()

    def _check_llada1(self):
        answer, block = self.max_new_tokens, self.block_length or self.max_new_tokens
        _require(answer % block == 0, "block_length", block, f"a divisor of max_new_tokens={answer} for LLaDA 1")
        steps, blocks = self.steps or answer, answer // block
        most = f"at most max_new_tokens={answer} for LLaDA 1, which writes a token or more a step"
        _require(steps <= answer, "steps", steps, most)
        parts = f"a multiple of the {blocks} blocks of {block} tokens that LLaDA 1 writes"
        _require(steps % blocks == 0, "steps", steps, parts)

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a saved model is, beside its weights: how it was trained, hence how it may be decoded.

    objective: "ar", "llada1" or "llada2"; block_size: of block diffusion, None elsewhere; label_shift: token i is read
    at row i − 1 (always so for AR); chat: trained on conversations.
    """

    objective: str
    block_size: int | None = None
    label_shift: bool = False
    chat: bool = False
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        _require(self.objective in OBJECTIVES, "objective", self.objective, f"one of {', '.join(OBJECTIVES)}")
