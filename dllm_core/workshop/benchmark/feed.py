"""Feeding, measured: packed and memory-mapped rows against tokenising in the loader, the first run and the next.

`TokenisedInTheLoader` is the plain way, as most small projects have it: one document a row, tokenised whenever it is
asked for, cut or padded to the row's length.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from dllm_core.common.paths import root
from dllm_core.compute.devices import cores
from dllm_core.data.batches import PackedBatches
from dllm_core.data.jsonl import TokenDataset, chat_documents, read_jsonl, text_documents
from dllm_core.data.parallel import THREADS
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.workshop.benchmark.timing import MeasuredRow, compared, take_turns

__all__ = ["TokenisedInTheLoader", "large_file", "measure", "write_file"]

# shape → tokens a row, and texts (or conversations) joined to a line at most: lines as long as such a model is fed
SHAPES = {"tiny": (128, 1), "26m": (512, 6)}
BATCH = 32
# A run as far as its first batch, in a process of its own, which prints how long that took once all is imported.
CHILD = """import json, os, sys, time
cores, kind, path, tokenizer, length = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
from dllm_core.workshop.benchmark import feed
tokenizer, length = feed.load_tokenizer(tokenizer), int(length)
began = time.perf_counter()
documents = feed.documents_of(kind, path, tokenizer, length)
next(feed.batches_of(kind, documents.split()[0], tokenizer, length))
print(json.dumps({"seconds": time.perf_counter() - began, "tokens": len(documents.tokens)}))"""


class TokenisedInTheLoader(Dataset):
    """The plain way. Item i: (tokens [max_length] int64, own [max_length] bool, False on padding) of the i-th line."""

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
        coded = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=self.max_length, padding="max_length"
        )
        return torch.tensor(coded["input_ids"]), torch.tensor(coded["attention_mask"]).bool()


def measure(shape: str, dtype: str, threads: int, rounds: int, quick: bool) -> Iterator[MeasuredRow]:
    """Useful tokens per second of both ways, for text and for conversations; the first run of a file and the next.

    shape: "tiny" (rows of 128 tokens) or "26m" (512). threads: processes of a first run, and of the plain way from 2
    on; packed rows are laid out by this process alone. dtype changes nothing here. quick: little text.
    Raises ValueError for another shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape={shape!r}: must be one of {', '.join(SHAPES)}")
    length, joined = SHAPES[shape]
    source = root() / "data"
    tokenizer = load_tokenizer(source / "tokenizer")
    for kind in ("text", "chat"):
        with _workplace() as folder:  # left before a row is given away
            path = write_file(folder / f"{kind}.jsonl", source, 5e5 if quick else 8e6, kind, joined)
            row = _loaders(path, kind, tokenizer, length, shape, threads, rounds, quick)
        yield row
    with _workplace() as folder:
        path = write_file(folder / "text.jsonl", source, 5e5 if quick else 4e7, "text", joined)
        runs = _first_and_next(path, "text", tokenizer.name_or_path, length, shape, threads, rounds)
    yield from runs


def large_file(gigabytes: float = 1.6, kind: str = "text", where: str | Path | None = None) -> list[MeasuredRow]:
    """The first run and the next of a file as large as MiniMind's, on all cores and on one, with the peak memory.

    Made in a temporary folder of `where`. 1.6 GB of text take 3 GB of disk and, on two cores, 4 minutes; kind="chat",
    whose template runs in Python, 16 minutes; most of both is the run in one process.
    `python -m dllm_core.workshop.benchmark.main large` runs it.
    """
    source = root() / "data"
    with _workplace(where) as folder:
        path = write_file(folder / f"{kind}.jsonl", source, gigabytes * 1e9, kind, 6)
        return _first_and_next(path, kind, str(source / "tokenizer"), 512, "26m", cores(), 1)


def write_file(path: Path, source: Path, size: float, kind: str, joined: int) -> Path:
    """A jsonl file of `size` bytes: 1 to `joined` texts of the embedded corpus to a line, drawn anew for each.

    source: the corpus' folder. kind: "text" or "chat" (conversations, their turns one after another).
    """
    draw = random.Random(0)
    file_name, field = {"text": ("pretrain_tiny", "text"), "chat": ("sft_tiny", "conversations")}[kind]
    pool = [row[field] for _, row in read_jsonl(source / f"{file_name}.jsonl")]
    written = 0
    with open(path, "wb") as file:
        while written < size:
            parts = draw.choices(pool, k=draw.randint(1, joined))
            whole = "".join(parts) if kind == "text" else list(chain.from_iterable(parts))
            written += file.write(json.dumps({field: whole}, ensure_ascii=False).encode() + b"\n")
    return path


def documents_of(kind: str, path: str | Path, tokenizer, length: int) -> TokenDataset:
    return text_documents(path, tokenizer) if kind == "text" else chat_documents(path, tokenizer, length)


def batches_of(kind: str, documents, tokenizer, length: int) -> PackedBatches:
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return PackedBatches(documents, batch_size=BATCH, seq_len=length, pack="cut" if kind == "text" else "whole", **ids)


@contextmanager
def _workplace(where: str | Path | None = None) -> Iterator[Path]:
    """An empty project to work in, so that its cache goes with it; one thread of the tokenizer to a process."""
    before, given = Path.cwd(), os.environ.get(THREADS)
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name).resolve()
        (folder / "pyproject.toml").touch()
        (folder / "notebooks").mkdir()
        os.chdir(folder)
        os.environ[THREADS] = "false"
        try:
            yield folder
        finally:
            os.chdir(before)
            os.environ.pop(THREADS)
            if given is not None:
                os.environ[THREADS] = given


