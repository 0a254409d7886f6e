"""The feeding benchmark: packed, memory-mapped rows against tokenizing in the loader; a first run against the next.

`TokenizedInTheLoader` is what most small projects do: one document a row, tokenized each time the loader asks for it,
cut or padded to the row's length.
"""

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader, Dataset

from dllm_core.data.batches import PackedBatches
from dllm_core.data.embedded import PACKED
from dllm_core.data.jsonl import chat_documents, find_data, read_jsonl, text_documents
from dllm_core.data.parallel import THREADS
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.workshop.benchmark.timing import Setting, compare, plural, run_child, take_turns

# shape → tokens per row, and most texts (or conversations) joined to a line, so that lines are about as long as rows
SHAPES = {"tiny": (128, 1), "26m": (512, 6)}
LARGE = "large"  # a further shape: a file as large as MiniMind's
BATCH = 32


class TokenizedInTheLoader(Dataset):
    """Item i: (tokens [max_length] int64, useful [max_length] bool, False on padding) of the i-th line of a file."""

    def __init__(self, path: str | Path, tokenizer, max_length: int):
        self.lines = [line for _, line in read_jsonl(path)]
        self.tokenizer, self.max_length = tokenizer, max_length

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        line, tokenizer = self.lines[i], self.tokenizer
        if "conversations" in line:
            text = tokenizer.apply_chat_template(line["conversations"], tokenize=False).strip()
        else:
            text = tokenizer.bos_token + line["text"] + tokenizer.eos_token
        encoded = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=self.max_length, padding="max_length"
        )
        return torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"]).bool()


def measure(setting: Setting) -> Iterator[dict]:
    """Useful tokens per second of packed rows and of the loader, for text and for conversations; the first run of a
    file and the next.

    setting.shape: "tiny" (rows of 128 tokens), "26m" (512) or "large": the runs alone, of 1.6 GB of text, which take
    3 GB in the folder for temporary files and, on two cores, 4 minutes. setting.threads: processes of a first run and,
    from 2 on, of the loader; this process alone packs the rows.
    """
    if setting.shape == LARGE:
        yield from first_and_next(replace(setting, shape="26m"), 1e7 if setting.quick else 1.6e9)
        return
    for schema in ("text", "chat"):
        yield packed_against_loader(schema, setting)
    yield from first_and_next(setting, 5e5 if setting.quick else 4e7)


def corpus_folder() -> Path:
    """The folder of the embedded corpus, its large files unpacked."""
    for name in PACKED:
        path = find_data(Path("data", name))
    return path.parent


def write_file(path: Path, source: Path, size: float, schema: str, joined: int) -> Path:
    """A jsonl file of `size` bytes; each line joins 1 to `joined` texts of the embedded corpus, drawn at random.

    source: the corpus' folder. schema: "text" or "chat" (conversations, their turns one after another).
    """
    draw = random.Random(0)
    file_name, field = {"text": ("pretrain_tiny", "text"), "chat": ("sft_tiny", "conversations")}[schema]
    pool = [row[field] for _, row in read_jsonl(source / f"{file_name}.jsonl")]
    written = 0
    with open(path, "wb") as file:
        while written < size:
            parts = draw.choices(pool, k=draw.randint(1, joined))
            content = "".join(parts) if schema == "text" else list(chain.from_iterable(parts))
            written += file.write(json.dumps({field: content}, ensure_ascii=False).encode() + b"\n")
    return path


def documents_of(schema: str, path: str | Path, tokenizer, length: int) -> TokenDataset:
    return text_documents(path, tokenizer) if schema == "text" else chat_documents(path, tokenizer, length)


def batches_of(schema: str, documents: TokenDataset, length: int) -> PackedBatches:
    return PackedBatches(documents, batch_size=BATCH, seq_len=length, pack="cut" if schema == "text" else "whole")


@contextmanager
def temporary_file(schema: str, size: float, joined: int) -> Iterator[tuple[Path, Path]]:
    """(file of `write_file`, folder of the tokenizer). Within it the working directory is an empty project, which is
    removed at the end, and a tokenizer uses one thread."""
    before, source = Path.cwd(), corpus_folder()
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, {THREADS: "false"}):
        folder = Path(name).resolve()
        (folder / "pyproject.toml").touch()
        (folder / "notebooks").mkdir()
        os.chdir(folder)
        try:
            yield write_file(folder / f"{schema}.jsonl", source, size, schema, joined), source / "tokenizer"
        finally:
            os.chdir(before)


