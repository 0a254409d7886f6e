"""Decoders as generators: each call of the model yields one `DecodeStep` per row in work.

AR, LLaDA 1 (arXiv 2502.09992, `generate.py`) and LLaDA 2 (arXiv 2512.15745) share sampling, records and the cached
window; they differ in what is predicted and which policy commits it. Greedy batches
give what single runs give; where numbers are drawn, all rows share one generator.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from dllm_core import policies
from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.config import DecodeConfig
from dllm_core.decoding_state import DecodingState
from dllm_core.sampling import SpecialTokens, predict_tokens
from dllm_core.trace import DecodeStep, Trace, with_text


@torch.inference_mode()
def decode(model, prompts, config: DecodeConfig, ids: SpecialTokens, label_shift: bool = False) -> Iterator[DecodeStep]:
    """Decode continuations of `prompts` (lists of token ids, lengths may differ). Yields a step per row and model call.

    Raises ValueError for an empty prompt, or a prompt and answer longer than the model's positions.
    """
    starts = [start_of(prompt, config, ids) for prompt in prompts]
    if not starts:
        return
    decoder = {"ar": decode_ar, "llada1": decode_llada1, "llada2": decode_llada2}[config.style]
    began, lengths = time.perf_counter(), [len(prompt) for prompt in prompts]
    with for_inference(model) as runner:
        yield from decoder(DecodingState.begin(runner, starts, lengths, config, ids, label_shift, began))


def start_of(prompt: list[int], config: DecodeConfig, ids: SpecialTokens) -> list[int]:
    """The sequence at the start: the prompt and masks; LLaDA 2 fills its last block (the grid starts at position 0)."""
    if not prompt:
        raise ValueError("prompt: is empty; give at least one token (bos)")
    if ids.mask in prompt:
        raise ValueError(f"prompt: holds the mask token ({ids.mask}) at {prompt.index(ids.mask)}; use infill for gaps")
    length = len(prompt) + config.max_new_tokens
    if config.style == "llada2":
        length = -(-length // block_length(config)) * block_length(config)
    return list(prompt) + [ids.mask] * (length - len(prompt))


def block_length(config: DecodeConfig) -> int:
    return config.block_length or 32


def generate(model, prompts, config: DecodeConfig, tokenizer, label_shift: bool = False) -> list[Trace]:
    """RunFolder `decode` to the end: one `Trace` per prompt, with texts."""
    ids = SpecialTokens.of(tokenizer)
    traces = [new_trace(prompt, start_of(prompt, config, ids), config, ids) for prompt in prompts]
    for step in decode(model, prompts, config, ids, label_shift):
        traces[step.row].steps.append(step)
    return [with_text(trace, tokenizer) for trace in traces]


def infill(model, tokens: list[int], config: DecodeConfig, tokenizer, label_shift: bool = False) -> Trace:
    """RunFolder `decode_gaps` to the end: the `Trace` with its text."""
    ids = SpecialTokens.of(tokenizer)
    trace = new_trace([], list(tokens), gap_config(tokens, config, ids), ids)
    trace.steps.extend(decode_gaps(model, tokens, config, ids, label_shift))
    return with_text(trace, tokenizer)


@torch.inference_mode()
def decode_gaps(model, tokens, config, ids: SpecialTokens, label_shift: bool = False) -> Iterator[DecodeStep]:
    """Fill the masks in `tokens` [L], wherever they stand, with full attention: LLaDA 1's sampler, for bidirectional
    checkpoints. Yields a step per model call; raises `gap_config`'s ValueError."""
    config, began = gap_config(tokens, config, ids), time.perf_counter()
    with for_inference(model) as runner:
        yield from decode_llada1(DecodingState.begin(runner, [list(tokens)], [0], config, ids, label_shift, began))


def gap_config(tokens: list[int], config: DecodeConfig, ids: SpecialTokens) -> DecodeConfig:
    """`config` as it fills gaps: all of them one block, one step per gap token unless `steps` says fewer, no end.
    Raises ValueError when `tokens` hold no mask, or there are more steps than masks."""
    gaps = tokens.count(ids.mask)
    if not gaps:
        raise ValueError(f"tokens: hold no mask ({ids.mask}); mark each gap token with the mask id")
    if config.steps is not None and config.steps > gaps:
        raise ValueError(f"steps={config.steps}: must be at most the {gaps} masked tokens")
    steps = config.steps or gaps
    return replace(config, style="llada1", max_new_tokens=gaps, block_length=None, steps=steps, eos_early_stop=False)


def new_trace(prompt, start, config: DecodeConfig, ids: SpecialTokens) -> Trace:
    return Trace(config.style, list(prompt), start, ids.mask, ids.eos, settings=config.to_dict())


def decode_ar(state: DecodingState) -> Iterator[DecodeStep]:
    """Left to right, one token a forward; a block diffusion of block size 1 whose labels are shifted.

    Yields a step per row and forward. Logits [B, V], read at the last known token; all before it is cached.
    """
    position = state.prompt.clone()
    while len(state.row):
        # 1. everything not cached, up to the last known token
        one = torch.ones_like(position, dtype=torch.bool)[:, None]
        logits = state.forward(state.window(state.cached, position, 1), position[:, None], one)
        state.cached = position if state.config.use_cache else state.cached
        # 2. the next token
        made = predict_tokens(logits, state.config, state.ids, state.generator).placed(one)
        state.tokens.scatter_(1, position[:, None], made.token)
        reason = torch.full_like(made.token, policies.REASONS.index("ar"))
        choice = policies.Commits(one, reason, torch.zeros_like(position))
        left = state.length - position - 1
        blocks = [(p, p + 1) for p in position.tolist()]
        yield from state.record.steps(state.row.tolist(), position, made, one, choice, left, blocks)
        # 3. rows that ended leave
        position = position + 1
        going = position < state.length
        if state.config.eos_early_stop:
            going &= made.token[:, 0] != state.ids.eos
        if not going.all():
            position = position[going]
            state.keep(going)


