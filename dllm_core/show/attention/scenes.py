"""Who sees whom, as records to draw: every cell of a training `AttentionPattern`, and every forward that a decoder asked for.

A cell's rule is a term of `AttentionPattern.terms()`, the open ones those that `AttentionPattern.mask()` combines; in decoding it is the
mask that `decode` hands the model. Nothing is worked out again here.
"""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from dllm_core import patterns
from dllm_core.config import DecodeConfig, ModelConfig
from dllm_core.noise import corrupt
from dllm_core.samplers import decode
from dllm_core.sampling import SpecialTokens
from dllm_core.schedules import NoiseSchedule
from dllm_core.show.attention.explorer import DECODERS, PATTERNS
from dllm_core.show.html import MASK, visible


def rules(pattern: patterns.AttentionPattern) -> list[str]:
    """[S] strings of S codes (of `RULES`): for query (string) and key (place in it) of the first row of the batch, the
    first of the pattern's own terms, in this order, that holds."""
    of, noisy = pattern.terms(), pattern.view > 0
    both_noisy = noisy[:, :, None] & noisy[:, None, :]
    ordered = {
        "d": ~of.same_document, "o": of.own_block, "e": of.earlier_clean,
        "v": both_noisy & ~of.same_view, "n": ~of.clean, "a": of.same_block, "l": torch.ones_like(of.same_block),
    }  # fmt: skip
    first = torch.stack([term.expand_as(of.same_block)[0] for term in ordered.values()]).int().argmax(dim=0)
    return ["".join(list(ordered)[code] for code in row) for row in first.tolist()]


