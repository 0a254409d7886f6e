"""What the sweeps and the benchmark found, as tables, and RESULTS.md: `python -m dllm_core.workshop.results_page`.

Every number is read from a record. A cell of a table is the mean over seeds, with the least and the greatest in brackets.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import resolve
from dllm_core.notebook.grading import paired
from dllm_core.workshop.benchmark import results as benchmark_results
from dllm_core.workshop.sweeps import files as sweeps
from dllm_core.workshop.sweeps.files import Sweep

HEADINGS = {
    "label": "", "threshold": "threshold", "block_length": "block length", "steps": "steps", "temperature": "temperature",
    "cfg_scale": "guidance", "exact_match": "exact match", "tokens_per_forward": "tokens per forward",
    "tokens_per_second": "tokens per second", "ended": "ends with eos", "length": "tokens of an answer",
    "too_long": "longer than asked", "distinct_2": "distinct pairs", "repetition": "repeated", "mean": "nats per token",
    "error": "standard error", "block_size": "block", "estimator": "estimator", "step_1": "loss of step 1",
    "step_10": "mean of steps 1–10", "step_50": "mean of steps 41–50", "norm_10": "largest gradient of steps 1–10",
    "prompt_length": "prompt", "cache": "cache", "milliseconds": "ms per forward", "forwards": "forwards",
    "milliseconds_per_token": "ms per token", "k": "checkpoints averaged", "direction": "told", "way": "how asked", "right": "right",
    "trained_steps": "steps", "tokens": "tokens", "seconds": "seconds", "style": "style", "times": "times AR", "least": "least", "most": "most",
}  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """A value over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def __str__(self) -> str:
        digits = 0 if abs(self.mean) >= 100 else 2 if abs(self.mean) >= 10 else 3
        shown = [f"{value:,.{digits}f}" for value in (self.mean, min(self.values), max(self.values))]
        return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]}–{shown[2]})"


def gather(records: list[dict], kind: str, by: list[str], columns: list[str]) -> list[dict]:
    """Rows of one kind, pooled over seeds: one dict for each cell and each combination of the settings `by`, in order
    of appearance; `columns` as `Spread`. Rows that lack a column are left out."""
    found: dict[tuple, list[dict]] = {}
    for record in records:
        for row in record["rows"]:
            if row["kind"] == kind and all(row.get(name) is not None for name in columns):
                found.setdefault((record["label"], *(row.get(name) for name in by)), []).append(row)
    return [
        dict(zip(("label", *by), key, strict=True))
        | {name: Spread(tuple(float(row[name]) for row in rows)) for name in columns}
        for key, rows in found.items()
    ]


def tables(sweep: Sweep, records: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    """(caption, rows) of each table that the sweep's file asks for; columns under their headings."""
    if sweep.text.get("paired"):
        yield "Paired: the same questions, the same seeds", paired_rows(sweep, records)
    for table in sweep.text.get("tables", ()):
        by = table.get("by", [])
        rows = gather(records, table["rows"], by, table["columns"])
        if not table.get("labels", True):
            rows = [{key: value for key, value in row.items() if key != "label"} for row in rows]
        told = [table["caption"]] if table.get("caption") else []
        if "exact_match" in table["columns"] and any(record["asked"].get("own_answers") for record in records):
            told.append("exact match here: the share of held-out prompts answered as the model itself does one token a forward")
        yield "; ".join(told), [
            {HEADINGS.get(key, key) or "cell": value for key, value in row.items()} for row in rows
        ]


def paired_rows(sweep: Sweep, records: list[dict]) -> list[dict]:
    """`paired: {against: CELL}`: every other cell's answers against that cell's, question by question, at each setting (at
    the same one, where that cell knows it): the difference of exact match with its 95 % interval, and on how many answers
    only one of the two was right."""
    against = sweep.text["paired"]["against"]
    own = {(r["seed"], row.get("threshold")): _right(row)
           for r in records if r["cell"] == against for row in r["rows"] if "right" in row}  # fmt: skip
    reference = lambda seed, threshold: own.get((seed, threshold), own.get((seed, None)))
    found: dict[tuple, dict[int, dict]] = {}
    for record in records:
        for row in record["rows"]:
            if "right" in row and record["cell"] != against and reference(record["seed"], row.get("threshold")):
                found.setdefault((record["label"], row.get("threshold")), {})[record["seed"]] = row
    label = next((r["label"] for r in records if r["cell"] == against), against)
    rows = []
    for (name, threshold), of_seed in found.items():
        seeds = sorted(of_seed)
        difference = paired([_right(of_seed[seed]) for seed in seeds], [reference(seed, threshold) for seed in seeds])
        rows.append({
            f"against {label}": name, "threshold": threshold, "questions × seeds": f"{difference.items} × {len(seeds)}",
            "difference (95 % interval)": f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            "a loss above 0.02 is excluded": "yes" if difference.low > -0.02 else "no",
            "only it right": difference.only_first, f"only {label} right": difference.only_second,
            "tokens per forward": Spread(tuple(of_seed[seed]["tokens_per_forward"] for seed in seeds)),
        })  # fmt: skip
    return rows


def _right(row: dict) -> list[bool]:
    return [mark == "1" for mark in row["right"]]


def markdown(rows: list[dict]) -> str:
    """A table; its columns are the keys of the first row."""
    if not rows:
        return "*nothing measured*"
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(_text(value) for value in row.values()) + " |" for row in rows)])


