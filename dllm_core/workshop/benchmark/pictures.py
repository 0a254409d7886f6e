"""Pictures of the benchmark, from its records: the ratios, and time along lengths. Nothing is measured here."""

from pathlib import Path

from dllm_core.show.figures import COLORS, Picture, error_bars, in_our_look, line_look, new_figure, save_figure
from dllm_core.workshop.benchmark.results import UNITS, curves, read_records
from dllm_core.workshop.benchmark.timing import plural

MARKS = ("float32, 1 thread", "float32, 2 threads", "bfloat16, 1 thread", "bfloat16, 2 threads", "others")


def draw() -> list[Path]:
    """figures/benchmark.png and figures/benchmark_growth.png, where there are records for them."""
    records = read_records()
    pictures = {"benchmark": ratios(records), "benchmark_growth": growth(records)}
    return [save_figure(picture, name) for name, picture in pictures.items() if picture]


@in_our_look
def ratios(records: list[dict]) -> Picture | None:
    """A line for each comparison that has an aim, a mark for each precision and number of threads; log axis."""
    lines: dict[str, list[tuple[int, dict]]] = {}  # name → (index in `MARKS`, ratio)
    several = len({record["machine"] for record in records}) > 1
    for record in records:
        # feeding knows no precision: it takes the marks of float32
        mark = f"{record['dtype'] or 'float32'}, {plural(record['threads'], 'thread')}"
        for row in record["rows"]:
            if row["target"] and row["part"] == record["part"]:
                name = _name(record, row) + (f"\n{record['machine']}" if several else "")
                lines.setdefault(name, []).append((MARKS.index(mark if mark in MARKS else "others"), row["ratio"]))
    if not lines:
        return None
    figure, axes = new_figure(9, 1.4 + (0.6 if several else 0.42) * len(lines))
    for y, marked in enumerate(lines.values()):
        for mark, ratio in marked:
            height = y + 0.16 * (mark - 1.5)
            axes.errorbar(ratio["median"], height, xerr=_bars([ratio]), **line_look(mark), markersize=6, elinewidth=1)
    axes.axvline(1, color=COLORS["grey"], linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    _label_log(axes.xaxis)
    axes.set_xlabel("times as fast (bars: all rounds)")
    for mark in sorted({mark for marked in lines.values() for mark, _ in marked}):
        axes.plot([], [], **line_look(mark) | {"linestyle": ""}, label=MARKS[mark])
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    medians = {name: ", ".join(f"{ratio['median']:.2f}" for _, ratio in marked) for name, marked in lines.items()}
    alt = "; ".join(f"{' '.join(name.split())} {values}" for name, values in medians.items())
    return Picture(figure, f"How many times as fast: {alt}")


def _label_log(axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade of a log axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


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
def growth(records: list[dict]) -> Picture | None:
    """A panel for each axis: time per token of each line, of the largest shape that was measured, on one thread."""
    panels: dict[str, tuple[dict, dict]] = {}
    for record in sorted(records, key=lambda r: (r["dtype"] != "float32", r["threads"], r["shape"])):
        for axis, lines in curves(record).items():
            panels.setdefault(axis, (record, lines))
    if not panels:
        return None
    figure, axes = new_figure(4.6 * len(panels), 4, columns=len(panels))
    alt = []
    for axis, (name, (record, lines)) in zip(axes if len(panels) > 1 else [axes], panels.items(), strict=True):
        for i, (line, points) in enumerate(lines.items()):
            positions = sorted(points)
            spreads = [points[position] for position in positions]
            middles = [spread["median"] for spread in spreads]
            axis.errorbar(positions, middles, yerr=_bars(spreads), label=line, **line_look(i), elinewidth=1)
            alt.append(f"{line} along {name} " + ", ".join(f"{p}: {points[p]['median']:.3g}" for p in positions))
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({position for points in lines.values() for position in points}))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_yscale("log")
        _label_log(axis.yaxis)
        axis.set_xlabel(f"{name}, tokens")
        axis.set_ylabel(UNITS[record["part"]][0])
        axis.set_title(f"{record['part']}, {record['shape']} {record['dtype']}", fontsize=11)
        axis.legend(loc="best")
    return Picture(figure, "Time per token. " + "; ".join(alt))
