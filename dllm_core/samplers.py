"""Decoders as generators: each call of the model yields one `DecodeStep` per row in work.

AR, LLaDA 1 (arXiv 2502.09992, `generate.py`) and LLaDA 2 (arXiv 2512.15745) share sampling, records and the cached
window; they differ in what is predicted and which policy commits it. A greedy batch gives what single runs give; where
tokens are sampled, all rows share one generator.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

import torch

from dllm_core import policies
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.decoding_state import DecodingState, block_length
from dllm_core.model import Transformer
from dllm_core.sampling import predict_tokens
from dllm_core.trace import REASONS, DecodeStep, Edit, Trace, checked_edits, with_text


class Decodable(Protocol):
    """What decoding needs of a checkpoint; `checkpoints.formats.LoadedCheckpoint` is one."""

    model: Transformer
    tokenizer: object  # with the ids of `sampling.SpecialTokens` and, where texts are wanted, `decode`
    info: CheckpointInfo  # its `label_shift` says where predictions are read


def generate(
    checkpoint: Decodable, prompts: list[list[int]], config: DecodeConfig, edits: Sequence[Edit] = ()
) -> list[Trace]:
    """Run `decode` to the end: one `Trace` per prompt, with its texts."""
    traces = [new_trace(checkpoint, prompt, config, edits) for prompt in prompts]
    for step in decode(checkpoint, prompts, config, edits):
        traces[step.row].steps.append(step)
    return [with_text(trace, checkpoint.tokenizer) for trace in traces]


def infill(checkpoint: Decodable, tokens: list[int], config: DecodeConfig, edits: Sequence[Edit] = ()) -> Trace:
    """Run `decode_gaps` to the end: the `Trace` with its text."""
    trace = new_gap_trace(checkpoint, tokens, config, edits)
    trace.steps.extend(decode_gaps(checkpoint, tokens, config, edits))
    return with_text(trace, checkpoint.tokenizer)


def decode(
    checkpoint: Decodable, prompts: list[list[int]], config: DecodeConfig, edits: Sequence[Edit] = ()
) -> Iterator[DecodeStep]:
    """Decode continuations of `prompts` (token ids; lengths may differ). Yields a step per row and model call.

    edits: made by hand, of a single prompt. A branch is decoded again from its start, so its record alone repeats it.
    Raises ValueError for an empty prompt, a prompt and answer longer than the model's positions, an edit that the
    sequence cannot have or of a step that is never reached.
    """
    mask_token_id = checkpoint.tokenizer.mask_token_id
    sequences = [initial_tokens(prompt, config, mask_token_id) for prompt in prompts]
    if sequences:
        yield from _steps(checkpoint, sequences, [len(prompt) for prompt in prompts], config, edits)


def decode_gaps(
    checkpoint: Decodable, tokens: list[int], config: DecodeConfig, edits: Sequence[Edit] = ()
) -> Iterator[DecodeStep]:
    """Fill the masks in `tokens` [L], wherever they stand, with full attention: LLaDA 1's sampler, for bidirectional
    checkpoints. Yields a step per model call; raises `gap_config`'s ValueError, and that of `decode` for edits."""
    config = gap_config(tokens, config, checkpoint.tokenizer.mask_token_id)
    yield from _steps(checkpoint, [list(tokens)], [0], config, edits)


@torch.inference_mode()
def _steps(checkpoint, sequences: list[list[int]], prompt_lengths: list[int], config, edits) -> Iterator[DecodeStep]:
    """The steps of the style's decoder, run by the form of the model that is fastest on its device."""
    began = time.perf_counter()
    if edits and len(sequences) > 1:
        raise ValueError(f"edits: are of one sequence, not of a batch of {len(sequences)}; decode it alone")
    decoder = {"ar": decode_ar, "llada1": decode_llada1, "llada2": decode_llada2}[config.style]
    fastest = for_inference if isinstance(checkpoint.model, Transformer) else nullcontext
    with fastest(checkpoint.model) as model:
        state = DecodingState(model, checkpoint, sequences, prompt_lengths, config, began)
        if edits:
            edits = _checked(edits, checkpoint, sequences[0])
        yield from _edited_steps(decoder, state, edits) if edits else decoder(state)


def _checked(edits: Sequence[Edit], checkpoint: Decodable, initial: list[int]) -> list[Edit]:
    return checked_edits(edits, initial, checkpoint.tokenizer.mask_token_id, checkpoint.model.config.vocab_size)


