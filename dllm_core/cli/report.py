"""`dllm report`: tables and sentences from what notebook 07 measured, one *.scores.json for each seed.

Nothing is measured here, and no number is typed by hand.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from dllm_core.checkpoints import price
from dllm_core.common.errors import DataError, UsageError
from dllm_core.common.files import read_json
from dllm_core.common.text import safe
from dllm_core.notebook.comparison import SCHEMA
from dllm_core.notebook.grading import Difference, paired, wilson
from dllm_core.show.html import table

CONTESTANTS = (  # (style, threshold) of a row
    ("AR", None), ("LLaDA 1", None), ("LLaDA 2", 0.99), ("LLaDA 2", 0.9), ("LLaDA 2", 0.7), ("LLaDA 2", 0.5),
)  # fmt: skip
STYLES = ("AR", "LLaDA 1", "LLaDA 2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm report`."""
    parser.add_argument("scores", nargs="*", help="*.scores.json of notebook 07, one for each seed")
    parser.add_argument("--summary", help="summary.json of a `dllm run`, for seconds and memory")
    parser.add_argument("--schema", action="store_true", help="print the keys of 07's comparison lines instead")


def run(options: argparse.Namespace) -> None:
    """Print both tables, the sentences, the machine and the times. Raises UsageError where a file does not fit."""
    if options.schema:
        print(table([{"key": f"`{key}`", "what it says": text} for key, text in SCHEMA.items()]).markdown)
        return
    if not options.scores:
        raise UsageError("name a *.scores.json of notebook 07, or --schema")
    try:
        print(safe("\n\n".join(_parts(options)), 100_000))
    except (OSError, DataError) as error:
        raise UsageError(str(error)) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:  # damaged, or written by another program
        files = ", ".join(filter(None, (*options.scores, options.summary)))
        raise UsageError(f"{files}: not what notebook 07 and dllm run write ({type(error).__name__}: {error})") from error


def _parts(options: argparse.Namespace) -> list[str]:
    seeds = [load_scores(path) for path in options.scores]
    summary = read_json(options.summary) if options.summary else None
    parts = [table(settings_rows(seeds)).markdown, table(group_rows(seeds)).markdown, "\n".join(sentences(seeds))]
    versions = seeds[0]["versions"]
    numbers = ", ".join(str(scores["settings"]["seed"]) for scores in seeds)
    parts.append(f"seeds {numbers}; torch {versions['torch']}, {versions['device']}, {versions['threads']} thread(s)")
    if summary:
        minutes, seconds = divmod(round(summary["seconds"]), 60)
        stages = ", ".join(f"{name} {stage['seconds']:.0f}" for name, stage in summary["stages"].items())
        parts[-1] += (
            f"\nThe notebooks took {minutes} minutes {seconds} seconds ({summary['seconds']:.0f} seconds) with "
            f"--jobs {summary['jobs']} and {summary['memory_gib']:.2f} GiB of memory at most; "
            f"seconds of each: {stages}."
        )
    return parts


def load_scores(path: str | Path) -> dict:
    """A *.scores.json of notebook 07, task sft, with graded questions. Raises DataError that names what it lacks."""
    scores = read_json(path)
    missing = [key for key in ("quality_speed", "exact_match", "speed", "likelihood") if not scores.get(key)]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; run 07 with task=sft on test data whose lines name groups")
    return scores


def settings_rows(seeds: Sequence[dict]) -> list[dict[str, str]]:
    """One row for each style and threshold.

    Exact match is the seeds' mean, with a 95 % Wilson interval of the choice of questions, and each seed's; speeds are
    medians over the seeds; likelihoods are means over the seeds with their mean standard error.
    """
    rows = []
    for (style, threshold), of_seeds in _contestants(seeds).items():
        timed = threshold in (None, _threshold(seeds))  # 07 times and bounds these only
        row = quality_cells(style, threshold, [row["quality"] for row in of_seeds], _questions(seeds), _pace(of_seeds))
        row["tokens per second"] = f"{median(_speeds(seeds, style)):,.0f}" if timed else "–"
        row["nats per answer token"] = _nats(seeds, style) if timed else ""
        row |= _price(seeds, style)
        rows.append(row)
    return rows


def quality_cells(
    style: str, threshold: float | None, shares: Sequence[float], count: int, pace: float
) -> dict[str, str]:
    """The first cells of a row. shares: right answers of each seed, of `count` questions; pace: tokens per forward."""
    share = mean(shares)
    low, high = wilson(share * count, count)
    return {
        "style": f"{style}, threshold {threshold:g}" if threshold else style,
        "exact match (95 % interval)": f"{share:.3f} ({low:.3f}–{high:.3f})",
        "each seed": " ".join(f"{each:.3f}" for each in shares),
        "tokens per forward": f"{pace:.2f}",
    }


def group_rows(seeds: Sequence[dict]) -> list[dict[str, str]]:
    """Right answers in per cent, pooled over the seeds: one row for each group, one column for each style."""
    styles = [style for style in STYLES if style in seeds[0]["exact_match"]]
    rows = []
    for part in ("exact_match", "reversal"):
        for index, group in enumerate(seeds[0].get(part, {}).get(styles[0], ())):
            row = {"group": group["group"], "items": str(group["count"] * len(seeds))}
            for style in styles:
                counts = [scores[part][style][index] for scores in seeds]
                right, count = (sum(entry[key] for entry in counts) for key in ("right", "count"))
                row[style] = f"{100 * right / count:.0f} %"
            rows.append(row)
    return rows


