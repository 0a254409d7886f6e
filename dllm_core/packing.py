"""What a batch is, and how pieces of documents become one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dllm_core.documents import Documents
from dllm_core.download import DataError


@dataclass(frozen=True)
class Batch:
    """B rows of L tokens.

    tokens: [B, L] int64. document: [B, L] int64, number of the document within its row, −1 on padding.
    position: [B, L] int64, place within the document (0 on padding). scored: [B, L] bool, may be noised and is scored.
    """

    tokens: Tensor
    document: Tensor
    position: Tensor
    scored: Tensor

    @property
    def n_documents(self) -> int:
        return int((self.document.amax(dim=1) + 1).sum())

    def cut(self, length: int) -> "Batch":
        """The first `length` columns."""
        return self._each(lambda part: part[:, :length])

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows start to stop."""
        return self._each(lambda part: part[start:stop])

    def split(self, rows: int) -> "list[Batch]":
        """Parts of `rows` rows, the last with what is left; 0: the whole in one."""
        count = len(self.tokens)
        return [self.rows(start, start + rows) for start in range(0, count, rows)] if 0 < rows < count else [self]

    def to(self, device) -> "Batch":
        return self._each(lambda part: part.to(device, non_blocking=True))

    def _each(self, change) -> "Batch":
        return Batch(change(self.tokens), change(self.document), change(self.position), change(self.scored))


@dataclass(frozen=True)
class Placed:
    """n pieces of documents laid into rows. All [n] int64: row, column, source (first token in Documents.tokens),
    length, fill (eos after it), number (of the document within its row)."""

    row: np.ndarray
    column: np.ndarray
    source: np.ndarray
    length: np.ndarray
    fill: np.ndarray
    number: np.ndarray


def assemble(
    documents: Documents, placed: Placed, rows: int, width: int, pad: int, eos: int, fill_scored: bool
) -> Batch:
    """Lay the pieces into [rows, width] arrays, all at once; filling is eos, scored if `fill_scored`, the rest pad."""
    total = placed.length + placed.fill
    offset = count_up(total)  # place within its document, of every token of the batch
    row, column, source, length, number = (
        np.repeat(part, total) for part in (placed.row, placed.column, placed.source, placed.length, placed.number)
    )
    own = offset < length  # else filling
    source = source + np.minimum(offset, length - 1)
    tokens = np.full((rows, width), pad, np.int64)
    document = np.full((rows, width), -1, np.int64)
    position = np.zeros((rows, width), np.int64)
    scored = np.zeros((rows, width), bool)
    at = row, column + offset
    tokens[at] = np.where(own, documents.tokens[source], eos)
    scored[at] = np.where(own, documents.scored[source], fill_scored)
    document[at], position[at] = number, offset
    return Batch(*(torch.from_numpy(part) for part in (tokens, document, position, scored)))


def count_up(lengths: np.ndarray) -> np.ndarray:
    """[sum(lengths)] int64: 0, 1, …, n − 1 for each n of `lengths`, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def usable(documents: Documents, seq_len: int, fill: str | None, pack: str, eos: int) -> tuple[np.ndarray, ...]:
    """(first token, length, ends with eos), each [N], of the documents that can be trained on at this length."""
    starts, lengths = documents.starts, documents.lengths
    if pack == "whole":
        # An example too long for a row is of use only if something scored lies before the cut.
        for i in np.flatnonzero(lengths > seq_len):
            if not documents.scored[starts[i] : starts[i] + seq_len].any():
                lengths[i] = 0
        lengths = np.minimum(lengths, seq_len)
    keep = lengths > 0
    if not keep.any():
        if len(documents) == 0 or pack == "cut":
            raise DataError("there are no documents to make batches of")
        raise DataError(
            f"seq_len={seq_len} is too short: none of {len(documents)} examples has an answer before its end"
        )
    starts, lengths = starts[keep], lengths[keep]
    ended = np.zeros(len(starts), bool)
    if fill is not None:
        ended = documents.tokens[starts + lengths - 1] == eos
    return starts, lengths, ended