def packed_against_loader(schema: str, setting: Setting) -> dict:
    """Packed rows against tokenizing in the loader, by the time of a million useful tokens."""
    quick, threads = setting.quick, setting.threads
    length, joined = SHAPES[setting.shape]
    fill: dict[str, float] = {}  # share of a batch's positions that hold useful tokens

    def deliver(name: str, batches: Iterator, useful_of: Callable, count: int) -> float:
        """Seconds per million useful tokens, those that `useful_of` marks in a batch, over `count` batches."""
        next(batches)  # wait until the loader's processes have started
        seconds, useful, positions = 0.0, 0, 0
        for _ in range(count):
            began = time.perf_counter()
            batch = next(batches)
            seconds += time.perf_counter() - began
            mark = useful_of(batch)
            useful += int(mark.sum())
            positions += mark.numel()
        fill[name] = useful / positions
        return seconds / useful * 1e6

    with temporary_file(schema, 5e5 if quick else 8e6, joined) as (path, tokenizer_dir):
        tokenizer = load_tokenizer(tokenizer_dir)
        packed = batches_of(schema, documents_of(schema, path, tokenizer, length), length)
        dataset = TokenizedInTheLoader(path, tokenizer, length)
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=threads if threads > 1 else 0)
        jobs = {
            "packed": lambda: deliver("packed", packed, lambda batch: batch.document >= 0, 20 if quick else 300),
            "plain": lambda: deliver("plain", iter(loader), lambda batch: batch[1], 4 if quick else 30),
        }
        seconds = take_turns(jobs, setting.rounds)
    more = {}
    for name, values in seconds.items():
        more |= {f"{name}, useful tokens per s": 1e6 / median(values), f"{name}, share of the row": fill[name]}
    rows = {"text": "pretraining rows", "chat": "conversations"}[schema]
    case = f"{setting.shape}, {rows} of {length}, a million useful tokens, {plural(threads, 'thread')}"
    target = "at least 100" if schema == "text" else ""
    return compare("feed", case, "packed", "plain", seconds, target=target, **more)


def first_batch(path: Path, tokenizer_dir: Path, length: int) -> tuple[float, int]:
    """(seconds from a text file to its first batch, tokens of the file), for a child process."""
    tokenizer = load_tokenizer(tokenizer_dir)
    began = time.perf_counter()
    documents = documents_of("text", path, tokenizer, length)
    next(batches_of("text", documents.split()[0], length))
    return time.perf_counter() - began, len(documents.tokens)


def first_and_next(setting: Setting, size: float) -> Iterator[dict]:
    """From `size` bytes of text to the first batch: a first run on `setting.threads` cores against one process, the
    next run against the first. With the peak memory of each."""
    cores, (length, joined) = setting.threads, SHAPES[setting.shape]
    # the first round begins with the last job, which leaves a cache for the first
    names = ["next run", "one process", "first run"]
    if cores == 1 or not hasattr(os, "sched_setaffinity"):
        names.remove("one process")
    tokens, peak = 0, dict.fromkeys(names, 0)

    def run(name: str) -> float:
        nonlocal tokens
        if name != "next run":
            shutil.rmtree("data/cache", ignore_errors=True)
        used = 1 if name == "one process" else cores
        (seconds, tokens), memory = run_child(first_batch, path, tokenizer_dir, length, cores=used)
        peak[name] = max(peak[name], memory)
        return seconds

    with temporary_file("text", size, joined) as (path, tokenizer_dir):
        file_mb = path.stat().st_size / 1e6
        seconds = take_turns({name: partial(run, name) for name in names}, setting.rounds, warm=0)
    case = f"{setting.shape}, text of {file_mb:,.0f} MB to the first batch, {plural(cores, 'process')}"
    for name, against, target in (("first run", "one process", ""), ("next run", "first run", "under 2 s")):
        if against not in names:
            continue
        more = {"tokens": float(tokens)}
        for job in (name, against):
            more |= {f"{job}, s": median(seconds[job]), f"{job}, peak MB": peak[job] / 1e6}
        yield compare("feed", case, name, against, seconds, target=target, **more)
