"""Tokenized documents as flat arrays: written to disk once, then memory-mapped."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.common.files import read_json, write_json
from dllm_core.common.paths import root
from dllm_core.data.tokenizer import backend

FORMAT = 1  # raised when the meaning of the cached files changes
ABANDONED = 3600  # seconds without a write after which an unfinished folder belongs to no running process


@dataclass(frozen=True)
class TokenDataset:
    """N documents, concatenated; the arrays may be memory-mapped.

    tokens: [T] uint16 or int32. scored: [T] bool, False on prompts. starts, lengths: [N] int64, the first token of each
    document and its number of tokens. pad_token_id, eos_token_id: those of the tokenizer. info: counts from reading the
    text.
    """

    tokens: np.ndarray
    scored: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    pad_token_id: int
    eos_token_id: int
    info: dict = field(default_factory=dict)

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
    counts: summed over the chunks into `TokenDataset.info`."""

    tokens: np.ndarray
    scored: np.ndarray | None
    lengths: np.ndarray
    counts: dict[str, int]

    @classmethod
    def of(cls, ids: Sequence, scored: Sequence | None, counts: dict[str, int]) -> "TokenChunk":
        """From a list of token ids, and where `scored` is given a list of bool, for each document."""
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        total = int(lengths.sum())
        tokens = np.fromiter(chain.from_iterable(ids), np.int32, total)
        marks = None if scored is None else np.fromiter(chain.from_iterable(scored), bool, total)
        return cls(tokens, marks, lengths, counts)


def load_or_tokenize(path: Path, tokenizer, options: dict, chunks: Generator[TokenChunk, None, None]) -> TokenDataset:
    """The documents of `path`, memory-mapped from data/cache/. If they are not there, `chunks` is written there first.

    options: the settings that decide the tokens, besides file and tokenizer. chunks: a generator that tokenizes the
    file; it does not start when the cache has the tokens. The files are written into a temporary folder that is renamed
    when it is complete. Raises DataError when no document is left.
    """
    with closing(chunks):  # so that its processes end with this function
        home = root() / "data" / "cache"
        final = home / f"{path.stem}-{_fingerprint(path, tokenizer, options)}"
        if not (final / "info.json").is_file():
            home.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(home)
            with TemporaryDirectory(prefix=".unfinished-", dir=home) as folder:
                unfinished = Path(folder) / final.name
                _write(unfinished, path, len(tokenizer), chunks)
                try:
                    os.replace(unfinished, final)
                except OSError:
                    if not (final / "info.json").is_file():  # otherwise another process has just written the same
                        raise
        return _load(final, tokenizer)


def _remove_abandoned(home: Path) -> None:
    """Delete the folders of killed runs; a live run writes every few seconds."""
    for folder in home.glob(".unfinished-*"):
        touched = max(entry.stat().st_mtime for entry in (folder, *folder.rglob("*")))
        if time.time() - touched > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(path: Path, tokenizer, options: dict) -> str:
    state = path.stat()
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    parts = [FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, options, ids, tokenizer.chat_template]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(backend(tokenizer).to_str().encode())
    return digest.hexdigest()[:16]


def _write(folder: Path, path: Path, vocab_size: int, chunks: Iterable[TokenChunk]) -> None:
    """Write tokens.bin, scored.bin (empty when all is scored), offsets.npy and info.json into `folder`."""
    folder.mkdir()
    dtype = np.dtype(np.uint16 if vocab_size < 2**16 else np.int32)
    lengths: list[np.ndarray] = [np.zeros(1, np.int64)]
    info: dict[str, int] = {}
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "scored.bin", "wb") as scored:
        for chunk in chunks:
            for name, count in chunk.counts.items():
                info[name] = info.get(name, 0) + count
            tokens.write(chunk.tokens.astype(dtype).tobytes())
            if chunk.scored is not None:
                scored.write(chunk.scored.tobytes())
            lengths.append(chunk.lengths)
    offsets = np.cumsum(np.concatenate(lengths))
    if offsets[-1] == 0:
        left_out = ", ".join(f"{count} {name}" for name, count in info.items() if count)
        raise DataError(f"{path}: no document is left to train on ({left_out or 'no lines'})")
    np.save(folder / "offsets.npy", offsets)
    write_json(folder / "info.json", {"dtype": dtype.name, "source": str(path), "counts": info})


def _all_scored(tokens: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.True_, tokens.shape)


def _load(folder: Path, tokenizer) -> TokenDataset:
    info = read_json(folder / "info.json")
    tokens = np.memmap(folder / "tokens.bin", info["dtype"], "r")
    has_prompts = (folder / "scored.bin").stat().st_size > 0
    scored = np.memmap(folder / "scored.bin", np.bool_, "r") if has_prompts else _all_scored(tokens)
    offsets = np.load(folder / "offsets.npy")
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return TokenDataset(tokens, scored, offsets[:-1], np.diff(offsets), *special, info["counts"])