def decode_llada2(state: DecodingState) -> Iterator[DecodeStep]:
    """Block after block; within a block, refine until no mask is left (LLaDA 2.0, inference).

    Yields a step per row and forward. Logits [n, V] of the n masks of each row's own block (rows need not be in the
    same one); what is above the threshold is committed, else the most confident. Finished blocks are final and cached:
    the next block's first forward stores their keys and values, so that none is spent on that alone.
    """
    config, size = state.config, block_length(state.config)
    quota = torch.tensor(policies.tokens_per_step(size, config.steps or size) + [0], device=state.tokens.device)
    quota = quota.clamp(min=config.minimal_topk)
    start = state.prompt // size * size
    total = left = state.answer_masks().sum(dim=1)
    refined = torch.zeros_like(start)
    columns = torch.arange(size, device=state.tokens.device)
    window = None  # what a forward runs; None where it is to be made: in a block's first forward, and when rows have left
    while len(state.row):
        # 1. one forward over what is not cached and the current block
        if fresh := window is None:
            position = start[:, None] + columns
            first = torch.minimum(state.cached, (start - 1).clamp(min=0)) if state.label_shift else state.cached
            window = state.window(first, start + size, size)
        tokens = state.tokens.gather(1, position)
        masked = tokens == state.ids.mask
        logits = state.forward(window, position, masked)
        if fresh and config.use_cache and not torch.equal(state.cached, start):
            state.cached, window = start, None  # from now on the block alone is run
        # 2. guesses and confidences at the block's masks
        made = predict_tokens(logits, config, state.ids, state.generator).placed(masked)
        # 3. commit what is above the threshold, at least the schedule's share, at most the budget
        here = masked.sum(dim=1)
        least = quota[refined.clamp(max=len(quota) - 1)]
        ratios = config.cap_start_ratio, config.cap_end_ratio
        most = policies.commit_budget(left, total, *ratios, config.max_decode_per_step)
        choice = policies.commit_above_threshold(made.confidence, masked, config.threshold, torch.minimum(least, here), most)
        state.tokens.scatter_(1, position, torch.where(choice.commit, made.token, tokens))
        count = choice.commit.sum(dim=1)
        left = left - count
        blocks = [(s, s + size) for s in start.tolist()]
        yield from state.record.steps(state.row.tolist(), start, made, masked, choice, left, blocks)
        # 4. next block where this one is full; rows that ended leave
        full, refined, going = count == here, refined + 1, None
        if full.any():
            start, refined, window = torch.where(full, start + size, start), torch.where(full, 0, refined), None
            going = start < state.length
        if config.eos_early_stop:
            going = ~state.ended() if going is None else going & ~state.ended()
        if going is not None and not going.all():
            start, refined, total, left, window = start[going], refined[going], total[going], left[going], None
            state.keep(going)


def decode_llada1(state: DecodingState) -> Iterator[DecodeStep]:
    """All positions at once with full attention; `steps` steps spread over the semi-autoregressive blocks (LLaDA,
    Algorithm 5 and `generate.py`).

    Yields a step per row and forward. Logits [n, V] of the block's n masks, from the whole window; each step keeps its
    share of the most confident (or of random ones) and hides the rest again. Nothing can be cached.
    """
    config = state.config
    size = config.block_length or int((state.length - state.prompt).max())
    per_block = (config.steps or config.max_new_tokens) // (config.max_new_tokens // min(size, config.max_new_tokens))
    columns = torch.arange(size, device=state.tokens.device)
    start, refined, quota, window = state.prompt.clone(), 0, None, None
    while len(state.row):
        # 1. one full forward: every position, in one block (uncached: each may change with every other)
        if window is None:
            window = state.window(torch.zeros_like(start), state.length, state.tokens.shape[1])
        position = start[:, None] + columns
        tokens = state.tokens.gather(1, position)
        masked = tokens == state.ids.mask
        logits = state.forward(window, position, masked)
        # 2. guesses; confidence of the block's masks, or a random order
        made = predict_tokens(logits, config, state.ids, state.generator).placed(masked)
        if refined == 0:
            shares = [policies.tokens_per_step(n, per_block) for n in masked.sum(dim=1).tolist()]
            quota = torch.tensor(shares, device=position.device)
        order = made.confidence
        if config.remasking == "random":
            order = torch.rand(order.shape, generator=state.generator).to(order)
        # 3. keep the step's share, remask the rest
        choice = policies.commit_top_k(order, masked, quota[:, refined])
        state.tokens.scatter_(1, position, torch.where(choice.commit, made.token, tokens))
        left = state.answer_masks().sum(dim=1)
        blocks = [(s, min(s + size, n)) for s, n in zip(start.tolist(), state.length.tolist(), strict=True)]
        yield from state.record.steps(state.row.tolist(), start, made, masked, choice, left, blocks)
        # 4. next block after its steps; rows that ended leave
        refined += 1
        if refined == per_block:
            start, refined = start + size, 0
        going = (start < state.length) & (left > 0)
        if config.eos_early_stop:
            going &= ~state.ended()
        if not going.all():
            start, quota, window = start[going], quota[going], None
            state.keep(going)
