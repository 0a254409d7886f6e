"""Rows of tokens: a noised view as HTML, rows of token boxes and packed batches as pictures.

Drawn from masks and a `Batch`; every state has an outline or a hatch besides its color.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dllm_core.show.figures import COLORS, Picture, new_figure, our_look, stretches
from dllm_core.show.html import MASK, Html, one_line, visible

COLUMNS = 100  # of text in a picture of token rows
LINE = 1.25  # height of a line of boxes, where a box is 1 high


# a noised row as HTML ----------------------------------------------------------------------------------------------

BOX = (
    "display:inline-block;min-width:1.3em;padding:.15em .3em;margin:1px;text-align:center;"
    "border:1px solid rgba(127,127,127,.8);border-radius:3px"
)
STYLES = {
    "masked": "border-style:dashed;background:rgba(127,127,127,.28)",
    "clean": "background:rgba(86,180,233,.30)",
    "prompt": "border-color:transparent;opacity:.8",
}


def masked_row(
    texts: Sequence[str], masked: Sequence[bool], complement: Sequence[bool] | None = None, *, name: str = "x_t",
    prompt: Sequence[bool] | None = None,
) -> Html:  # fmt: skip
    """A noisy view of a row: texts: [L], of the clean tokens; masked: [L] bool; complement: [L] bool, the mask of the
    complementary view.

    prompt: [L] bool, the tokens of the prompt, which are never masked. Raises ValueError when the lengths differ.
    """
    prompt = [False] * len(texts) if prompt is None else prompt
    name = one_line(name)
    views = {name: masked}
    if complement is not None:
        views[f"{name}, complementary view"] = complement
    for label, mask in {**views, "prompt": prompt}.items():
        if len(mask) != len(texts):
            raise ValueError(f"masked_row: {label} has {len(mask)} entries for {len(texts)} tokens; give one per token")
    markup, lines = "", []
    for label, mask in views.items():
        cells = [MASK if is_masked else visible(text) for text, is_masked in zip(texts, mask, strict=True)]
        lines.append(f"{label}: " + " ".join(cells))
        note = ", without a frame: prompt" if any(prompt) else ""
        head = f"{label} ({sum(mask)} of {len(texts) - sum(prompt)} masked{note})"
        boxes = ""
        for cell, is_masked, in_prompt in zip(cells, mask, prompt, strict=True):
            style = STYLES["masked" if is_masked else "prompt" if in_prompt else "clean"]
            boxes += f'<span style="{BOX};{style}">{html.escape(cell)}</span>'
        markup += (
            f'<div style="margin:.3em 0;font-size:15px;line-height:1.9">'
            f'<span style="font-size:13px;opacity:.85">{html.escape(head)}</span><br>{boxes}</div>'
        )
    return Html(markup, "\n".join(lines))


# rows of boxes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenRow:
    """A row of token boxes with a head and a note at its left.

    boxes: (text, state, shade 0..1). State: "masked" (dashed), "prompt" (no frame), "filled" (framed and shaded blue),
    "loss" (framed and shaded orange: dark is bad) or "end" (dotted).
    """

    head: str
    note: str
    boxes: list[tuple[str, str, float]]


@our_look()
def draw_token_rows(rows: Sequence[TokenRow], title: str = "", footer: str = "") -> Picture:
    """The rows one under the other, each wrapped at the picture's width."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle
    from rich.cells import cell_len

    left = max(15, *(0.9 * len(row.head) + 1 for row in rows))
    widths = [[max(2.0, cell_len(text) * 0.92 + 0.7) for text, _, _ in row.boxes] for row in rows]
    places = [flow(of_row, COLUMNS - left) for of_row in widths]
    heights = [LINE * (1 + max((line for _, line in of_row), default=0)) + 0.6 for of_row in places]
    top = 1.4 if title else 0.3
    height = top + sum(heights) + (0.7 if footer else 0)
    figure, (ax,) = new_figure(0.112 * COLUMNS, 0.33 * height)  # data units: text columns and lines, y downwards
    ax.set_axis_off()
    ax.set(xlim=(0, COLUMNS), ylim=(height, 0))
    ax.text(0, 0.6, title, fontsize=12, va="center")
    for row, row_widths, row_places, row_height in zip(rows, widths, places, heights, strict=True):
        ax.text(0, top + 0.5, row.head, fontsize=11, va="center", fontweight="bold")
        ax.text(0, top + 1.3, row.note, fontsize=8.5, va="center", color="#555555")
        for (text, state, shade), width, (x, line) in zip(row.boxes, row_widths, row_places, strict=True):
            x, y, inner = left + x, top + LINE * line, width - 0.25
            if state == "masked":
                look = {"facecolor": "#ececec", "edgecolor": "#555555", "linestyle": "--"}
            elif state == "end":
                look = {"facecolor": "white", "edgecolor": "#555555", "linestyle": ":"}
            else:
                color, strength = COLORS["vermilion" if state == "loss" else "blue"], 0.06 + 0.4 * shade
                look = {"facecolor": to_rgba(color, strength), "edgecolor": color}
            if state != "prompt":
                ax.add_patch(Rectangle((x, y), inner, 1.0, linewidth=1, **look))
            color = "#6a6a6a" if state in ("prompt", "masked") else "#1a1a1a"
            ax.text(x + inner / 2, y + 0.53, text, ha="center", va="center", fontsize=11, color=color)
        top += row_height
        ax.plot([0, COLUMNS], [top - 0.2, top - 0.2], color="#cccccc", linewidth=0.6)
    ax.text(0, top + 0.15, footer, fontsize=9, va="center", color="#555555")
    lines = [f"{row.head}: " + "".join(text for text, _, _ in row.boxes) for row in rows]
    return Picture(figure, "\n".join([title, *lines] if title else lines))


