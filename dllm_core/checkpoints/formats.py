"""Weights on disk: found by name, read in any known layout, copied into a model, written.

Known layouts: this project's run folders, Hugging Face's Qwen3 and MiniMind's (folders or bare .pt / .pth state dicts).
"""

import reprlib
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dllm_core.common.errors import NOT_FINITE, RunError
from dllm_core.common.files import read_json, replaced_whole
from dllm_core.common.paths import resolve, run_path
from dllm_core.common.records import fits
from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.model import Transformer

# Fields of a Hugging Face config that change what a model computes, with the values under which it computes what
# `Transformer` does: SiLU gates, no biases, no experts, attention to all positions, plain RoPE.
HONOURED = {
    "model_type": (None, "qwen3", "qwen2", "llama", "mistral", "minimind"), "hidden_act": (None, "silu", "swish"),
    "attention_bias": (None, False), "mlp_bias": (None, False), "use_sliding_window": (None, False),
    "sliding_window": (None,), "layer_types": (None,), "use_moe": (None, False), "num_experts": (None, 0),
    "num_local_experts": (None, 0), "n_routed_experts": (None, 0), "rope_type": (None, "default"),
    "partial_rotary_factor": (None, 1), "quantization_config": (None,),
}  # fmt: skip
# Names under which `hf_config` and `export` write our own models; "dllm" → "checkpoint" says which of them it is.
OWN_TYPES = ("block_diffusion_qwen3", "block_diffusion_llama", "sdar", "a2d-qwen3", "a2d-llama")
VARIANTS = {"last": "model.safetensors", "best": "best.safetensors", "merged": "merged.safetensors"}


@dataclass
class LoadedCheckpoint:
    """A checkpoint ready to use. tokenizer is None for a bare state dict, path before the first save; trained: what it cost
    (`price.total`)."""

    model: Transformer
    info: CheckpointInfo
    tokenizer: object | None
    path: Path | None = None
    trained: list[dict] = field(default_factory=list)


def find_checkpoint(name: str | Path) -> tuple[Path, str]:
    """(folder of a run, its variant) or (a state dict file, "file").

    name: a folder, a run's name, one of the report's names (`weights/NAME.pt`, `NAME_state_dict.pt`, `NAME_best.pt`,
    also `NAME_merged.pt`) or a .pt, .pth or .safetensors file. Raises RunError that lists the existing runs.
    """
    path = resolve(name)
    if path.is_file():
        return path, "file"
    for folder, variant in run_folders(name):
        if (folder / VARIANTS[variant]).is_file():
            return folder, variant
    existing = sorted(file.parent.name for file in resolve("weights").glob(f"*/{VARIANTS['last']}"))
    raise RunError(
        f"checkpoint {name}: no such file or finished run; runs here: {', '.join(existing) or 'none'}. Train it first"
    )


def run_folders(name: str | Path) -> list[tuple[Path, str]]:
    """(folder, variant) of each run that any of its names can mean, the likeliest first; the folders need not exist."""
    path = Path(name)
    stem = path.with_suffix("") if path.suffix in (".pt", ".pth") else path
    folders = []
    for ending, variant in (("", "last"), ("_state_dict", "last"), ("_best", "best"), ("_merged", "merged")):
        if stem.name.endswith(ending):
            run = stem.parent / stem.name.removesuffix(ending)
            if ".." in run.parts:  # of another working directory: that folder, else the run of its name
                folders.append((resolve(run), variant))
                run = Path(run.name)
            with suppress(RunError):
                folders.append((run_path(run), variant))
            folders.append((resolve(run), variant))
    return folders


def run_name(name: str | Path) -> str:
    """The run that any of its names means: `weights/NAME_best.pt` → NAME, sub/NAME → sub/NAME."""
    path = Path(name)
    run = path.name if path.is_absolute() else path.as_posix().removeprefix("weights/")
    stem = run.removesuffix(".pt")
    return stem.removesuffix("_state_dict").removesuffix("_best").removesuffix("_merged")