def _edited_steps(decoder, state: DecodingState, edits: list[Edit]) -> Iterator[DecodeStep]:
    """The steps of one sequence. Where a person has edited it, the decoder is begun again: it goes on in the block of the
    first mask, as if this block had had the steps before in a row, or none if they were of another block."""
    steps, done = decoder(state), 0
    while True:
        if now := [edit for edit in edits if edit.step == done]:
            for edit in now:
                state.edit(edit)
            steps = decoder(state) if state.unfinished().all() else iter(())
        if (step := next(steps, None)) is None:
            break
        state.refined = state.refined + 1 if step.block[0] == state.block else 1
        state.block, done = step.block[0], done + 1
        yield step
    if edits[-1].step > done:
        raise ValueError(f"{edits[-1]}: this step is never reached; the decoding has {done}")


def initial_tokens(prompt: list[int], config: DecodeConfig, mask_token_id: int) -> list[int]:
    """The prompt and the masks of its answer."""
    if not prompt:
        raise ValueError("prompt: is empty; give at least one token (bos)")
    if mask_token_id in prompt:
        position = prompt.index(mask_token_id)
        raise ValueError(f"prompt: holds the mask token ({mask_token_id}) at {position}; use infill for gaps")
    return list(prompt) + [mask_token_id] * config.max_new_tokens


def gap_config(tokens: list[int], config: DecodeConfig, mask_token_id: int) -> DecodeConfig:
    """`config` as it fills gaps: all of them are one block, one step per gap token unless `steps` says fewer, no end.
    Raises ValueError when `tokens` hold no mask, or there are more steps than masks."""
    gaps = tokens.count(mask_token_id)
    if not gaps:
        raise ValueError(f"tokens: hold no mask ({mask_token_id}); mark each gap token with the mask id")
    if config.steps is not None and config.steps > gaps:
        raise ValueError(f"steps={config.steps}: must be at most the {gaps} masked tokens")
    steps = config.steps or gaps
    return replace(config, style="llada1", max_new_tokens=gaps, block_length=None, steps=steps, eos_early_stop=False)


def new_trace(checkpoint: Decodable, prompt: list[int], config: DecodeConfig, edits: Sequence[Edit] = ()) -> Trace:
    """The record of a decoding that has had no step yet."""
    initial = initial_tokens(prompt, config, checkpoint.tokenizer.mask_token_id)
    return Trace.begin(checkpoint.tokenizer, prompt, initial, config, _checked(edits, checkpoint, initial))


def new_gap_trace(checkpoint: Decodable, tokens: list[int], config: DecodeConfig, edits: Sequence[Edit] = ()) -> Trace:
    """The record of gaps of which none is filled yet."""
    config = gap_config(tokens, config, checkpoint.tokenizer.mask_token_id)
    return Trace.begin(checkpoint.tokenizer, [], tokens, config, _checked(edits, checkpoint, tokens))


def decode_ar(state: DecodingState) -> Iterator[DecodeStep]:
    """Left to right, one token a forward; a block diffusion of block size 1 whose labels are shifted.

    Yields a step per row and forward. Logits [B, V], read at the last known token; all before it is cached.
    """
    config, position = state.config, state.first_block(state.prompt, 1)
    state.cached = torch.minimum(state.cached, position - 1)  # the last known token runs again: the next is read there
    while len(state.row):
        # 1. one forward over what is not cached, up to the last known token
        next_token = torch.ones_like(position, dtype=torch.bool)[:, None]
        logits = state.forward(state.window(state.cached, position, 1), position[:, None], next_token)
        state.cached = position if config.use_cache else state.cached
        # 2. the next token is predicted and committed
        prediction = predict_tokens(logits, config, state.mask_token_id, state.generator).scatter(next_token)
        state.tokens.scatter_(1, position[:, None], prediction.token)
        reason = torch.full_like(prediction.token, REASONS.index("ar"))
        commits = policies.Commits(next_token, reason, torch.zeros_like(position))
        yield from state.record(position, prediction, next_token, commits, state.length - position - 1)
        # 3. rows that ended leave
        position = position + 1
        unfinished = position < state.length
        if config.eos_early_stop:
            unfinished &= (prediction.token != state.ends).all(dim=1)
        if not unfinished.all():
            position = position[unfinished]
            state.keep(unfinished)


