"""Finished runs of a tiny model, models with changed weights, and the equality of two state dicts."""

import torch
from small import NoTokenizer, tiny

from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.config import CheckpointInfo
from dllm_core.model import Transformer


def finished(name: str = "story", model=None, checkpoint=None, tokenizer=None, **settings) -> RunFolder:
    model = model or tiny()
    run = RunFolder.open(name, model, checkpoint or CheckpointInfo("ar", label_shift=True), tokenizer or NoTokenizer(), settings)
    run.finish(model)
    return run


def changed(amount: float, seed: int = 0) -> Transformer:
    model = tiny(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount)
    return model


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
