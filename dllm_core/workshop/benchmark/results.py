"""The benchmark's records in words: notebooks/benchmarks/MACHINE/*.json as the tables of RESULTS.md. Nothing is measured."""

import json
from collections import Counter
from collections.abc import Iterator

from dllm_core.common.paths import resolve
from dllm_core.workshop.benchmark.jobs import OURS, OURS_AR, PIPELINE, THEIR_AR
from dllm_core.workshop.benchmark.train import AR, LLADA1, LLADA2, THEIR_FULL
from dllm_core.workshop.benchmark.train import THEIR_AR as THEIR_AR_STEP

RECORDS = "notebooks/benchmarks"
ORDER = ("decode", "train", "feed")
UNITS = {"decode": ("ms per token", 1e3), "train": ("µs per token", 1e6)}  # of curves
INTRODUCTION = (
    "Made by `python -m dllm_core.workshop.benchmark.main`, one file for each part, shape, precision and number of threads, in "
    "`notebooks/benchmarks`. Jobs take turns in one process; a figure is the median over rounds, in brackets the least and the "
    "greatest. Decoding runs random weights: an oracle overwrites the logits after each real forward so that a fixed number of "
    "masked positions (4) passes the threshold, the same for everyone; its time is subtracted; rows against the plain loop and "
    "diffusers write equal tokens. Positions per token do not count the prompt. *Matmuls alone* is the least time: the matrix "
    "products of the same forwards and nothing else. On a CPU this project's decoders lay out the larger weights once (prepack "
    "them); the others, and the rows *not prepacked*, have it done again in every product. Training is whole steps, "
    "optimiser included. Machines of one name differ, hence the speed of a product of square matrices (1,024², on a GPU "
    "8,192²) beside each. Hugging Face's AR attends across the documents of a packed row, this project's does not. By "
    "positions, both views beside one clean half can be 4/3 times as fast as a pass for each (three halves instead of four)."
)


def records() -> list[dict]:
    """Every record, machine by machine, decoding before training before feeding, the larger shape first."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(resolve(RECORDS).glob("*/*.json"))]
    place = lambda r: (r["machine"], ORDER.index(r["part"]), r["shape"], r["dtype"] == "bfloat16", r["threads"])
    return sorted(found, key=place)


def short(value: float | str) -> str:
    """Three digits are as many as a time has."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: dict, factor: float = 1.0) -> str:
    median, low, high = (short(factor * values[key]) for key in ("median", "low", "high"))
    return f"{median} ({low}–{high})"


def comparisons(record: dict) -> Iterator[dict]:
    """The record's comparisons as rows of a table; what `curves` gives is left out."""
    prefix = f"{record['shape']} {record['dtype']}, "
    for row in record["rows"]:
        if row["part"] == record["part"]:
            more = "; ".join(f"{name} {short(value)}" for name, value in row["more"].items())
            yield {
                "work": row["case"].removeprefix(prefix).removeprefix(f"{record['shape']}, "),
                "": f"**{row['name']}** against {row['against']}",
                "times as fast": spread(row["ratio"]), "aim": row["target"] or "–", "besides": more or "–",
            }  # fmt: skip


def curves(record: dict) -> dict[str, dict[str, dict[int, dict]]]:
    """axis ("prompt", "block", "row length") → line → place on the axis → time per token {median, low, high}, in the
    unit of `UNITS`."""
    found: dict = {}
    for row in record["rows"]:
        part, _, axis = row["part"].partition(" along ")
        if not axis:
            continue
        factor = UNITS[part][1] / row["more"]["tokens"]
        times = {job: {key: factor * value for key, value in spread.items()} for job, spread in row["seconds"].items()}
        lines, line = found.setdefault(axis, {}), row["more"].get("line")
        for job, time in times.items():  # the jobs are the lines, or, of one line, its points
            place = int(job.split()[-1]) if line else row["more"][axis]
            lines.setdefault(line or job, {})[place] = time
    return found


def growth(record: dict) -> Iterator[tuple[str, list[dict]]]:
    """(axis, rows of a table) of each of the record's curves."""
    for axis, lines in curves(record).items():
        unit = UNITS[record["part"]][0]
        places = sorted({place for line in lines.values() for place in line})
        yield axis, [
            {axis: place} | {f"{name}, {unit}": spread(line[place]) for name, line in lines.items() if place in line}
            for place in places
        ]