def decode_llada1(state: DecodingState) -> Iterator[DecodeStep]:
    """All positions at once with full attention; `steps` steps spread over the semi-autoregressive blocks (LLaDA,
    Algorithm 5 and `generate.py`).

    Yields a step per row and forward. Logits [n, V] of the block's n masks, from a forward over the whole sequence;
    each step keeps its share of the most confident (or of random) predictions and masks the rest again. No cache.
    """
    config = state.config
    size = config.block_length or int((state.length - state.prompt).max())
    blocks_in_all = config.max_new_tokens // min(size, config.max_new_tokens)
    steps_per_block = (config.steps or config.max_new_tokens) // blocks_in_all
    columns = torch.arange(size, device=state.tokens.device)
    start, window = state.first_block(state.prompt, size), None
    refined = torch.where(start == state.block, state.refined, 0)
    while len(state.row):
        # 1. one forward over every position (uncached: each may change with every other)
        if window is None:
            window = state.window(torch.zeros_like(start), state.length, state.tokens.shape[1])
        position = start[:, None] + columns
        tokens = state.tokens.gather(1, position)
        masked = tokens == state.mask_token_id
        logits = state.forward(window, position, masked)
        # 2. predictions at the block's masks, ranked by confidence or at random
        prediction = predict_tokens(logits, config, state.mask_token_id, state.generator).scatter(masked)
        rank_by = prediction.confidence
        if config.remasking == "random":
            rank_by = torch.rand(rank_by.shape, generator=state.generator).to(rank_by)
        # 3. commit the step's share, an even one of the block's remaining steps; mask the rest again
        count, steps_left = masked.sum(dim=1), (steps_per_block - refined).clamp(min=1)
        share = -(-count // steps_left)  # rounded up, so that the remainder falls on the earliest steps
        commits = policies.commit_top_k(rank_by, masked, share)
        state.tokens.scatter_(1, position, torch.where(commits.commit, prediction.token, tokens))
        yield from state.record(start, prediction, masked, commits, state.answer_masks().sum(dim=1))
        # 4. the next block where this one is full; rows whose answer is complete or ended leave
        full, refined = share == count, refined + 1
        if full.any():
            start, refined = state.first_block(state.prompt, size), torch.where(full, 0, refined)
        unfinished = state.unfinished()
        if not unfinished.all():
            start, refined, window = start[unfinished], refined[unfinished], None
            state.keep(unfinished)


def decode_llada2(state: DecodingState) -> Iterator[DecodeStep]:
    """Block after block; within a block, refine until no mask is left (LLaDA 2.0, inference).

    Yields a step per row and forward. Logits [n, V] of the n masks of each row's current block (rows need not be in the
    same one). Every prediction above the threshold is committed, else the most confident. Finished blocks are final and
    cached: the next block's first forward stores their keys and values, so no forward is spent on that alone.
    """
    config, size = state.config, block_length(state.config)
    columns = torch.arange(size, device=state.tokens.device)
    quota = torch.tensor(policies.tokens_per_step(size, config.steps or size) + [0], device=columns.device)
    quota = quota.clamp(min=config.minimal_topk)
    start = state.first_block(-state.offset, size)
    refined = torch.where(start == state.block, state.refined, 0)
    window = None  # None in a block's first forward, and when rows have left
    while len(state.row):
        # 1. one forward over what is not cached and the current block
        new_window = window is None
        if new_window:
            position = start[:, None] + columns
            first = torch.minimum(state.cached, (start - 1).clamp(min=0)) if state.label_shift else state.cached
            window = state.window(first, start + size, size)
        tokens = state.tokens.gather(1, position)
        masked = tokens == state.mask_token_id
        logits = state.forward(window, position, masked)
        if new_window and config.use_cache and not torch.equal(state.cached, start):
            state.cached, window = start, None  # the following forwards run the block alone
        # 2. predictions and their confidence at the block's masks
        prediction = predict_tokens(logits, config, state.mask_token_id, state.generator).scatter(masked)
        # 3. commit what is above the threshold, at least the schedule's share, at most the budget
        count, remaining = masked.sum(dim=1), (state.tokens == state.mask_token_id).sum(dim=1)
        least = torch.minimum(quota[refined.clamp(max=len(quota) - 1)], count)
        ratios = config.cap_start_ratio, config.cap_end_ratio
        most = policies.commit_budget(remaining, state.total, *ratios, config.max_decode_per_step)
        commits = policies.commit_above_threshold(prediction.confidence, masked, config.threshold, least, most)
        state.tokens.scatter_(1, position, torch.where(commits.commit, prediction.token, tokens))
        asked = position < state.length[:, None]
        yield from state.record(start, prediction, masked & asked, commits, state.answer_masks().sum(dim=1))
        # 4. the next block where this one is full; rows whose answer is complete or ended leave
        full, refined = commits.commit.sum(dim=1) == count, refined + 1
        if full.any():
            start, refined, window = state.first_block(-state.offset, size), torch.where(full, 0, refined), None
        unfinished = state.unfinished()
        if not unfinished.all():
            start, refined, window = start[unfinished], refined[unfinished], None
            state.keep(unfinished)
