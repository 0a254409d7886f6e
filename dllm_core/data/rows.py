"""What a batch is, and how pieces of documents become one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dllm_core.common.errors import DataError
from dllm_core.compute.transfer import to_device
from dllm_core.data.token_cache import TokenDataset


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
        if not 0 < rows < len(self.tokens):
            return [self]
        return self._parts(lambda part: part.split(rows))

    def apart(self, count: int) -> "list[Batch]":
        """`count` parts, as even as can be; as many as there are rows where these are fewer."""
        return self._parts(lambda part: part.tensor_split(min(count, len(part))))

    def _parts(self, cut) -> "list[Batch]":
        parts = (self.tokens, self.document, self.position, self.scored)
        return [Batch(*views) for views in zip(*(cut(part) for part in parts), strict=True)]

    def to(self, device) -> "Batch":
        return self._each(lambda part: to_device(part, device))

    def _each(self, change) -> "Batch":
        return Batch(change(self.tokens), change(self.document), change(self.position), change(self.scored))


@dataclass(frozen=True)
class Segments:
    """n pieces of documents laid into rows. All [n] int64: row, column, source (first token in TokenDataset.tokens),
    length, fill (eos after it), number (of the document within its row)."""

    row: np.ndarray
    column: np.ndarray
    source: np.ndarray
    length: np.ndarray
    fill: np.ndarray
    number: np.ndarray


def collate(
    documents: TokenDataset, placed: Segments, rows: int, width: int, pad: int, eos: int, fill_scored: bool
) -> Batch:
    """Lay the pieces into [rows, width] arrays, all at once; filling is eos, scored if `fill_scored`, the rest pad."""
    total = placed.length + placed.fill
    begin = np.cumsum(total) - total  # of each piece among the tokens of the batch
    number = np.repeat(placed.number, total)
    running = np.arange(len(number))
    offset = running - np.repeat(begin, total)  # place within its document
    source = running + np.repeat(placed.source - begin, total)
    if placed.fill.any():
        length = np.repeat(placed.length, total)
        own = offset < length  # else filling
        source -= np.where(own, 0, offset - length + 1)  # filling has no source: any that exists will do
        tokens = np.where(own, np.asarray(documents.tokens)[source], eos).astype(np.int64)
        scored = np.where(own, documents.scored[source], fill_scored)
    else:
        tokens = np.asarray(documents.tokens)[source].astype(np.int64)
        scored = np.ones(len(source), bool) if documents.all_scored else np.asarray(documents.scored)[source]
    shift = placed.row * width + placed.column - begin  # to a piece's place among the batch's, rows end to end
    if len(running) == rows * width and not shift.any():
        return Batch(*(torch.from_numpy(part.reshape(rows, width)) for part in (tokens, number, offset, scored)))
    at = running + np.repeat(shift, total)
    parts = ((tokens, pad), (number, -1), (offset, 0), (scored, False))
    return Batch(*(torch.from_numpy(_spread(part, at, empty, rows, width)) for part, empty in parts))


def _spread(part: np.ndarray, at: np.ndarray, empty: int, rows: int, width: int) -> np.ndarray:
    """[rows, width] with `part` [n] at the places `at` [n] of its rows laid end to end, else `empty`."""
    whole = np.full(rows * width, empty, part.dtype)
    whole[at] = part
    return whole.reshape(rows, width)


def count_up(lengths: np.ndarray) -> np.ndarray:
    """[sum(lengths)] int64: 0, 1, …, n − 1 for each n of `lengths`, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def trainable_spans(documents: TokenDataset, seq_len: int, fill: str | None, pack: str, eos: int) -> tuple[np.ndarray, ...]:
    """(first token, length, ends with eos), each [N], of the documents that can be trained on at this length."""
    starts, lengths = documents.starts, documents.lengths
    if pack == "whole":
        # An example too long for a row is of use only if something scored lies before the cut.
        long = np.flatnonzero(lengths > seq_len)
        if len(long) and not documents.all_scored:
            long = long[np.argsort(starts[long])]
            edges = np.stack([starts[long], starts[long] + seq_len], axis=1).ravel()
            lengths[long[~np.logical_or.reduceat(np.asarray(documents.scored), edges)[::2]]] = 0
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
