"""The state of a batch in decoding: its tokens and cache, one forward over the part that must be run, its records."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.common.errors import NOT_FINITE
from dllm_core.compute.cuda_graphs import cache_length
from dllm_core.compute.kv_cache import KVCache
from dllm_core.config import DecodeConfig
from dllm_core.policies import Commits
from dllm_core.sampling import LOWEST, Prediction, guide
from dllm_core.trace import REASONS, Commit, DecodeStep, Edit, end_token_ids


@dataclass(frozen=True)
class Window:
    """The positions that a forward runs; the same for every forward of a block once the blocks before it are cached."""

    first: Tensor  # [B] int64, position of column 0
    position: Tensor  # [B, W] int64
    slots: Tensor  # [B, W] int64, where keys and values are stored; a shorter row's padding: where no mask shows it
    mask: Tensor  # [B, W, K] bool


def block_length(config: DecodeConfig) -> int:
    """LLaDA 2's block length: 32 unless the config says another."""
    return config.block_length or 32


def grid_offset(prompt_length: int, config: DecodeConfig, grid: str) -> int:
    """By how many positions the first block of LLaDA 2 is shorter than the others, so that with the grid "answer" a
    block begins where the answer does; 0 with the grid "start"."""
    return -prompt_length % block_length(config) if config.style == "llada2" and grid == "answer" else 0


def computed_positions(length: int, config: DecodeConfig, offset: int = 0) -> int:
    """The positions that decoding a sequence of `length` takes: LLaDA 2 computes whole blocks, from `grid_offset` on."""
    return length + -(length + offset) % block_length(config) if config.style == "llada2" else length


