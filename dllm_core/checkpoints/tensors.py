"""Tensors of checkpoint files: read one at a time, renamed, put into a model, written.

A model is built on the meta device, which takes no memory, and the tensors read become its parameters. So opening a folder
takes the model's own size and one tensor.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dllm_core.common.errors import NOT_FINITE, RunError
from dllm_core.common.files import read_json, replaced_whole
from dllm_core.config import ModelConfig
from dllm_core.model import Transformer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"  # which file of a sharded folder holds which tensor
_TABLES = ("freqs_cos", "freqs_sin", "rotary_emb", "rope_cos", "rope_sin")  # which the model computes itself


def read_state(file: Path, dtype: torch.dtype | None = torch.float32) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pt, .pth or .bin file or of a sharded folder's index, in `dtype` (None: as they are);
    a dict under "model" or "state_dict" is unwrapped.

    Raises RunError for a file that cannot be read, and for a tensor that is not of floating point or not finite.
    """
    state = {}
    for name, tensor in _stored(file):
        if any(part in name for part in _TABLES):
            continue
        if not tensor.is_floating_point():
            raise RunError(f"{file}: tensor {name} is of {tensor.dtype}, not of floating point: not a model's weights")
        # a copy: a tensor of a .safetensors file is a window on the file
        tensor = tensor.to(dtype or tensor.dtype, copy=True)
        if not tensor.sum(dtype=torch.float32).isfinite():  # ten times as fast as a look at each number
            raise RunError(f"{file}: tensor {name} holds nan, inf or too large numbers: {NOT_FINITE}")
        state[name.removeprefix("_orig_mod.").removeprefix("module.")] = tensor
    return state


def _stored(file: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor of a file; each is read when its turn comes. Raises RunError."""
    if file.name == INDEX:
        for name, part in _shards(file).items():
            yield name, _read(part, name)
    elif file.suffix == ".safetensors":
        for name in _names(file):
            yield name, _read(file, name)
    else:
        state = _unpickled(file)
        for name in list(state):
            yield name, state.pop(name)  # so that what was read is freed


def _shards(index: Path) -> dict[str, Path]:
    """Tensor → file. Raises RunError for an index that is none, and for a shard that is absent."""
    weight_map = read_json(index, RunError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise RunError(f"{index}: weight_map must be an object from tensors to files")
    shards = {name: index.with_name(Path(part).name) for name, part in weight_map.items()}
    if absent := sorted({part.name for part in shards.values() if not part.is_file()}):
        raise RunError(f"{index}: {', '.join(absent)} is not in the folder: fetch it again")
    return shards


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except Exception as error:  # whatever the reader raises, the cause is this file
        raise RunError(f"{file}: cannot be read as a plain state dict ({error})") from error


def _read(file: Path, name: str) -> Tensor:
    """One tensor. The file is opened for each: its pages count as this process's memory as long as it is open."""
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)
    except Exception as error:
        raise RunError(f"{file}: tensor {name} cannot be read ({error})") from error


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"{file}: cannot be read as a plain state dict ({error})") from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{file}: has no state dict of tensors")
    return state


def grow_vocabulary(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The state dict with an embedding (and untied head) of `size` rows; the new rows are the mean of the old."""
    grown = dict(state)
    for name in (EMBEDDING, HEAD):
        if name in state:
            rows = state[name]
            grown[name] = torch.cat([rows, rows.mean(dim=0, keepdim=True).expand(size - len(rows), -1)])
    return grown


class _Undrawn(TorchFunctionMode):
    """Within it no initial weights are drawn: on the meta device the first draw would import sympy, 75 MB."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **(kwargs or {}))


def build(config: ModelConfig, state: dict[str, Tensor], where: Path) -> Transformer:
    """The model whose parameters `state` becomes, without a copy, in the precision of its embedding. Raises RunError
    naming a tensor that is missing, left over or of another shape."""
    with torch.device("meta"), _Undrawn():
        model = Transformer(config)
    expected = model.state_dict()
    if config.tie_word_embeddings:
        state = {**state, HEAD: state.get(EMBEDDING)}
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
    dtype = state[EMBEDDING].dtype
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


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
        del state[HEAD]
    save_tensors(state, file)


def save_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a .safetensors file atomically, marked as PyTorch's, as transformers expects."""
    with replaced_whole(file, sum(tensor.nbytes for tensor in state.values())) as partial:
        save_file(state, partial, metadata={"format": "pt"})
