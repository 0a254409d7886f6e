"""Tokenized documents as flat arrays: written to disk once, then memory-mapped."""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.common.files import explain_full_disk, read_json, write_json
from dllm_core.common.paths import root
from dllm_core.data.tokenizer import backend
from dllm_core.trace import end_token_ids

FORMAT = 4  # raised when the meaning of the cached files changes
FILES = ("tokens.bin", "scored.bin", "offsets.npy")
WHOLE = 2**23  # bytes up to which a checksum reads all of a file, in about 3 ms
PIECE, PIECES = 2**16, 64  # bytes and number of the pieces that it reads of a larger one
ABANDONED = 3600  # seconds without a write after which an unfinished folder belongs to no running process


@dataclass(frozen=True)
class TokenDataset:
    """N documents, concatenated; the arrays may be memory-mapped.

    tokens: [T] uint16 or int32. scored: [T] bool, False on prompts. starts, lengths: [N] int64, the first token of each
    document and its number of tokens. pad_token_id, eos_token_id: those of the tokenizer; other_ends: further ids
    that end an answer. info: counts from reading the text.
    """

    tokens: np.ndarray
    scored: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    pad_token_id: int
    eos_token_id: int
    info: dict = field(default_factory=dict)
    other_ends: Sequence[int] = ()

    @property
    def all_scored(self) -> bool:
        """Whether there are no prompts, so that `scored` is a single True with stride 0."""
        return self.scored.strides == (0,)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [n], scored [n] bool) of document i. Raises IndexError, which ends a loop over the documents."""
        span = slice(self.starts[i], self.starts[i] + self.lengths[i])
        return self.tokens[span], self.scored[span]

    def select(self, indices) -> "TokenDataset":
        """The documents with these indices, in this order; the tokens are not copied."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(self, starts=self.starts[indices], lengths=self.lengths[indices])

    def split(self, fraction: float = 0.05, at_most: int = 1000, seed: int = 0) -> tuple["TokenDataset", "TokenDataset"]:
        """(train, valid): `fraction` of the documents, at least one and at most `at_most`, drawn by `seed`, are held out.

        Raises DataError when there are fewer than two documents.
        """
        if len(self) < 2:
            raise DataError(f"{len(self)} document cannot be split into training and validation: use a longer file")
        count = min(max(1, round(len(self) * fraction)), at_most, len(self) - 1)
        training = np.ones(len(self), bool)
        training[np.random.default_rng(seed).permutation(len(self))[:count]] = False
        return self.select(np.flatnonzero(training)), self.select(np.flatnonzero(~training))

    @classmethod
    def of(
        cls, documents: Sequence, scored: Sequence | None = None, *, pad_token_id: int, eos_token_id: int
    ) -> "TokenDataset":
        """From token lists in memory; scored: lists of bool of the same lengths, or None for all True."""
        chunk = TokenChunk.of(documents, scored, {})
        marks = _all_scored(chunk.tokens) if scored is None else chunk.scored
        starts = np.cumsum(chunk.lengths) - chunk.lengths
        return cls(chunk.tokens, marks, starts, chunk.lengths, pad_token_id, eos_token_id)


@dataclass(frozen=True)
class TokenChunk:
    """n documents with t tokens in all. tokens: [t] int32. scored: [t] bool, or None for all True. lengths: [n] int64.
    counts: summed over the chunks into `TokenDataset.info`. problem: of the first line that was left out as odd."""

    tokens: np.ndarray
    scored: np.ndarray | None
    lengths: np.ndarray
    counts: dict[str, int]
    problem: str = ""

    @classmethod
    def of(cls, ids: Sequence, scored: Sequence | None, counts: dict[str, int], problem: str = "") -> "TokenChunk":
        """From a list of token ids, and where `scored` is given a list of bool, for each document."""
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        total = int(lengths.sum())
        tokens = np.fromiter(chain.from_iterable(ids), np.int32, total)
        marks = None if scored is None else np.fromiter(chain.from_iterable(scored), bool, total)
        return cls(tokens, marks, lengths, counts, problem)


def load_or_tokenize(path: Path, tokenizer, options: dict, chunks: Generator[TokenChunk, None, None]) -> TokenDataset:
    """The documents of `path`, memory-mapped from data/cache/. If they are not there as `path` is now, or damaged,
    `chunks` is written there first.

    options: the settings that decide the tokens, besides file and tokenizer. chunks: a generator that tokenizes the
    file; it does not start when the cache has the tokens. The files are written into a temporary folder that is renamed
    when it is complete. Raises DataError when no document is left, RunError on a full disk.
    """
    with closing(chunks):  # so that its processes end with this function
        home = root() / "data" / "cache"
        final = home / f"{path.stem}-{_digest(path, tokenizer, options)}"
        dated = options["schema"] == "chat" and "strftime_now" in str(tokenizer.chat_template)
        state = _state(path, date.today().isoformat() if dated else "")
        dataset = _load(final, state, tokenizer)
        if dataset is None:
            home.mkdir(parents=True, exist_ok=True)
            _remove_useless(home)
            with TemporaryDirectory(prefix=".unfinished-", dir=home) as folder:
                unfinished = Path(folder) / final.name
                with explain_full_disk(final, path.stat().st_size):
                    _write(unfinished, path, state, tokenizer, chunks)
                try:
                    if os.path.lexists(final) and _load(final, state, tokenizer) is None:
                        os.replace(final, Path(folder) / "replaced")
                    os.replace(unfinished, final)
                except OSError:
                    if _load(final, state, tokenizer) is None:  # otherwise another process has just written the same
                        raise
            dataset = _load(final, state, tokenizer)
            if dataset is None:
                raise DataError(f"{final}: another process has changed the cache just now; run again")
        return dataset


