"""Many documents as flat arrays: tokenised once, kept on disk, memory-mapped."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.common.paths import root
from dllm_core.data.parallel import in_order
from dllm_core.data.tokenizer import backend

FORMAT = 1  # raised when the cached files' meaning changes
ABANDONED = 3600  # seconds without a write after which an unfinished folder belongs to nobody


@dataclass(frozen=True)
class TokenDataset:
    """N documents laid end to end; the arrays may be memory-mapped.

    tokens: [T] uint16 or int32. scored: [T] bool, False on prompts. offsets: [N0 + 1] int64, where each begins.
    chosen: [N] int64, which of the N0 documents these are, or None for all. info: counts kept from reading.
    """

    tokens: np.ndarray
    scored: np.ndarray
    offsets: np.ndarray
    chosen: np.ndarray | None = None
    info: dict = field(default_factory=dict)

    @property
    def starts(self) -> np.ndarray:
        """[N] int64, where in `tokens` each document begins."""
        return self.offsets[:-1] if self.chosen is None else self.offsets[self.chosen]

    @property
    def lengths(self) -> np.ndarray:
        """[N] int64, tokens of each document."""
        sizes = np.diff(self.offsets)
        return sizes if self.chosen is None else sizes[self.chosen]

    @property
    def all_scored(self) -> bool:
        """Whether nothing is a prompt and `scored` therefore one single True, repeated."""
        return self.scored.strides == (0,)

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.chosen is None else len(self.chosen)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [n], scored [n] bool) of document i."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        i = int(i) % len(self) if self.chosen is None else int(self.chosen[i])
        span = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.tokens[span], self.scored[span]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[i] for i in range(len(self)))

    def select(self, indices) -> "TokenDataset":
        """The documents of these numbers, in this order; nothing is copied but the numbers."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(self, chosen=indices if self.chosen is None else self.chosen[indices])

    def split(self, fraction: float = 0.05, at_most: int = 1000, seed: int = 0) -> tuple["TokenDataset", "TokenDataset"]:
        """(train, valid): `fraction` of the documents, at most `at_most`, at least one, drawn by `seed`, are held out.

        Raises DataError when there are fewer than two documents.
        """
        if len(self) < 2:
            raise DataError(f"{len(self)} document cannot be split into training and validation: give more text")
        held = min(max(1, round(len(self) * fraction)), at_most, len(self) - 1)
        training = np.ones(len(self), bool)
        training[np.random.default_rng(seed).permutation(len(self))[:held]] = False
        return self.select(np.flatnonzero(training)), self.select(np.flatnonzero(~training))

    @classmethod
    def of(cls, documents: Iterable, scored: Iterable | None = None) -> "TokenDataset":
        """From token lists in memory; scored: lists of bool of the same lengths, or None for all."""
        documents = [np.asarray(d, dtype=np.int32) for d in documents]
        tokens = np.concatenate(documents) if documents else np.zeros(0, np.int32)
        marks = _all_scored(tokens) if scored is None else np.concatenate([np.asarray(s, bool) for s in scored])
        offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
        return cls(tokens, marks, offsets)


@dataclass(frozen=True)
class TokenChunk:
    """A chunk of n documents, t tokens in all. tokens: [t] int32. scored: [t] bool, or None for all True.
    lengths: [n] int64. counts: added up into TokenDataset.info."""

    tokens: np.ndarray
    scored: np.ndarray | None
    lengths: np.ndarray
    counts: dict[str, int]

    @classmethod
    def of(cls, ids: list[list[int]], scored: list[list[bool]] | None, counts: dict[str, int]) -> "TokenChunk":
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        total = int(lengths.sum())
        tokens = np.fromiter(chain.from_iterable(ids), np.int32, total)
        marks = None if scored is None else np.fromiter(chain.from_iterable(scored), bool, total)
        return cls(tokens, marks, lengths, counts)


def tokenised_documents(path: Path, tokenizer, options: dict, tokenise: Callable, cache: bool) -> TokenDataset:
    """Mapped from the cache if it is there, else tokenised into a temporary folder that is then renamed.

    options: what besides path and tokenizer decides the tokens; "limit" (lines, None for all) is obeyed here.
    tokenise takes [(line number, bytes of the line), …] of lines that are not blank and gives `TokenChunk`.
    """

    def make(folder: Path) -> None:
        with closing(in_order(path, tokenise, options["limit"])) as chunks:  # its processes end with it
            _write(folder, path, len(tokenizer), chunks)

    if not cache:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            return _load(Path(folder), mapped=False)
    home = root() / "data" / "cache"
    final = home / f"{path.stem}-{_fingerprint(path, tokenizer, options)}"
    if not (final / "info.json").is_file():
        home.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        folder = home / f".unfinished-{final.name}-{os.getpid()}"
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left by a process of this number that was killed
            folder.mkdir()
            make(folder)
            if not final.exists():
                os.replace(folder, final)
        except OSError:
            if not (final / "info.json").is_file():  # otherwise another process was quicker, with the same content
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return _load(final)


def _remove_abandoned(home: Path) -> None:
    """What killed runs left: a run that is alive writes every few seconds."""
    for folder in home.glob(".unfinished-*"):
        touched = max((entry.stat().st_mtime for entry in (folder, *folder.iterdir())), default=0.0)
        if time.time() - touched > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(path: Path, tokenizer, options: dict) -> str:
    state = path.stat()
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    parts = [FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, options, ids, tokenizer.chat_template]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    digest.update(backend(tokenizer).to_str().encode())
    return digest.hexdigest()[:16]


def _write(folder: Path, path: Path, vocabulary: int, chunks: Iterator[TokenChunk]) -> None:
    """tokens.bin, scored.bin (unless all is scored), offsets.npy and info.json under `folder`."""
    kind = np.uint16 if vocabulary < 2**16 else np.int32
    lengths: list[np.ndarray] = []
    info: dict[str, int] = {}
    with open(folder / "tokens.bin", "wb") as tokens, open(folder / "scored.bin", "wb") as scored:
        for chunk in chunks:
            for name, count in chunk.counts.items():
                info[name] = info.get(name, 0) + count
            tokens.write(chunk.tokens.astype(kind).tobytes())
            if chunk.scored is not None:
                scored.write(chunk.scored.tobytes())
            lengths.append(chunk.lengths)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1, np.int64)
    if offsets[-1] == 0:
        left = ", ".join(f"{count} {name}" for name, count in info.items() if count)
        raise DataError(f"{path}: no document is left to train on ({left or 'no lines'})")
    np.save(folder / "offsets.npy", offsets.astype(np.int64))
    meta = {"dtype": np.dtype(kind).name, "source": str(path), "counts": info}
    (folder / "info.json").write_text(json.dumps(meta, ensure_ascii=False), encoding="utf-8")


def _all_scored(tokens: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.True_, tokens.shape)


def _load(folder: Path, mapped: bool = True) -> TokenDataset:
    meta = json.loads((folder / "info.json").read_text(encoding="utf-8"))

    def read(name: str, kind) -> np.ndarray:
        return np.memmap(folder / name, kind, "r") if mapped else np.fromfile(folder / name, kind)

    tokens = read("tokens.bin", np.dtype(meta["dtype"]))
    everything = (folder / "scored.bin").stat().st_size == 0
    scored = _all_scored(tokens) if everything else read("scored.bin", np.bool_)
    return TokenDataset(tokens, scored, np.load(folder / "offsets.npy"), info=meta["counts"])
