"""Pictures of the sweeps, from their records: lines, dots or heat maps, as the sweep's file asks. Nothing is measured here."""

from html import escape
from pathlib import Path

from dllm_core.common.paths import resolve
from dllm_core.show.figures import COLOURS, LINES, Picture, error_bars, in_our_look, new_figure, save_figure
from dllm_core.show.html import Html, table
from dllm_core.workshop import results_page as results
from dllm_core.workshop.results_page import HEADINGS, Spread, gather
from dllm_core.workshop.sweeps import files as sweeps


def sweep(name: str) -> tuple:
    """What a notebook displays of a sweep, `display(*show.sweep("cap"))`: its question with the answer in words, its figure
    and tables; or the command that makes them where there are no records. Raises Problem when there is no such sweep."""
    (found,) = sweeps.find([name])
    records, command = found.records(), f"dllm sweep {name}"
    question, answer = (" ".join(found.text.get(key, "").split()) for key in ("question", "answer"))
    if not records:
        return (_words(question, f"Not measured here yet: {command}"),)
    shown = [table(rows, caption=caption or command) for caption, rows in results.tables(found, records)]
    return (_words(question, answer), *([picture(found, records)] if found.text.get("figure") else []), *shown)


def _words(question: str, answer: str) -> Html:
    return Html(f"<p><strong>{escape(question)}</strong> {escape(answer)}</p>", f"{question} {answer}")


def draw(found: sweeps.Sweep) -> Path:
    """The sweep's figure as figures/sweep_NAME.png; where its file asks for none, the sweep's file."""
    if not found.text.get("figure"):
        return resolve(sweeps.FOLDER) / f"{found.name}.yaml"
    return save_figure(picture(found, found.records()), f"sweep_{found.name}")


@in_our_look
def picture(found: sweeps.Sweep, records: list[dict]) -> Picture:
    """figure: {rows, kind: lines | dots | heat, x, y, note or values, by, only}. Means over seeds; bars from least to greatest."""
    asked = found.text["figure"]
    kind, x, y = asked["kind"], asked["x"], asked["y"]
    if kind == "heat":
        figure, alt = _heat(records, asked)
    elif kind == "dots":
        figure, alt = _dots(records, asked)
    else:
        figure, alt = _lines(records, asked)
    figure.suptitle(f"{found.text['title']}  ·  {len(found.seeds)} seeds", fontsize=12, x=0.02, ha="left")
    return Picture(figure, f"{found.text['title']}: {HEADINGS.get(y, y)} against {HEADINGS.get(x, x)}. {alt}")


def _lines(records, asked):
    """One line a cell (and combination of `by`), a point for each value of `note`; x may be measured as well."""
    x, y, note, by = asked["x"], asked["y"], asked.get("note"), asked.get("by", [])
    settings = [name for name in (*by, note, x) if name and name in _settings(records, asked["rows"])]
    rows = gather(records, asked["rows"], list(dict.fromkeys(settings)), [c for c in (x, y) if c not in settings])
    figure, axes = new_figure(7, 4)
    for i, name in enumerate(dict.fromkeys(_name(row, by) for row in rows)):
        own = [row for row in rows if _name(row, by) == name]
        colour, line, marker = LINES[i % len(LINES)]
        at = [row[x].mean if isinstance(row[x], Spread) else row[x] for row in own]
        axes.errorbar(at, [row[y].mean for row in own], yerr=_bars([row[y] for row in own]), capsize=3, elinewidth=1,
                      color=COLOURS[colour], linestyle=line, marker=marker, label=name)  # fmt: skip
        for place, row in zip(at, own, strict=True):
            if note and row[note] is not None:
                axes.annotate(f"{row[note]:g}", (place, row[y].mean), xytext=(5, 5), textcoords="offset points", fontsize=9)
    if asked.get("log"):
        axes.set_xscale("log", base=2)
    _labels(axes, x, y, f" (at the points: {HEADINGS.get(note, note)})" if note else "")
    axes.legend(loc="best")
    return figure, "; ".join(f"{_name(row, by)} {row[y]}" for row in rows)


def _name(row: dict, by: list[str]) -> str:
    """What a line or a row of dots is called: its cell and the settings that tell it from the cell's others."""
    shown = [(HEADINGS.get(name, name), row[name]) for name in by if row[name] is not None]
    cell = [row["label"]] * all(name != row["label"] for name, _ in shown)  # "guidance 2", not "guidance, guidance 2"
    return ", ".join([*cell, *(value if isinstance(value, str) else f"{name} {value:g}" for name, value in shown)])


def _dots(records, asked):
    """A line of dots for each cell, one dot a seed, a bar at their mean."""
    y, by, only = asked["y"], asked.get("by", []), asked.get("only", {})
    rows = gather(records, asked["rows"], by, [y])
    rows = [row for row in rows if all(row[name] == value for name, value in only.items())]
    names = [_name(row, [name for name in by if name not in only]) for row in rows]
    figure, axes = new_figure(7, 0.9 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        axes.plot(row[y].values, [place] * len(row[y].values), "o", color=COLOURS["blue"], alpha=0.6, markersize=7)
        axes.plot([row[y].mean] * 2, [place - 0.3, place + 0.3], color=COLOURS["vermilion"], linewidth=2)
        axes.annotate(f"{row[y].mean:.3g}", (row[y].mean, place), xytext=(0, 9), textcoords="offset points", fontsize=9,
                      ha="center")  # fmt: skip
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"{HEADINGS.get(y, y)} (dots: seeds; bar: mean)")
    return figure, "; ".join(f"{name} {row[y]}" for name, row in zip(names, rows, strict=True))


def _heat(records, asked):
    """A map for each cell and each of `values`: x and y are settings, the value its shade and its number."""
    x, y, values = asked["x"], asked["y"], asked["values"]
    rows = gather(records, asked["rows"], [y, x], values)
    maps = [(label, value) for label in dict.fromkeys(row["label"] for row in rows) for value in values]
    figure, axes = new_figure(4.6 * len(maps) + 0.6, 3.9, columns=len(maps))
    for axis, (label, value) in zip(axes if len(maps) > 1 else [axes], maps, strict=True):
        own = {(row[y], row[x]): row[value].mean for row in rows if row["label"] == label}
        ups, acrosses = sorted({key[0] for key in own}), sorted({key[1] for key in own})
        grid = [[own.get((up, across), float("nan")) for across in acrosses] for up in ups]
        low, high = min(own.values()), max(own.values())
        axis.imshow(grid, cmap="cividis", aspect="auto", origin="lower", vmin=low, vmax=high)
        for (up, across), number in own.items():
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


def _settings(records, kind: str) -> set[str]:
    return {name for record in records for row in record["rows"] if row["kind"] == kind for name in row.get("settings", ())}


def _bars(spreads: list[Spread]):
    return error_bars([(spread.mean, min(spread.values), max(spread.values)) for spread in spreads])


def _labels(axes, x: str, y: str, more: str) -> None:
    axes.set_xlabel(HEADINGS.get(x, x) + more)
    axes.set_ylabel(HEADINGS.get(y, y))