def _loaders(
    path: Path, kind: str, tokenizer, length: int, shape: str, threads: int, rounds: int, quick: bool
) -> MeasuredRow:  # fmt: skip
    """Packed rows against the plain way, by the time that a million useful tokens take."""
    packed = batches_of(kind, documents_of(kind, path, tokenizer, length), tokenizer, length)
    workers = 0 if threads == 1 else threads
    plain = DataLoader(TokenisedInTheLoader(path, tokenizer, length), BATCH, shuffle=True, num_workers=workers)
    fill: dict[str, float] = {}

    def delivered(name: str, batches: Iterator, own: Callable, count: int) -> float:
        """Seconds per million useful tokens, those of a batch that `own` marks, over `count` batches."""
        next(batches)  # the processes of the plain way are up
        seconds, useful, all_places = 0.0, 0, 0
        for _ in range(count):
            began = time.perf_counter()
            batch = next(batches)
            seconds += time.perf_counter() - began
            mark = own(batch)
            useful, all_places = useful + int(mark.sum()), all_places + mark.numel()
        fill[name] = useful / all_places
        return seconds / useful * 1e6

    jobs = {
        "packed": lambda: delivered("packed", packed, lambda batch: batch.document >= 0, 20 if quick else 300),
        "plain": lambda: delivered("plain", iter(plain), lambda batch: batch[1], 4 if quick else 30),
    }
    seconds = take_turns(jobs, rounds)
    pace = {name: 1e6 / statistics.median(values) for name, values in seconds.items()}
    what = {"text": "pretraining rows", "chat": "conversations"}[kind]
    return compared(
        "feed", f"{shape}, {what} of {length}, a million useful tokens, {_count(threads, 'thread')}", "packed", "plain",
        seconds, target="at least 100" if kind == "text" else "", useful_tokens_per_s=pace["packed"],
        plain_useful_tokens_per_s=pace["plain"], fill=fill["packed"], plain_fill=fill["plain"],
        batches_per_s=pace["packed"] / (fill["packed"] * BATCH * length),
    )  # fmt: skip


def _first_and_next(
    path: Path, kind: str, tokenizer: str, length: int, shape: str, cores: int, rounds: int
) -> list[MeasuredRow]:  # fmt: skip
    """From the start to the first batch: the first run on `cores` cores against one, the next run against the first."""
    tokens, peak = 0, {"first run": 0, "one process": 0, "next run": 0}

    def run(name: str, cores: int, anew: bool) -> float:
        nonlocal tokens
        if anew:
            shutil.rmtree("data/cache", ignore_errors=True)
        seconds, tokens, most = _run_apart(cores, kind, path, tokenizer, length)
        peak[name] = max(peak[name], most)
        return seconds

    # In the first round the last comes first, and leaves a cache for the first.
    jobs = {"next run": lambda: run("next run", cores, False)}
    if cores > 1 and hasattr(os, "sched_setaffinity"):
        jobs["one process"] = lambda: run("one process", 1, True)
    jobs["first run"] = lambda: run("first run", cores, True)
    seconds = take_turns(jobs, rounds, warm=0)
    size = path.stat().st_size
    case = f"{shape}, {kind} of {size / 1e6:,.0f} MB to the first batch, {_count(cores, 'process')}"
    common = {"file_mb": size / 1e6, "tokens": float(tokens)}
    pace = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    rows = []
    if "one process" in jobs:
        row = compared(
            "feed", case, "first run", "one process", seconds, tokens_per_s=pace["first run"],
            one_process_tokens_per_s=pace["one process"], peak_memory_mb=peak["first run"] / 1e6,
            one_process_peak_memory_mb=peak["one process"] / 1e6, **common,
        )  # fmt: skip
        rows.append(row)
    row = compared(
        "feed", case, "next run", "first run", seconds, target="under 2 s",
        next_run_s=statistics.median(seconds["next run"]), peak_memory_mb=peak["next run"] / 1e6,
        first_run_tokens_per_s=pace["first run"], first_run_peak_memory_mb=peak["first run"] / 1e6, **common,
    )  # fmt: skip
    return [*rows, row]


def _run_apart(cores: int, kind: str, path: Path, tokenizer: str, length: int) -> tuple[float, int, int]:
    """(seconds, tokens, peak bytes) of `CHILD`; peak: what it and its processes held together, sampled, a page that
    several share counted once (on Linux; elsewhere in each). Raises RuntimeError with its last words when it fails."""
    import psutil

    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    arguments = map(str, (cores, kind, path, tokenizer, length))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    peak, watched = 0, psutil.Process(child.pid)
    while child.poll() is None:
        now = 0
        with suppress(psutil.Error):
            for process in (watched, *watched.children(recursive=True)):
                memory = process.memory_full_info()
                now += getattr(memory, "pss", memory.rss)
        peak = max(peak, now)
        time.sleep(0.4)  # to count shared pages takes the system milliseconds, which the child then lacks
    out, errors = child.communicate()
    if child.returncode:
        raise RuntimeError(f"the run on {path} ended with {child.returncode}: {errors[-2000:]}")
    result = json.loads(out.splitlines()[-1])
    return result["seconds"], result["tokens"], peak


def _count(number: int, what: str) -> str:
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{number} {what if number == 1 else plural}"
