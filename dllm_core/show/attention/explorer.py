"""The attention explorer: who may see whom and by which rule, in training and forward by forward in decoding.

One self-contained piece of HTML and JavaScript without any outside address, drawn from recorded `show_scenes`; where no
script runs, a picture stands in its place. Keys: arrows move over the cells, comma and full stop over the forwards.
"""

import base64
import html
import itertools
import json
import zlib
from collections.abc import Sequence
from functools import cache

from dllm_core.show.figures import COLORS, Picture, cell_lines, in_our_look
from dllm_core.show.html import MASK, Html, asset

POEM = "床前明月光疑是地上霜举头望明月低头思故乡"
PATTERNS = (
    "causal",
    "bidirectional",
    "block-causal",
    "block diffusion [x_t ; x_0]",
    "with the twin [x_t ; x̄_t ; x_0]",
)
DECODERS = ("AR, cached", "LLaDA 1, no cache", "LLaDA 2, cached blocks")
BLOCKY = (*PATTERNS[2:], DECODERS[2])  # the block size matters to these only

# code → (open?, name, what it says of query q and key k)
RULES = {
    "o": (True, "own block", "{q} and {k} are of one view and one block: they see each other"),
    "e": (True, "earlier clean", "{k} is clean and its block comes before that of {q}"),
    "d": (False, "other document", "{k} belongs to another document packed into the same row"),
    "l": (
        False,
        "later block",
        "the block of {k} comes after that of {q}: it is not written yet when {q} is predicted",
    ),
    "a": (False, "own answer", "{k} is clean and of the block of {q}: it would lay the answer open"),
    "n": (False, "noise from outside", "{k} is noisy: only its own noisy block may look at it, and {q} is not of it"),
    "v": (False, "other noisy view", "{k} is of the other noisy view, which shows what the view of {q} hides"),
    "c": (True, "from the cache", "the key and value of {k} were kept from an earlier forward; {q} reads them"),
    "f": (True, "in this forward", "{k} is computed in this same forward, and {q} may look at it"),
    "w": (False, "not yet", "{k} comes later than what {q} may see, or is not in this forward at all"),
    "r": (False, "not computed", "{q} is not in this forward: nothing is asked at its place"),
    "k": (False, "kept", "{q} is final: its key and value stay in the cache and are not computed again"),
}
SHORT = ("causal", "bidirectional", "block-causal", "[x_t ; x_0]")  # titles of the picture's parts
_PAGE = """<div class="dllm-attention" id="{id}">
<style>{css}</style>
<div class="dllm-still">{still}</div>
<script>
(() => {{
const here = document.currentScript && document.currentScript.closest(".dllm-attention");
const root = here || document.getElementById("{id}");
{script}
start(root, {data});
}})();
</script>
</div>
"""
_number = itertools.count(1)


