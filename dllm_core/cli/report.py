"""Tables for the README from what notebook 07 measured: `python -m dllm_core.cli.report outputs/compare_sft.scores.json …`.

One file for each seed. Nothing is measured here, and no number is typed by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from dllm_core.notebook.comparison import schema_table
from dllm_core.notebook.grading import Difference, paired, wilson

ROWS = (("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.9), ("LLaDA 2", 0.7), ("LLaDA 2", 0.5))


def load(path: str | Path) -> dict:
    """A `*.scores.json` of notebook 07, task sft, with graded items. Raises ValueError saying which file lacks them."""
    scores = json.loads(Path(path).read_text("utf-8"))
    lacking = [key for key in ("quality_speed", "exact_match", "speed", "likelihood") if not scores.get(key)]
    if lacking:
        raise ValueError(f"{path}: no {', '.join(lacking)}; run 07 with task=sft on test data whose lines name groups")
    return scores


def settings_table(seeds: list[dict]) -> list[str]:
    """Markdown lines: one row a style and threshold. Exact match is the seeds' mean, with a 95 % Wilson interval of
    the choice of questions, and each seed's; speeds are medians over seeds; likelihoods are means over seeds with their
    mean standard error."""
    count = sum(group["count"] for group in seeds[0]["exact_match"]["AR"])
    lines = [
        "| style | exact match (95 % interval) | each seed | tokens per forward | tokens per second | nats per answer token |",
        "|---|---|---|---|---|---|",
    ]
    for style, threshold in ROWS:
        found = [_find(scores, "quality_speed", "style", style, threshold) for scores in seeds]
        if None in found:
            continue
        share = sum(row["quality"] for row in found) / len(found)
        low, high = wilson(share * count, count)
        own = threshold in (None, _own_threshold(seeds))  # timed and bounded in 07
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


def difference(seeds: list[dict], style: str, threshold: float | None = None, other: str = "AR") -> Difference | None:
    """Exact match of one run minus that of `other`, paired question by question over the seeds; None where a file holds
    no answers of one of them. Raises ValueError where the seeds were asked different questions."""
    sides = [
        [_find(scores, "answers", "name", *run) for scores in seeds] for run in ((style, threshold), (other, None))
    ]
    if None in sides[0] or None in sides[1]:
        return None
    asked = {json.dumps([s["settings"].get(key) for key in ("test_data", "test_items")]) for s in seeds}
    if len(asked) > 1:
        raise ValueError(
            f"the seeds were asked different questions (test_data, test_items): {', '.join(sorted(asked))}"
        )
    return paired(*([row["right"] for row in side] for side in sides))


def sentences(seeds: list[dict]) -> list[str]:
    """What a reader takes away, one sentence a line: quality, differences that are paired, and ratios of speed."""
    count = sum(group["count"] for group in seeds[0]["exact_match"]["AR"])
    rows = {run: [_find(s, "quality_speed", "style", *run) for s in seeds] for run in ROWS}
    rows = {run: found for run, found in rows.items() if None not in found}
    share = {run: sum(row["quality"] for row in found) / len(found) for run, found in rows.items()}
    pace = {run: median(row["tokens_per_forward"] for row in found) for run, found in rows.items()}
    # 1. exact match
    parts = [
        f"{_name(*run)} {share[run]:.3f}" + (f" ({pace[run]:.1f} tokens per forward)" if run[1] else "") for run in rows
    ]
    lines = [f"On {count:,} test questions, {_seeds(len(seeds))}: exact match {', '.join(parts)}."]
    # 2. paired differences
    for run in rows:
        found = difference(seeds, *run) if run[0] != "AR" else None
        if found:
            verdict = "excludes" if found.low > -0.02 else "leaves open" if found.high > -0.02 else "shows"
            alone = f" (single seeds {found.least:+.3f} to {found.most:+.3f})" if found.seeds > 1 else ""
            lines.append(
                f"{_name(*run)} minus AR: {found.mean:+.3f}, 95 % paired interval {found.low:+.3f} to {found.high:+.3f} "
                f"over {found.items:,} questions × {_seeds(found.seeds)}{alone}: it {verdict} a loss above 0.02; "
                f"{found.only_first} right in it alone, {found.only_second} in AR alone."
            )
    # 3. speed
    for style in ("LLaDA 1", "LLaDA 2"):
        speeds = [s["speed"][name] for s in seeds for name in (style, "AR") if name in s["speed"]]
        if len(speeds) == 2 * len(seeds):
            per_second = [row["tokens_per_second"] for row in speeds]
            ratios = [one / ar for one, ar in zip(per_second[::2], per_second[1::2], strict=True)]
            times = f"{median(ratios):.1f}" if median(ratios) >= 1 else f"{median(ratios):.2f}"
            lines.append(
                f"{_name(style, _own_threshold(seeds) if style == 'LLaDA 2' else None)} writes {times} times "
                f"as many tokens per second as cached AR ({median(per_second[::2]):,.0f} against "
                f"{median(per_second[1::2]):,.0f}, medians over the seeds; batch 1)."
            )
    return lines


def _name(style: str, threshold: float | None) -> str:
    return f"{style} at threshold {threshold}" if threshold else style


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _own_threshold(seeds: list[dict]) -> float:
    return seeds[0]["settings"]["gen_confidence_threshold"]


def _find(scores: dict, key: str, by: str, style: str, threshold: float | None) -> dict | None:
    """The row of a contestant at a threshold, at the block length and steps that are its own."""
    own = scores.get("ways", {}).get(style, {})
    fits = lambda row: all(row.get(name) == own.get(name) for name in ("block_length", "steps") if own)
    rows = (row for row in scores.get(key, ()) if row[by] == style and row["threshold"] == threshold)
    return next(filter(fits, rows), None)


def _nats(seeds: list[dict], style: str) -> str:
    rows = [(scores.get("likelihood_exact_masks") or scores["likelihood"])[style] for scores in seeds]
    mean, error = (sum(row[key] for row in rows) / len(rows) for key in ("mean", "error"))
    return f"{'' if style == 'AR' else '≤ '}{mean:.3f} ± {error:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Print both tables, what they say in sentences, the machine and the times; 2 and a message where a file does not
    fit."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.cli.report", description=__doc__.splitlines()[0])
    parser.add_argument("scores", nargs="*", help="*.scores.json of notebook 07, one for each seed")
    parser.add_argument("--summary", help="summary.json of a `dllm run`, for seconds and memory")
    parser.add_argument("--schema", action="store_true", help="print the keys of 07's comparison lines instead")
    given = parser.parse_args(arguments)
    if given.schema:
        print("\n".join(schema_table()))
        return 0
    if not given.scores:
        parser.error("name a *.scores.json of notebook 07, or --schema")
    try:
        seeds = [load(path) for path in given.scores]
        summary = json.loads(Path(given.summary).read_text("utf-8")) if given.summary else None
        lines = [*settings_table(seeds), "", *groups_table(seeds), "", *sentences(seeds)]
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    about = seeds[0]["versions"]
    print(f"\nseeds {', '.join(str(s['settings']['seed']) for s in seeds)}; torch {about['torch']}, {about['device']}, "
          f"{about['threads']} thread(s)")  # fmt: skip
    if summary:
        minutes, seconds = divmod(round(summary["seconds"]), 60)
        stages = ", ".join(f"{name} {stage['seconds']:.0f}" for name, stage in summary["stages"].items())
        print(f"The notebooks took {minutes} minutes {seconds} seconds ({summary['seconds']:.0f} seconds) with --jobs "
              f"{summary['jobs']} and {summary['memory_gib']:.2f} GiB of memory at most; seconds of each: {stages}.")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