class DecodingState:
    """A batch with its cache while it is decoded. Under guidance a second copy of the batch, its condition masked, runs
    beside the first (an input that block training never showed)."""

    def __init__(
        self, model, checkpoint, sequences: list[list[int]], prompt_lengths: list[int], config: DecodeConfig,
        began: float,
    ):  # fmt: skip
        """model: the checkpoint's, in the form that decodes; sequences: prompts with their masks; began:
        `time.perf_counter()` when the decoding began. Raises ValueError where a sequence is longer than the model's
        positions."""
        self.model, self.config, self.label_shift, self.began = model, config, checkpoint.info.label_shift, began
        self.name, tokenizer = getattr(checkpoint, "path", None) or "the model", checkpoint.tokenizer
        self.mask_token_id = tokenizer.mask_token_id
        self.ends = torch.tensor(end_token_ids(tokenizer), device=model.device)  # [E], the tokens that end an answer
        self.generator = torch.Generator().manual_seed(config.seed)
        self.steps_done = [0] * len(sequences)  # by the row's number at the start
        offsets = [grid_offset(length, config, checkpoint.info.grid) for length in prompt_lengths]
        ends = [computed_positions(len(s), config, offset) for s, offset in zip(sequences, offsets, strict=True)]
        device, batch, longest = model.device, len(sequences), max(ends)
        most = model.config.max_position_embeddings
        if longest > most:
            raise ValueError(f"prompt and answer take {longest} positions: more than max_position_embeddings={most}")
        # 1. tokens [B, T], right-padded; in LLaDA 2 more masks complete the last block
        self.tokens = torch.full((batch, longest), tokenizer.pad_token_id, device=device)
        for i, sequence in enumerate(sequences):
            self.tokens[i, : ends[i]] = self.mask_token_id
            self.tokens[i, : len(sequence)] = torch.tensor(sequence, device=device)
        # [B] positions of the prompt, and of prompt and answer; [B, T] those up to the answer's end, those given
        self.prompt = torch.tensor(prompt_lengths, device=device)
        self.offset = torch.tensor(offsets, device=device)  # [B], of the grid of blocks
        self.length = torch.tensor([len(sequence) for sequence in sequences], device=device)
        self.asked = torch.arange(longest, device=device) < self.length[:, None]
        self.condition = self.asked & (self.tokens != self.mask_token_id)
        self.total = (self.tokens == self.mask_token_id).sum(dim=1)  # [B], masks at the start
        self.row = torch.arange(batch, device=device)  # [B], each row's number at the start
        # 2. an empty cache: positions below `cached` [B] are final, their keys and values stored; LLaDA 1 has none, since
        # every position may change with every other
        self.cached, self.cache = torch.zeros_like(self.row), None
        if config.style != "llada1":
            copies = 2 if config.cfg_scale else 1
            slots = cache_length(longest, most, device)
            self.cache = KVCache.empty(model.config, batch * copies, slots, device, model.lm_head.weight.dtype)
        # 3. of a decoding with edits: tokens that are never predicted, as (position, token); where the block of the last
        # step begins, and how many steps it has had in a row
        self.forbidden: list[tuple[int, int]] = []
        self.block, self.refined = -1, 0

    def window(self, start: Tensor, end: Tensor, block: int) -> Window:
        """Positions [start, end) of each row, block-causal on the grid of `block`. start, end: [B] int64."""
        length, width = self.tokens.shape[1], int((end - start).max())
        column, key = (torch.arange(count, device=start.device) for count in (width, int(end.max())))
        position = (start[:, None] + column).clamp(max=length - 1)
        slots = position.masked_fill(start[:, None] + column >= end[:, None], length)
        offset = self.offset[:, None]
        earlier_or_own_block = ((key + offset) // block)[:, None] <= ((position + offset) // block)[:, :, None]
        mask = earlier_or_own_block & (key < end[:, None])[:, None]
        if self.config.cfg_scale:
            position, slots, mask = position.repeat(2, 1), slots.repeat(2, 1), mask.repeat(2, 1, 1)
        return Window(start, position, slots, mask)

    def forward(self, window: Window, position: Tensor, masked: Tensor) -> Tensor:
        """One forward over the window, which writes its keys and values to the cache → logits [n, V] of the n positions
        that `masked` [B, N] marks among `position` [B, N]."""
        rows, columns = masked.nonzero(as_tuple=True)
        # 1. where the predictions are read: with shifted labels one element before the token's own
        first = window.first + 1 if self.label_shift or self.config.style == "ar" else window.first
        elements = (position - first[:, None]).clamp(min=0)[rows, columns]
        # 2. the tokens of the window; under guidance also without the prompt
        tokens = self.tokens.gather(1, window.position[: len(self.row)])
        if self.config.cfg_scale:
            condition = self.condition.gather(1, window.position[: len(self.row)])
            tokens = torch.cat([tokens, tokens.masked_fill(condition, self.mask_token_id)])
            rows, elements = torch.cat([rows, rows + len(self.row)]), elements.repeat(2)
        # 3. hidden states there, and their logits
        hidden = self.model(tokens, window.position, window.mask, self.cache, window.slots, read=(rows, elements))
        logits = self.model.logits(hidden)
        logits = guide(*logits.float().chunk(2), self.config.cfg_scale) if self.config.cfg_scale else logits
        for forbidden, token in self.forbidden:
            logits[position[masked] == forbidden, token] = LOWEST
        return logits

    def answer_masks(self) -> Tensor:
        """[B, T] bool: positions of the answer still to be decoded."""
        return self.asked & (self.tokens == self.mask_token_id)

    def first_block(self, origin: Tensor, size: int) -> Tensor:
        """[B], where the block of each row's first mask begins, on the grid of `size` through `origin` [B]."""
        first = self.answer_masks().int().argmax(dim=1)
        return first - (first - origin) % size

    def ended(self) -> Tensor:
        """[B] bool: a token that ends an answer stands in the answer with no mask before it."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        end = (self.tokens[..., None] == self.ends).any(dim=-1) & (columns >= self.prompt[:, None])
        return (end & (self.answer_masks().int().cumsum(dim=1) == 0)).any(dim=1)

    def unfinished(self) -> Tensor:
        """[B] bool: masks are left, and the answer has not ended before them."""
        masks_left = self.answer_masks().any(dim=1)
        return masks_left & ~self.ended() if self.config.eos_early_stop else masks_left

    def edit(self, edit: Edit) -> None:
        """Apply a person's edit to the only row. Keys and values stay valid before the block of what it changed."""
        if edit.action == "forbid":
            self.forbidden.append((edit.position, edit.token))
        size = block_length(self.config) if self.config.style == "llada2" else 1
        tokens = dict(enumerate(self.tokens[0].tolist()))
        for position, token in edit.changes(tokens, self.mask_token_id, self.config.style).items():
            self.tokens[0, position] = token
            self.cached = self.cached.clamp(max=position - (position + self.offset) % size)

    def keep(self, rows: Tensor) -> None:
        """Drop finished rows (bool [B], True stays), so that the others run in a smaller batch."""
        for name in ("tokens", "asked", "condition", "prompt", "offset", "length", "total", "cached", "row"):
            setattr(self, name, getattr(self, name)[rows])
        if self.cache is not None:
            self.cache = self.cache.keep(rows.repeat(2) if self.config.cfg_scale else rows)

    def record(
        self, first: Tensor, prediction: Prediction, masked: Tensor, commits: Commits, remaining: Tensor
    ) -> list[DecodeStep]:
        """The step of each row, counted. first: [B], where its block begins; prediction, masked, commits: of the
        block's positions [B, N]; remaining: [B], masks of the row after the step. Raises FloatingPointError for NaN."""
        seconds, forwards = time.perf_counter() - self.began, 2 if self.config.cfg_scale else 1
        # few transfers in all: each waits for the device
        cells = torch.stack([prediction.token, commits.reasons, commits.commit, masked], dim=1).tolist()
        confidences, entropies = prediction.measures.tolist()
        of_rows = torch.stack([first, self.length, remaining, commits.held_back], dim=1).tolist()
        top = prediction.top and [part.tolist() for part in prediction.top]
        records = []
        for i, row in enumerate(self.row.tolist()):
            token, reason, commit, was_masked = cells[i]
            confidence, entropy, (start, end, still_masked, held_back) = confidences[i], entropies[i], of_rows[i]
            block = (start, min(start + len(was_masked), end))
            candidates = [n for n, is_masked in enumerate(was_masked) if is_masked]
            count = max(len(candidates), 1)
            committed, draft = [], []
            for n in candidates:
                if commit[n]:
                    others = self._alternatives(top, i, n, token[n])
                    committed.append(Commit(start + n, token[n], confidence[n], REASONS[reason[n]], others))
                elif self.config.draft:
                    draft.append((start + n, token[n], confidence[n]))
            step = DecodeStep(
                self.steps_done[row], row, forwards, seconds, block, tuple(committed), still_masked,
                confidence=sum(confidence[n] for n in candidates) / count,
                entropy=sum(entropy[n] for n in candidates) / count,
                draft=tuple(draft), held_back=held_back,
            )  # fmt: skip
            if math.isnan(step.confidence):
                raise FloatingPointError(f"{self.name}: predicts nan at positions {block}; {NOT_FINITE}")
            records.append(step)
            self.steps_done[row] += 1
        return records

    def _alternatives(self, top: list | None, row: int, column: int, chosen: int) -> tuple[tuple[int, float], ...]:
        """The runners-up of one position. top: token ids and probabilities, [B][N][k + 1] each."""
        if top is None:
            return ()
        pairs = zip(top[0][row][column], top[1][row][column], strict=True)
        return tuple(pair for pair in pairs if pair[0] != chosen)[: self.config.alternatives]