def load_checkpoint(
    name: str | Path, *, num_attention_heads: int | None = None, vocab_size: int | None = None, device="cpu"
) -> LoadedCheckpoint:
    """Load a checkpoint for further training or decoding.

    A bare state dict (MiniMind's or Qwen3's keys, read with weights_only=True) needs its number of heads from a
    config.json beside it or from `num_attention_heads`; it is never guessed. vocab_size: grow the embedding to it; the
    rows of added tokens start as the mean of the others. Raises RunError when a tensor is missing or of another shape,
    when config.json asks for what `Transformer` does not compute, or when the tokenizer is another model's.
    """
    path, variant = find_checkpoint(name)
    folder, file = (path.parent, path) if variant == "file" else (path, path / VARIANTS[variant])
    config_file = folder / "config.json"
    record = read_json(config_file, RunError) if config_file.is_file() else None
    state = read_state(file)
    if record is None:
        config = infer_config(state, num_attention_heads, file)
    else:
        config = model_config(record, state, config_file)
    tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    _refuse_other_vocabulary(config.vocab_size, tokenizer, vocab_size or 0, file)
    entries = vocab_size or len(tokenizer or ())
    if entries > config.vocab_size:
        state = grow_vocabulary(state, entries)
        config = replace(config, vocab_size=entries)
    model = Transformer(config)
    copy_weights(state, model, file)
    trained_as = (record or {}).get("dllm", {}).get("checkpoint") or {"objective": "ar", "label_shift": True}
    info = _build(CheckpointInfo, trained_as, config_file)
    trained = (record or {}).get("dllm", {}).get("trained")
    return LoadedCheckpoint(model.to(device), info, tokenizer, path, trained if fits(trained, list[dict]) else [])


