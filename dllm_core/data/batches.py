"""TokenDataset into rows of equal length: packed, filled, shuffled by a seed, resumable.

Three layouts. "cut": documents end to end, cut every L tokens, nothing empty (pretraining). "whole": whole examples,
several to a row, the rest of the row padding (SFT). fill="batch": one example to a row, as LLaDA's SFT has it.
Everything a batch holds follows from (seed, documents, settings, state), so a run can go on where it stopped.
"""

from collections.abc import Iterator
from copy import copy
from functools import cached_property

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.data.rows import Batch, Segments, collate, count_up, trainable_spans
from dllm_core.data.token_cache import TokenDataset

__all__ = ["Batch", "PackedBatches", "validation_batches"]

LOOKAHEAD = 64  # examples set aside, at most, while a shorter one is sought for the room that is left
AHEAD = 2**15  # tokens laid out together, where batches are smaller: little enough for the caches
PROBE = 4  # batches packed to estimate how many an epoch has


class PackedBatches:
    """An endless iterator of `Batch`, epoch after epoch, each in another order.

    pack="cut": rows of seq_len; a document cut at a row's end goes on in the next row as a document of its own; the
    epoch's last tokens, fewer than a row, are left out (another order, other tokens). pack="whole": examples stay whole
    (longer ones are cut at seq_len), first-fit into batch_size rows. fill, for whole examples, adds eos tokens that
    belong to the example's document:
      "batch"   one example to a row, filled to the longest of the batch (LLaDA, arXiv 2502.09992, SFT)
      "random"  a tail of random length U{0..max_fill}, packed
      "block"   up to the next multiple of block_size, packed (LLaDA 2.0's quantised effective length, arXiv 2512.15745)
    Only an example that ends with eos is filled; one that was cut has no end to learn. fill_scored=False: the filling
    is there but not scored. Several processes that train together each make all batches (see `team`).
    Raises DataError when the settings cannot make a batch of these documents.
    """

    def __init__(
        self,
        documents: TokenDataset,
        *,
        batch_size: int,
        seq_len: int,
        pad_token_id: int,
        eos_token_id: int,
        seed: int = 0,
        pack: str = "cut",
        fill: str | None = None,
        block_size: int | None = None,
        fill_scored: bool = True,
        max_fill: int | None = None,
        shuffle: bool = True,
    ):
        _check(batch_size, seq_len, pack, fill, block_size, max_fill)
        self.documents, self.batch_size, self.seq_len = documents, batch_size, seq_len
        self.pad_token_id, self.eos_token_id = pad_token_id, eos_token_id
        self.seed, self.pack, self.fill, self.block_size = seed, pack, fill, block_size
        self.fill_scored, self.max_fill = fill_scored, seq_len if max_fill is None else max_fill
        self.shuffle = shuffle
        self._starts, self._lengths, self._ended = trainable_spans(documents, seq_len, fill, pack, eos_token_id)
        # An epoch's size: rows, or examples. Text shorter than one row makes one row with padding.
        self._size = max(1, int(self._lengths.sum()) // seq_len) if pack == "cut" else len(self._lengths)
        self._shortest = int(self._lengths.min())
        self._orders: dict[int, tuple] = {}
        self._next = 0  # rows or examples taken so far
        self._aside: list[int] = []  # examples taken but not yet placed (their running numbers)
        self._ready: list[Batch] = []  # laid out but not yet given, the next one last

    def __iter__(self) -> "PackedBatches":
        return self

    @property
    def epoch(self) -> int:
        """Epochs begun before the next batch, from 0."""
        return self._next // self._size

    @cached_property
    def batches_per_epoch(self) -> int:
        """PackedBatches of one epoch, at least 1; for packed examples an estimate from the first ones."""
        if self.pack == "cut" or self.fill == "batch":
            return max(1, self._size // self.batch_size)
        probe = copy(self)
        probe._next, probe._aside = 0, []
        for _ in range(PROBE):
            probe._packed()
        return max(1, round(self._size * PROBE / (probe._next - len(probe._aside))))

    def steps(self, epochs: float) -> int:
        """PackedBatches of so many passes over the data (a fraction may be asked for), at least 1. Raises DataError for none."""
        if not epochs > 0:
            raise DataError(f"epochs={epochs}: must be more than 0, as 0.5 for half a pass over the data")
        return max(1, round(epochs * self.batches_per_epoch))

    def state(self) -> dict:
        """Where the iteration stands, for JSON."""
        return {"next": self._next, "aside": list(self._aside), "size": self._size}

    def load_state(self, state: dict) -> None:
        """Go on exactly where `state` was taken. Raises DataError when it was taken from other documents."""
        if state["size"] != self._size:
            raise DataError(
                f"the saved data position counts {state['size']} {'rows' if self.pack == 'cut' else 'examples'} an "
                f"epoch, these data make {self._size}: resume with the data, seq_len and packing of the first run"
            )
        self._next, self._aside, self._ready = int(state["next"]), [int(i) for i in state["aside"]], []

    def __next__(self) -> Batch:
        if self.pack == "whole" and self.fill != "batch":
            return self._assemble(*self._packed(), self.seq_len)
        if not self._ready:
            self._ready = self._laid_ahead()
        self._next += self.batch_size
        return self._ready.pop()

    def _laid_ahead(self) -> list[Batch]:
        """The next batches, the last first: several at once where rows are of one width, since laying out
        few tokens costs as much as laying out many."""
        count = max(1, AHEAD // (self.batch_size * self.seq_len)) if self.pack == "cut" else 1
        laid = self._laid(self._next + np.arange(count * self.batch_size))
        return laid.split(self.batch_size)[::-1]

    # --- which rows or examples come next -------------------------------------------------------------------------

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document of each place [N], where its tokens begin in the epoch's stream [N + 1], fill of each place)."""
        if epoch not in self._orders:
            count = len(self._lengths)
            draw = np.random.default_rng([self.seed, epoch])
            order = draw.permutation(count) if self.shuffle else np.arange(count)
            lengths = self._lengths[order]
            bounds = np.concatenate([[0], np.cumsum(lengths)])
            fill = np.zeros(count, np.int64)
            if self.fill == "random":
                fill = draw.integers(0, self.max_fill + 1, count)
            elif self.fill == "block":
                fill = -lengths % self.block_size
            if fill.any():
                fill = np.where(self._ended[order], np.minimum(fill, self.seq_len - lengths), 0)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}  # at most two epochs are open
            self._orders[epoch] = (order, bounds, fill)
        return self._orders[epoch]

    def _examples(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(document, fill), each [n], of running example numbers."""
        document, fill = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
        epochs = numbers // self._size
        for epoch in np.unique(epochs):
            order, _, fills = self._order(int(epoch))
            here = epochs == epoch
            place = numbers[here] % self._size
            document[here], fill[here] = order[place], fills[place]
        return document, fill

    # --- the three layouts ----------------------------------------------------------------------------------------

    def _laid(self, numbers: np.ndarray) -> Batch:
        """The batch whose rows have these running numbers."""
        if self.pack == "cut":
            return self._assemble(self._cut(numbers), len(numbers), self.seq_len)
        placed = self._one_to_a_row(numbers)
        return self._assemble(placed, len(numbers), int(placed.length.max()))

    def _cut(self, numbers: np.ndarray) -> Segments:
        """The pieces of documents that lie in these rows of the epochs' streams."""
        parts = []
        epochs = numbers // self._size
        for epoch in np.unique(epochs):
            order, bounds, _ = self._order(int(epoch))
            rows = np.flatnonzero(epochs == epoch)
            start = numbers[rows] % self._size * self.seq_len  # of each row, in the stream
            first = np.searchsorted(bounds, start, "right") - 1
            pieces = np.searchsorted(bounds, start + self.seq_len, "left").clip(max=len(order)) - first
            row, start = np.repeat(rows, pieces), np.repeat(start, pieces)
            number = count_up(pieces)
            place = np.repeat(first, pieces) + number
            begin = np.maximum(bounds[place], start)
            length = np.minimum(bounds[place + 1], start + self.seq_len) - begin
            source = self._starts[order[place]] + begin - bounds[place]
            parts.append((row, begin - start, source, length, np.zeros_like(length), number))
        return Segments(*(np.concatenate(column) for column in zip(*parts)))

    def _one_to_a_row(self, numbers: np.ndarray) -> Segments:
        document, _ = self._examples(numbers)
        length, zero = self._lengths[document], np.zeros_like(document)
        fill = np.where(self._ended[document], length.max() - length, 0)
        return Segments(np.arange(len(numbers)), zero, self._starts[document], length, fill, zero)

    def _packed(self, limit: int | None = None) -> tuple[Segments, int]:
        """First-fit: each example into the first row with room; what fits nowhere waits for the next batch.

        limit: take examples below this running number only. Returns also the number of rows that hold something.
        """
        room = np.full(self.batch_size, self.seq_len)
        count = [0] * self.batch_size
        still_open = self.batch_size  # rows in which the shortest example has room
        laid: list[tuple[int, ...]] = []
        waiting, self._aside = self._aside, []
        for k, (number, source, length, fill) in enumerate(self._stream(waiting, limit)):
            row = int((room >= length + fill).argmax())
            left = int(room[row])
            if left >= length + fill:
                laid.append((row, self.seq_len - left, source, length, fill, count[row]))
                room[row] = left = left - length - fill
                count[row] += 1
                still_open -= left < self._shortest
            else:
                self._aside.append(number)
            if len(self._aside) >= LOOKAHEAD or not still_open:
                self._aside += waiting[k + 1 :]
                break
        return Segments(*np.array(laid, np.int64).reshape(-1, 6).T), sum(n > 0 for n in count)

    def _stream(self, waiting: list[int], limit: int | None) -> Iterator[tuple[int, int, int, int]]:
        """(running number, first token, length, fill) of the examples set aside, then of those that come next."""
        yield from self._described(np.array(waiting, np.int64))
        while limit is None or self._next < limit:
            ahead = self._next + np.arange(256)
            for example in self._described(ahead if limit is None else ahead[ahead < limit]):
                self._next += 1
                yield example

    def _described(self, numbers: np.ndarray) -> list[tuple[int, int, int, int]]:
        document, fill = self._examples(numbers)
        parts = numbers, self._starts[document], self._lengths[document], fill
        return list(zip(*(part.tolist() for part in parts)))

    def _assemble(self, placed: Segments, rows: int, width: int) -> Batch:
        ids = self.pad_token_id, self.eos_token_id
        return collate(self.documents, placed, rows, width, *ids, self.fill_scored)


def validation_batches(documents: TokenDataset, *, rows: int | None = None, **settings) -> list[Batch]:
    """One pass over the documents in order, for validation: always the same batches, at most `rows` rows in all.

    settings: those of `PackedBatches`. With pack="cut" the last row is padded, so that no token is left out. Raises DataError
    when no row is asked for.
    """
    if rows is not None and rows < 1:
        raise DataError(f"rows={rows}: must be at least 1, or None for all")
    batches = PackedBatches(documents, shuffle=False, **settings)
    total = int(batches._lengths.sum())
    if batches.pack == "cut":
        batches._size = -(-total // batches.seq_len)
    size = batches._size
    made: list[Batch] = []
    left = size if rows is None else rows
    while left > 0 and (batches._next < size or batches._aside):
        if batches.pack == "cut" or batches.fill == "batch":
            numbers = np.arange(batches._next, min(batches._next + batches.batch_size, size))
            batches._next += len(numbers)
            batch = batches._laid(numbers)
        else:
            batch = batches._assemble(*batches._packed(limit=size), batches.seq_len)
        made.append(batch.rows(0, left))
        left -= len(batch.tokens)
    return made


def _check(batch_size, seq_len, pack, fill, block_size, max_fill) -> None:
    for name, value in (("batch_size", batch_size), ("seq_len", seq_len)):
        if value < 1:
            raise DataError(f"{name}={value}: must be at least 1")
    if pack not in ("cut", "whole"):
        raise DataError(f'pack={pack!r}: must be "cut" or "whole"')
    if fill not in (None, "batch", "random", "block"):
        raise DataError(f'fill={fill!r}: must be None, "batch", "random" or "block"')
    if fill is not None and pack == "cut":
        raise DataError(f'fill={fill!r} needs pack="whole": text that is cut into rows leaves nothing to fill')
    if max_fill is not None and max_fill < 0:
        raise DataError(f"max_fill={max_fill}: must be 0 or more")
    if fill == "block" and not block_size:
        raise DataError('fill="block" needs a block_size')
    if block_size is not None and (block_size < 1 or seq_len % block_size):
        raise DataError(f"block_size={block_size} does not divide seq_len={seq_len}")
