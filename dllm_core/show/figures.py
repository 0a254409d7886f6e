"""What all figures share (matplotlib): colors, fonts, `Picture`; and the picture of an attention mask.

Every function returns a `Picture`, which a notebook displays; matplotlib's backend and pyplot's state are not touched.
The palette is that of Okabe and Ito, safe for color-blind readers. Markers, hatches or labels repeat what a color means.
"""

import contextlib
import functools
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dllm_core.common.files import write_whole
from dllm_core.common.paths import resolve
from dllm_core.common.text import safe
from dllm_core.show.html import image_html, visible

COLORS = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#AA4499",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#8a8a8a",
}
LINES = (
    ("blue", "-", "o"), ("vermilion", "--", "s"), ("green", "-.", "^"),
    ("purple", ":", "D"), ("orange", "-", "v"), ("grey", "--", "P"),
)  # fmt: skip
HATCHES = ("", "//", "..", "xx", "\\\\")
SQUARES = ("#f2f2f2", COLORS["blue"], COLORS["green"])  # of an attention mask: closed, own block, earlier clean
STYLES = ("AR", "LLaDA 1", "LLaDA 2")  # the first three of LINES and HATCHES, also in the player
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "SimHei", "Arial Unicode MS",
)  # fmt: skip
FAMILY = "Dllm Sans SC"
SUBSET = Path(__file__).with_name("fonts") / "DllmSansSC-Regular.otf"  # made by dllm_core/workshop/subset_font.py


@functools.cache
def fonts() -> tuple[str, ...]:
    """Font families to draw with, each for the characters that those before it lack: DejaVu Sans, the project's subset
    of Noto Sans CJK SC (the corpus and the most common Chinese characters) and a complete one that is installed.

    A character that all of them lack is drawn as a box, without matplotlib's warning for each.
    """
    from matplotlib.font_manager import fontManager

    warnings.filterwarnings("ignore", "Glyph .* missing from", module="dllm_core")  # other pictures keep the warning
    fontManager.addfont(SUBSET)
    fontManager.ttflist.append(replace(fontManager.ttflist[-1], weight=700))  # drawn for bold, too, without a message
    installed = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", FAMILY, *[name for name in CJK_FONTS if name in installed][:1])


@contextlib.contextmanager
def our_look() -> Iterator[None]:
    """matplotlib's settings of this project's pictures, for a `with` block or as a decorator; others keep theirs."""
    import matplotlib

    settings = {
        "font.family": list(fonts()), "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11,
        "legend.fontsize": 10, "xtick.labelsize": 10, "ytick.labelsize": 10, "axes.unicode_minus": False,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "axes.titlelocation": "left", "legend.frameon": False, "figure.facecolor": "white",
        "axes.facecolor": "white", "text.color": "#1a1a1a", "text.parse_math": False, "hatch.linewidth": 0.6,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


class Picture:
    """A figure: a notebook shows it as PNG, a terminal shows `text`. `figure` is matplotlib's and may be changed.

    The background is white; paper.css inverts it in a dark notebook. Without that style it stays white.
    """

    def __init__(self, figure, text: str):
        self.figure, self.text = figure, safe(text, 20_000)

    def png(self) -> bytes:
        """The figure as PNG in 256 colors: a third of the size, without a visible difference.

        The figure is drawn once; `savefig` would draw it twice, the first time for the layout alone.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        canvas = FigureCanvasAgg(self.figure)
        with our_look():
            self.figure.set_dpi(110)
            canvas.draw()
        return palette_png(Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()), self.text)

    @property
    def html(self) -> str:
        return image_html(self.png(), self.text)

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        return {"image/png": self.png(), "text/plain": self.text}, {"needs_background": "light"}

    def __repr__(self) -> str:
        return self.text


class SavedPicture(Picture):
    """A picture read from the PNG file at `path`."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text

    def png(self) -> bytes:
        return self.path.read_bytes()


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, ratios=None, share_x: bool = True):
    """(Figure, its rows * columns axes) without pyplot. width, height: inches; ratios: relative heights of the rows.

    share_x: the rows share their x axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col" if share_x else False, height_ratios=ratios)
    return figure, list(axes.flat)


def legend_below(figure, axes, columns: int) -> None:
    """A legend of the lines in `axes` under the whole figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def line_look(i: int) -> dict:
    """Color, line style and marker of the i-th line of a figure, for matplotlib's `plot`."""
    color, line, marker = LINES[i % len(LINES)]
    return {"color": COLORS[color], "linestyle": line, "marker": marker}


def look_numbers(names: Sequence[str]) -> list[int]:
    """The i of `line_look` for each named line: a style has the same in every figure; other names take the next ones,
    beside styles those that no style has."""
    free = itertools.count(len(STYLES) if set(STYLES) & set(names) else 0)
    return [STYLES.index(name) if name in STYLES else next(free) for name in names]


def error_bars(spreads: list[tuple[float, float, float]]) -> list[list[float]]:
    """(middle, least, greatest) of each point → lengths of the bars below and above it, for matplotlib's `errorbar`."""
    return [[middle - least for middle, least, _ in spreads], [greatest - middle for middle, _, greatest in spreads]]


def palette_png(image, alt: str) -> bytes:
    """PNG of a Pillow image, reduced to 256 colors. alt: a description, stored in the file.

    MAXCOVERAGE picks colors that lie far apart, so that thin lines keep their color. One k-means step then moves each
    color to the mean of its pixels. White stays white.
    """
    from PIL import Image, PngImagePlugin

    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_itxt("Description", alt)
    flat = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    flat.save(out, "PNG", optimize=True, pnginfo=info)
    return out.getvalue()


