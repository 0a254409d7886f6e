"""The attention explorer: which token may see which and by which rule, in training and in each forward of a decoding.

Self-contained HTML and JavaScript that loads nothing from the network, drawn from the records of `scenes`. A picture is
shown where scripts do not run. Keys: arrows move over the cells, comma and full stop over the forwards.
"""

import itertools
from collections.abc import Sequence
from functools import cache

from dllm_core.show.attention.picture import attention_picture
from dllm_core.show.attention.scenes import BLOCKED, DECODERS, PATTERNS, POEM, RULES, decoding_scene, training_scene
from dllm_core.show.html import MASK, Html, asset, script_piece

WITH_BLOCKS = (*BLOCKED, DECODERS[2])


def attention(
    text: Sequence[str] = POEM,
    *,
    lengths: Sequence[int] = (8, 12, 16),
    block_sizes: Sequence[int] = (1, 2, 4, 8),
    documents: Sequence[int] = (1, 2),
    pattern: str = PATTERNS[3],
) -> Html:
    """Explore every pattern of training and every decoder's forwards, at any of `lengths` and `block_sizes` (tokens).

    text: the row's tokens (a string: its characters), at least max(lengths) of them; documents: numbers of documents
    in a row; pattern: the pattern shown at first.
    Raises ValueError when the text is too short, a pattern unknown, or no block size divides a length.
    """
    tokens = list(text)
    if not lengths or len(tokens) < max(lengths):
        raise ValueError(f"lengths={tuple(lengths)}: the text has {len(tokens)} tokens; give a longer one")
    if pattern not in (*PATTERNS, *DECODERS):
        raise ValueError(f"pattern={pattern!r}: must be one of {', '.join((*PATTERNS, *DECODERS))}")
    odd = [n for n in lengths if not any(n % size == 0 and size < n for size in block_sizes)]
    if odd:
        raise ValueError(f"block_sizes={tuple(block_sizes)}: none of them divides the length {odd[0]}")
    scenes = _scenes(tuple(tokens[: max(lengths)]), tuple(lengths), tuple(block_sizes), tuple(documents))
    record = {
        "scenes": scenes, "rules": RULES, "mask": MASK, "groups": {"training": PATTERNS, "decoding": DECODERS},
        "first": _first(scenes, pattern, lengths[0]),
    }  # fmt: skip
    picture = attention_picture(tokens[: min(lengths)], 4 if 4 in block_sizes else block_sizes[0])
    markup = script_piece(
        "attention/attention.html",
        css=asset("palette.css") + asset("attention/attention.css"),
        script=asset("unpack.js") + asset("attention/attention.js"),
        static=picture.html,
        data=record,
    )
    return Html(markup, picture.text)


@cache
def _scenes(tokens, lengths, block_sizes, documents) -> dict[str, dict]:
    """Key "pattern|length|block|documents" → scene, for every combination that exists."""
    scenes = {}
    for name, length in itertools.product((*PATTERNS, *DECODERS), lengths):
        row = tokens[:length]
        sizes = [size for size in block_sizes if length % size == 0 and size < length] if name in WITH_BLOCKS else [0]
        for size, count in itertools.product(sizes, documents if name in PATTERNS else (1,)):
            scene = training_scene(name, row, size, count) if name in PATTERNS else decoding_scene(name, row, size)
            scenes[f"{name}|{length}|{size or '–'}|{count}"] = scene
    return scenes


def _first(scenes: dict[str, dict], pattern: str, length: int) -> dict:
    """The initial choice: blocks of 4 in one document if there are any, and a masked token of the second half."""
    key = f"{pattern}|{length}|4|1"
    if key not in scenes:
        key = next(key for key in scenes if key.startswith(f"{pattern}|"))
    _, length, block, documents = key.split("|")
    elements = scenes[key]["elements"]
    masked = [e for e, element in enumerate(elements) if element["masked"] and element["token"] >= int(length) // 2]
    query = masked[0] if masked else len(elements) // 2
    return {"pattern": pattern, "length": length, "block": block, "documents": documents, "q": query, "k": 0}