def attention(
    text: Sequence[str] = POEM,
    *,
    lengths: Sequence[int] = (8, 12, 16),
    block_sizes: Sequence[int] = (1, 2, 4, 8),
    documents: Sequence[int] = (1, 2),
    t: float = 0.5,
    pattern: str = PATTERNS[3],
) -> Html:
    """Explore every pattern of training and every decoder's forwards, at any of `lengths` and `block_sizes` (tokens).

    text: the row's tokens (a string: its characters), at least max(lengths) of them; documents: how many are packed
    into the row; t: noise level of the hidden tokens; pattern: the one shown first.
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
    chosen = tuple(tokens[: max(lengths)]), tuple(lengths), tuple(block_sizes), tuple(documents), t
    scenes = _scenes(*chosen)
    first = next(key for key in scenes if key.startswith(f"{pattern}|"))
    wish = f"{pattern}|{lengths[0]}|4|1"
    _, length, block, count = (wish if wish in scenes else first).split("|")
    record = {
        "scenes": scenes, "rules": RULES, "mask": MASK, "groups": {"training": PATTERNS, "decoding": DECODERS},
        "first": {"pattern": pattern, "length": length, "block": block, "documents": count, "q": 0, "k": 0},
    }  # fmt: skip
    shown = scenes[f"{pattern}|{length}|{block}|{count}"]["elements"]
    hidden = [e for e, element in enumerate(shown) if element["hidden"] and element["token"] >= int(length) // 2]
    record["first"]["q"] = hidden[0] if hidden else len(shown) // 2
    name = f"dllm-attention-{next(_number)}"
    picture = attention_picture(tokens[: min(lengths)], 4 if 4 in block_sizes else block_sizes[0], t=t)
    png = base64.b64encode(picture.png()).decode("ascii")
    still = f'<img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{png}" style="max-width:100%">'
    packed = base64.b64encode(zlib.compress(json.dumps(record, ensure_ascii=False).encode("utf-8"), 9)).decode("ascii")
    return Html(
        _PAGE.format(id=name, css=asset("palette.css") + asset("attention/attention.css"), still=still, script=asset("attention/attention.js"),
                     data=json.dumps({"deflate": packed})),
        picture.alt,
    )  # fmt: skip


@cache
def _scenes(tokens, lengths, block_sizes, documents, t) -> dict[str, dict]:
    """ "pattern|length|block|documents" → scene, for every combination that exists."""
    from dllm_core.show.attention.scenes import decoding_scene, training_scene

    made = {}
    for name, length in itertools.product((*PATTERNS, *DECODERS), lengths):
        row = tokens[:length]
        sizes = [size for size in block_sizes if length % size == 0 and size < length] if name in BLOCKY else [0]
        for size, count in itertools.product(sizes, documents if name in PATTERNS else (1,)):
            scene = training_scene(name, row, size, count, t) if name in PATTERNS else decoding_scene(name, row, size)
            made[f"{name}|{length}|{size or '–'}|{count}"] = scene
    return made


@in_our_look
def attention_picture(
    text: Sequence[str] = POEM[:8], block_size: int = 4, documents: int = 1, t: float = 0.5
) -> Picture:
    """The four patterns side by side as one picture: dot own block, bar earlier clean, cross would show the answer.

    text: the row's tokens; block_size: tokens a block. Raises ValueError when more documents than tokens are asked for.
    """
    from matplotlib.figure import Figure

    from dllm_core.show.attention.scenes import training_scene

    scenes = [training_scene(name, list(text), block_size, documents, t) for name in PATTERNS[:4]]
    figure = Figure(figsize=(10.5, 5.8), layout="constrained")
    axes = figure.subplot_mosaic([["causal", "bidirectional", "[x_t ; x_0]", "[x_t ; x_0]"],
                                  ["block-causal", "key", "[x_t ; x_0]", "[x_t ; x_0]"]])  # fmt: skip
    for scene, name in zip(scenes, SHORT, strict=True):
        ax, texts = axes[name], [element["text"] for element in scene["elements"]]
        draw_cells(ax, scene)
        ax.set_title(name + (f", blocks of {block_size}" if name in SHORT[2:] else ""), fontsize=11)
        for ticks in (ax.set_xticks, ax.set_yticks):
            ticks(range(len(texts)), texts, fontsize=10 if len(text) < 12 else 7)
    wide = axes[SHORT[3]]
    wide.set_xlabel(f"x_t: noisy{' ' * 40}x_0: clean")
    wide.yaxis.set_label_position("right")
    wide.set_ylabel(f"x_t: noisy{' ' * 40}x_0: clean", rotation=270, labelpad=16)
    _key(axes["key"])
    key = "● own block, ▬ clean token of an earlier block, × would lay the answer open, empty: closed"
    return Picture(
        figure, f"attention over {len(text)} tokens: causal, bidirectional, block-causal, [x_t ; x_0]; {key}"
    )


def _key(ax) -> None:
    """What the marks say, in an empty place."""
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.text(0, 0.93, "A row looks (query),\na column is seen (key).", va="top", fontsize=10)
    words = (("o", "blue", "own block"), ("_", "green", "clean, earlier block"), ("x", None, "would show the answer"),
             ("", None, "closed"), ("░", None, "a hidden token"))  # fmt: skip
    for row, (sign, color, text) in enumerate(words):
        y = 0.60 - 0.135 * row
        if sign == "░":
            ax.text(0.07, y, sign, ha="center", va="center", fontsize=11)
        else:
            ax.plot(
                0.07, y, "s", color=COLORS[color] if color else "#f2f2f2", markersize=13, markeredgecolor="#c8c8c8"
            )
            tone = COLORS["vermilion"] if sign == "x" else "white"
            ax.plot(0.07, y, sign or "", color=tone, markersize=8 if sign == "_" else 5, markeredgewidth=1.3)
        ax.text(0.17, y, text, va="center", fontsize=10)


def draw_cells(ax, scene: dict) -> None:
    """Draw a scene's first frame into matplotlib axes: the marks of the explorer, borders of blocks and parts."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    cells = np.array([list(row) for row in scene["frames"][0]["cells"]])
    n = len(cells)
    own, clean, bad = (np.isin(cells, list(codes)) for codes in ("of", "ec", "av"))
    ax.imshow(own + 2 * clean, cmap=ListedColormap(["#f2f2f2", COLORS["blue"], COLORS["green"]]), vmin=0, vmax=2,
              interpolation="nearest")  # fmt: skip
    ax.grid(False)
    cell_lines(ax, n, n, color="#c8c8c8", linewidth=0.4)
    ax.tick_params(length=0, pad=2)
    ax.xaxis.tick_top()
    mark = max(2.5, 6.5 - n / 8)
    for chosen, sign, color in ((own, "o", "white"), (clean, "_", "white"), (bad, "x", COLORS["vermilion"])):
        q, k = np.nonzero(chosen)
        ax.plot(k, q, sign, color=color, markersize=mark * (1.7 if sign == "_" else 0.8), markeredgewidth=1.3,
                linestyle="none")  # fmt: skip
    for at, kind in scene["borders"]:
        how = {"color": "#1a1a1a", "linewidth": (0.7, 1.4, 2.2)[kind - 1], "linestyle": "--" if kind == 1 else "-"}
        ax.axvline(at - 0.5, **how)
        ax.axhline(at - 0.5, **how)
