"""Which token may see which, as records to draw: each cell of a training pattern, each forward of a decoder.

In training a cell's rule is a term of `AttentionPattern.terms()`; the open rules are the terms that
`AttentionPattern.mask()` combines. In decoding it comes from the mask that `decode` passes to the model.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from dllm_core import patterns
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.noise import corrupt
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens
from dllm_core.schedules import NoiseSchedule
from dllm_core.show.html import MASK, visible

POEM = "床前明月光疑是地上霜举头望明月低头思故乡"
WHOLE = {"causal": patterns.causal, "bidirectional": patterns.bidirectional}  # the patterns without blocks
BLOCKED = {
    "block-causal": patterns.block_causal,
    "block diffusion [x_t ; x_0]": patterns.block_diffusion,
    "complementary views [x_t ; x̄_t ; x_0]": partial(patterns.block_diffusion, views=2),
}
PATTERNS = (*WHOLE, *BLOCKED)
STYLES = {"AR, cached": "ar", "LLaDA 1, no cache": "llada1", "LLaDA 2, cached blocks": "llada2"}
DECODERS = tuple(STYLES)

# code of a cell → (whether q may attend to k, name, explanation for query {q} and key {k})
RULES = {
    "o": (True, "own block", "{q} and {k} are of one view and one block: they see each other"),
    "e": (True, "earlier clean", "{k} is clean and its block comes before that of {q}"),
    "d": (False, "other document", "{k} belongs to another document packed into the same row"),
    "l": (
        False,
        "later block",
        "the block of {k} comes after that of {q}: it is not written yet when {q} is predicted",
    ),
    "a": (False, "own answer", "{k} is clean and of the block of {q}: it would show the answer"),
    "n": (False, "noise from outside", "{k} is noisy: only its own noisy block may look at it, and {q} is not in it"),
    "v": (False, "other noisy view", "{k} is of the other noisy view, which shows the tokens that the view of {q} masks"),
    "c": (True, "from the cache", "the key and value of {k} were kept from an earlier forward; {q} reads them"),
    "f": (True, "in this forward", "{k} is computed in this same forward, and {q} may look at it"),
    "w": (False, "not yet", "{k} comes later than what {q} may see, or is not in this forward at all"),
    "r": (False, "not computed", "{q} is not in this forward: nothing is predicted there"),
    "k": (False, "kept", "{q} is final: its key and value stay in the cache and are not computed again"),
}


# training ----------------------------------------------------------------------------------------------------------


def training_pattern(name: str, length: int, block_size: int, documents: int = 1) -> patterns.AttentionPattern:
    """The pattern of one row of `length` tokens, cut into equal documents. Raises ValueError when they do not fit."""
    if not 1 <= documents <= length:
        raise ValueError(f"{documents} documents do not fit into {length} tokens; lower the number of documents")
    document = (torch.arange(length) * documents // length)[None]
    position = torch.arange(length) - torch.searchsorted(document, document)  # the search finds where a document begins
    if name in WHOLE:
        return WHOLE[name](document, position)
    return BLOCKED[name](document, position, block_size)


def rules(pattern: patterns.AttentionPattern) -> list[str]:
    """[S] strings of S codes of `RULES`, a string per query, for the batch's first row: the first term that holds."""
    terms = pattern.terms()
    noisy = pattern.view > 0
    both_noisy = noisy[:, :, None] & noisy[:, None, :]
    ordered = {
        "d": ~terms.same_document,
        "o": terms.own_block,
        "e": terms.earlier_clean,
        "v": both_noisy & ~terms.same_view,
        "n": ~terms.clean,
        "a": terms.same_block,
        "l": torch.ones_like(terms.same_block),
    }
    codes = list(ordered)
    first = torch.stack([term.expand_as(terms.same_block)[0] for term in ordered.values()]).int().argmax(dim=0)
    return ["".join(codes[index] for index in row) for row in first.tolist()]


def training_scene(name: str, tokens: Sequence[str], block_size: int, documents: int = 1) -> dict:
    """One pattern over `tokens` as a record: elements with their labels, cells as codes of `RULES`, parts, borders.

    Noisy elements are masked where `corrupt` masks them at t = 0.5, with a fixed seed.
    """
    pattern = training_pattern(name, len(tokens), block_size, documents)
    noised = _noised(len(tokens))
    one_view = not bool(pattern.view.any())
    all_noisy = name == "bidirectional"  # full diffusion: the row itself is x_t
    elements = []
    for view, token in zip(pattern.view[0].tolist(), pattern.source[0].tolist(), strict=True):
        masked = noised[1 if all_noisy else view][token]
        part = "x_t" if all_noisy else "" if one_view else ("x_0", "x_t", "x̄_t")[view]
        text = MASK if masked else visible(tokens[token])
        elements.append({"text": text, "token": token, "part": part, "masked": masked, "says": []})
    # "says": the tokens that are predicted, and scored, at an element
    for view, predicted_at in enumerate(pattern.predicted_at[0].tolist(), 1):
        scored = noised[view] if all_noisy or not one_view else [True] * len(tokens)
        for token, element in enumerate(predicted_at):
            if pattern.scorable[0, token] and scored[token]:
                elements[element]["says"].append(visible(tokens[token]))
    return {"elements": elements, "borders": _borders(pattern, name), "frames": [{"cells": rules(pattern)}]}


