"""The benchmark's records, notebooks/benchmarks/MACHINE/*.json, as BENCHMARKS.md and as pictures. Nothing is measured."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dllm_core.cli.stages import read_record
from dllm_core.common.paths import resolve
from dllm_core.show.figures import COLORS, Picture, error_bars, line_look, new_figure, our_look, save_figure
from dllm_core.show.html import table
from dllm_core.workshop.benchmark import decode, train
from dllm_core.workshop.benchmark.timing import plural

RECORDS = "notebooks/benchmarks"
RECORD = {"machine": str, "part": str, "shape": str, "dtype": str, "threads": int, "rows": list[dict]}  # of a setting
PARTS = {"decode": "Decoding", "train": "Training", "feed": "Feeding"}  # in the order of the page
UNITS = {"decode": ("ms per token", 1e3), "train": ("µs per token", 1e6)}  # of curves
INTRODUCTION = """\
Made by `dllm results` from the records that `dllm bench` wrote to `notebooks/benchmarks`, one file for each part, shape,
precision and number of threads ([how to run it](dllm_core/README.md#benchmark)). How to read the tables:

- Jobs take turns in one process. A figure is the median over rounds; in brackets the least and the greatest.
- Decoding runs random weights. After each real forward pass an oracle overwrites the logits, so that a fixed number of masked
  positions (4) passes the threshold, the same for everyone; its time is subtracted. The plain loop and diffusers write equal
  tokens. Positions per token do not count the prompt.
- *Matmuls alone* is the least time: the matrix products of the same forward passes and nothing else.
- On a CPU this project's decoders lay out the larger weights once for all products (they prepack them; this takes their memory a
  second time). The other libraries, and the lines *not prepacked*, have it done again in every product.
- One prompt at a time, LLaDA 2 reads the weights once for several tokens, cached AR for one. In a batch AR, too, reads them once for
  several tokens, one of each sequence. So its disadvantage shrinks as the batch grows, and can turn into an advantage.
- Training is whole steps, optimizer included. Hugging Face's AR attends across the documents of a packed sequence, this project's
  does not. By positions, both views beside one clean half can be 4/3 times as fast as a pass for each (three halves instead of
  four).
- Machines of one name differ, hence the speed of a product of square matrices (1,024², on a GPU 8,192²) beside each."""
HEADLINES_INTRODUCTION = "The main ratios at 26 M parameters (hidden size 512, 8 layers), from the tables below:"
FIGURES = {"benchmark": "Ratios", "benchmark_growth": "Time per token against lengths"}
BATCH_1, BATCH_8 = "batch 1, prompt 32", "batch 8, prompt 32"
HEADLINES = (  # (in words, part, words of the case, job, the job it is compared with) of the 26 M shape
    ("decoding, batch 1: LLaDA 2 against diffusers' pipeline", "decode", BATCH_1, decode.LLADA2, decode.DIFFUSERS),
    ("the same, batch 8", "decode", BATCH_8, decode.LLADA2, decode.DIFFUSERS),
    ("the same, batch 1 after a prompt of 480", "decode", "batch 1, prompt 480", decode.LLADA2, decode.DIFFUSERS),
    ("LLaDA 2 against Hugging Face's cached AR, batch 1", "decode", BATCH_1, decode.LLADA2, decode.HUGGING_FACE_AR),
    ("LLaDA 2 against this project's cached AR, batch 1", "decode", BATCH_1, decode.LLADA2, decode.AR),
    ("the same, batch 8", "decode", BATCH_8, decode.LLADA2, decode.AR),
    ("training: LLaDA 2 against AR, tokens a second", "train", "", train.LLADA2, train.AR),
    ("AR against Hugging Face's Qwen3, a step", "train", "", train.AR, train.HUGGING_FACE_AR),
    ("LLaDA 1 against Hugging Face's Qwen3, a step", "train", "", train.LLADA1, train.HUGGING_FACE_DIFFUSION),
)
MARKS = ("float32, 1 thread", "float32, 2 threads", "bfloat16, 1 thread", "bfloat16, 2 threads", "others")


def read_records() -> list[dict]:
    """Every record, machine by machine, decoding before training before feeding, the larger shape first."""
    order = lambda r: (r["machine"], list(PARTS).index(r["part"]), r["shape"], r["dtype"] == "bfloat16", r["threads"])
    records = (read_record(path, RECORD) for path in sorted(resolve(RECORDS).glob("*/*.json")))
    return sorted(filter(None, records), key=order)


def short(value: float | str) -> str:
    """A number in three significant digits, as many as a time has; text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short_spread(values: dict) -> str:
    """{median, low, high} → "2 (1.5–2.5)"."""
    return f"{short(values['median'])} ({short(values['low'])}–{short(values['high'])})"


def comparisons(record: dict) -> Iterator[dict]:
    """The record's comparisons as rows of a table, without the points of its curves."""
    prefix = f"{record['shape']} {record['dtype']}, "
    for row in record["rows"]:
        if row["part"] == record["part"]:
            more = "; ".join(f"{name} {short(value)}" for name, value in row["more"].items())
            yield {
                "work": row["case"].removeprefix(prefix).removeprefix(f"{record['shape']}, "),
                "": f"**{row['name']}** against {row['against']}",
                "times as fast": short_spread(row["ratio"]), "aim": row["target"] or "–", "besides": more or "–",
            }  # fmt: skip


def curves(record: dict) -> dict[str, dict[str, dict[int, dict]]]:
    """axis ("prompt", "block", "row length") → line → position on the axis → time per token {median, low, high}, in the
    unit of `UNITS`."""
    axes: dict = {}
    for row in record["rows"]:
        part, _, axis = row["part"].partition(" along ")
        if not axis:
            continue
        factor, line = UNITS[part][1] / row["more"]["tokens"], row["more"].get("line")
        for job, seconds in row["seconds"].items():  # the jobs are the lines, or, where a line is named, its points
            position = int(job.split()[-1]) if line else row["more"][axis]
            time = {key: factor * value for key, value in seconds.items()}
            axes.setdefault(axis, {}).setdefault(line or job, {})[position] = time
    return axes


def curve_rows(lines: dict[str, dict[int, dict]], axis: str, unit: str) -> Iterator[dict]:
    """The lines of one axis of `curves` as rows of a table, one for each position."""
    for position in sorted({position for points in lines.values() for position in points}):
        times = {f"{name}, {unit}": points.get(position) for name, points in lines.items()}
        yield {axis: str(position)} | {name: time and short_spread(time) for name, time in times.items()}


def headlines() -> list[dict]:
    """The 26 M shape's main ratios as rows of a table, of the CPU with the most records; none where there are none. A
    column for each precision and number of threads."""
    records = [record for record in read_records() if record["shape"] == "26m" and record["machine"].startswith("cpu")]
    if not records:
        return []
    machine, _ = Counter(record["machine"] for record in records).most_common(1)[0]
    columns: dict[str, list[dict]] = {}
    for record in records:
        if record["machine"] == machine and record["part"] != "feed":
            columns.setdefault(f"{record['dtype']}, {plural(record['threads'], 'thread')}", []).extend(record["rows"])
    rows = []
    for words, part, case, *pair in HEADLINES:
        rows.append({"times as fast": words})
        for column, measured in columns.items():
            fitting = [row for row in measured if row["part"] == part and case in row["case"]]
            ratios = [short_spread(row["ratio"]) for row in fitting if [row["name"], row["against"]] == pair]
            rows[-1][column] = ratios[-1] if ratios else "–"
    return rows


def page() -> str:
    """BENCHMARKS.md."""
    records = read_records()
    parts = ["# Speed, side by side", INTRODUCTION]
    if rows := headlines():
        parts += [HEADLINES_INTRODUCTION, table(rows).markdown]
    parts += [
        f"![{words}](figures/{name}.png)" for name, words in FIGURES.items() if resolve(f"figures/{name}.png").exists()
    ]
    for record in records:
        dtype = f", {record['dtype']}" if record["part"] != "feed" else ""
        parts.append(f"## {PARTS[record['part']]}, {record['shape']}{dtype}, {plural(record['threads'], 'thread')}")
        parts.append(table(comparisons(record)).markdown)
        for axis, lines in curves(record).items():
            rows = curve_rows(lines, axis, UNITS[record["part"]][0])
            parts += [f"Time per token along the {axis}:", table(rows).markdown]
        parts.append(origin(record))
    return "\n\n".join(parts) + "\n"


def origin(record: dict) -> str:
    """What a record was measured with: command, machine, date."""
    command = "dllm bench large"
    if record["shape"] != "large":
        dtype = f" --dtype {record['dtype']}" if record["part"] != "feed" else ""
        command = f"dllm bench {record['part']} --shape {record['shape']}{dtype}"
        command += f" --threads {record['threads']} --rounds {record['rounds']}"
    stopped = f" · incomplete, it stopped with {record['stopped']}" if "stopped" in record else ""
    speed = f"{record['gflops_float32']:g} GFLOP/s float32, {record['gflops_bfloat16']:g} bfloat16"
    code = f" · code {record['code']}" if record.get("code") else ""
    return f"`{command}` · {record['machine']}, torch {record['torch']}, {speed} · {record['date']}{code}{stopped}"


def draw() -> list[Path]:
    """figures/benchmark.png and figures/benchmark_growth.png, where there are records for them."""
    records = read_records()
    pictures = {"benchmark": ratios(records), "benchmark_growth": growth(records)}
    return [save_figure(picture, name) for name, picture in pictures.items() if picture]


@our_look()
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
    figure, (axes,) = new_figure(9, 1.4 + (0.6 if several else 0.42) * len(lines))
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


@our_look()
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
    for axis, (name, (record, lines)) in zip(axes, panels.items(), strict=True):
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