def difference(seeds: Sequence[dict], style: str, threshold: float | None) -> Difference | None:
    """Exact match of a contestant minus that of AR, paired question by question over the seeds.

    None where a file holds no answers of one of them. Raises DataError where the seeds were asked different questions.
    """
    first = [_find(scores, "answers", "name", style, threshold) for scores in seeds]
    second = [_find(scores, "answers", "name", "AR", None) for scores in seeds]
    if None in first or None in second:
        return None
    questions = {tuple(scores["settings"].get(key) for key in ("test_data", "test_items")) for scores in seeds}
    if len(questions) > 1:
        listed = ", ".join(sorted(map(str, questions)))
        raise DataError(f"the seeds were asked different questions (test_data, test_items): {listed}")
    return paired([row["right"] for row in first], [row["right"] for row in second])


def sentences(seeds: Sequence[dict]) -> list[str]:
    """The results in sentences, one a line: exact match, its price, paired differences from AR, ratios of speed."""
    parts, differences = [], []
    for (style, threshold), of_seeds in _contestants(seeds).items():
        name = f"{style} at threshold {threshold}" if threshold else style
        pace = f" ({_pace(of_seeds):.1f} tokens per forward)" if threshold else ""
        parts.append(f"{name} {mean(row['quality'] for row in of_seeds):.3f}{pace}")
        if style != "AR" and (result := difference(seeds, style, threshold)):
            differences.append(_difference_sentence(name, result))
    quality = f"On {_questions(seeds):,} test questions, {_seeds(len(seeds))}: exact match {', '.join(parts)}."
    styles = [s for s in STYLES[1:] if all(name in scores["speed"] for scores in seeds for name in (s, "AR"))]
    return [quality, _price_sentence(seeds), *differences, *(_speed_sentence(style, seeds) for style in styles)]


def _difference_sentence(name: str, result: Difference) -> str:
    verdict = "excludes" if result.low > -0.02 else "leaves open" if result.high > -0.02 else "shows"
    single = f" (single seeds {result.least:+.3f} to {result.most:+.3f})" if result.seeds > 1 else ""
    return (
        f"{name} minus AR: {result.mean:+.3f}, 95 % paired interval {result.low:+.3f} to {result.high:+.3f} "
        f"over {result.items:,} questions × {_seeds(result.seeds)}{single}: it {verdict} a loss above 0.02; "
        f"{result.only_first} right in it alone, {result.only_second} in AR alone."
    )


def _speed_sentence(style: str, seeds: Sequence[dict]) -> str:
    speed, ar_speed = _speeds(seeds, style), _speeds(seeds, "AR")
    ratio = median(fast / slow for fast, slow in zip(speed, ar_speed, strict=True))
    times = f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"
    setting = f" at threshold {_threshold(seeds)}" if style == "LLaDA 2" else ""
    return (
        f"{style}{setting} writes {times} times as many tokens per second as cached AR "
        f"({median(speed):,.0f} against {median(ar_speed):,.0f}, medians over the seeds; batch 1)."
    )


def _price_sentence(seeds: Sequence[dict]) -> str:
    flops = {s: _price(seeds, s)["fine-tuning FLOP"] for s in STYLES if s in seeds[0]["exact_match"]}
    if "–" in flops.values():
        return "What fine-tuning took is not recorded for all of them: the scores may compare unequal trainings."
    words = ", ".join(f"{style} {value}" for style, value in flops.items())
    return f"Fine-tuning took, in FLOP: {words}. Where these differ, the scores compare trainings, not styles."


def _price(seeds: Sequence[dict], style: str) -> dict[str, str]:
    return price.cells([scores.get("trained", {}).get(style, ()) for scores in seeds])


def _questions(seeds: Sequence[dict]) -> int:
    return sum(group["count"] for group in seeds[0]["exact_match"]["AR"])


def _pace(of_seeds: Sequence[dict]) -> float:
    return median(row["tokens_per_forward"] for row in of_seeds)


def _speeds(seeds: Sequence[dict], style: str) -> list[float]:
    return [scores["speed"][style]["tokens_per_second"] for scores in seeds]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _threshold(seeds: Sequence[dict]) -> float:
    return seeds[0]["settings"]["gen_confidence_threshold"]


def _contestants(seeds: Sequence[dict]) -> dict[tuple[str, float | None], list[dict]]:
    """(style, threshold) → the row of each seed, for those that every seed has."""
    rows = {run: [_find(scores, "quality_speed", "style", *run) for scores in seeds] for run in CONTESTANTS}
    return {run: of_seeds for run, of_seeds in rows.items() if None not in of_seeds}


def _find(scores: dict, key: str, by: str, style: str, threshold: float | None) -> dict | None:
    """The row of a contestant at a threshold, at the contestant's own block length and steps."""
    settings = scores.get("ways", {}).get(style, {})
    for row in scores.get(key, ()):
        fits = not settings or all(row.get(name) == settings.get(name) for name in ("block_length", "steps"))
        if fits and row[by] == style and row["threshold"] == threshold:
            return row
    return None


def _nats(seeds: Sequence[dict], style: str) -> str:
    rows = [(scores.get("likelihood_exact_masks") or scores["likelihood"])[style] for scores in seeds]
    value, error = (mean(row[key] for row in rows) for key in ("mean", "error"))
    return f"{'' if style == 'AR' else '≤ '}{value:.3f} ± {error:.3f}"
