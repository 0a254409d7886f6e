"""A batch in decoding: its tokens, its cache, and one forward over the part of it that must be run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.compute import cuda_graphs as replay
from dllm_core.config import DecodeConfig
from dllm_core.model import KVCache
from dllm_core.sampling import Recorder, SpecialTokens, guided


@dataclass(frozen=True)
class Window:
    """What a forward runs; the same for every forward of a block once the blocks before it are cached.

    first: [B] int64, position of column 0. position, slots: [B, W] int64 (a shorter row's padding writes to a
    slot that no mask shows). mask: [B, W, K] bool.
    """

    first: Tensor
    position: Tensor
    slots: Tensor
    mask: Tensor


@dataclass
class DecodingState:
    """A batch in work with its cache. tokens: [B, T]; given: [B, T] bool; prompt, length, cached, row: [B] int64.

    Positions below `cached` are final and their keys and values stored. Under guidance a second copy of the batch, all
    that was given masked, runs beside the first (an input that block training never showed).
    """

    model: torch.nn.Module
    config: DecodeConfig
    ids: SpecialTokens
    label_shift: bool
    generator: torch.Generator
    tokens: Tensor
    given: Tensor
    prompt: Tensor
    length: Tensor
    cached: Tensor
    row: Tensor
    cache: KVCache | None
    record: Recorder

    @classmethod
    def begin(cls, model, starts, prompt_lengths, config, ids, label_shift, began: float) -> "DecodingState":
        device, batch, longest = model.device, len(starts), max(map(len, starts))
        most = model.config.max_position_embeddings
        if longest > most:
            raise ValueError(f"prompt and answer take {longest} positions: more than max_position_embeddings={most}")
        tokens = torch.full((batch, longest), ids.pad, device=device)
        for i, start in enumerate(starts):
            tokens[i, : len(start)] = torch.tensor(start, device=device)
        copies = 2 if config.cfg_scale else 1
        cache = None  # LLaDA 1 has nothing to keep: every position may change with every other
        if config.style != "llada1":
            length = replay.cache_length(longest, most, device)
            cache = KVCache.empty(model.config, batch * copies, length, device, model.lm_head.weight.dtype)
        numbers = prompt_lengths, [len(start) for start in starts], range(batch)
        prompt, length, row = (torch.tensor(values, device=device) for values in numbers)
        given = (tokens != ids.mask) & (torch.arange(longest, device=device) < length[:, None])
        return cls(
            model, config, ids, label_shift, torch.Generator().manual_seed(config.seed), tokens, given, prompt,
            length, torch.zeros_like(row), row, cache, Recorder(config, began, [0] * batch),
        )  # fmt: skip

    def window(self, start: Tensor, end: Tensor, block: int) -> Window:
        """Positions [start, end) of each row, block-causal on the grid of `block`. start, end: [B] int64."""
        length, width = self.tokens.shape[1], int((end - start).max())
        column, key = (torch.arange(count, device=start.device) for count in (width, int(end.max())))
        position = (start[:, None] + column).clamp(max=length - 1)
        slots = position.masked_fill(start[:, None] + column >= end[:, None], length)
        earlier_or_own_block = key // block <= (position // block)[:, :, None]
        mask = earlier_or_own_block & (key < end[:, None])[:, None]
        if self.config.cfg_scale:
            position, slots, mask = position.repeat(2, 1), slots.repeat(2, 1), mask.repeat(2, 1, 1)
        return Window(start, position, slots, mask)

    def forward(self, window: Window, position: Tensor, masked: Tensor) -> Tensor:
        """RunFolder the window, whose keys and values are (over)written in the cache; logits [n, V] of the tokens at the n
        True places of `masked` [B, N], places whose positions are `position` [B, N]."""
        rows, columns = masked.nonzero(as_tuple=True)
        # with shifted labels a token is predicted one element before its own
        first = window.first + 1 if self.label_shift or self.config.style == "ar" else window.first
        elements = (position - first[:, None]).clamp(min=0)[rows, columns]
        tokens = self.tokens.gather(1, window.position[: len(self.row)])
        if self.config.cfg_scale:
            given = self.given.gather(1, window.position[: len(self.row)])
            tokens = torch.cat([tokens, tokens.masked_fill(given, self.ids.mask)])
            rows, elements = torch.cat([rows, rows + len(self.row)]), elements.repeat(2)
        hidden = self.model(tokens, window.position, window.mask, self.cache, window.slots, read=(rows, elements))
        logits = self.model.logits(hidden)
        return guided(*logits.float().chunk(2), self.config.cfg_scale) if self.config.cfg_scale else logits

    def answer_masks(self) -> Tensor:
        """[B, T] bool: positions still to be decoded."""
        return self.tokens == self.ids.mask

    def ended(self) -> Tensor:
        """[B] bool: eos stands in the answer with no mask before it."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        stop = (self.tokens == self.ids.eos) & (columns >= self.prompt[:, None])
        return (stop & (self.answer_masks().int().cumsum(dim=1) == 0)).any(dim=1)

    def keep(self, rows: Tensor) -> None:
        """Drop finished rows (bool [B]) so that the others run in a smaller batch."""
        for name in ("tokens", "given", "prompt", "length", "cached", "row"):
            setattr(self, name, getattr(self, name)[rows])
        if self.cache is not None:
            self.cache = self.cache.keep(rows.repeat(2) if self.config.cfg_scale else rows)
