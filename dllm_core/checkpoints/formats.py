"""Weights on disk: found by name and opened as a model, in this project's run folders and in the layouts of `families`
(folders, or bare .pt / .pth state dicts)."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dllm_core.checkpoints.configs import family_of, kind_of, layout_of, model_config
from dllm_core.checkpoints.families import FAMILIES, MINIMIND_DIFFUSION, Family
from dllm_core.checkpoints.tensors import EMBEDDING, INDEX, build, grow_vocabulary, read_state
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve, run_path
from dllm_core.common.records import fits
from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.data.tokenizer import own_tokenizer
from dllm_core.model import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "file": None}
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
        if weights_file(folder, variant).is_file():
            return folder, variant
    existing = sorted(file.parent.name for file in resolve("weights").glob(f"*/{VARIANTS['last']}"))
    raise RunError(
        f"checkpoint {name}: no such file or finished run; runs here: {', '.join(existing) or 'none'}. Train it first"
    )


def weights_file(folder: Path, variant: str) -> Path:
    """The file of a folder's weights; the last ones of another library's may be shards with an index, or pickled."""
    names = [VARIANTS[variant], *((INDEX, "pytorch_model.bin") if variant == "last" else ())]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


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
    name: str | Path, *, num_attention_heads: int | None = None, vocab_size: int | None = None, device="cpu",
    objective: str | None = None, block_size: int | None = None, label_shift: bool | None = None,
    chat: bool | None = None, grid: str | None = None, dtype: str = "float32",
) -> LoadedCheckpoint:  # fmt: skip
    """Load a checkpoint for further training or decoding.

    A bare state dict (read with weights_only=True) needs its number of heads from a config.json beside it or from
    `num_attention_heads`; it is never guessed. vocab_size: grow the embedding to it; the rows of added tokens start as
    the mean of the others. objective, block_size, label_shift, chat, grid: of `CheckpointInfo`, declared where neither the
    folder nor its family says them. dtype: "float32", "bfloat16", "float16", or "file": as the weights are stored.
    Raises RunError when a tensor is missing or of another shape, when config.json asks for what `Transformer` does not
    compute or has a field that is not understood, when what must be declared is not, or when the tokenizer is another
    model's.
    """
    if dtype not in DTYPES:
        raise RunError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    path, variant = find_checkpoint(name)
    folder, file = (path.parent, path) if variant == "file" else (path, weights_file(path, variant))
    config_file = folder / "config.json"
    record = read_json(config_file, RunError) if config_file.is_file() else None
    given = {"objective": objective, "block_size": block_size, "label_shift": label_shift, "chat": chat, "grid": grid}
    declared = {name: value for name, value in given.items() if value is not None}
    # 1. what the folder is: all refusals come before the weights are read
    where, family = (file, None) if record is None else (config_file, family_of(record, declared, config_file))
    info = family and kind_of(record, family, declared, where)
    # 2. the tensors, under Qwen3's names
    state = read_state(file, DTYPES[dtype])
    if record is None:
        family = family_by_tensors(state, file)
        info = kind_of({}, family, declared, where)
    state = {family.rename(name): tensor for name, tensor in state.items()}
    if record is None:
        config = infer_config(state, num_attention_heads, file, family)
    else:
        config = model_config(record, state, config_file, family)
    if family.change:
        family.change(state, config)
    # 3. the tokenizer, unless a given one takes its place, and rows of the embedding for all of its entries
    tokenizer = own_tokenizer(folder, is_needed=vocab_size is None)
    _refuse_other_vocabulary(config.vocab_size, tokenizer, vocab_size or 0, file)
    entries = vocab_size or len(tokenizer or ())
    if entries > config.vocab_size:
        state = grow_vocabulary(state, entries)
        config = replace(config, vocab_size=entries)
    model = build(config, state, file)
    trained = (record or {}).get("dllm", {}).get("trained")
    trained = trained if fits(trained, list[dict]) else []
    return LoadedCheckpoint(model.to(device), info, tokenizer, path, trained)


def family_by_tensors(state: dict[str, torch.Tensor], file: Path) -> Family:
    """The family of a bare state dict: minimind-diffusion's by its names, else MiniMind's or Qwen3's. Raises RunError for
    Nano-LLaDA's, which does not tell its RoPE."""
    if "token_emb.weight" in state:
        raise RunError(
            f"{file}: the tensors are Nano-LLaDA's and do not tell whether it was trained with --inference-rope-scaling: put a "
            'config.json beside the file with "model_type": "nano-llada", "inference_rope_scaling": true or false and the '
            "fields of the shape"
        )
    return MINIMIND_DIFFUSION if "model.embed.weight" in state else FAMILIES["minimind"]


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


def infer_config(state: dict[str, torch.Tensor], heads: int | None, file: Path, family: Family) -> ModelConfig:
    """ModelConfig of a bare state dict with `heads` heads; the tensors, renamed, tell everything else. Raises RunError."""
    if heads is None:
        raise RunError(
            f"{file}: a bare state dict does not tell its number of heads; give num_attention_heads or put a config.json "
            "beside it"
        )
    try:
        vocab, hidden = state[EMBEDDING].shape
        q, k = (state[f"model.layers.0.self_attn.{n}_proj.weight"].shape[0] for n in "qk")
        inner = state["model.layers.0.mlp.gate_proj.weight"].shape[0]
    except KeyError as error:
        raise RunError(f"{file}: no tensor {error}; expected the keys of MiniMind or Qwen3") from error
    if q % heads or k % (q // heads):
        raise RunError(f"{file}: num_attention_heads={heads} does not fit query rows {q} and key rows {k}")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("model.layers."))
    layout = layout_of(state)
    eps = 1e-6 if layout["qk_norm"] else 1e-5  # MiniMind-3 and MiniMind2
    known = {"rms_norm_eps": eps, **family.defaults, **layout}
    return ModelConfig(vocab, hidden, layers, heads, k // (q // heads), q // heads, inner, **known)
