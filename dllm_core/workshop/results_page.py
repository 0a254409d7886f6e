"""`dllm results` writes RESULTS.md, its figures and README's tables from the records of the sweeps and the benchmark.

A cell of a table is the mean over seeds, with the smallest and the largest value in brackets.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence

from dllm_core.cli.report import quality_cells
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, read_json_lines, write_whole
from dllm_core.common.paths import resolve
from dllm_core.show.html import table
from dllm_core.workshop.benchmark import results as benchmark_results
from dllm_core.workshop.sweeps.files import FOLDER, Sweep, find_sweeps
from dllm_core.workshop.sweeps.results import PRICE, Spread, draw, gather, heading, prices, tables

INTRODUCTION = (
    "Made by `dllm results` from the records in `notebooks/sweeps/records`, one small file for each cell and seed; "
    "nothing here is typed by hand but the questions and the answers in words, which stand in the sweeps' files. "
    "`dllm sweep all` runs what has no record yet, `dllm sweep NAME --force` a sweep again. A number is the mean over "
    "seeds; in brackets the least and the greatest."
)
REBUILT = "2026-11-30"  # the day from which on noise is drawn by (seed, step, part)
OF_OLD_CODE = {  # page → note that it shows while some records are older than `REBUILT`
    "RESULTS.md": "The records dated before 2026-11-30 were measured by the code before its rebuild (commit 7076237 "
    "and earlier). Noise is drawn in another way since, so a sweep that is run again gives other numbers, within the "
    "range of the seeds.",
    "README.md": "These records were measured by the code before its rebuild (commit 7076237 and earlier), and their "
    "trainings were not equal: fine-tuning took about 5e12 FLOP for AR and 2.7e13, five times as many, for each diffusion "
    "model. The chain now gives all three 1.6e13 and LLaDA 2 blocks of 8; they will be measured again.",
    "README.zh.md": "这些记录由重构之前的代码（提交 7076237 及更早）测得，而且训练并不对等：AR 的微调约用 5e12 FLOP，"
    "两个扩散模型各用 2.7e13，是其五倍。现在三者各用 1.6e13，LLaDA 2 的块长为 8；将重新测量。",
}
READMES = ("README.md", "README.zh.md")
STYLES = {"AR": "ar", "LLaDA 1": "llada1", "LLaDA 2": "llada2"}
CONTESTANTS = (  # (label, threshold) of a row of README's table
    ("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.95), ("LLaDA 2", 0.9),
)  # fmt: skip
TIMED = (None, 0.9)  # the thresholds for which speed and likelihood are measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm results`."""
    parser.add_argument("--output", default="RESULTS.md", help="where the page goes (default: RESULTS.md)")


def run(options: argparse.Namespace) -> None:
    """Draw the figures of all sweeps with records, write the page and README's tables. Raises UsageError without records."""
    sweeps = find_sweeps()
    for sweep in sweeps:
        if sweep.text.get("figure") and sweep.records():
            draw(sweep)
    benchmark_results.draw()
    print(display_path(write_whole(resolve(options.output), page(sweeps))))
    for name in READMES:
        text = resolve(name).read_text("utf-8")
        print(display_path(write_whole(resolve(name), filled(text, readme_parts(name)))))


# RESULTS.md ----------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Mapping]) -> str:
    """The rows as a Markdown table, numbers in few digits; its columns are the keys of the first row."""
    if not rows:
        return "*nothing measured*"
    return table({key: _cell(value) for key, value in row.items()} for row in rows).markdown


def _cell(value: object) -> str | None:
    if value is None:
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


def page(sweeps: Sequence[Sweep]) -> str:
    """RESULTS.md."""
    parts = ["# Results", INTRODUCTION]
    benchmark = benchmark_results.section()
    if any(record["date"] < REBUILT for record in (*_records(sweeps), *benchmark_results.read_records())):
        parts.append(OF_OLD_CODE["RESULTS.md"])
    parts += [_time_taken(sweeps), *(section(sweep) for sweep in sweeps), benchmark]
    return "\n\n".join(part for part in parts if part) + "\n"


def _records(sweeps: Sequence[Sweep]) -> list[dict]:
    return [record for sweep in sweeps for record in sweep.records()]


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


def origin(sweep: Sweep, records: Sequence[dict]) -> str:
    """What a sweep was measured with: command, seeds, machine, dates."""
    seeds = ", ".join(str(seed) for seed in sorted({record["seed"] for record in records}))
    versions = [record["versions"] for record in records]
    machines = sorted({f"{version['device']}, torch {version['torch']}" for version in versions})
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    done, count = len(records), len(sweep.trials)
    unfinished = "" if done == count else f" **{done} of {count} cells are done.**"
    return f"`dllm sweep {sweep.name}` · seeds {seeds} · {'; '.join(machines)} · {when}.{unfinished}"