HEADLINES = (  # (in words, part, words of the case, job, against) of the 26 M shape
    ("decoding, batch 1: LLaDA 2 against diffusers' pipeline", "decode", "batch 1, prompt 32", OURS, PIPELINE),
    ("the same, batch 8", "decode", "batch 8, prompt 32", OURS, PIPELINE),
    ("the same, batch 1 after a prompt of 480", "decode", "batch 1, prompt 480", OURS, PIPELINE),
    ("LLaDA 2 against Hugging Face's cached AR, batch 1", "decode", "batch 1, prompt 32", OURS, THEIR_AR),
    ("LLaDA 2 against this project's cached AR, batch 1", "decode", "batch 1, prompt 32", OURS, OURS_AR),
    ("the same, batch 8", "decode", "batch 8, prompt 32", OURS, OURS_AR),
    ("training: LLaDA 2 against AR, tokens a second", "train", "", LLADA2, AR),
    ("AR against Hugging Face's Qwen3, a step", "train", "", AR, THEIR_AR_STEP),
    ("LLaDA 1 against Hugging Face's Qwen3, a step", "train", "", LLADA1, THEIR_FULL),
)


def headlines() -> list[dict]:
    """The 26 M shape's main ratios as rows of a table, a column for each precision and number of threads: of the CPU with
    the most records. Without any: no rows."""
    found = [record for record in records() if record["shape"] == "26m" and record["machine"].startswith("cpu")]
    if not found:
        return []
    count = Counter(record["machine"] for record in found)
    found = [record for record in found if record["machine"] == count.most_common(1)[0][0]]
    column = lambda record: f"{record['dtype']}, {record['threads']} thread{'s' * (record['threads'] > 1)}"
    columns = list(dict.fromkeys(column(record) for record in found if record["part"] != "feed"))
    rows = []
    for words, part, case, name, against in HEADLINES:
        ratios = {
            column(record): spread(row["ratio"])
            for record in found for row in record["rows"]
            if (record["part"], row["part"], row["name"], row["against"]) == (part, part, name, against) and case in row["case"]
        }  # fmt: skip
        rows.append({"times as fast": words} | {name: ratios.get(name, "–") for name in columns})
    return rows


def section(table) -> str:
    """The part of RESULTS.md about speed, or "" where nothing was measured. table: rows → Markdown."""
    found = records()
    if not found:
        return ""
    parts = ["## Speed, side by side", INTRODUCTION]
    for name, words in (("benchmark", "Ratios"), ("benchmark_growth", "Time per token against lengths")):
        if resolve(f"figures/{name}.png").exists():
            parts.append(f"![{words}](figures/{name}.png)")
    for record in found:
        title = {"decode": "Decoding", "train": "Training", "feed": "Feeding"}[record["part"]]
        dtype = "" if record["part"] == "feed" else f", {record['dtype']}"
        parts.append(f"### {title}, {record['shape']}{dtype}, {record['threads']} thread{'s' * (record['threads'] > 1)}")
        parts.append(table(list(comparisons(record))))
        for axis, rows in growth(record):
            parts += [f"Time per token along the {axis}:", table(rows)]
        parts.append(origin(record))
    return "\n\n".join(parts)


def origin(record: dict) -> str:
    """What a record was measured with: command, machine, date."""
    dtype = "" if record["part"] == "feed" else f" --dtype {record['dtype']}"
    asked = f"{record['part']} --shape {record['shape']}{dtype} --threads {record['threads']} --rounds {record['rounds']}"
    command = f"python -m dllm_core.workshop.benchmark.main {'large' if record['shape'] == 'large' else asked}"
    stopped = f" · not the whole of it: {record['stopped']}" if "stopped" in record else ""
    pace = f"{record['gflops_float32']:g} GFLOP/s float32, {record['gflops_bfloat16']:g} bfloat16"
    code = f" · code {record['code']}" if record.get("code") else ""
    return f"`{command}` · {record['machine']}, torch {record['torch']}, {pace} · {record['date']}{code}{stopped}"
