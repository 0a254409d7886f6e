"""Figures of the sweeps, drawn from their records: lines, dots or heat maps, as the sweep's file says."""

from pathlib import Path

from dllm_core.show.figures import COLORS, Picture, error_bars, in_our_look, line_look, new_figure, save_figure
from dllm_core.workshop.sweeps.files import Sweep
from dllm_core.workshop.sweeps.tables import HEADINGS, Spread, gather


def draw(sweep: Sweep) -> Path:
    """Write the figure that the sweep's file describes to figures/sweep_NAME.png."""
    return save_figure(picture(sweep, sweep.records()), f"sweep_{sweep.name}")


@in_our_look
def picture(sweep: Sweep, records: list[dict]) -> Picture:
    """The figure that the sweep's file describes: {rows, kind: lines | dots | heat, x, y, note or values, by, only}.

    Means over seeds; bars from the least to the greatest.
    """
    spec = sweep.text["figure"]
    x, y = spec["x"], spec["y"]
    figure, alt = {"heat": _heat, "dots": _dots, "lines": _lines}[spec["kind"]](records, spec)
    figure.suptitle(f"{sweep.text['title']}  ·  {len(sweep.seeds)} seeds", fontsize=12, x=0.02, ha="left")
    return Picture(figure, f"{sweep.text['title']}: {HEADINGS.get(y, y)} against {HEADINGS.get(x, x)}. {alt}")


def _lines(records, spec):
    """One line per cell (and combination of `by`), a point for each value of `note`; x may be measured as well."""
    x, y, note, by = spec["x"], spec["y"], spec.get("note"), spec.get("by", [])
    known = {name for record in records for row in record["rows"] for name in row.get("settings", ())}
    settings = [name for name in dict.fromkeys((*by, note, x)) if name in known]
    rows = gather(records, spec["rows"], settings, [name for name in (x, y) if name not in settings])
    figure, axes = new_figure(7, 4)
    for i, name in enumerate(dict.fromkeys(_name(row, by) for row in rows)):
        points = [row for row in rows if _name(row, by) == name]
        at = [row[x].mean if isinstance(row[x], Spread) else row[x] for row in points]
        means = [row[y].mean for row in points]
        bars = error_bars([(row[y].mean, min(row[y].values), max(row[y].values)) for row in points])
        axes.errorbar(at, means, yerr=bars, capsize=3, elinewidth=1, label=name, **line_look(i))
        for x_value, row in zip(at, points, strict=True):
            if note and row[note] is not None:
                where = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 9}
                axes.annotate(f"{row[note]:g}", (x_value, row[y].mean), **where)
    if spec.get("log"):
        axes.set_xscale("log", base=2)
    axes.set_xlabel(HEADINGS.get(x, x) + (f" (at the points: {HEADINGS.get(note, note)})" if note else ""))
    axes.set_ylabel(HEADINGS.get(y, y))
    axes.legend(loc="best")
    return figure, "; ".join(f"{_name(row, by)} {row[y]}" for row in rows)


def _name(row: dict, by: list[str]) -> str:
    """The name of a line or a row of dots: its cell, and the settings that the cell's lines differ in."""
    named = [(HEADINGS.get(name, name), row[name]) for name in by if row[name] is not None]
    cell = [row["label"]] * all(name != row["label"] for name, _ in named)  # "guidance 2", not "guidance, guidance 2"
    return ", ".join([*cell, *(value if isinstance(value, str) else f"{name} {value:g}" for name, value in named)])


def _dots(records, spec):
    """A row of dots for each cell, one dot per seed, a bar at their mean."""
    y, by, only = spec["y"], spec.get("by", []), spec.get("only", {})
    rows = gather(records, spec["rows"], by, [y])
    rows = [row for row in rows if all(row[name] == value for name, value in only.items())]
    names = [_name(row, [name for name in by if name not in only]) for row in rows]
    figure, axes = new_figure(7, 0.9 + 0.45 * len(rows))
    for height, row in enumerate(rows):
        axes.plot(row[y].values, [height] * len(row[y].values), "o", color=COLORS["blue"], alpha=0.6, markersize=7)
        axes.plot([row[y].mean] * 2, [height - 0.3, height + 0.3], color=COLORS["vermilion"], linewidth=2)
        axes.annotate(f"{row[y].mean:.3g}", (row[y].mean, height), xytext=(0, 9), textcoords="offset points",
                      fontsize=9, ha="center")  # fmt: skip
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"{HEADINGS.get(y, y)} (dots: seeds; bar: mean)")
    return figure, "; ".join(f"{name} {row[y]}" for name, row in zip(names, rows, strict=True))


def _heat(records, spec):
    """A heat map for each cell and each of `values`: x and y are settings, the value is shade and number."""
    x, y, values = spec["x"], spec["y"], spec["values"]
    rows = gather(records, spec["rows"], [y, x], values)
    maps = [(label, value) for label in dict.fromkeys(row["label"] for row in rows) for value in values]
    figure, axes = new_figure(4.6 * len(maps) + 0.6, 3.9, columns=len(maps))
    for axis, (label, value) in zip(axes if len(maps) > 1 else [axes], maps, strict=True):
        points = {(row[y], row[x]): row[value].mean for row in rows if row["label"] == label}
        ups, acrosses = sorted({key[0] for key in points}), sorted({key[1] for key in points})
        grid = [[points.get((up, across), float("nan")) for across in acrosses] for up in ups]
        low, high = min(points.values()), max(points.values())
        axis.imshow(grid, cmap="cividis", aspect="auto", origin="lower", vmin=low, vmax=high)
        for (up, across), number in points.items():
            dark = number < (low + high) / 2
            axis.text(acrosses.index(across), ups.index(up), f"{number:.2f}", ha="center", va="center", fontsize=10,
                      color="white" if dark else "black")  # fmt: skip
        axis.set_xticks(range(len(acrosses)), [f"{v:g}" for v in acrosses])
        axis.set_yticks(range(len(ups)), [f"{v:g}" for v in ups])
        axis.grid(False)
        axis.set_xlabel(HEADINGS.get(x, x))
        axis.set_ylabel(HEADINGS.get(y, y))
        axis.set_title(f"{label}: {HEADINGS.get(value, value)}")
    return figure, "; ".join(f"{row['label']} at {row[y]:g}, {row[x]:g}: {row[values[0]]}" for row in rows)
