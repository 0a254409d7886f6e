"""The records of the sweeps as figures."""

from pathlib import Path

from dllm_core.show.figures import (
    COLORS,
    Picture,
    error_bars,
    line_look,
    look_numbers,
    new_figure,
    our_look,
    save_figure,
)
from dllm_core.workshop.sweeps import curves
from dllm_core.workshop.sweeps.files import Sweep
from dllm_core.workshop.sweeps.results import IN_WORDS, PRICE, Spread, gather, heading, prices, setting


def draw(sweep: Sweep) -> Path:
    """Write the figure that the sweep's file describes to figures/sweep_NAME.png."""
    return save_figure(picture(sweep, sweep.records()), f"sweep_{sweep.name}")


@our_look()
def picture(sweep: Sweep, records: list[dict]) -> Picture:
    """The figure that the sweep's file describes: {rows, kind: lines | dots | heat, x, y, note or values, by, only}, or
    {kind: curves, threshold, against} (`curves.picture`).

    Means over seeds; bars from the least to the greatest.
    """
    spec, count = sweep.text["figure"], len({record["seed"] for record in records})
    title = f"{sweep.text['title']}  ·  {count} seed{'s' if count > 1 else ''}"
    if spec["kind"] == "curves":
        figure, alt = curves.picture(list(curves.points(records, spec["threshold"])))
        figure.suptitle(title, fontsize=12, x=0.02, ha="left")
        return Picture(figure, f"{sweep.text['title']}: scores against training. {alt}")
    x, y = spec["x"], spec["y"]
    if "exact_match" in (y, *spec.get("values", ())):
        names = {label: f"{label} ({price[PRICE[0]].mean:.1e} FLOP)" for label, price in prices(records).items()}
        records = [{**record, "label": names.get(record["label"], record["label"])} for record in records]
    figure, alt = {"heat": _heat, "dots": _dots, "lines": _lines}[spec["kind"]](records, spec)
    figure.suptitle(title, fontsize=12, x=0.02, ha="left")
    return Picture(figure, f"{sweep.text['title']}: {heading(y)} against {heading(x)}. {alt}")


def _lines(records, spec):
    """One line per cell (and combination of `by`), a point for each value of `note`; x may be measured as well."""
    x, y, note, by = spec["x"], spec["y"], spec.get("note"), spec.get("by", [])
    known = {name for record in records for row in record["rows"] for name in row.get("settings", ())}
    settings = [name for name in dict.fromkeys((*by, note, x)) if name in known]
    rows = gather(records, spec["rows"], settings, [name for name in (x, y) if name not in settings])
    figure, (axes,) = new_figure(7, 4)
    names = list(dict.fromkeys(_name(row, by) for row in rows))
    noted = list(dict.fromkeys(_name(row, by) for row in rows if note and row[note] is not None))
    for i, name in zip(look_numbers([name.partition(" (")[0] for name in names]), names, strict=True):  # without FLOP
        points = [row for row in rows if _name(row, by) == name]
        at = [row[x].mean if isinstance(row[x], Spread) else row[x] for row in points]
        means = [row[y].mean for row in points]
        bars = error_bars([(row[y].mean, min(row[y].values), max(row[y].values)) for row in points])
        axes.errorbar(at, means, yerr=bars, capsize=3, elinewidth=1, label=name, **line_look(i))
        if name not in (*noted[:1], *noted[-1:]):
            continue  # the points between have the same settings in the same order
        where = (-5, -13) if name in noted[1:] else (5, 5)
        for x_value, row in zip(at, points, strict=True):
            axes.annotate(f"{row[note]:g}", (x_value, row[y].mean), xytext=where, textcoords="offset points",
                          ha="right" if name in noted[1:] else "left", fontsize=9)  # fmt: skip
    if spec.get("log"):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")  # powers would be math text, which the look leaves as it is written
        axes.xaxis.set_minor_formatter("")
    words = {row[x]: IN_WORDS.get((x, row[x])) for row in rows}
    if any(words.values()):
        axes.set_xticks(list(words), [word or f"{value:g}" for value, word in words.items()])
    axes.set_xlabel(heading(x) + (f" (at the points: {heading(note)})" if note else ""))
    axes.set_ylabel(heading(y))
    axes.legend(loc="best")
    return figure, "; ".join(f"{_name(row, by)} {row[y]}" for row in rows)


def _name(row: dict, by: list[str]) -> str:
    """The name of a line or a row of dots: its cell, and the settings that the cell's lines differ in."""
    named = [(name, row[name]) for name in by if row[name] is not None]
    label, bracket, price = row["label"].partition(" (")
    words = [IN_WORDS.get(pair, pair[1]) if isinstance(pair[1], str) else setting(*pair) for pair in named]
    if any(heading(name) == label for name, _ in named):  # "guidance 2", not "guidance, guidance 2"
        return ", ".join(words) + bracket + price
    return ", ".join([row["label"], *words])


def _dots(records, spec):
    """A row of dots for each cell, one dot per seed, a bar at their mean."""
    y, by, only = spec["y"], spec.get("by", []), spec.get("only", {})
    rows = gather(records, spec["rows"], by, [y])
    rows = [row for row in rows if all(row[name] in (value, None) for name, value in only.items())]
    names = [_name(row, [name for name in by if name not in only]) for row in rows]
    figure, (axes,) = new_figure(7, 0.9 + 0.45 * len(rows))
    for height, row in enumerate(rows):
        axes.plot(row[y].values, [height] * len(row[y].values), "o", color=COLORS["blue"], alpha=0.6, markersize=7)
        axes.plot([row[y].mean] * 2, [height - 0.3, height + 0.3], color=COLORS["vermilion"], linewidth=2)
        axes.annotate(f"{row[y].mean:.3g}", (row[y].mean, height - 0.3), xytext=(0, 1), textcoords="offset points",
                      fontsize=9, ha="center", va="bottom")  # fmt: skip
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.margins(x=0.08)  # for the number above the outermost bar
    axes.set_xlabel(f"{heading(y)} (dots: seeds; bar: mean)")
    return figure, "; ".join(f"{name} {row[y]}" for name, row in zip(names, rows, strict=True))


def _heat(records, spec):
    """A heat map for each cell and each of `values`: x and y are settings, the value is shade and number."""
    x, y, values = spec["x"], spec["y"], spec["values"]
    rows = gather(records, spec["rows"], [y, x], values)
    maps = [(label, value) for label in dict.fromkeys(row["label"] for row in rows) for value in values]
    figure, axes = new_figure(4.6 * len(maps) + 0.6, 3.9, columns=len(maps))
    for axis, (label, value) in zip(axes, maps, strict=True):
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
        axis.set_xlabel(heading(x))
        axis.set_ylabel(heading(y))
        axis.set_title(f"{label}: {heading(value)}")
    return figure, "; ".join(f"{row['label']} at {row[y]:g}, {row[x]:g}: {row[values[0]]}" for row in rows)