def save_figure(picture, name: str) -> Path:
    """Write a `Picture` (or a matplotlib figure) to figures/NAME.png under the project root; return the path.

    Raises ValueError when `name` is not a plain file name.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"save_figure: name={name!r} must be a plain file name, without folders")
    picture = picture if isinstance(picture, Picture) else Picture(picture, name)
    return write_whole(resolve("figures") / f"{name.removesuffix('.png')}.png", picture.png())


def stretches(values: Sequence) -> list[tuple[int, int, object]]:
    """(start, end, value) of each run of equal values; end exclusive."""
    runs, start = [], 0
    for value, run in itertools.groupby(values):
        end = start + len(list(run))
        runs.append((start, end, value))
        start = end
    return runs


def shade(axes, parts: Sequence[tuple[float, float, str]]) -> None:
    """Shade consecutive [start, end) of the x axis in two alternating greys and name each that is wide enough."""
    span = parts[-1][1] - parts[0][0] if parts else 0
    for i, (start, end, name) in enumerate(parts):
        axes.axvspan(start, end, color="#000000", alpha=0.03 + 0.06 * (i % 2), linewidth=0)
        if end - start > 0.04 * span:
            axes.annotate(name, ((start + end) / 2, 0.02), xycoords=("data", "axes fraction"), ha="center",
                          va="bottom", fontsize=9, color="#444444")  # fmt: skip


def draw_cells(axes, cells, colors: Sequence[str], lines: bool = True) -> None:
    """The image of `cells`, [Q, K] indices into `colors`, with the ticks above and thin lines between the cells."""
    from matplotlib.colors import ListedColormap

    axes.imshow(cells, cmap=ListedColormap(colors), vmin=0, vmax=len(colors) - 1, interpolation="nearest")
    axes.grid(False)
    axes.xaxis.tick_top()
    if lines:  # as two collections: ticks at every line would take a second to draw
        rows, columns = cells.shape
        look = {"color": "#bbbbbb", "linewidth": 0.5}
        axes.vlines([i - 0.5 for i in range(columns + 1)], -0.5, rows - 0.5, **look)
        axes.hlines([i - 0.5 for i in range(rows + 1)], -0.5, columns - 0.5, **look)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        axes.tick_params(length=0)


@our_look()
def mask_picture(
    mask, labels: Sequence[str] | None = None, title: str = "", parts: Mapping[str, tuple[int, int]] | None = None
) -> Picture:
    """An attention mask [Q, K] bool: row q may see column k where filled. labels: [Q] (square masks) or absent.

    Two colors tell the two terms of a square mask, as in `attention_picture`: tokens of one block see each other (blue,
    a dot); a clean token of an earlier block is seen and does not look back (green, a bar).
    parts: name → [start, end), ranges of tokens to outline, e.g. {"x_t": (0, 8), "x_0": (8, 16)}.
    Raises ValueError when the mask is not two-dimensional or the labels do not fit.
    """
    mask = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask).astype(bool)
    if mask.ndim != 2:
        raise ValueError(f"mask: shape {mask.shape} must be [Q, K]; take one row of the batch (mask[0])")
    rows, columns = mask.shape
    if labels is not None and len(labels) != columns:
        raise ValueError(f"labels: {len(labels)} for {columns} columns; give one per column")
    side = min(7.5, max(3.0, 0.32 * columns + 1.2))
    figure, (axes,) = new_figure(side, side * (rows + 1) / (columns + 1) + 0.4)
    mutual = mask & mask.T if rows == columns else mask
    one_way = mask & ~mutual
    draw_cells(axes, mutual + 2 * one_way, SQUARES, lines=columns <= 64)
    if columns <= 64:  # a mark in each open cell: readable without color
        for marked, marker, size in ((mutual, ".", 40), (one_way, "_", 70)):
            q, k = np.nonzero(marked)
            axes.plot(k, q, marker, color="white", markersize=max(2, size / columns))
    if labels is not None and columns <= 40:
        names = [visible(str(label)) for label in labels]
        turn = 0 if max(map(len, names)) <= 2 else 90
        axes.set_xticks(range(columns), names, rotation=turn)
        axes.set_yticks(range(rows), names if rows == columns else range(rows))
    axes.xaxis.set_label_position("top")
    for name, (start, end) in (parts or {}).items():
        for edge in (start, end):
            if 0 < edge < columns:
                axes.axvline(edge - 0.5, color="#1a1a1a", linewidth=1.5)
            if 0 < edge < rows:
                axes.axhline(edge - 0.5, color="#1a1a1a", linewidth=1.5)
        axes.annotate(name, ((start + end - 1) / 2, 0), (0, -14), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="center", va="baseline")  # fmt: skip
    axes.set(xlabel="token that is seen (key)", ylabel="token that looks (query)")
    if title:
        figure.suptitle(title, fontsize=12)
    words = f"{title or 'attention mask'}: {rows} × {columns}, {int(mask.sum())} cells open"
    if mutual.any() and one_way.any():
        alone = int(mutual.sum()) == rows  # blocks of one token
        names = ("itself", "earlier") if alone else ("own block", "earlier clean")
        _mask_legend(figure, names)
        words += f": {int(mutual.sum())} {names[0]}, {int(one_way.sum())} {names[1]}"
    return Picture(figure, words)


def _mask_legend(figure, names: Sequence[str]) -> None:
    """The two kinds of open cells, below the figure: a square with its mark each."""
    from matplotlib.lines import Line2D

    handles = []
    for color, marker, size in zip(SQUARES[1:], (".", "_"), (6, 8), strict=True):
        square = Line2D([], [], linestyle="none", marker="s", markersize=13, color=color)
        handles.append((square, Line2D([], [], linestyle="none", marker=marker, markersize=size, color="white")))
    figure.legend(handles, names, loc="outside lower center", ncols=2)
