"""Which keys and values each forward pass of a decoding computes, and which it reads from the cache, as a picture."""

from collections.abc import Sequence

import numpy as np

from dllm_core.config import DecodeConfig
from dllm_core.decoding_state import block_length
from dllm_core.show.figures import COLORS, Picture, draw_cells, new_figure, our_look
from dllm_core.show.trace_view import trace_labels
from dllm_core.trace import Trace

UNSEEN, READ, STORED, DISCARDED = range(4)
LOOKS = (  # by these numbers: color, mark and its color, meaning
    ("#f7f7f7", "", "white", "not seen"),
    ("#bcdcf0", "", "white", "read from the cache"),
    (COLORS["blue"], "o", "white", "computed, final, stored"),
    (COLORS["orange"], "x", "#1a1a1a", "computed, not stored: again in the next forward pass"),
)
HEIGHT = 0.17  # of a row, in inches


def cache_work(trace: Trace) -> np.ndarray:
    """[steps, S], for the keys and values of each position in each forward pass: `UNSEEN`, `READ`, `STORED` or
    `DISCARDED`. Of a sequence whose predictions are read at the masks themselves (no label shift)."""
    work, cached = np.full((len(trace.steps), len(trace.initial)), UNSEEN), 0
    for row, step in zip(work, trace.steps, strict=True):
        start, end = step.block
        # 1. how far a forward pass sees: LLaDA 1 everything, AR what is known, LLaDA 2 through the current block
        end = {"llada1": len(row), "ar": start}.get(trace.style, end)
        row[:end] = DISCARDED
        # 2. what no later token changes is computed once and stored; what was stored before is read
        if trace.style != "llada1" and trace.settings.get("use_cache", True):
            row[:start], row[:cached] = STORED, READ
            cached = start
    return work


@our_look()
def cache_picture(traces: Sequence[Trace], labels: Sequence[str] | None = None, most: int = 16) -> Picture:
    """A panel per decoding: a row per forward pass (the first `most`), a column per position, colored by `cache_work`.

    A dashed line marks the end of the prompt, thin lines the blocks of LLaDA 2. Raises ValueError for an empty list.
    """
    traces = list(traces)
    if not traces:
        raise ValueError("cache_picture: the list is empty; give at least one Trace")
    works, texts = [cache_work(trace) for trace in traces], []
    heights, widest = [min(most, len(work)) for work in works], max(work.shape[1] for work in works)
    figure, panels = new_figure(9.5, HEIGHT * sum(heights) + 0.5 * len(works) + 0.8, rows=len(works), ratios=heights)
    for axes, trace, work, label in zip(panels, traces, works, trace_labels(traces, labels), strict=True):
        texts.append(f"{label}: {len(work)} forward passes, {int((work >= STORED).sum()):,} positions computed")
        axes.set_title(texts[-1] + (f" (the first {most} shown)" if len(work) > most else ""))
        _draw(axes, trace, work[:most])
    axes.tick_params(labelbottom=True)
    axes.set(xlim=(-0.5, widest - 0.5), xlabel="position (dashed line: end of the prompt)")
    _key(figure, axes)
    return Picture(figure, "keys and values of each position. " + "; ".join(texts))


def _draw(axes, trace: Trace, work: np.ndarray) -> None:
    """The cells of one decoding with their marks, the borders of its blocks and the end of its prompt."""
    draw_cells(axes, work, [color for color, *_ in LOOKS])
    axes.set_aspect("auto")
    for kind, (_, mark, color, _) in enumerate(LOOKS):
        rows, columns = np.nonzero(work == kind)
        axes.plot(columns, rows, linestyle="none", marker=mark, color=color, markersize=3, markeredgewidth=0.8)
    if trace.style == "llada2":
        size = block_length(DecodeConfig(**trace.settings))
        first = trace.steps[0].block[0] % size  # of the grid of blocks; 0 where it begins with the sequence
        edges = [edge - 0.5 for edge in range(first or size, work.shape[1], size)]
        axes.vlines(edges, -0.5, len(work) - 0.5, color="#1a1a1a", linewidth=1)
    axes.axvline(len(trace.prompt) - 0.5, color="#1a1a1a", linewidth=2, linestyle=(0, (3, 1.5)))
    ticks = range(0, len(work), 4)
    axes.set_yticks(ticks, [row + 1 for row in ticks])
    axes.set_ylabel("forward pass")
    axes.tick_params(labeltop=False)


def _key(figure, axes) -> None:
    """What the colors and marks mean, under the whole figure."""
    squares = [axes.plot([], [], "s", color=color, markersize=11)[0] for color, *_ in LOOKS[READ:]]
    plain = {"linestyle": "none", "markersize": 4}
    marks = [axes.plot([], [], marker=mark, color=color, **plain)[0] for _, mark, color, _ in LOOKS[READ:]]
    meanings = [meaning for *_, meaning in LOOKS[READ:]]
    figure.legend(list(zip(squares, marks, strict=True)), meanings, loc="outside lower center", ncols=3)
