"""Speed in batches: what a decoding reads and computes for each token, its time, and where two styles are equally fast."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.compute.work import decoding_flops
from dllm_core.config import DecodeConfig
from dllm_core.notebook.asking import Prompt, prompt_ids
from dllm_core.samplers import generate


class MeteredModel:
    """Takes a model's place in decoding and counts. forwards: passes of a batch; positions: run in them, padding included;
    predictions: logits read; seconds: of both, without the decoder's own work."""

    def __init__(self, model):
        self.model, self.config, self.device, self.lm_head = model, model.config, model.device, model.lm_head
        self.forwards, self.positions, self.predictions, self.seconds = 0, 0, 0, 0.0

    def __call__(self, tokens: Tensor, *args, **options) -> Tensor:
        self.forwards, self.positions = self.forwards + 1, self.positions + tokens.numel()
        return self._timed(self.model, tokens, *args, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        self.predictions += len(hidden)
        return self._timed(self.model.logits, hidden)

    def _timed(self, function, *args, **options) -> Tensor:
        wait = torch.accelerator.synchronize if self.device.type != "cpu" else lambda: None
        wait()
        began = time.perf_counter()
        result = function(*args, **options)
        wait()
        self.seconds += time.perf_counter() - began
        return result


def measure(
    contestants: Mapping[str, tuple[LoadedCheckpoint, DecodeConfig]], prompts: Sequence[Prompt], sizes: Sequence[int]
) -> list[dict]:
    """A row for each contestant and batch size: it answers all `prompts`, those of like lengths together, for up to a second
    of the network's time or three rounds; the fastest counts. A forward pass reads each weight once; MB are 10⁶ bytes."""
    rows = []
    for (name, (loaded, config)), size in itertools.product(contestants.items(), sizes):
        ids = sorted((prompt_ids(loaded.tokenizer, prompt, loaded.info.chat) for prompt in prompts), key=len)
        rounds: list[float] = []
        while len(rounds) < 3 and sum(rounds) < 1:
            with for_inference(loaded.model) as fastest:
                meter = MeteredModel(fastest)
                batches = (ids[i : i + size] for i in range(0, len(ids), size))
                traces = [trace for batch in batches for trace in generate(replace(loaded, model=meter), batch, config)]
            rounds.append(meter.seconds)
        tokens, seconds = sum(trace.tokens for trace in traces), min(rounds)
        megabytes = sum(weight.numel() * weight.element_size() for weight in loaded.model.parameters()) / 1e6
        rows.append({
            "name": name, "batch": size, "tokens": tokens, "forward passes": meter.forwards,
            "MB of weights per token": megabytes * meter.forwards / tokens,
            "MFLOP per token": decoding_flops(loaded.model, meter.positions, meter.predictions) / 1e6 / tokens,
            "seconds": seconds, "tokens per second": tokens / seconds,
        })  # fmt: skip
    return rows


def crossing(rows: Sequence[Mapping], first: str, second: str) -> float | None:
    """The batch size from which `first` is no longer the faster of two names: between two sizes of the rows, on a straight
    line in log-log axes. None where the order stays."""
    pace = {(row["name"], row["batch"]): math.log(row["tokens per second"]) for row in rows}
    leads = [(batch, value - pace[second, batch]) for (name, batch), value in pace.items() if name == first]
    for (batch, ahead), (larger, behind) in itertools.pairwise(leads):
        if ahead > 0 >= behind:
            return batch * (larger / batch) ** (ahead / (ahead - behind))
    return None
