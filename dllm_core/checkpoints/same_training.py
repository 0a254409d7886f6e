"""Whether two trainings are the same: their settings, and the weights and the data that they start from."""

import math
from dataclasses import fields

import torch

from dllm_core.common.paths import resolve
from dllm_core.config import ModelConfig
from dllm_core.data.token_cache import checksum
from dllm_core.model import Transformer

# Settings that change nothing of the training itself, or whose effect the checkpoint's record holds; neither do those that
# begin with gen_.
WITHOUT_EFFECT = frozenset({
    "prompt", "checkpoint", "max_new_tokens", "sample_every", "save_every", "valid_items", "llada1_block_length",
    "llada2_enable_parallel_decoding", "device", "from_objective", "from_label_shift",
})  # fmt: skip


def same_settings(earlier: dict, config: dict) -> bool:
    """Whether two config.json tell of the same model, trained in the same way."""
    return _training_of(earlier) == _training_of(config)


def _training_of(config: dict) -> dict:
    """Of a run's config.json the model's shape, its objective and the settings that change the training. What else the
    file says to other programs, and what an earlier version of it did not say, changes none."""
    record = config["dllm"]
    settings = record.get("settings", {})
    kept = {name: settings[name] for name in settings if name not in WITHOUT_EFFECT and not name.startswith("gen_")}
    shape = {field.name: {**config, **record}.get(field.name) for field in fields(ModelConfig)}
    return {"shape": shape, "checkpoint": record.get("checkpoint"), "settings": kept}


def starts_from(model: Transformer, settings: dict) -> dict:
    """What another start differs in: sum and norm of the weights; bytes and checksum of the data, where a file."""
    total, squares = 0.0, 0.0
    for parameter in model.parameters():
        tensor = parameter.detach().cpu()
        total += float(tensor.sum(dtype=torch.float64))
        squares += float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
    start = {"weights_sum": total, "weights_norm": math.sqrt(squares)}
    data = resolve(settings.get("data") or "weights")
    return start | ({"data": checksum(data)} if data.is_file() else {})


def same_start(earlier: dict, start: dict) -> bool:
    """Whether two starts are the same, up to the rounding of another machine, in what both records hold."""
    near = all(
        abs(earlier.get(name, start[name]) - start[name]) <= 1e-6 * start["weights_norm"]
        for name in ("weights_sum", "weights_norm")
    )
    return near and earlier.get("data", start.get("data")) == start.get("data", earlier.get("data"))
