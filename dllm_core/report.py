"""Tables for the README from what notebook 07 measured: `python -m dllm_core.report outputs/compare_sft.scores.json …`.

One file for each seed; counts are pooled over them. Nothing is measured here, and no number is typed by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from dllm_core.answers import wilson

ROWS = (("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.9), ("LLaDA 2", 0.7), ("LLaDA 2", 0.5))


def load(path: str | Path) -> dict:
    """A `*.scores.json` of notebook 07, task sft, with graded items. Raises ValueError saying which file lacks them."""
    scores = json.loads(Path(path).read_text("utf-8"))
    lacking = [key for key in ("quality_speed", "exact_match", "speed", "likelihood") if not scores.get(key)]
    if lacking:
        raise ValueError(f"{path}: no {', '.join(lacking)}; run 07 with task=sft on test data whose lines name groups")
    return scores


def settings_table(seeds: list[dict]) -> list[str]:
    """Markdown lines: one row a style and threshold. Exact match is pooled, with a 95 % Wilson interval and the range of
    the seeds; speeds are medians over seeds; likelihoods are means over seeds with their mean standard error."""
    count = sum(group["count"] for group in seeds[0]["exact_match"]["AR"])
    lines = [
        "| style | exact match (95 % interval) | each seed | tokens per forward | tokens per second | nats per answer token |",
        "|---|---|---|---|---|---|",
    ]
    for style, threshold in ROWS:
        found = [_find(scores["quality_speed"], style, threshold) for scores in seeds]
        if None in found:
            continue
        share = sum(row["quality"] for row in found) / len(found)
        low, high = wilson(round(share * count * len(seeds)), count * len(seeds))
        own = threshold in (None, seeds[0]["settings"]["gen_confidence_threshold"])  # timed and bounded in 07
        speed = f"{median(s['speed'][style]['tokens_per_second'] for s in seeds):,.0f}" if own else "–"
        lines.append(
            f"| {style}{f', threshold {threshold}' if threshold else ''} | {share:.3f} ({low:.3f}–{high:.3f}) "
            f"| {' '.join(format(row['quality'], '.3f') for row in found)} "
            f"| {median(row['tokens_per_forward'] for row in found):.2f} | {speed} | {_nats(seeds, style) if own else ''} |"
        )
    return lines


def groups_table(seeds: list[dict]) -> list[str]:
    """Markdown lines: right answers in per cent, one row a group, one column a style, pooled over seeds."""
    styles = [style for style in ("AR", "LLaDA 1", "LLaDA 2") if style in seeds[0]["exact_match"]]
    lines = ["| group | items | " + " | ".join(styles) + " |", "|---|---|" + "---|" * len(styles)]
    for part in ("exact_match", "reversal"):
        for at, group in enumerate(seeds[0].get(part, {}).get(styles[0], ())):
            cells = []
            for style in styles:
                rows = [scores[part][style][at] for scores in seeds]
                cells.append(f"{100 * sum(r['right'] for r in rows) / sum(r['count'] for r in rows):.0f} %")
            lines.append(f"| {group['group']} | {group['count'] * len(seeds)} | {' | '.join(cells)} |")
    return lines


def _find(rows: list[dict], style: str, threshold: float | None) -> dict | None:
    return next((row for row in rows if row["style"] == style and row["threshold"] == threshold), None)


def _nats(seeds: list[dict], style: str) -> str:
    rows = [scores["likelihood"][style] for scores in seeds]
    mean, error = (sum(row[key] for row in rows) / len(rows) for key in ("mean", "error"))
    return f"{'' if style == 'AR' else '≤ '}{mean:.3f} ± {error:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print both tables, the machine and the times; 2 and a message where a file does not fit."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.report", description=__doc__.splitlines()[0])
    parser.add_argument("scores", nargs="+", help="*.scores.json of notebook 07, one for each seed")
    parser.add_argument("--summary", help="summary.json of a `dllm run`, for seconds and memory")
    given = parser.parse_args(arguments)
    try:
        seeds = [load(path) for path in given.scores]
        summary = json.loads(Path(given.summary).read_text("utf-8")) if given.summary else None
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print("\n".join([*settings_table(seeds), "", *groups_table(seeds)]))
    about = seeds[0]["versions"]
    print(f"\nseeds {', '.join(str(s['settings']['seed']) for s in seeds)}; torch {about['torch']}, {about['device']}, "
          f"{about['threads']} thread(s)")  # fmt: skip
    if summary:
        stages = ", ".join(f"{name} {stage['seconds']:.0f}" for name, stage in summary["stages"].items())
        print(f"{summary['seconds']:.0f} seconds, --jobs {summary['jobs']}, {summary['memory_gib']:.2f} GiB: {stages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
