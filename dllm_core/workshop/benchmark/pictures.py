"""Pictures of the benchmark, from its records: the ratios, and how time grows with lengths. Nothing is measured here."""

from pathlib import Path

from dllm_core.show.figures import COLORS, LINES, Picture, error_bars, in_our_look, new_figure, save_figure
from dllm_core.workshop.benchmark.results import UNITS, curves, records


def draw() -> list[Path]:
    """figures/benchmark.png and figures/benchmark_growth.png, of what there are records for."""
    found = records()
    drawn = {"benchmark": ratios(found), "benchmark_growth": growth(found)}
    return [save_figure(picture, name) for name, picture in drawn.items() if picture]


@in_our_look
def ratios(found: list[dict]) -> Picture | None:
    """A line for each comparison that has an aim, a mark for each precision and number of threads; log axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    marks = {("float32", 1): 0, ("float32", 2): 1, ("bfloat16", 1): 2, ("bfloat16", 2): 3, ("", 1): 0, ("", 2): 1}
    shown: dict[str, list] = {}
    machines = {record["machine"] for record in found}
    for record in found:
        for row in record["rows"]:
            mark = marks.get((record["dtype"], record["threads"]), 4)
            if row["target"] and row["part"] == record["part"]:
                where = f"\n{record['machine']}" if len(machines) > 1 else ""
                shown.setdefault(_name(record, row) + where, []).append((mark, row["ratio"]))
    if not shown:
        return None
    figure, axes = new_figure(9, 1.4 + (0.42 if len(machines) == 1 else 0.6) * len(shown))
    for place, (name, values) in enumerate(shown.items()):
        for mark, ratio in values:
            color, _, marker = LINES[mark]
            axes.errorbar(ratio["median"], place + 0.16 * (mark - 1.5), xerr=_bars([ratio]), color=COLORS[color],
                          marker=marker, markersize=6, elinewidth=1)  # fmt: skip
    axes.axvline(1, color=COLORS["grey"], linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times as fast (bars: all rounds)")
    used = {mark for values in shown.values() for mark, _ in values}
    names = ["float32, 1 thread", "float32, 2 threads", "bfloat16, 1 thread", "bfloat16, 2 threads", "others"]
    for mark in sorted(used):
        color, _, marker = LINES[mark]
        axes.plot([], [], color=COLORS[color], marker=marker, linestyle="", label=names[mark])
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    medians = {name: ", ".join(f"{ratio['median']:.2f}" for _, ratio in values) for name, values in shown.items()}
    alt = "; ".join(f"{' '.join(name.split())} {values}" for name, values in medians.items())
    return Picture(figure, f"How many times as fast: {alt}")


def _bars(spreads: list[dict]):
    return error_bars([(spread["median"], spread["low"], spread["high"]) for spread in spreads])


def _name(record: dict, row: dict) -> str:
    words = row["case"].split(", ")
    if record["part"] == "decode":
        words = [word for word in words if word.startswith(("batch", "prompt"))]
    else:
        words = words[1:2]
    return f"{row['name']} / {row['against']}\n{record['shape']}, {', '.join(words)}"


@in_our_look
def growth(found: list[dict]) -> Picture | None:
    """A panel for each axis: time per token of each line, of the largest shape that was measured, on one thread."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panels: dict[str, tuple[dict, dict]] = {}
    for record in sorted(found, key=lambda r: (r["dtype"] != "float32", r["threads"], r["shape"])):
        for axis, lines in curves(record).items():
            panels.setdefault(axis, (record, lines))
    if not panels:
        return None
    figure, axes = new_figure(4.6 * len(panels), 4, columns=len(panels))
    told = []
    for axis, (name, (record, lines)) in zip(axes if len(panels) > 1 else [axes], panels.items(), strict=True):
        for i, (line, points) in enumerate(lines.items()):
            color, style, marker = LINES[i % len(LINES)]
            places = sorted(points)
            spreads = [points[place] for place in places]
            axis.errorbar(places, [spread["median"] for spread in spreads], yerr=_bars(spreads), color=COLORS[color],
                          linestyle=style, marker=marker, label=line, elinewidth=1)  # fmt: skip
            told.append(f"{line} along {name} " + ", ".join(f"{p}: {points[p]['median']:.3g}" for p in places))
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sorted({place for points in lines.values() for place in points}))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(f"{name}, tokens")
        axis.set_ylabel(UNITS[record["part"]][0])
        axis.set_title(f"{record['part']}, {record['shape']} {record['dtype']}", fontsize=11)
        axis.legend(loc="best")
    return Picture(figure, "Time per token. " + "; ".join(told))
