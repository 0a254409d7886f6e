"""Decodings as lines of a comparison file: what was asked, how it was decoded, what came out, at what cost."""

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

import dllm_core
from dllm_core.paths import resolve
from dllm_core.trace import Trace


def versions(device: torch.device) -> dict[str, str]:
    """What a result depends on beside its settings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "dllm_core": dllm_core.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": f"{device.type} ({name})", "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def record(trace: Trace, **about) -> dict:
    """One decoding as one flat record; `about` comes first (prompt, checkpoint, seed, …).

    confidence: mean, least and share below one half over the committed tokens' probabilities.
    """
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
    return _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, value: dict) -> Path:
    """One object, indented; an existing file is replaced whole or not at all."""
    return _write(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _write(path: str | Path, text: str) -> Path:
    path = resolve(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return path