def training_pattern(name: str, length: int, block_size: int, documents: int = 1) -> patterns.AttentionPattern:
    """The pattern of one row of `length` tokens, cut into equal documents. Raises ValueError when they do not fit."""
    if name not in PATTERNS:
        raise ValueError(f"pattern={name!r}: must be one of {', '.join(PATTERNS)}")
    if not 1 <= documents <= length:
        raise ValueError(f"{documents} documents do not fit into {length} tokens; lower the number of documents")
    document = (torch.arange(length) * documents // length)[None]
    starts = torch.stack([(document[0] == number).nonzero()[0, 0] for number in document[0]])
    position = (torch.arange(length) - starts)[None]
    if name == "causal":
        return patterns.causal(document, position)
    if name == "bidirectional":
        return patterns.bidirectional(document, position)
    if name == "block-causal":
        return patterns.block_causal(document, position, block_size)
    return patterns.block_diffusion(document, position, block_size, views=2 if name == PATTERNS[4] else 1)


def training_scene(name: str, tokens: Sequence[str], block_size: int, documents: int = 1, t: float = 0.5) -> dict:
    """One pattern over `tokens` as a record: elements with their labels, cells as codes of `RULES`, parts, borders.

    Noisy elements are hidden where `corrupt` hides them at noise level t (a fixed draw).
    """
    length = len(tokens)
    pattern = training_pattern(name, length, block_size, documents)
    size = pattern.view.shape[1]
    level = NoiseSchedule(t_min=t, t_max=min(1.0, t + 1e-6))
    ids, everything = torch.arange(length)[None], torch.ones(1, length, dtype=torch.bool)
    views = corrupt(ids, everything, level, -1, torch.Generator().manual_seed(1))
    hidden = [None, *(view.masked[0].tolist() for view in views)]
    one_view = not bool(pattern.view.any())
    noisy_alone = name == "bidirectional"  # full diffusion: the row itself is x_t
    elements = []
    for e in range(size):
        view, token = int(pattern.view[0, e]), int(pattern.source[0, e])
        noise = hidden[1 if noisy_alone else view]
        elements.append({
            "text": MASK if noise and noise[token] else visible(tokens[token]),
            "token": token, "part": "x_t" if noisy_alone else "" if one_view else ("x_0", "x_t", "x̄_t")[view],
            "hidden": bool(noise and noise[token]), "says": [],
        })  # fmt: skip
    for view, places in enumerate(pattern.predicted_at[0].tolist()):
        for token, element in enumerate(places):
            noise = hidden[view + 1] if not one_view or noisy_alone else None
            if pattern.scorable[0, token] and (noise is None or noise[token]):
                elements[element]["says"].append(visible(tokens[token]))
    labels = [*zip(*(part[0].tolist() for part in (pattern.document, pattern.view, pattern.block)), strict=True)]
    borders = [
        [e, 3 if a[1] != b[1] else 2 if a[0] != b[0] else 1]
        for e, (a, b) in enumerate(itertools.pairwise(labels), 1)
        if a != b and (name != "causal" or a[:2] != b[:2])
    ]
    return {"elements": elements, "borders": borders, "frames": [{"cells": rules(pattern)}]}


class _Listener:
    """Stands in for a model: notes what it is asked, and names the row's own token everywhere, surer early on.

    shift: how far to the right of its own place the decoder reads a prediction.
    """

    def __init__(self, length: int, shift: int):
        self.config = ModelConfig(length + 2, 4, 1, 1, max_position_embeddings=max(length, 8))
        self.lm_head = SimpleNamespace(weight=torch.zeros(1))
        self.device, self.shift, self.calls = torch.device("cpu"), shift, []

    def __call__(self, tokens, position, mask, cache=None, slots=None, read=None):
        self.calls.append((tokens[0].tolist(), position[0].tolist(), mask[0].tolist()))
        return (position + self.shift)[read][:, None].float()

    def logits(self, hidden):
        place = hidden[..., 0].long().clamp(max=self.config.vocab_size - 3)
        sure = torch.where(place % 3 == 1, 2.0, 8.0)  # every third token is unsure: a block takes a few forwards
        return torch.nn.functional.one_hot(place, self.config.vocab_size) * sure[..., None]


def decoding_scene(name: str, tokens: Sequence[str], block_size: int) -> dict:
    """A decoder at work on `tokens` (the first third is the prompt): a frame per forward that it asked its model for.

    Raises ValueError for a name that is not in `DECODERS`.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder={name!r}: must be one of {', '.join(DECODERS)}")
    length = len(tokens)
    style = ("ar", "llada1", "llada2")[DECODERS.index(name)]
    prompt, mask_id = max(2, length // 3), length
    new = length - prompt
    listener = _Listener(length, 1 if style == "ar" else 0)
    config = DecodeConfig(
        style, max_new_tokens=new, steps=max(1, new // 2) if style == "llada1" else None,
        block_length=block_size if style == "llada2" else None, threshold=0.9, eos_early_stop=False,
    )  # fmt: skip
    steps = list(decode(listener, [list(range(prompt))], config, SpecialTokens(mask_id, length + 1, length + 1)))
    frames = []
    known = [token < prompt for token in range(length)]
    for (_, position, mask), step in zip(listener.calls, steps, strict=True):
        fed = {place: row for row, place in enumerate(position)}
        cells = []
        for q in range(length):
            if q not in fed:
                cells.append(("k" if q < min(fed) else "r") * length)
                continue
            seen = [k < len(mask[fed[q]]) and mask[fed[q]][k] for k in range(length)]
            cells.append("".join("w" if not see else "f" if k in fed else "c" for k, see in enumerate(seen)))
        commits = {commit.position: commit for commit in step.commits}
        says = [
            f"{visible(tokens[e])} ({commits[e].reason})" if e in commits else "" for e in range(length)
        ]  # fmt: skip
        frames.append({"cells": cells, "known": list(known), "fed": sorted(fed), "says": says})
        for place in commits:
            known[place] = True
    elements = [
        {"text": visible(token), "token": e, "part": "prompt" if e < prompt else "answer", "hidden": False, "says": []}
        for e, token in enumerate(tokens)
    ]
    edges = range(block_size, length, block_size) if style == "llada2" else ()
    borders = {edge: 1 for edge in edges} | {prompt: 2}
    return {"elements": elements, "borders": sorted(map(list, borders.items())), "frames": frames}
