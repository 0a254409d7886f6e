"""From a `TokenDataset` to `Batch`es of equal rows: packed, filled, shuffled by a seed, resumable.

Three layouts. "cut": all documents concatenated and cut every L tokens, without padding (pretraining). "whole": rows of
whole examples, with padding at the end (SFT). fill="batch": one example per row, as in LLaDA's SFT.
Documents, settings (with the seed) and state determine every batch, so a run can continue where it stopped.
"""

import math
from collections.abc import Iterator
from copy import copy
from functools import cached_property, lru_cache

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.data.rows import Batch, Segments, collate, count_up, trainable_spans
from dllm_core.data.token_cache import TokenDataset

__all__ = ["Batch", "PackedBatches", "validation_batches"]

LOOKAHEAD = 64  # most examples that wait for the next batch while shorter ones are sought for the space left
AHEAD = 2**15  # tokens collated at once when batches are smaller: few enough for the processor's caches
PROBE = 4  # batches packed to estimate the number of batches of an epoch


class PackedBatches:
    """An endless iterator of `Batch`, epoch after epoch, each in a different order.

    pack="cut": rows of seq_len; a document cut at a row's end continues in the next row as a new document; the last
    tokens of an epoch, fewer than a row, are left out. pack="whole": examples stay whole (longer ones are cut at
    seq_len), first-fit into batch_size rows. fill, for whole examples, adds eos tokens to the example's document:
      "batch"   one example per row, filled to the longest of the batch (LLaDA, arXiv 2502.09992, SFT)
      "random"  a tail of random length U{0..max_fill}, packed
      "block"   up to the next multiple of block_size, packed (LLaDA 2.0's quantized effective length, arXiv 2512.15745)
    Only an example that ends with eos is filled, not one that was cut. fill_scored=False: the filling is not scored.
    Raises DataError when the settings cannot make a batch of these documents.
    """

    def __init__(
        self,
        documents: TokenDataset,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        pack: str = "cut",
        fill: str | None = None,
        block_size: int | None = None,
        fill_scored: bool = True,
        max_fill: int | None = None,
        shuffle: bool = True,
    ):
        _check(batch_size, seq_len, pack, fill, block_size, max_fill)
        self.documents, self.batch_size, self.seq_len, self.shuffle = documents, batch_size, seq_len, shuffle
        self.seed, self.pack, self.fill, self.block_size = seed, pack, fill, block_size
        self.fill_scored, self.max_fill = fill_scored, seq_len if max_fill is None else max_fill
        self._starts, self._lengths, self._ended = trainable_spans(documents, seq_len, fill, pack)
        # Size of an epoch, in rows or examples. Text shorter than one row makes one row with padding.
        self._size = max(1, int(self._lengths.sum()) // seq_len) if pack == "cut" else len(self._lengths)
        self._shortest = int(self._lengths.min())
        self._order = lru_cache(2)(self._shuffled)  # at most two epochs are open
        self._next = 0  # number of the next row or example, counted through all epochs
        self._end = math.inf  # number after the last row or example
        self._waiting: list[int] = []  # numbers of examples passed over, to be placed in a later batch
        self._ready: list[Batch] = []  # collated but not yet returned, the next one last

    def __iter__(self) -> "PackedBatches":
        return self

    @property
    def epoch(self) -> int:
        """Epochs begun before the next batch, from 0."""
        return self._next // self._size

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch, at least 1; for packed examples an estimate from the first batches."""
        if self.pack == "cut" or self.fill == "batch":
            return max(1, self._size // self.batch_size)
        probe = copy(self)
        probe._next, probe._waiting = 0, []
        for _ in range(PROBE):
            probe._pack()
        return max(1, round(self._size * PROBE / (probe._next - len(probe._waiting))))

    def steps(self, epochs: float) -> int:
        """Batches of so many passes over the data (a fraction is allowed), at least 1. Raises DataError for epochs ≤ 0."""
        if not epochs > 0:
            raise DataError(f"epochs={epochs}: must be more than 0, as 0.5 for half a pass over the data")
        return max(1, round(epochs * self.batches_per_epoch))

    def state(self) -> dict:
        """The position in the data, for JSON."""
        return {"next": self._next, "aside": list(self._waiting), "size": self._size}

    def load_state(self, state: dict) -> None:
        """Continue exactly where `state` was taken. Raises DataError when it was taken from other documents."""
        if state["size"] != self._size:
            raise DataError(
                f"the saved data position counts {state['size']} {'rows' if self.pack == 'cut' else 'examples'} an "
                f"epoch, these data make {self._size}: resume with the data, seq_len and packing of the first run"
            )
        self._next, self._waiting, self._ready = int(state["next"]), [int(i) for i in state["aside"]], []

    def __next__(self) -> Batch:
        if self.pack == "whole" and self.fill != "batch":
            return self._collate(*self._pack(), self.seq_len)
        if not self._ready:
            # several batches at once when all rows have the same width: collating has a fixed cost
            count = max(1, AHEAD // (self.batch_size * self.seq_len)) if self.pack == "cut" else 1
            numbers = np.arange(self._next, min(self._next + count * self.batch_size, self._end))
            segments, width = self._cut(numbers) if self.pack == "cut" else self._one_per_row(numbers)
            self._ready = self._collate(segments, len(numbers), width).split(self.batch_size)[::-1]
        batch = self._ready.pop()
        self._next += len(batch.tokens)
        return batch

    # --- the order of an epoch ------------------------------------------------------------------------------------

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document [N] in the epoch's order, its first token in the epoch's stream [N + 1], its fill [N])."""
        count = len(self._lengths)
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(count) if self.shuffle else np.arange(count)
        lengths = self._lengths[order]
        begin = np.concatenate([[0], np.cumsum(lengths)])
        fill = np.zeros(count, np.int64)
        if self.fill == "random":
            fill = rng.integers(0, self.max_fill + 1, count)
        elif self.fill == "block":
            fill = -lengths % self.block_size
        fill = np.where(self._ended[order], np.minimum(fill, self.seq_len - lengths), 0)
        return order, begin, fill

    def _examples(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(document, fill), each [n], of the examples with these numbers."""
        document, fill = np.empty_like(numbers), np.empty_like(numbers)
        epochs, index = np.divmod(numbers, self._size)
        for epoch in np.unique(epochs):
            order, _, fills = self._order(int(epoch))
            here = epochs == epoch
            document[here], fill[here] = order[index[here]], fills[index[here]]
        return document, fill

    # --- the three layouts ----------------------------------------------------------------------------------------

    def _cut(self, numbers: np.ndarray) -> tuple[Segments, int]:
        """(segments, width) of the rows of the stream with these numbers."""
        parts = []
        epochs, index_in_epoch = np.divmod(numbers, self._size)
        for epoch in np.unique(epochs):
            order, bounds, _ = self._order(int(epoch))
            rows = np.flatnonzero(epochs == epoch)
            start = index_in_epoch[rows] * self.seq_len  # of each row, in the stream
            first = np.searchsorted(bounds, start, "right") - 1  # document in which the row starts
            count = np.searchsorted(bounds, start + self.seq_len, "left").clip(max=len(order)) - first
            row, start = np.repeat(rows, count), np.repeat(start, count)
            number = count_up(count)
            index = np.repeat(first, count) + number
            begin = np.maximum(bounds[index], start)
            length = np.minimum(bounds[index + 1], start + self.seq_len) - begin
            source = self._starts[order[index]] + begin - bounds[index]
            parts.append((row, begin - start, source, length, np.zeros_like(length), number))
        return Segments(*map(np.concatenate, zip(*parts))), self.seq_len

    def _one_per_row(self, numbers: np.ndarray) -> tuple[Segments, int]:
        """(segments, width) of the examples with these numbers."""
        document, _ = self._examples(numbers)
        length, zero = self._lengths[document], np.zeros_like(document)
        longest = int(length.max())
        fill = np.where(self._ended[document], longest - length, 0)
        return Segments(np.arange(len(numbers)), zero, self._starts[document], length, fill, zero), longest

    def _pack(self) -> tuple[Segments, int]:
        """First-fit: each example goes into the first row with space for it, or waits. Also the number of rows in use."""
        room = np.full(self.batch_size, self.seq_len)
        count = [0] * self.batch_size
        still_open = self.batch_size  # rows in which the shortest example has room
        segments: list[tuple[int, ...]] = []
        earlier, self._waiting = self._waiting, []
        for k, (number, source, length, fill) in enumerate(self._stream(earlier)):
            row = int((room >= length + fill).argmax())
            left = int(room[row])
            if left >= length + fill:
                segments.append((row, self.seq_len - left, source, length, fill, count[row]))
                room[row] = left = left - length - fill
                count[row] += 1
                still_open -= left < self._shortest
            else:
                self._waiting.append(number)
            if len(self._waiting) >= LOOKAHEAD or not still_open:
                self._waiting += earlier[k + 1 :]
                break
        return Segments(*np.array(segments, np.int64).reshape(-1, 6).T), sum(n > 0 for n in count)

    def _stream(self, earlier: list[int]) -> Iterator[list[int]]:
        """[number, first token, length, fill] of the examples that waited, then of those that come next."""
        yield from self._described(np.array(earlier, np.int64))
        while self._next < self._end:
            for example in self._described(np.arange(self._next, min(self._next + 256, self._end))):
                self._next += 1
                yield example

    def _described(self, numbers: np.ndarray) -> list[list[int]]:
        document, fill = self._examples(numbers)
        return np.stack([numbers, self._starts[document], self._lengths[document], fill], axis=1).tolist()

    def _collate(self, segments: Segments, rows: int, width: int) -> Batch:
        return collate(self.documents, segments, rows, width, self.fill_scored)


def validation_batches(documents: TokenDataset, *, rows: int | None = None, **settings) -> list[Batch]:
    """One pass over the documents in order, for validation: always the same batches, at most `rows` rows in all.

    settings: those of `PackedBatches`. With pack="cut" the last row is padded, so that no token is left out. Raises
    DataError for rows < 1.
    """
    if rows is not None and rows < 1:
        raise DataError(f"rows={rows}: must be at least 1, or None for all")
    source = PackedBatches(documents, shuffle=False, **settings)
    if source.pack == "cut":
        source._size = -(-int(source._lengths.sum()) // source.seq_len)
    source._end = source._size
    batches: list[Batch] = []
    left = source._size if rows is None else rows
    while left > 0 and (source._next < source._end or source._waiting):
        batches.append(next(source).rows(0, left))
        left -= len(batches[-1].tokens)
    return batches


def _check(batch_size, seq_len, pack, fill, block_size, max_fill) -> None:
    for name, value in (("batch_size", batch_size), ("seq_len", seq_len)):
        if value < 1:
            raise DataError(f"{name}={value}: must be at least 1")
    if pack not in ("cut", "whole"):
        raise DataError(f'pack={pack!r}: must be "cut" or "whole"')
    if fill not in (None, "batch", "random", "block"):
        raise DataError(f'fill={fill!r}: must be None, "batch", "random" or "block"')
    if fill is not None and pack == "cut":
        raise DataError(f'fill={fill!r} needs pack="whole": rows cut from concatenated text have no space to fill')
    if max_fill is not None and max_fill < 0:
        raise DataError(f"max_fill={max_fill}: must be 0 or more")
    if fill == "block" and not block_size:
        raise DataError('fill="block" needs a block_size')
    if block_size is not None and (block_size < 1 or seq_len % block_size):
        raise DataError(f"block_size={block_size} does not divide seq_len={seq_len}")