def token_losses(
    documents: Sequence[tuple[Sequence[str], Sequence[float | None]]], most: float, title: str = ""
) -> Picture:
    """The loss of every token as a heat map: documents as rows of tokens, shaded orange from 0 nats (light) to `most` and
    above (dark), with the scale in the last row. (Blue shades mean confidence, where dark is good.)

    documents: (texts [L], losses [L] in nats) each; None where a token is not predicted, which has no frame.
    Raises ValueError when there is no document.
    """
    if not documents:
        raise ValueError("token_losses: the list is empty; give at least one document")
    rows = []
    for number, (texts, losses) in enumerate(documents, 1):
        predicted = [loss for loss in losses if loss is not None]
        boxes = []
        for text, loss in zip(texts, losses, strict=True):
            state = "prompt" if loss is None else "loss"
            boxes.append((visible(text), state, min((loss or 0.0) / most, 1.0)))
        mean = sum(predicted) / max(len(predicted), 1)
        rows.append(TokenRow(f"document {number}", f"mean {mean:.2f} nats", boxes))
    scale = [most * i / 6 for i in range(7)]
    rows.append(TokenRow("color scale", "nats", [(f"{value:.1f}", "loss", value / most) for value in scale]))
    return draw_token_rows(rows, title)


def flow(widths: Iterable[float], room: float) -> list[tuple[float, int]]:
    """(x, line) of boxes one after another, wrapped into lines of at most `room`."""
    places, x, line = [], 0, 0
    for width in widths:
        if x and x + width > room:
            x, line = 0, line + 1
        places.append((x, line))
        x += width
    return places


# packed batches ----------------------------------------------------------------------------------------------------

STATES = {  # state of a token in a packed row → how it is drawn
    "prompt: seen, not counted in the loss": {"facecolor": "#d9d9d9", "hatch": ""},
    "answer: counted in the loss": {"facecolor": COLORS["sky"], "hatch": ""},
    "EOS padding": {"facecolor": "white", "hatch": "...."},
    "padding: teaches nothing": {"facecolor": "white", "hatch": "xxx"},
}
PROMPT, ANSWER, EOS_PADDING, PADDING = range(4)
DOCUMENT_LINE = {"color": "#1a1a1a", "linewidth": 2.4}
BLOCK_LINE = {"color": COLORS["vermilion"], "linewidth": 1.1}


