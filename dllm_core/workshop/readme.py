"""The README's tables of results, written between its marks from the sweeps' and the benchmark's records: `python -m dllm_core.workshop.readme`.

Both languages get the same numbers; the words around them stand in the README itself. Nothing is measured here.
"""

import argparse
import re
import sys

from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import resolve
from dllm_core.notebook.grading import wilson
from dllm_core.workshop import results_page as results
from dllm_core.workshop.benchmark import results as benchmark_results
from dllm_core.workshop.results_page import Spread
from dllm_core.workshop.sweeps import files as sweeps

FILES = ("README.md", "README.zh.md")
SHOWN = (("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.95), ("LLaDA 2", 0.9))
STYLES = {"AR": "ar", "LLaDA 1": "llada1", "LLaDA 2": "llada2"}


def parts() -> dict[str, str]:
    """Mark → Markdown. Raises Problem when a sweep that they are made from has no records."""
    found = {name: sweeps.find([name])[0] for name in ("paired", "estimators", "speed")}
    records = {name: sweep.records() for name, sweep in found.items()}
    if lacking := [name for name, some in records.items() if not some]:
        raise UsageError(f"no records of {', '.join(lacking)}: run `dllm sweep {' '.join(lacking)}`")
    answers = [
        {"label": record["label"], "seed": record["seed"], **row} for record in records["paired"] for row in record["rows"]
    ]
    speed = {row["style"]: row for row in results.gather(records["speed"], "speed", ["style"], ["tokens_per_second", "times"])}
    return {
        "settings": results.markdown(list(_settings(answers, records["estimators"], speed))),
        "groups": results.markdown(list(_groups(answers))),
        "origin": results.origin(found["paired"], records["paired"]),
        "speed": results.markdown(benchmark_results.headlines()),
    }


def _settings(answers: list[dict], likelihoods: list[dict], speed: dict):
    for label, threshold in SHOWN:
        rows = [r for r in answers if (r["kind"], r["label"], r.get("threshold")) == ("answers", label, threshold)]
        right, count = (sum(f(row) for row in rows) for f in (lambda r: r["right"].count("1"), lambda r: len(r["right"])))
        low, high = wilson(right / len(rows), count // len(rows))
        own = threshold in (None, 0.9)  # what is timed and bounded
        nats = [row["mean"] for r in likelihoods if r["label"] == label for row in r["rows"]
                if row["kind"] == "likelihood" and row["estimator"] in ("exact", "iid_t") and row["block_size"] in (1, 16 if label == "LLaDA 2" else 0)]
        pace = speed[STYLES[label]]
        yield {
            "style": label + (f", threshold {threshold:g}" if threshold else ""),
            "exact match (95 % interval)": f"{right / count:.3f} ({low:.3f}–{high:.3f})",
            "each seed": " ".join(f"{row['exact_match']:.3f}" for row in sorted(rows, key=lambda row: row["seed"])),
            "tokens per forward": f"{sum(row['tokens_per_forward'] for row in rows) / len(rows):.2f}",
            "tokens per second": f"{pace['tokens_per_second'].mean:,.0f}" if own else "–",
            "times AR": f"{pace['times'].mean:.2f}" if own else "–",
            "nats per answer token": f"{'' if label == 'AR' else '≤ '}{Spread(tuple(nats)).mean:.3f}" if own else "–",
        }  # fmt: skip


def _groups(answers: list[dict]):
    styles = [(label, threshold) for label, threshold in SHOWN if threshold in (None, 0.9)]
    for kind in ("answers", "answers apart"):
        rows = {s: [r for r in answers if (r["kind"], r["label"], r.get("threshold")) == (kind, *s)] for s in styles}
        for group in rows[styles[0]][0]["groups"] if rows[styles[0]] else ():
            sums = {s: [sum(row["groups"][group][i] for row in some) for i in (0, 1)] for s, some in rows.items()}
            yield {
                "group": group, "questions × seeds": f"{rows[styles[0]][0]['groups'][group][1]} × {len(rows[styles[0]])}",
                **{label: f"{100 * sums[label, t][0] / sums[label, t][1]:.0f} %" for label, t in styles},
            }  # fmt: skip


def filled(text: str, made: dict[str, str]) -> str:
    """The text with each stretch between `<!-- made: NAME -->` and `<!-- end -->` replaced."""
    stretch = r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)"
    return re.sub(stretch, lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Write both files; 2 and a message when records are missing."""
    argparse.ArgumentParser(prog="python -m dllm_core.workshop.readme", description=__doc__.splitlines()[0]).parse_args(argv)
    try:
        made = parts()
    except UsageError as problem:
        print(f"readme: {problem}", file=sys.stderr)
        return 2
    for name in FILES:
        path = resolve(name)
        write_whole(path, filled(path.read_text("utf-8"), made))
        print(display_path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
