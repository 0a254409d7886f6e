"""The lines of a comparison file: for each decoding its prompt, its settings, its text and its cost."""

import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import dllm_core
from dllm_core.common import files
from dllm_core.common.paths import resolve
from dllm_core.compute.devices import machine
from dllm_core.config import DecodeConfig
from dllm_core.notebook.gloss import gloss
from dllm_core.trace import Trace

SCHEMA = {  # key of a line → what it says, in the order of the line
    "name": "which contestant: AR, LLaDA 1, LLaDA 2, or LLaDA 2 as 1 (its weights under LLaDA 1's sampler)",
    "task": "sft: the prompt went through the chat template; pretrain: the text was continued",
    "prompt": "the question, or the text to continue",
    "checkpoint": "folder of the weights",
    "seed": "of the comparison and of the sampling",
    "versions": "object: dllm_core, torch, python, device (with the processor's or card's name), threads",
    "trace": "file of the decoding, step by step: Trace.load, show.player(trace)",
    "style": "the sampler: ar, llada1 or llada2",
    "text": "the answer, up to eos",
    "ended": "true: the model wrote eos within max_new_tokens",
    "tokens": "answer tokens through eos; the eos filling after it does not count",
    "forwards": "calls of the network (with guidance two per step)",
    "seconds": "wall clock of the decoding, one prompt at a time",
    "tokens_per_forward": "tokens / forwards",
    "tokens_per_second": "tokens / seconds",
    "confidence": "object: mean, min and below_half (share below 1/2) of the committed tokens' probabilities",
    "settings": "object: all of DecodeConfig: steps, block_length, threshold, temperature, cfg_scale, seed, …",
}


def variants(config: DecodeConfig, **lists: Sequence) -> list[DecodeConfig]:
    """`config` with every combination of the listed values, the last list varying fastest; an empty list changes nothing.

    `config` itself comes first where the combinations do not hold it. Raises ValueError for a combination that
    `DecodeConfig` refuses.
    """
    lists = {name: values for name, values in lists.items() if values}
    combinations = [
        replace(config, **dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())
    ]
    return combinations if config in combinations else [config, *combinations]


def describe_setting(config: DecodeConfig) -> str:
    """The settings in which runs of a style differ, in a few words: threshold or steps, and block length."""
    if config.style == "ar":
        return "greedy" if config.temperature == 0 else f"temperature {config.temperature:g}"
    steps = config.steps or (config.max_new_tokens if config.style == "llada1" else None)
    threshold = config.threshold if config.style == "llada2" else None
    words = {"threshold": threshold, "steps": steps, "block": config.block_length}
    return ", ".join(f"{word} {value:g}" for word, value in words.items() if value is not None)


def save_trace(trace: Trace, output: str | Path, number: int) -> str:
    """Save a trace in a folder beside the comparison file `output`; the path that its line names.

    outputs/compare_sft.jsonl, 7 → outputs/compare_sft.traces/07-llada2.json
    """
    path = Path(output).with_suffix(".traces") / f"{number:02d}-{trace.style}.json"
    trace.save(resolve(path))
    return path.as_posix()


def versions(device: torch.device) -> dict[str, str]:
    """What a result depends on apart from its settings."""
    return {
        "dllm_core": dllm_core.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "device": machine(device), "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def record(trace: Trace, /, **about) -> dict:
    """One decoding as a flat record with the keys of `SCHEMA`: first `about`, which gives name to trace, then the rest."""
    confidences = [commit.confidence for step in trace.steps for commit in step.commits]
    count = max(len(confidences), 1)
    return {
        **about, "style": trace.style, "text": trace.text, "ended": trace.ended, "tokens": trace.tokens,
        "forwards": trace.forwards, "seconds": trace.seconds, "tokens_per_forward": trace.tokens_per_forward,
        "tokens_per_second": trace.tokens_per_second,
        "confidence": {
            "mean": sum(confidences) / count, "min": min(confidences, default=0.0),
            "below_half": sum(p < 0.5 for p in confidences) / count,
        },
        "settings": trace.settings,
    }  # fmt: skip


def distinct_texts(lines: Iterable[dict], right: Mapping[str, str]) -> list[dict]:
    """A row for each text that a prompt got, with its gloss and the runs that wrote it, in the order of `lines`.

    right: prompt → its only right answer. It is marked among the texts; where no run wrote it, it has a row of its own.
    """
    written: dict[str, dict[str, list[dict]]] = {}
    for line in lines:
        written.setdefault(line["prompt"], {}).setdefault(line["text"], []).append(line)
    rows = []
    for prompt, texts in written.items():
        answer, about = right.get(prompt), {"prompt": prompt, "prompt in English": gloss(prompt)}
        if answer is not None:
            texts.setdefault(answer, [])
        runs_of = Counter(line["name"] for lines_of_text in texts.values() for line in lines_of_text)
        for text, lines_of_text in texts.items():
            by = []
            for line in lines_of_text:
                setting = describe_setting(DecodeConfig(**line["settings"]))
                by.append(f"{line['name']} ({setting})" if runs_of[line["name"]] > 1 else line["name"])
            row = about | {"text": text, "text in English": gloss(text), "written by": "; ".join(by) or "none of them"}
            rows.append(row if answer is None else row | {"right": text == answer})
            about = {"prompt": "", "prompt in English": ""}
    return rows


def write_scores(output: str | Path, result: dict) -> Path:
    """`write_json` beside the comparison file: outputs/compare_sft.jsonl → outputs/compare_sft.scores.json."""
    return write_json(Path(output).with_suffix(".scores.json"), result)


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """One object a line; an existing file is replaced whole or not at all. Relative paths count from the root."""
    return files.write_whole(resolve(path), "".join(files.json_text(row) + "\n" for row in rows))


def write_json(path: str | Path, value: dict) -> Path:
    """One object, indented; an existing file is replaced whole or not at all."""
    return files.write_json(resolve(path), value)
