"""Decodings as lines of a comparison file: what was asked, how it was decoded, what came out, at what cost."""

import itertools
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import dllm_core
from dllm_core.common import files
from dllm_core.common.paths import resolve
from dllm_core.compute.devices import machine
from dllm_core.config import DecodeConfig
from dllm_core.trace import Trace

SCHEMA = {  # key of a line → what it says, in the order of the line
    "name": "which contestant: AR, LLaDA 1, LLaDA 2, or LLaDA 2 as 1 (its weights under LLaDA 1's sampler)",
    "task": "sft: the prompt went through the chat template; pretrain: the text was continued",
    "prompt": "the text asked or continued",
    "checkpoint": "folder of the weights",
    "seed": "of the comparison and of the sampling",
    "versions": "object: dllm_core, torch, python, device (with the processor's or card's name), threads",
    "trace": "file of the whole decoding, step by step: Trace.load, show.player(trace)",
    "style": "the sampler: ar, llada1 or llada2",
    "text": "the answer, up to eos",
    "ended": "true: it wrote eos before its room was used up",
    "tokens": "answer tokens through eos; the filling after it does not count",
    "forwards": "calls of the network (guidance: two a step)",
    "seconds": "wall clock of the decoding, one prompt at a time",
    "tokens_per_forward": "tokens / forwards",
    "tokens_per_second": "tokens / seconds",
    "confidence": "object: mean, min and below_half (share below 1/2) of the committed tokens' probabilities",
    "settings": "object: all of DecodeConfig: steps, block_length, threshold, temperature, cfg_scale, seed, …",
}


def schema_table() -> list[str]:
    """Markdown lines: every key of a comparison line and what it says."""
    return ["| key | what it says |", "|---|---|", *(f"| `{key}` | {text} |" for key, text in SCHEMA.items())]


def variants(config: DecodeConfig, **lists: Sequence) -> list[DecodeConfig]:
    """`config` in every combination of the values listed, the last list fastest; an empty list keeps its own value.

    config itself comes first where it is not among them. Raises ValueError where a combination is not a legal one.
    """
    names = [name for name, values in lists.items() if values]
    made = [
        replace(config, **dict(zip(names, values, strict=True)))
        for values in itertools.product(*(lists[name] for name in names))
    ]
    return made if config in made else [config, *made]


def setting(config: DecodeConfig) -> str:
    """What tells one run of a style from another, in a few words: its threshold or steps, and its block length."""
    if config.style == "ar":
        return "greedy" if config.temperature == 0 else f"temperature {config.temperature:g}"
    steps = config.steps or (config.max_new_tokens if config.style == "llada1" else None)
    threshold = config.threshold if config.style == "llada2" else None
    words = {"threshold": threshold, "steps": steps, "block": config.block_length}
    return ", ".join(f"{word} {value:g}" for word, value in words.items() if value is not None)


def keep(trace: Trace, output: str | Path, number: int) -> str:
    """Save a trace beside the comparison file `output`, numbered from 1; the path that its line names.

    outputs/compare_sft.jsonl → outputs/compare_sft.traces/07-llada2.json
    """
    path = Path(output).with_suffix(".traces") / f"{number:02d}-{trace.style}.json"
    trace.save(resolve(path))
    return path.as_posix()


def versions(device: torch.device) -> dict[str, str]:
    """What a result depends on beside its settings."""
    return {
        "dllm_core": dllm_core.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": machine(device), "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def record(trace: Trace, /, **about) -> dict:
    """One decoding as one flat record: the keys of `SCHEMA`, of which `about` gives those up to `trace`, and first."""
    sure = [commit.confidence for step in trace.steps for commit in step.commits]
    count = max(len(sure), 1)
    return {
        **about, "style": trace.style, "text": trace.text, "ended": trace.ended, "tokens": trace.tokens,
        "forwards": trace.forwards, "seconds": trace.seconds, "tokens_per_forward": trace.tokens_per_forward,
        "tokens_per_second": trace.tokens_per_second,
        "confidence": {
            "mean": sum(sure) / count, "min": min(sure, default=0.0), "below_half": sum(p < 0.5 for p in sure) / count,
        },
        "settings": trace.settings,
    }  # fmt: skip


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """One object a line; an existing file is replaced whole or not at all. Relative paths count from the root."""
    return files.write_whole(resolve(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: dict) -> Path:
    """One object, indented; an existing file is replaced whole or not at all."""
    return files.write_json(resolve(path), value)
