"""The attention patterns of training side by side, as one picture."""

from collections.abc import Sequence

import numpy as np

from dllm_core.show.attention.scenes import PATTERNS, POEM, training_scene
from dllm_core.show.figures import COLORS, SQUARES, Picture, draw_cells, our_look
from dllm_core.show.html import MASK

TITLES = ("causal", "bidirectional", "block-causal", "[x_t ; x_0]")  # of the first four `PATTERNS`
MARKS = (  # matplotlib's marker and its color, index in SQUARES, codes of `RULES`, meaning
    ("o", "white", 1, "of", "own block"),
    ("_", "white", 2, "ec", "clean, earlier block"),
    ("x", COLORS["vermilion"], 0, "av", "would show the answer"),
    ("", "white", 0, "", "closed"),
)


@our_look()
def attention_picture(text: Sequence[str] = POEM[:8], block_size: int = 4, documents: int = 1) -> Picture:
    """The four patterns side by side. Dot: own block; bar: clean, earlier block; cross: would show the answer.

    text: the row's tokens; block_size: tokens per block. Raises ValueError for more documents than
    tokens.
    """
    from matplotlib.figure import Figure

    scenes = [training_scene(name, list(text), block_size, documents) for name in PATTERNS[:4]]
    figure = Figure(figsize=(10.5, 5.8), layout="constrained")
    axes = figure.subplot_mosaic([["causal", "bidirectional", "[x_t ; x_0]", "[x_t ; x_0]"],
                                  ["block-causal", "key", "[x_t ; x_0]", "[x_t ; x_0]"]])  # fmt: skip
    for scene, title in zip(scenes, TITLES, strict=True):
        ax, texts = axes[title], [element["text"] for element in scene["elements"]]
        _draw_cells(ax, scene)
        ax.set_title(title + (f", blocks of {block_size}" if title in TITLES[2:] else ""), fontsize=11)
        for set_ticks in (ax.set_xticks, ax.set_yticks):
            set_ticks(range(len(texts)), texts, fontsize=10 if len(text) < 12 else 7)
    large = axes[TITLES[3]]
    halves = f"x_t: noisy{' ' * 40}x_0: clean"
    large.set_xlabel(halves)
    large.yaxis.set_label_position("right")
    large.set_ylabel(halves, rotation=270, labelpad=16)
    _draw_key(axes["key"])
    key = "● own block, ▬ clean token of an earlier block, × would show the answer, empty: closed"
    return Picture(
        figure, f"attention over {len(text)} tokens: causal, bidirectional, block-causal, [x_t ; x_0]; {key}"
    )


def _draw_key(ax) -> None:
    """The meaning of the marks, in an empty part of the figure."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.text(0, 0.93, "A row looks (query),\na column is seen (key).", va="top", fontsize=10)
    heights = [0.60 - 0.135 * row for row in range(len(MARKS) + 1)]
    for y, (marker, color, square, _, meaning) in zip(heights, MARKS, strict=False):
        ax.plot(0.07, y, "s", color=SQUARES[square], markersize=13, markeredgecolor="#c8c8c8")
        ax.plot(0.07, y, marker, color=color, markersize=8 if marker == "_" else 5, markeredgewidth=1.3)
        ax.text(0.17, y, meaning, va="center", fontsize=10)
    ax.text(0.07, heights[-1], MASK, ha="center", va="center", fontsize=11)
    ax.text(0.17, heights[-1], "a masked token", va="center", fontsize=10)


def _draw_cells(ax, scene: dict) -> None:
    """Draw a scene's first frame into matplotlib axes: the `MARKS`, and borders of blocks, documents, views."""
    cells = np.array([list(row) for row in scene["frames"][0]["cells"]])
    chosen = [np.isin(cells, list(codes)) for _, _, _, codes, _ in MARKS]
    draw_cells(ax, chosen[0] + 2 * chosen[1], SQUARES)
    ax.tick_params(pad=2)
    unit = max(2.5, 6.5 - len(cells) / 8)
    for marked, (marker, color, *_) in zip(chosen, MARKS, strict=True):
        queries, keys = np.nonzero(marked)
        size = unit * (1.7 if marker == "_" else 0.8)
        ax.plot(keys, queries, marker=marker, color=color, markersize=size, markeredgewidth=1.3, linestyle="none")
    for edge, level in scene["borders"]:
        line = {"color": "#1a1a1a", "linewidth": (0.7, 1.4, 2.2)[level - 1], "linestyle": "--" if level == 1 else "-"}
        ax.axvline(edge - 0.5, **line)
        ax.axhline(edge - 0.5, **line)