def _text(value) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def section(sweep: Sweep) -> str:
    """One sweep as Markdown: question, answer, command, figure, tables, what they were measured on."""
    records = sweep.records()
    parts = [f"## {sweep.text['title']}", f"**{sweep.text['question'].strip()}**"]
    if sweep.text.get("answer"):
        parts.append(sweep.text["answer"].strip())
    if not records:
        return "\n\n".join([*parts, f"*Not run yet: `dllm sweep {sweep.name}`.*"])
    picture = resolve(f"figures/sweep_{sweep.name}.png")
    if picture.exists():
        parts.append(f"![{sweep.text['title']}](figures/{picture.name})")
    for caption, rows in tables(sweep, records):
        parts += [caption] * bool(caption) + [markdown(rows)]
    return "\n\n".join([*parts, origin(sweep, records)])


def origin(sweep: Sweep, records: list[dict]) -> str:
    """What a sweep was measured with: command, seeds, machine, dates."""
    done, count = len(records), len(sweep.cells)
    machines = sorted({f"{r['versions']['device']}, torch {r['versions']['torch']}" for r in records})
    dates = sorted({record["date"] for record in records})
    partly = "" if done == count else f" **{done} of {count} cells are done.**"
    seeds = ", ".join(str(seed) for seed in sorted({record["seed"] for record in records}))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"`dllm sweep {sweep.name}` · seeds {seeds} · {'; '.join(machines)} · {when}.{partly}"


def page(found: list[Sweep]) -> str:
    """RESULTS.md."""
    log = resolve(sweeps.FOLDER) / "records/log.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    lines = [line for line in lines if line["scale"] == "cpu"]
    # on data that do not come along, or asked for by name
    others = {sweep.name for sweep in found if sweep.text.get("environment") or sweep.text.get("by_name")}
    apart = [line for line in lines if line["cells"] and {cell.partition("/")[0] for cell in line["cells"]} <= others]
    minutes, more = (sum(line["seconds"] for line in some) / 60 for some in ([one for one in lines if one not in apart], apart))
    head = [
        "# Results",
        ("Made by `python -m dllm_core.workshop.results_page` from the records in `notebooks/sweeps/records`, one small file for each cell "
        "and seed; nothing here is typed by hand but the questions and the answers in words, which stand in the sweeps' "
        "files. `dllm sweep all` runs what has no record yet, `dllm sweep NAME --force` a sweep again. A number is the mean "
        "over seeds; in brackets the least and the greatest."),
    ]  # fmt: skip
    if lines:
        head.append(
            f"All that needs nothing else took {minutes:.0f} minutes ({len(lines) - len(apart)} invocations of `dllm sweep`, "
            f"{max(line['jobs'] for line in lines)} papermill runs side by side)"
            + (f", what `all` leaves out or needs other data for ({', '.join(sorted(others))}) {more:.0f} more." if apart else ".")
        )
    speed = benchmark_results.section()
    return "\n\n".join([*head, *(section(sweep) for sweep in found), *([speed] if speed else [])]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write RESULTS.md and the figures of what has records."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.workshop.results_page", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="RESULTS.md")
    given = parser.parse_args(arguments)
    from dllm_core.workshop.benchmark import pictures as show_benchmark
    from dllm_core.workshop.sweeps.drawing import draw

    try:
        found = sweeps.find([])
        for sweep in found:
            if sweep.text.get("figure") and sweep.records():
                draw(sweep)
        show_benchmark.draw()
        path = resolve(given.output)
        write_whole(path, page(found))
    except (UsageError, OSError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    print(display_path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