def _refuse_other_vocabulary(rows: int, tokenizer, vocab_size: int, file: Path) -> None:
    """Raise RunError unless an embedding of `rows` rows may be that of the tokenizer beside it, else of one that has
    `vocab_size` entries: some rows may be padding, some tokens new; of its own tokenizer only the mask just added."""
    slack = max(8, rows // 10)
    entries = len(tokenizer) if tokenizer else vocab_size or rows
    new = tokenizer.mask_token_id == rows if tokenizer else slack
    if not rows - slack <= entries <= rows + new:
        raise RunError(
            f"{file}: the tokenizer has {entries} tokens, the embedding {rows} rows: what has a token and no row, or a row "
            "and no token, cannot be read or written. It is another model's tokenizer, or vocab_size is wrong"
        )


def _build(cls: type, values: dict, where: Path):
    """cls(**values). Raises RunError, which names the file, for a value that the class refuses."""
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise RunError(f"{where}: {error}") from error


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pt or .pth file, in float32; a dict under "model" or "state_dict" is unwrapped.
    Raises RunError for a file that cannot be read, and for a tensor that is not of floating point or not finite."""
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reader raises, the cause is this file
        raise RunError(f"{file}: cannot be read as a plain state dict ({error})") from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{file}: has no state dict of tensors")
    skip = ("freqs_cos", "freqs_sin", "rotary_emb", "rope_cos", "rope_sin")  # tables that the model computes itself
    state = {name: tensor for name, tensor in state.items() if not any(part in name for part in skip)}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise RunError(f"{file}: tensor {name} is of {tensor.dtype}, not of floating point: not a model's weights")
        state[name] = tensor.float()
        if not state[name].sum().isfinite():  # ten times as fast as a look at each number
            raise RunError(f"{file}: tensor {name} holds nan, inf or too large numbers: {NOT_FINITE}")
    return {name.removeprefix("_orig_mod.").removeprefix("module."): tensor for name, tensor in state.items()}


def infer_config(state: dict[str, Tensor], heads: int | None, file: Path) -> ModelConfig:
    """ModelConfig of a bare state dict with `heads` heads; the tensors tell everything else. Raises RunError."""
    if heads is None:
        raise RunError(
            f"{file}: a bare state dict does not tell its number of heads; give num_attention_heads or put a config.json "
            "beside it"
        )
    try:
        vocab, hidden = state["model.embed_tokens.weight"].shape
        q, k = (state[f"model.layers.0.self_attn.{n}_proj.weight"].shape[0] for n in "qk")
        inner = state["model.layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise RunError(f"{file}: no tensor {error}; expected the keys of MiniMind or Qwen3") from error
    if q % heads or k % (q // heads):
        raise RunError(f"{file}: num_attention_heads={heads} does not fit query rows {q} and key rows {k}")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    layout = _layout_of(state)
    eps = 1e-6 if layout["qk_norm"] else 1e-5  # MiniMind-3 and MiniMind2
    return ModelConfig(vocab, hidden, layers, heads, k // (q // heads), q // heads, inner, rms_norm_eps=eps, **layout)


def _layout_of(state: dict[str, Tensor]) -> dict[str, bool]:
    """What only the tensors tell for sure; a config.json may leave it out."""
    embedding, head = state.get("model.embed_tokens.weight"), state.get("lm_head.weight")
    tied = head is None or (embedding is not None and torch.equal(head, embedding))
    return {"qk_norm": "model.layers.0.self_attn.q_norm.weight" in state, "tie_word_embeddings": tied}


def model_config(record: dict, state: dict[str, Tensor], where: Path) -> ModelConfig:
    """ModelConfig from a config.json (of this project, Hugging Face's Qwen3 or Llama, MiniMind) and the weights beside it.
    Raises RunError for a config of something else, also for one that asks for what `HONOURED` leaves out."""
    names = {field.name for field in fields(ModelConfig)}
    parts = [record.get(name) or {} for name in ("rope_scaling", "rope_parameters", "dllm")]
    if not all(isinstance(part, dict) for part in parts):
        raise RunError(f"{where}: rope_scaling, rope_parameters and dllm must be objects or null")
    flat = {**record, "rope_type": parts[0].get("type"), **parts[0], **parts[1]}  # as transformers reads it
    if flat.get("model_type") in OWN_TYPES and "checkpoint" in parts[2]:
        del flat["model_type"]
    _refuse_unsupported(flat, where)
    known = {name: value for name, value in flat.items() if name in names and value is not None}
    known |= {name: value for name, value in parts[2].items() if name in names}
    missing = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"} - set(known)
    if missing:
        raise RunError(f"{where}: not a model config (no {', '.join(sorted(missing))})")
    known.setdefault("rope_theta", 1e6)
    gate = state.get("model.layers.0.mlp.gate_proj.weight")
    if "intermediate_size" not in known and gate is not None:
        known["intermediate_size"] = gate.shape[0]
    return _build(ModelConfig, {**known, **_layout_of(state)}, where)


def _refuse_unsupported(record: dict, where: Path) -> None:
    """Raise RunError for a field that `Transformer` would ignore. A field that is switched off may have any value."""
    asked = dict(record)
    if asked.get("use_sliding_window") is False:
        asked.pop("sliding_window", None)
    if asked.get("use_moe") is False:
        asked = {name: value for name, value in asked.items() if "experts" not in name}
    layers = asked.get("layer_types")
    if isinstance(layers, list) and all(layer == "full_attention" for layer in layers):
        del asked["layer_types"]
    for name, values in HONOURED.items():
        if asked.get(name) not in values:
            raise RunError(
                f"{where}: {name}={reprlib.repr(asked[name])} is not supported. This model has SiLU gates, no biases, no "
                "experts, attention to all positions and plain RoPE, as Qwen3 and Llama; it would compute something else"
            )


def grow_vocabulary(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The state dict with an embedding (and untied head) of `size` rows; the new rows are the mean of the old."""
    grown = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state:
            rows = state[name]
            grown[name] = torch.cat([rows, rows.mean(dim=0, keepdim=True).expand(size - len(rows), -1)])
    return grown


def copy_weights(state: dict[str, Tensor], model: Transformer, where: Path) -> None:
    """Copy `state` into `model`. Raises RunError naming a tensor that is missing, left over or of another shape."""
    expected = model.state_dict()
    if model.config.tie_word_embeddings:
        state = {**state, "lm_head.weight": state.get("model.embed_tokens.weight")}
    for name, tensor in expected.items():
        loaded = state.get(name)
        if loaded is None or loaded.shape != tensor.shape:
            shape = "absent" if loaded is None else tuple(loaded.shape)
            raise RunError(
                f"{where}: tensor {name} is {shape}, the model needs {tuple(tensor.shape)}; is this the right checkpoint "
                "or shape?"
            )
    extra = sorted(set(state) - set(expected))
    if extra:
        raise RunError(
            f"{where}: tensor {extra[0]} has no place in the model ({len(extra)} such); is this the right layout?"
        )
    model.load_state_dict(state)


def mean_weights(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Element-wise mean of equally shaped state dicts, summed in float64."""
    return {
        name: (sum(state[name].double() for state in states) / len(states)).to(tensor.dtype)
        for name, tensor in states[0].items()
    }


def save_weights(model: Transformer, file: Path) -> None:
    """Write the weights as .safetensors, without a tied head, as Hugging Face does."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_tensors(state, file)


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a .safetensors file atomically, marked as PyTorch's, as transformers expects."""
    with replaced_whole(file, sum(tensor.nbytes for tensor in state.values())) as partial:
        save_file(state, partial, metadata={"format": "pt"})
