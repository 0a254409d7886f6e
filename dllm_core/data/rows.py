"""`Batch`, the rows of tokens that a model trains on, and `collate`, which builds it from segments of documents."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dllm_core.common.errors import DataError
from dllm_core.compute.transfer import to_device
from dllm_core.data.report import LOUD
from dllm_core.data.token_cache import TokenDataset


@dataclass(frozen=True)
class Batch:
    """B rows of L tokens.

    tokens: [B, L] int64. document: [B, L] int64, number of the document within its row, −1 on padding.
    position: [B, L] int64, index within the document, 0 on padding. scored: [B, L] bool, whether the loss counts the
    token and noise may mask it.
    """

    tokens: Tensor
    document: Tensor
    position: Tensor
    scored: Tensor

    def cut(self, length: int) -> "Batch":
        """The first `length` columns."""
        return self._each(lambda part: part[:, :length])

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows start to stop."""
        return self._each(lambda part: part[start:stop])

    def split(self, rows: int) -> "list[Batch]":
        """Parts of `rows` rows each, the last one smaller if needed; 0: a single part."""
        if not 0 < rows < len(self.tokens):
            return [self]
        return self._parts(lambda part: part.split(rows))

    def divide(self, count: int) -> "list[Batch]":
        """`count` parts of nearly equal size, fewer when there are fewer rows."""
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
    """n segments of documents and their positions in a batch. All [n] int64: row, column, source (index of the first
    token in `TokenDataset.tokens`), length, fill (eos tokens after it), number (of the document within its row)."""

    row: np.ndarray
    column: np.ndarray
    source: np.ndarray
    length: np.ndarray
    fill: np.ndarray
    number: np.ndarray


def collate(documents: TokenDataset, segments: Segments, rows: int, width: int, fill_scored: bool) -> Batch:
    """The batch [rows, width] of the segments; filling is eos, scored if `fill_scored`, and the rest is pad."""
    total = segments.length + segments.fill
    begin = np.cumsum(total) - total  # of each segment, in the concatenation of all segments
    number = np.repeat(segments.number, total)
    running = np.arange(len(number))
    offset = running - np.repeat(begin, total)  # index within the segment
    source = running + np.repeat(segments.source - begin, total)
    if segments.fill.any():
        length = np.repeat(segments.length, total)
        is_text = offset < length  # otherwise filling
        # filling has no source: read the segment's last token, which is then replaced
        source -= np.where(is_text, 0, offset - length + 1)
        tokens = np.where(is_text, np.asarray(documents.tokens)[source], documents.eos_token_id).astype(np.int64)
        scored = np.where(is_text, documents.scored[source], fill_scored)
    else:
        tokens = np.asarray(documents.tokens)[source].astype(np.int64)
        scored = np.ones(len(source), bool) if documents.all_scored else np.asarray(documents.scored)[source]
    # from an index in the concatenation to a flat index in the rows
    shift = segments.row * width + segments.column - begin
    if len(running) == rows * width and not shift.any():
        return Batch(*(torch.from_numpy(part.reshape(rows, width)) for part in (tokens, number, offset, scored)))
    index = running + np.repeat(shift, total)
    laid = []
    for part, empty in ((tokens, documents.pad_token_id), (number, -1), (offset, 0), (scored, False)):
        laid.append(np.full((rows, width), empty, part.dtype))
        laid[-1].reshape(-1)[index] = part
    return Batch(*map(torch.from_numpy, laid))


def count_up(lengths: np.ndarray) -> np.ndarray:
    """[sum(lengths)] int64: 0, 1, …, n − 1 for each n of `lengths`, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def trainable_spans(documents: TokenDataset, seq_len: int, fill: str | None, pack: str) -> tuple[np.ndarray, ...]:
    """(first token, length, is ended, not cut), each [N], of the documents with a scored token within `seq_len`.

    Warns when more than 1 % of the examples that are to stay whole are longer.
    """
    starts, lengths = documents.starts, documents.lengths
    if pack == "whole":
        # An example too long for a row is useful only if a scored token lies before the cut.
        long = np.flatnonzero(lengths > seq_len)
        lengths = np.minimum(lengths, seq_len)
        if len(long) > LOUD * len(lengths):
            lost = f"{len(long):,} of {len(lengths):,} examples are longer and lose their end"
            warnings.warn(f"seq_len={seq_len}: {lost}: raise it, or read the file with this max_length", stacklevel=3)
        if len(long) and not documents.all_scored:
            long = long[np.argsort(starts[long])]
            edges = np.stack([starts[long], starts[long] + seq_len], axis=1).ravel()
            lengths[long[~np.logical_or.reduceat(np.asarray(documents.scored), edges)[::2]]] = 0
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
        ended = np.isin(documents.tokens[starts + lengths - 1], [documents.eos_token_id, *documents.other_ends])
    return starts, lengths, ended
