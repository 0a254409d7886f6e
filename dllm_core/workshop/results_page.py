"""`dllm results` writes RESULTS.md, BENCHMARKS.md, their figures and README's generated parts.

All comes from the records of the sweeps and of the benchmark. A cell of a table is the mean over seeds, with the smallest and
the largest value in brackets.
"""

import argparse
import re
from collections.abc import Mapping, Sequence

from dllm_core.common.files import display_path, read_json_lines, write_whole
from dllm_core.common.paths import resolve
from dllm_core.show.html import table
from dllm_core.workshop import readme_parts
from dllm_core.workshop.benchmark import results as benchmark_results
from dllm_core.workshop.sweeps.effects import effect
from dllm_core.workshop.sweeps.figures import draw
from dllm_core.workshop.sweeps.files import FOLDER, Sweep, find_sweeps
from dllm_core.workshop.sweeps.results import REBUILT, is_old, origin, tables

INTRODUCTION = (
    "Made by `dllm results` from the records in `notebooks/sweeps/records`, one small file for each configuration and "
    "seed. Only the questions and the answers in words are typed; they stand in the sweeps' files. A number is the mean "
    "over seeds; in brackets the least and the greatest. An effect is a difference of two configurations, seed by seed. "
    "[How to run a sweep](notebooks/README.md#sweeps) · [what the columns mean](notebooks/GLOSSARY.md#measures) · "
    "[speed beside other libraries](BENCHMARKS.md)."
)
OF_OLD_CODE = (
    f"The records dated before {REBUILT} were measured by the code before its rebuild (commit 7076237 and earlier). Noise "
    "is drawn in another way since, so a sweep that is run again gives other numbers, within the range of the seeds."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`dllm results` has no options."""


def run(options: argparse.Namespace) -> None:
    """Draw the figures and write the pages. Raises UsageError without the records that README needs."""
    sweeps = find_sweeps()
    for sweep in sweeps:
        if sweep.text.get("figure") and sweep.records():
            draw(sweep)
    benchmark_results.draw()
    pages = {"RESULTS.md": page(sweeps), "BENCHMARKS.md": benchmark_results.page()}
    for name in readme_parts.PAGES:
        pages[name] = readme_parts.filled(resolve(name).read_text("utf-8"), readme_parts.parts(name))
    for name, text in pages.items():
        print(display_path(write_whole(resolve(name), text)))


def page(sweeps: Sequence[Sweep]) -> str:
    """RESULTS.md."""
    parts = ["# Results", INTRODUCTION]
    if any(is_old(record) for sweep in sweeps for record in sweep.records()):
        parts.append(OF_OLD_CODE)
    parts += [answers(sweeps), _time_taken(sweeps), *(section(sweep) for sweep in sweeps)]
    return "\n\n".join(part for part in parts if part) + "\n"


def answers(sweeps: Sequence[Sweep]) -> str:
    """The table of all questions: the answer in a few words, the effect with its range, the section."""
    rows = []
    for sweep in sweeps:
        records, title = sweep.records(), sweep.text["title"]
        rows.append({
            "question": sweep.text["question"].strip(),
            "answer": sweep.text.get("short", "–") if records else "not measured yet",
            "effect (mean over seeds, range)": effect(sweep, records),
            "where": f"[{title}](#{anchor(title)})",
        })  # fmt: skip
    return markdown(rows)


def anchor(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def markdown(rows: Sequence[Mapping]) -> str:
    """The rows as a Markdown table, numbers in few digits; its columns are the keys of the first row."""
    if not rows:
        return "*nothing measured*"
    return table({key: _cell(value) for key, value in row.items()} for row in rows).markdown


def _cell(value: object) -> str | None:
    if value is None:
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time_taken(sweeps: Sequence[Sweep]) -> str:
    """The minutes that the logged sweeps took, apart those that `dllm sweep all` leaves out; "" if nothing is logged."""
    log = resolve(FOLDER) / "records/log.jsonl"
    lines = [line for line in read_json_lines(log) if line.get("scale") == "cpu"]
    if not lines:
        return ""
    # sweeps that need data from outside the repository, or run only by name
    left_out = {sweep.name for sweep in sweeps if sweep.text.get("environment") or sweep.text.get("by_name")}
    apart = [line for line in lines if line["cells"] and {cell.split("/")[0] for cell in line["cells"]} <= left_out]
    more = sum(line["seconds"] for line in apart) / 60
    minutes = sum(line["seconds"] for line in lines) / 60 - more
    runs, jobs = len(lines) - len(apart), max(line["jobs"] for line in lines)
    words = f"The sweeps of `dllm sweep all` took {minutes:.0f} minutes ({runs} invocations, {jobs} jobs at once)"
    if not apart:
        return words + "."
    names = ", ".join(sorted(left_out))
    return f"{words}; those that it leaves out or that need other data ({names}) took {more:.0f} minutes."


def section(sweep: Sweep) -> str:
    """One sweep as Markdown: question, answer, figure, tables, and what they were measured with."""
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
        if caption:
            parts.append(caption)
        parts.append(markdown(rows))
    return "\n\n".join([*parts, origin(sweep, records)])
