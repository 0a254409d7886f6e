"""Scores against the price of training: one line for each style, and how much more each needs for the same score.

A cell's label is "LINE, BUDGET"; each cell is a training of its own, with its own schedule of the learning rate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dllm_core.notebook.grading import wilson
from dllm_core.show.figures import legend_below, line_look, look_numbers, new_figure

GROUPS = ("reading", "reverse", "operation")  # the groups in which styles differ
PANELS = {  # of the figure: what is drawn → its title
    "exact_match": "all groups", **{group: f"group {group}" for group in GROUPS}, "nats": "nats per token (≤, AR: =)",
    "tokens_per_forward": "tokens per forward",
}  # fmt: skip
RESAMPLES = 1000  # of seeds and questions, for an interval


@dataclass(frozen=True)
class Point:
    """One trained model. right: of each question whether it was answered; nats: None where not measured."""

    line: str
    budget: str
    seed: int
    flops: float
    seconds: float
    right: tuple[bool, ...]
    groups: dict[str, float]
    tokens_per_forward: float
    nats: float | None

    @property
    def exact_match(self) -> float:
        return sum(self.right) / len(self.right)

    def value(self, name: str) -> float | None:
        return self.groups.get(name) if name in GROUPS else getattr(self, name)


def points(records: Sequence[dict], threshold: float) -> Iterator[Point]:
    """A point for each record that has answers (of LLaDA 2 at `threshold`) and a price."""
    for record in records:
        rows = {row["kind"]: row for row in record["rows"] if row.get("threshold") in (None, threshold)}
        answers, price = rows.get("answers", {}), rows.get("training", {})
        if not answers.get("right") or "fine_tuning_flops" not in price:
            continue
        line, _, budget = record["label"].rpartition(", ")
        yield Point(
            line, budget, record["seed"], price["fine_tuning_flops"], price["fine_tuning_seconds"],
            tuple(mark == "1" for mark in answers["right"]),
            {name: right / count for name, (right, count) in answers["groups"].items()},
            answers["tokens_per_forward"], rows.get("likelihood", {}).get("mean"),
        )  # fmt: skip


def by_cell(of: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """(line, budget) → its points, one for each seed, in order of appearance."""
    cells: dict[tuple[str, str], list[Point]] = {}
    for point in of:
        cells.setdefault((point.line, point.budget), []).append(point)
    return cells


def picture(of: Sequence[Point]):
    """(figure, alt text): the panels against model FLOP of fine-tuning, and exact match against its seconds. Dots are
    seeds, lines go through their means."""
    cells = by_cell(of)
    lines = list(dict.fromkeys(line for line, _ in cells))
    figure, axes = new_figure(13, 6.4, rows=2, columns=4, share_x=False)
    panels = [(name, "flops", title) for name, title in PANELS.items()]
    panels.append(("exact_match", "seconds", "all groups, against seconds"))
    for axis, (name, x, title) in zip(axes, panels, strict=False):
        for i, line in zip(look_numbers(lines), lines, strict=True):
            look = line_look(i)
            means = []
            for (of_line, _), seeds in cells.items():
                values = [point.value(name) for point in seeds]
                if of_line != line or None in values:
                    continue
                at = [getattr(point, x) for point in seeds]
                axis.plot(at, values, look["marker"], color=look["color"], alpha=0.35, markersize=4)
                means.append((float(np.mean(at)), float(np.mean(values))))
            axis.plot(*zip(*sorted(means), strict=True), label=line, **look) if means else None
        axis.set_xscale("log")
        _label_powers(axis.xaxis)
        axis.set_xlabel("fine-tuning FLOP" if x == "flops" else "seconds of fine-tuning, one thread")
        axis.set_title(title)
        if name == "nats":
            axis.set_yscale("log")
            _label_powers(axis.yaxis)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    legend_below(figure, axes[0], columns=len(lines))
    scores = (f"{line}, {budget}: {np.mean([p.exact_match for p in seeds]):.3f}" for (line, budget), seeds in cells.items())
    return figure, "; ".join(scores)


def score_rows(of: Sequence[Point]) -> list[dict]:
    """A row for each cell: price and scores, means over the seeds; the interval is that of the choice of questions."""
    rows = []
    for (line, budget), seeds in by_cell(of).items():
        mean = lambda name, seeds=seeds: float(np.mean([point.value(name) for point in seeds]))
        share, nats = mean("exact_match"), [point.nats for point in seeds]
        low, high = wilson(share * len(seeds[0].right), len(seeds[0].right))
        rows.append({
            "style": line, "budget": budget, "FLOP": f"{mean('flops'):.1e}", "s": f"{mean('seconds'):.0f}",
            "seeds": len(seeds), "exact match (95 % interval)": f"{share:.3f} ({low:.3f}–{high:.3f})",
            **{group: f"{mean(group):.3f}" for group in GROUPS if group in seeds[0].groups},
            "nats per answer token": None if None in nats else f"{mean('nats'):.3f}",
            "tokens per forward": f"{mean('tokens_per_forward'):.2f}",
        })  # fmt: skip
    return rows


def _label_powers(axis) -> None:
    """Powers of ten, and a third of each, as plain text: the figures read no formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}" if value >= 1e4 else f"{value:g}"))