def _noised(length: int) -> list[list[bool]]:
    """[view][token]: whether it is masked, in view 0 (clean), 1 (noisy) and 2 (the complement of 1)."""
    level = NoiseSchedule(t_min=0.5, t_max=0.5 + 1e-6)
    ids, maskable = torch.arange(length)[None], torch.ones(1, length, dtype=torch.bool)
    views = corrupt(ids, maskable, level, -1, torch.Generator().manual_seed(1))
    return [[False] * length, *(view.masked[0].tolist() for view in views)]


def _borders(pattern: patterns.AttentionPattern, name: str) -> list[list[int]]:
    """[element, level] of each border before an element; level 1: of blocks, 2: of documents, 3: of views."""
    document, view, block = (label[0].tolist() for label in (pattern.document, pattern.view, pattern.block))
    borders = []
    for e in range(1, len(view)):
        if view[e] != view[e - 1]:
            borders.append([e, 3])
        elif document[e] != document[e - 1]:
            borders.append([e, 2])
        elif block[e] != block[e - 1] and name != "causal":
            borders.append([e, 1])
    return borders


# decoding ----------------------------------------------------------------------------------------------------------


class _Listener:
    """A model that records the positions and masks of its calls and predicts the true token (`shift` places ahead)."""

    def __init__(self, length: int, shift: int):
        self.config = ModelConfig(length + 2, 4, 1, 1, max_position_embeddings=max(length, 8))
        self.lm_head = SimpleNamespace(weight=torch.zeros(1))
        self.device, self.shift, self.calls = torch.device("cpu"), shift, []

    def __call__(self, tokens, position, mask, cache=None, slots=None, read=None):
        self.calls.append((position[0].tolist(), mask[0].tolist()))
        return (position + self.shift)[read][:, None].float()

    def logits(self, hidden):
        position = hidden[..., 0].long().clamp(max=self.config.vocab_size - 3)
        height = torch.where(position % 3 == 1, 2.0, 8.0)  # every third token is unsure: a block takes a few forwards
        return torch.nn.functional.one_hot(position, self.config.vocab_size) * height[..., None]


def decoding_scene(name: str, tokens: Sequence[str], block_size: int) -> dict:
    """A decoding that writes `tokens` after a prompt, the first third of them, as a record: a frame per forward."""
    length, style = len(tokens), STYLES[name]
    prompt, mask_id, eos = max(2, length // 3), length, length + 1
    new = length - prompt
    listener = _Listener(length, 1 if style == "ar" else 0)
    config = DecodeConfig(
        style, max_new_tokens=new, steps=max(1, new // 2) if style == "llada1" else None,
        block_length=block_size if style == "llada2" else None, threshold=0.9, eos_early_stop=False,
    )  # fmt: skip
    checkpoint = LoadedCheckpoint(listener, CheckpointInfo(style), SpecialTokens(mask_id, eos, eos), Path())
    steps = list(decode(checkpoint, [list(range(prompt))], config))
    frames = []
    known = [token < prompt for token in range(length)]
    for (fed, mask), step in zip(listener.calls, steps, strict=True):
        written = {commit.position: f"{visible(tokens[commit.position])} ({commit.reason})" for commit in step.commits}
        says = [written.get(position, "") for position in range(length)]
        frames.append({"cells": _forward(fed, mask, length), "known": list(known), "fed": sorted(fed), "says": says})
        for position in written:
            known[position] = True
    elements = [
        {"text": visible(token), "token": e, "part": "prompt" if e < prompt else "answer", "masked": False, "says": []}
        for e, token in enumerate(tokens)
    ]
    edges = range(block_size, length, block_size) if style == "llada2" else ()
    borders = dict.fromkeys(edges, 1) | {prompt: 2}
    return {"elements": elements, "borders": sorted(map(list, borders.items())), "frames": frames}


def _forward(fed: list[int], mask: list[list[bool]], length: int) -> list[str]:
    """[length] strings of codes of `RULES`: what each position sees in a forward of `fed`. mask: [len(fed), keys]."""
    rows = dict(zip(fed, mask, strict=True))
    cells = []
    for q in range(length):
        if q not in rows:
            cells.append(("k" if q < min(fed) else "r") * length)
            continue
        seen = [k < len(rows[q]) and rows[q][k] for k in range(length)]
        cells.append("".join("w" if not sees else "f" if k in rows else "c" for k, sees in enumerate(seen)))
    return cells
