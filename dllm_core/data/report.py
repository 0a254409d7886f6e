"""What reading a file lost: counted while it is tokenized, said in one sentence, and warned of above 1 %."""

import warnings
from dataclasses import replace
from pathlib import Path

from dllm_core.common.files import display_path
from dllm_core.data.token_cache import TokenChunk, TokenDataset

LOUD = 0.01  # share above which a loss is warned of
LOSSES = {  # count in `TokenDataset.info` → (its words, what to do)
    "cut": ("examples cut at their end", "allow longer ones (max_seq_len, max_length)"),
    "dropped": ("examples left out, with no answer before max_length", "allow longer ones (max_seq_len, max_length)"),
    "blank": ("examples left out, blank", "look at the file"),
    "odd": ("conversations left out, odd or refused by the chat template", "look at the one that is named"),
    "unwritten": (
        "turns without their reasoning, tools or calls, which the chat template does not write",
        "use a tokenizer whose template writes them",
    ),
    "unknown": ("tokens unknown to the tokenizer", "use a tokenizer that has these characters"),
}


def counted(chunk: TokenChunk, tokenizer) -> TokenChunk:
    """The same chunk that also counts its examples ("kept") and the tokens that stand for unknown characters."""
    unknown = tokenizer.unk_token_id
    if unknown not in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):
        chunk.counts["unknown"] = int((chunk.tokens == unknown).sum())
    chunk.counts["kept"] = len(chunk.lengths)
    return chunk


def reported(dataset: TokenDataset, path: Path) -> TokenDataset:
    """The same documents with the "file" in their info. Warns when more than 1 % was lost."""
    dataset = replace(dataset, info={"file": display_path(path), **dataset.info})
    advice = [LOSSES[name][1] for name, (count, total) in _losses(dataset).items() if count > LOUD * total]
    if advice:
        warnings.warn(f"{_sentence(dataset)}. More than 1 %: {'; '.join(dict.fromkeys(advice))}", stacklevel=3)
    return dataset


def reading_report(*datasets: TokenDataset | None) -> str:
    """What was read and what was lost of it, a line for each file; None is passed over."""
    return "\n".join(dict.fromkeys(_sentence(dataset) for dataset in datasets if dataset is not None))


def _sentence(dataset: TokenDataset) -> str:
    info, losses = dataset.info, _losses(dataset)
    lost = [f"{count:,} of {total:,} {LOSSES[name][0]}" for name, (count, total) in losses.items() if count]
    first = f"; the first odd one: {info['problem']}" if "problem" in info else ""
    plain = f"; control tokens read as plain text: {info['control']:,}" if info["control"] else ""
    return (
        f"{info['file']}: {info['kept']:,} of {losses['blank'][1]:,} examples, {len(dataset.tokens):,} tokens; "
        f"lost: {', '.join(lost) or 'nothing'}{first}{plain}"
    )


def _losses(dataset: TokenDataset) -> dict[str, tuple[int, int]]:
    """For each loss its count, and the number of all examples or all tokens."""
    info = dataset.info
    examples = info["kept"] + info.get("dropped", 0) + info["blank"] + info.get("odd", 0)
    totals = {"unknown": len(dataset.tokens), "unwritten": info.get("turns", 0)}
    return {name: (info.get(name, 0), totals.get(name, examples)) for name in LOSSES}