def equal_score_rows(of: Sequence[Point], reference: str) -> list[dict]:
    """For each cell of the other lines: how many times the FLOP that `reference` needs for the same exact match.

    The reference's score is interpolated linearly in log FLOP between its budgets, made non-decreasing; beyond its
    scores there is only a bound. The interval (95 %) is that of `RESAMPLES` draws of seeds and of questions, the same
    questions for all.
    """
    cells, rng = by_cell(of), np.random.default_rng(0)
    if not any(line == reference for line, _ in cells):
        return []
    right = {cell: np.array([point.right for point in seeds], float) for cell, seeds in cells.items()}  # [seeds, items]
    flops = {cell: float(np.mean([point.flops for point in seeds])) for cell, seeds in cells.items()}
    ladder = sorted((cell for cell in cells if cell[0] == reference), key=flops.get)
    log_flops = np.log([flops[cell] for cell in ladder])

    def times(scores: dict[tuple, float]) -> dict[tuple, float]:
        """cell → ratio; inf where even the least budget of the reference scores more, 0 where the greatest does less."""
        steps = np.maximum.accumulate([scores[cell] for cell in ladder])
        steps = steps + np.arange(len(steps)) * 1e-9  # strictly increasing, for the inverse
        needed = {cell: np.exp(np.interp(scores[cell], steps, log_flops)) for cell in cells}
        return {
            cell: np.inf if scores[cell] < steps[0] else 0.0 if scores[cell] > steps[-1] else flops[cell] / needed[cell]
            for cell in cells
            if cell[0] != reference
        }

    measured = times({cell: float(marks.mean()) for cell, marks in right.items()})
    draws, questions = [], next(iter(right.values())).shape[1]
    for _ in range(RESAMPLES):
        items = rng.integers(0, questions, questions)
        scores = {}
        for cell, marks in right.items():
            seeds = rng.integers(0, len(marks), len(marks))
            scores[cell] = float(marks[seeds][:, items].mean())
        draws.append(times(scores))
    rows = []
    for (line, budget), ratio in measured.items():
        words = partial(_times, least=flops[line, budget] / flops[ladder[0]])
        low, high = np.quantile([draw[line, budget] for draw in draws], [0.025, 0.975], method="nearest")
        rows.append({
            "style": line, "budget": budget, "exact match": f"{right[line, budget].mean():.3f}",
            f"times {reference}'s FLOP for it (95 % interval)": f"{words(ratio)} ({words(low)} to {words(high)})",
        })  # fmt: skip
    return rows


def _times(ratio: float, least: float) -> str:
    """least: the ratio to the reference's least budget, which is all that is known where that scores more already."""
    if ratio == 0:
        return "beyond its scores"
    return f"> {least:.2g}" if np.isinf(ratio) else f"{ratio:.2g}"