def _remove_useless(home: Path) -> None:
    """Delete the folders of killed runs (a live run writes every few seconds), and the caches of another format or of a
    file that has changed or is gone."""
    for folder in home.glob(".unfinished-*"):
        with suppress(FileNotFoundError):  # its process has just renamed it
            touched = max(entry.stat().st_mtime for entry in (folder, *folder.rglob("*")))
            if time.time() - touched > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
    for file in home.glob(f"*-{'[0-9a-f]' * 16}/info.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # a record that cannot be read stays
            record = read_json(file)
            source = Path(record["source"])
            if not source.is_file() or record.get("state", [])[:-1] != _state(source)[:-1]:
                shutil.rmtree(file.parent, ignore_errors=True)


def _digest(path: Path, tokenizer, options: dict) -> str:
    """Of what decides the tokens besides the content of the file."""
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    parts = [str(path.resolve()), options, ids, tokenizer.chat_template]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(backend(tokenizer).to_str().encode())
    return digest.hexdigest()[:16]


def _state(path: Path, today: str = "") -> list:
    """What changes with the content of the source, and last the day, for templates that write it."""
    return [FORMAT, path.stat().st_mtime_ns, *checksum(path), today]


def checksum(path: Path) -> list[int]:
    """(bytes, CRC-32) of a file; of a file larger than `WHOLE`, of pieces evenly spread over it."""
    size = path.stat().st_size
    spread = [(size - PIECE) * i // (PIECES - 1) for i in range(PIECES)]
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        for start in range(0, size, PIECE) if size <= WHOLE else spread:
            file.seek(start)
            checksum = zlib.crc32(file.read(PIECE), checksum)
    return [size, checksum]


def _write(folder: Path, path: Path, state: list, tokenizer, chunks: Iterable[TokenChunk]) -> None:
    """Write tokens.bin, scored.bin (empty when all is scored), offsets.npy and info.json into `folder`."""
    folder.mkdir()
    dtype = np.dtype(np.uint16 if max(tokenizer.get_vocab().values()) < 2**16 else np.int32)
    lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
    info: dict[str, int | str] = {}
    problem = ""
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "scored.bin", "wb") as scored:
        for chunk in chunks:
            for name, count in chunk.counts.items():
                info[name] = info.get(name, 0) + count
            problem = problem or chunk.problem
            tokens.write(chunk.tokens.astype(dtype).tobytes())
            if chunk.scored is not None:
                scored.write(chunk.scored.tobytes())
            lengths.append(chunk.lengths)
    offsets = np.cumsum(np.concatenate(lengths))
    if offsets[-1] == 0:
        left_out = ", ".join(f"{count} {name}" for name, count in info.items() if count)
        why = f". The first odd one: {problem}" if problem else ""
        raise DataError(f"{path}: no document is left to train on ({left_out or 'no lines'}){why}")
    info |= {"problem": problem} if problem else {}
    np.save(folder / "offsets.npy", offsets)
    files = {name: checksum(folder / name) for name in FILES}
    record = {"dtype": dtype.name, "source": str(path), "state": state, "files": files, "counts": info}
    write_json(folder / "info.json", record | {"checksum": _checksum_of(record)})


def _checksum_of(record: dict) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _all_scored(tokens: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.True_, tokens.shape)


def _load(folder: Path, state: list, tokenizer) -> TokenDataset | None:
    """The documents in `folder`; None when they are absent, damaged, or those of another state of the source."""
    try:
        info = read_json(folder / "info.json")
        if info.pop("checksum") != _checksum_of(info) or info["state"] != state:
            return None
        if info["files"] != {name: checksum(folder / name) for name in FILES}:
            return None
        tokens = np.memmap(folder / "tokens.bin", info["dtype"], "r")
        has_prompts = (folder / "scored.bin").stat().st_size > 0
        scored = np.memmap(folder / "scored.bin", np.bool_, "r") if has_prompts else _all_scored(tokens)
        offsets = np.load(folder / "offsets.npy")
        eos, *ends = end_token_ids(tokenizer)
        starts, lengths = offsets[:-1], np.diff(offsets)
        return TokenDataset(tokens, scored, starts, lengths, tokenizer.pad_token_id, eos, info["counts"], ends)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