# README's tables -----------------------------------------------------------------------------------------------------


def readme_parts(name: str) -> dict[str, str]:
    """Mark → Markdown of the README `name`. Raises UsageError when a sweep that the tables need has no records."""
    sweeps = {sweep.name: sweep for sweep in find_sweeps(["paired", "estimators", "speed"])}
    records = {name: sweep.records() for name, sweep in sweeps.items()}
    if missing := [name for name, of_sweep in records.items() if not of_sweep]:
        raise UsageError(f"no records of {', '.join(missing)}: run `dllm sweep {' '.join(missing)}`")
    answers = [{**record, **row} for record in records["paired"] for row in record["rows"]]
    speed = {row["style"]: row for row in gather(records["speed"], "speed", ["style"], ["tokens_per_second", "times"])}
    old = any(record["date"] < REBUILT for record in _records(list(sweeps.values())))
    return {
        "settings": markdown(list(settings_rows(answers, records["estimators"], speed, prices(records["paired"])))),
        "groups": markdown(list(group_rows(answers))),
        "origin": origin(sweeps["paired"], records["paired"]),
        "code": OF_OLD_CODE[name] if old else "",
        "speed": markdown(benchmark_results.headlines()),
    }


def settings_rows(
    answers: Sequence[dict], likelihoods: Sequence[dict], speed: Mapping[str, dict], costs: Mapping[str, dict]
) -> Iterator[dict]:
    """One row for each contestant: exact match with the interval of the questions, pace, likelihood and price."""
    for label, threshold in CONTESTANTS:
        rows = sorted(_answers(answers, "answers", label, threshold), key=lambda row: row["seed"])
        shares = [row["right"].count("1") / len(row["right"]) for row in rows]
        pace = sum(row["tokens_per_forward"] for row in rows) / len(rows)
        timed, measured = threshold in TIMED, speed[STYLES[label]]
        yield {
            **quality_cells(label, threshold, shares, len(rows[0]["right"]), pace),
            "tokens per second": f"{measured['tokens_per_second'].mean:,.0f}" if timed else "–",
            "times AR": f"{measured['times'].mean:.2f}" if timed else "–",
            "nats per answer token": _nats(likelihoods, label) if timed else "–",
            **{heading(name): costs[label][name] if label in costs else "–" for name in PRICE},
        }


def _nats(likelihoods: Sequence[dict], label: str) -> str:
    """The mean over seeds, in the block that the model was trained for (0: one block); ≤ marks an upper bound."""
    block_size = {"AR": 1, "LLaDA 1": 0, "LLaDA 2": 8}[label]
    rows = [row for record in likelihoods if record["label"] == label for row in record["rows"]]
    rows = [row for row in rows if row["kind"] == "likelihood" and row["estimator"] in ("exact", "iid_t")]
    nats = Spread(tuple(row["mean"] for row in rows if row["block_size"] in (1, block_size)))
    return f"{'' if label == 'AR' else '≤ '}{nats.mean:.3f}"


def group_rows(answers: Sequence[dict]) -> Iterator[dict]:
    """One row for each group of questions, one column for each style: right answers in per cent, pooled over seeds."""
    styles = [(label, threshold) for label, threshold in CONTESTANTS if threshold in TIMED]
    for row_kind in ("answers", "answers apart"):
        rows = {label: _answers(answers, row_kind, label, threshold) for label, threshold in styles}
        first = rows["AR"]
        for group in first[0]["groups"] if first else ():
            shares = {}
            for label, of_style in rows.items():
                right, count = (sum(row["groups"][group][index] for row in of_style) for index in (0, 1))
                shares[label] = f"{100 * right / count:.0f} %"
            yield {"group": group, "questions × seeds": f"{first[0]['groups'][group][1]} × {len(first)}", **shares}


def _answers(answers: Sequence[dict], row_kind: str, label: str, threshold: float | None) -> list[dict]:
    wanted = (row_kind, label, threshold)
    return [row for row in answers if (row["kind"], row["label"], row.get("threshold")) == wanted]


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text in which each part between `<!-- made: NAME -->` and `<!-- end -->` is replaced by `parts[NAME]`."""
    stretch = r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(stretch, lambda match: f"{match[1]}{parts[match[2]]}\n{match[3]}", text, flags=re.DOTALL)