@our_look()
def packing(batches: Mapping[str, object], eos: int, blocks: Mapping[str, int] | None = None, rows: int = 6) -> Picture:
    """Packed batches: a panel for each name → `Batch`, with a strip for each of its first `rows` sequences.

    A token belongs to a prompt (not counted in the loss) or to an answer, is EOS padding, or is padding. Thick ticks mark
    the beginning of a document. blocks: name → tokens of a block, for the panels whose block borders get thin ticks.
    eos: the id of the eos token. Raises ValueError when there is no batch.
    """
    blocks = blocks or {}
    if not batches:
        raise ValueError("packing: the mapping is empty; pass at least one name → Batch")
    figure, axes = new_figure(10.5, 0.5 + len(batches) * (0.75 + 0.27 * rows), rows=len(batches))
    titles = []
    for ax, (name, batch) in zip(axes, batches.items(), strict=True):
        states = _states(batch, eos)
        share = [round(100 * (states == state).mean()) for state in range(4)]
        titles.append(
            f"{name}: {share[PROMPT]} % prompt, {share[ANSWER]} % answer, {share[EOS_PADDING]} % EOS padding, "
            f"{share[PADDING]} % padding"
        )
        _draw_packed(ax, batch, states[:rows].tolist(), blocks.get(name))
        ax.set_title(titles[-1], fontsize=11)
    longest = max(batch.tokens.shape[1] for batch in batches.values())
    axes[-1].set(xlabel="position in the sequence", xlim=(-1, longest + 1))
    figure.legend(handles=_packing_legend({blocks[name] for name in batches if name in blocks}), loc="outside lower center", ncols=3)
    return Picture(figure, "; ".join(titles))


def _draw_packed(ax, batch, states: list[list[int]], block_size: int | None) -> None:
    """The sequences of a batch as strips, from the states of their tokens."""
    looks = list(STATES.values())
    for row, line in enumerate(states):
        for start, end, state in stretches(line):
            ax.barh(row, end - start, left=start, height=0.72, edgecolor="#555555", linewidth=0.5, **looks[state])
        document, position = batch.document[row].tolist(), batch.position[row].tolist()
        for x, (number, offset) in enumerate(zip(document, position, strict=True)):
            if number >= 0 and offset == 0:
                ax.plot([x, x], [row - 0.46, row + 0.46], solid_capstyle="butt", **DOCUMENT_LINE)
            elif number >= 0 and block_size and offset % block_size == 0:
                ax.plot([x, x], [row - 0.36, row + 0.36], **BLOCK_LINE)
    ax.set_yticks(range(len(states)), [str(i + 1) for i in range(len(states))])
    ax.set(ylim=(len(states) - 0.4, -0.6), ylabel="sequence")
    ax.grid(False)


def _packing_legend(block_sizes: set[int]) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    patches = [Patch(label=label, edgecolor="#555555", **look) for label, look in STATES.items()]
    lines = [Line2D([], [], label="document begins", **DOCUMENT_LINE)]
    lines += [Line2D([], [], label=f"block of {size} tokens begins", **BLOCK_LINE) for size in sorted(block_sizes)]
    return patches + lines


def _states(batch, eos: int):
    """[B, L] int: the state of each token. EOS padding: an eos after an eos of the same document."""
    tokens, document, scored = batch.tokens.numpy(), batch.document.numpy(), batch.scored.numpy()
    both_eos = (tokens[:, 1:] == eos) & (tokens[:, :-1] == eos)
    repeated = np.zeros_like(scored)
    repeated[:, 1:] = both_eos & (document[:, 1:] == document[:, :-1])
    return np.select([document < 0, repeated, scored], [PADDING, EOS_PADDING, ANSWER], PROMPT)
