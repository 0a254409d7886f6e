"""A run's folder: what training leaves behind and decoding reads.

    weights/NAME/config.json        model shape in Hugging Face's Qwen3 form, and how it was trained under "dllm"
    weights/NAME/model.safetensors  last weights; best.safetensors, merged.safetensors where made
    weights/NAME/tokenizer*.json    so that a run needs nothing else
    weights/NAME/metrics.jsonl      one TrainStep a line
    weights/NAME/state.pt           optimiser, RNG and data position, for an exact resume
    weights/NAME/checkpoints/       the k best on validation, for the top-k merge

The report's names `weights/NAME.pt`, `NAME_state_dict.pt`, `NAME_best.pt` resolve to the folder NAME.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dllm_core.config import Checkpoint, ModelConfig
from dllm_core.model import Transformer
from dllm_core.paths import resolve

VARIANTS = {"last": "model.safetensors", "best": "best.safetensors", "merged": "merged.safetensors"}


class RunError(ValueError):
    """A run or checkpoint that is absent or does not fit; the message says what, where and what to do."""


@dataclass
class Loaded:
    """A checkpoint ready to use. tokenizer is None for a bare state dict."""

    model: Transformer
    checkpoint: Checkpoint
    tokenizer: object | None
    path: Path


class Run:
    """The folder of one training, written to while it goes on."""

    def __init__(self, folder: Path, keep_best: int = 1):
        self.folder, self.keep_best = Path(folder), keep_best

    @classmethod
    def open(cls, name: str, model: Transformer, checkpoint: Checkpoint, tokenizer, settings: dict, keep_best: int = 1):
        """The run `name` under weights/, continued when its folder holds an unfinished training of equal settings;
        a run of other settings, or a finished one, is kept as NAME.old and a new one begun."""
        folder = resolve(name) if os.sep in name else resolve("weights") / name
        run = cls(folder, keep_best)
        config = hf_config(model.config, checkpoint, settings)
        if (folder / "config.json").is_file():
            same = json.loads((folder / "config.json").read_text(encoding="utf-8")) == json.loads(json.dumps(config))
            if same and (folder / "state.pt").is_file() and not (folder / VARIANTS["last"]).is_file():
                return run
            old = folder.with_name(folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        _write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        return run

    def record(self, step, model: Transformer) -> None:
        """Append the TrainStep to metrics.jsonl; a validated one competes for the `keep_best` best checkpoints."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        if step.validation is None:
            return
        kept = self.checkpoints()
        if len(kept) >= self.keep_best and kept[self.keep_best - 1][0] <= step.validation:
            return
        save_weights(model, self.folder / "checkpoints" / f"{step.step:07d}.safetensors")
        scores = {file.name: value for value, file in kept} | {f"{step.step:07d}.safetensors": step.validation}
        ranked = sorted(scores, key=scores.get)
        _write_text(
            self.folder / "checkpoints" / "scores.json", json.dumps({n: scores[n] for n in ranked[: self.keep_best]})
        )
        for name in ranked[self.keep_best :]:
            (self.folder / "checkpoints" / name).unlink()

    def checkpoints(self) -> list[tuple[float, Path]]:
        """(validation, file) of the kept checkpoints, best first."""
        scores = self.folder / "checkpoints" / "scores.json"
        if not scores.is_file():
            return []
        named = json.loads(scores.read_text(encoding="utf-8"))
        return sorted((value, self.folder / "checkpoints" / name) for name, value in named.items())

    def metrics(self) -> list[dict]:
        file = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []

    def save_state(self, state: dict) -> None:
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "state.pt")

    def load_state(self) -> dict | None:
        """The saved training state, or None; metrics written after it was saved are dropped."""
        file = self.folder / "state.pt"
        if not file.is_file():
            return None
        state = torch.load(file, map_location="cpu", weights_only=True)
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= state["step"]]
        _write_text(self.folder / "metrics.jsonl", "".join(lines))
        return state

    def finish(self, model: Transformer) -> None:
        """Write the last weights and the best (a copy of the best checkpoint); the state for resuming is dropped."""
        kept = self.checkpoints()
        if kept:
            shutil.copyfile(kept[0][1], self.folder / VARIANTS["best"])
        else:
            save_weights(model, self.folder / VARIANTS["best"])
        save_weights(model, self.folder / VARIANTS["last"])
        (self.folder / "state.pt").unlink(missing_ok=True)

    def merge(self, k: int) -> dict[str, Tensor]:
        """Top-k merge (LLaDA 2.0 §4.3): the mean of the weights of the k checkpoints best on validation, written as
        merged.safetensors and returned. Raises RunError when fewer than k were kept."""
        kept = self.checkpoints()[:k]
        if len(kept) < k:
            raise RunError(
                f"{self.folder}: only {len(kept)} validated checkpoints for llada2_topk_merge_k={k}; validate more often (eval_every)"
            )
        merged = mean_weights([load_file(file) for _, file in kept])
        _save_tensors(merged, self.folder / VARIANTS["merged"])
        return merged

    def use_as_best(self, variant: str) -> None:
        """Let best.safetensors be a copy of `variant` (the merge, where it validated better)."""
        shutil.copyfile(self.folder / VARIANTS[variant], self.folder / VARIANTS["best"])


