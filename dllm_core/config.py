"""Settings of a model, of its training and of one decoding, and what is recorded of a checkpoint. No torch, no files.

Each is a frozen dataclass that raises ValueError for a bad value: the setting's name, its value and what it must be.
"""

from dataclasses import asdict, dataclass, field

OBJECTIVES = ("ar", "llada1", "llada2")


class Settings:
    """The check and the dict that all settings share, also those of `schedules` and `losses`."""

    def _require(self, name: str, is_valid: bool, wanted: str) -> None:
        if not is_valid:
            raise ValueError(f"{name}={getattr(self, name)!r}: must be {wanted}")

    def _require_positive_integers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(name, isinstance(value, int) and value > 0, "a positive integer")

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Shape of the Transformer, under Hugging Face's Qwen3 names.

    `num_key_value_heads`, `head_dim` and `intermediate_size` are derived when left out (MiniMind's rule for the last:
    64 * ceil(hidden * 8/3 / 64)). `qk_norm=False` gives MiniMind2's layout. `qk_norm_init` is the starting gain of the
    QK-norms: 1.0 is Qwen3's; above 1 attention starts sharper, and small models learn to copy earlier.
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
        self._require_positive_integers("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        if self.head_dim is None:
            self._require("hidden_size", hidden % heads == 0, f"divisible by num_attention_heads={heads}")
            object.__setattr__(self, "head_dim", hidden // heads)
        self._require("head_dim", self.head_dim % 2 == 0, "even (RoPE rotates pairs)")
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", heads)
        kv_heads = self.num_key_value_heads
        is_divisor = kv_heads > 0 and heads % kv_heads == 0
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
        self._require_positive_integers("max_iters", "batch_size", "seq_len", "keep_best")
        self._require("micro_batch_size", self.micro_batch_size >= 0, "0 (all rows) or more")
        self._require("optimizer", self.optimizer in ("adamw", "muon"), "'adamw' or 'muon'")
        self._require("grad_clip", self.grad_clip > 0, "positive (float('inf') = off)")
        for name in ("learning_rate", "muon_learning_rate"):
            self._require(name, getattr(self, name) > 0, "positive")
        for name in ("warmup_steps", "eval_every", "save_every", "embedding_noise", "embedding_noise_steps"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("min_lr_ratio", "decay_ratio"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("dtype", self.dtype in ("float32", "bfloat16"), "'float32' or 'bfloat16'")


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
        self._require("style", self.style in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}")
        self._require("remasking", self.remasking in ("low_confidence", "random"), "'low_confidence' or 'random'")
        self._require("temperature", self.temperature >= 0, "0 (greedy) or more")
        self._require("top_k", self.top_k >= 0, "0 (off) or more")
        self._require("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        self._require("cfg_scale", self.cfg_scale >= 0, "0 (off) or more")
        self._require("alternatives", self.alternatives >= 0, "0 or more")
        self._require("threshold", self.threshold is None or 0 <= self.threshold <= 1, "in [0, 1], or None")
        for name in ("max_new_tokens", "minimal_topk"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("steps", "block_length", "max_decode_per_step"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "1 or more, or None")
        budget = (self.cap_start_ratio, self.cap_end_ratio)
        if budget != (None, None) and not all(ratio is not None and 0 < ratio <= 1 for ratio in budget):
            raise ValueError(f"cap_start_ratio, cap_end_ratio={budget}: must be in (0, 1]; set both or neither")
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
    predicted at element i − 1 (always so for AR). chat: trained on conversations.
    """

    objective: str
    block_size: int | None = None
    label_shift: bool = False
    chat: bool = False
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        self._require("objective", self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}")