def mean_weights(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Element-wise mean of equally shaped state dicts, summed in float64."""
    return {
        name: (sum(state[name].double() for state in states) / len(states)).to(tensor.dtype)
        for name, tensor in states[0].items()
    }


def save_weights(model: Transformer, file: Path) -> None:
    """Weights without the tied head, as Hugging Face writes them."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    _save_tensors(state, file)


def _save_tensors(state: dict[str, Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    save_file(state, partial, metadata={"format": "pt"})
    os.replace(partial, file)


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def hf_config(config: ModelConfig, checkpoint: Checkpoint, settings: dict) -> dict:
    """config.json that transformers' Qwen3ForCausalLM reads, with this project's own part under "dllm"."""
    shape = config.to_dict()
    own = {name: shape.pop(name) for name in ("qk_norm", "qk_norm_init")}
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": False,
        **shape, "dllm": {**own, "checkpoint": asdict(checkpoint), "settings": settings},
    }  # fmt: skip


def model_config(record: dict, where: str) -> ModelConfig:
    """ModelConfig from a config.json (this project's, Hugging Face's Qwen3 or MiniMind's)."""
    names = {field.name for field in fields(ModelConfig)}
    known = {name: value for name, value in record.items() if name in names}
    known |= {name: value for name, value in record.get("dllm", {}).items() if name in names}
    rope = record.get("rope_parameters") or {}
    known.setdefault("rope_theta", rope.get("rope_theta", 1e6))
    if "vocab_size" not in known:
        raise RunError(f"{where}: not a model config (no vocab_size)")
    return ModelConfig(**known)


def locate(name: str | Path) -> tuple[Path, str]:
    """A run's folder and variant, or a state dict file and "file". Accepts a folder, a run's name, the report's names
    (`weights/NAME.pt`, `NAME_state_dict.pt`, `NAME_best.pt`, also `NAME_merged.pt`) and real .pt/.pth/.safetensors files.
    Raises RunError that lists the runs there are."""
    path = resolve(name)
    if path.is_file():
        return path, "file"
    stem = path.with_suffix("") if path.suffix in (".pt", ".pth") else path
    folder_first = [(stem, "last"), (resolve("weights") / stem.name, "last")]
    for ending, variant in (("_state_dict", "last"), ("_best", "best"), ("_merged", "merged")):
        if stem.name.endswith(ending):
            folder_first.append((stem.with_name(stem.name.removesuffix(ending)), variant))
            folder_first.append((resolve("weights") / stem.name.removesuffix(ending), variant))
    for folder, variant in folder_first:
        if (folder / VARIANTS[variant]).is_file():
            return folder, variant
    there = sorted(p.parent.name for p in resolve("weights").glob(f"*/{VARIANTS['last']}"))
    raise RunError(
        f"checkpoint {name}: no such file or finished run; runs here: {', '.join(there) or 'none'}. Train it first"
    )


def load(
    name: str | Path, *, num_attention_heads: int | None = None, vocab_size: int | None = None, device="cpu"
) -> Loaded:
    """Load a checkpoint for training on or decoding.

    A bare state dict (MiniMind's or Qwen3's key layout, read with weights_only=True) needs its head count from a
    config.json beside it or from `num_attention_heads`; it is never guessed. vocab_size: grow the embedding to it (the
    rows of added tokens start as the mean of the others). Raises RunError when a tensor is missing or of another shape.
    """
    path, variant = locate(name)
    folder = path if variant != "file" else path.parent
    config_file = folder / "config.json"
    record = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    file = folder / VARIANTS[variant] if variant != "file" else path
    state = read_state(file)
    shape = model_config(record, str(config_file)) if record else shape_of(state, num_attention_heads, file)
    if vocab_size and vocab_size > shape.vocab_size:
        state = grow_vocabulary(state, vocab_size)
        shape = ModelConfig(**{**shape.to_dict(), "vocab_size": vocab_size})
    model = Transformer(shape)
    fit(model, state, file)
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        from dllm_core.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder)
    own = record.get("dllm", {}).get("checkpoint")
    checkpoint = Checkpoint(**own) if own else Checkpoint("ar", label_shift=True)
    return Loaded(model.to(device), checkpoint, tokenizer, path)


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pt or .pth file; a dict under "model" or "state_dict" is unwrapped."""
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"{file}: cannot be read as a plain state dict ({error})") from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{file}: holds no state dict of tensors")
    skip = ("freqs_cos", "freqs_sin", "rotary_emb", "rope_cos", "rope_sin")
    return {
        name.removeprefix("_orig_mod.").removeprefix("module."): tensor.float()
        for name, tensor in state.items()
        if not any(part in name for part in skip)
    }


def shape_of(state: dict[str, Tensor], heads: int | None, file: Path) -> ModelConfig:
    """ModelConfig of a bare state dict; `heads` must be given, everything else is read off the tensors."""
    if heads is None:
        raise RunError(
            f"{file}: a bare state dict does not say its head count; give num_attention_heads or put a config.json beside it"
        )
    try:
        vocab, hidden = state["model.embed_tokens.weight"].shape
        q, k = (state[f"model.layers.0.self_attn.{n}_proj.weight"].shape[0] for n in "qk")
        inner = state["model.layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise RunError(f"{file}: no tensor {error}; expected MiniMind's or Qwen3's key layout") from error
    if q % heads or k % (q // heads):
        raise RunError(f"{file}: num_attention_heads={heads} does not fit query rows {q} and key rows {k}")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    head = state.get("lm_head.weight")
    return ModelConfig(
        vocab, hidden, layers, heads, k // (q // heads), q // heads, inner,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in state,
        tie_word_embeddings=head is None or torch.equal(head, state["model.embed_tokens.weight"]),
    )  # fmt: skip


def grow_vocabulary(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """State with embedding (and untied head) of `size` rows; new rows are the mean of the old."""
    grown = dict(state)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state:
            rows = state[name]
            grown[name] = torch.cat([rows, rows.mean(dim=0, keepdim=True).expand(size - len(rows), -1)])
    return grown


def fit(model: Transformer, state: dict[str, Tensor], where) -> None:
    """Copy `state` into `model`; RunError names the first tensor that is missing, left over or of another shape."""
    wanted = model.state_dict()
    if model.config.tie_word_embeddings:
        state = {**state, "lm_head.weight": state.get("model.embed_tokens.weight")}
    for name, tensor in wanted.items():
        found = state.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "absent" if found is None else tuple(found.shape)
            raise RunError(
                f"{where}: tensor {name} is {shape}, the model needs {tuple(tensor.shape)}; is this the right checkpoint or shape?"
            )
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise RunError(
            f"{where}: tensor {extra[0]} has no place in the model ({len(extra)} such); is this the right layout?"
        )
    model.load_state_dict(state)
