"""Results: answers in a table, scores with their intervals, quality against speed, speed in batches."""

from collections.abc import Iterable, Mapping, Sequence

from dllm_core.notebook.gloss import gloss
from dllm_core.notebook.grading import wilson
from dllm_core.show.figures import HATCHES, Picture, legend_below, line_look, look_numbers, new_figure, our_look
from dllm_core.show.html import Table, table, visible
from dllm_core.show.trace_view import STYLE_NAMES
from dllm_core.trace import Trace

ANSWER_COLUMNS = (
    "prompt", "prompt in English", "answer", "answer in English", "tokens", "tokens per forward pass", "ended",
)  # fmt: skip


def answers(
    answered: Iterable[Trace | tuple[str, Trace | str]],
    columns: Sequence[str] = ANSWER_COLUMNS,
    caption: str | None = None,
) -> Table:
    """A table of answers, with an English gloss beside each Chinese text (`notebook.gloss`).

    answered: (prompt, answer) pairs, as `zip(prompts, traces)`, or traces alone; an answer is a trace or a text.
    columns: of `ANSWER_COLUMNS`; one without any entry is left out. Raises ValueError for another column, or where there
    is no answer.
    """
    if other := set(columns) - set(ANSWER_COLUMNS):
        raise ValueError(f"answers: no column {sorted(other)}; there are {', '.join(ANSWER_COLUMNS)}")
    rows = []
    for item in answered:
        prompt, answer = ("", item) if isinstance(item, Trace) else item
        numbers = (None, None, None)
        if isinstance(answer, Trace):
            numbers = (answer.tokens, answer.tokens_per_forward, answer.ended)
            answer = answer.text
        texts = (prompt, gloss(prompt), answer, gloss(answer))
        rows.append(dict(zip(ANSWER_COLUMNS, texts + numbers, strict=True)))
    if not rows:
        raise ValueError("answers: the list is empty; give at least one answer")
    used = [name for name in columns if any(row[name] not in ("", None) for row in rows)]
    return table(rows, columns=used, caption=caption, digits=3)


@our_look()
def scores(table: Mapping[str, Sequence] | Sequence, title: str = "exact match per group") -> Picture:
    """Exact match per group as bars, with 95 % Wilson intervals and the counts.

    table: scores with `group`, `right`, `count` (`grading.Score`, or dicts of the same keys); or name → such a list,
    drawn side by side. Raises ValueError when it is empty.
    """
    named = {}
    for name, rows in table.items() if isinstance(table, Mapping) else [("", table)]:
        rows = [row if isinstance(row, Mapping) else vars(row) for row in rows]
        named[name] = {str(row["group"]): (int(row["right"]), int(row["count"])) for row in rows}
    groups = list(dict.fromkeys(group for rows in named.values() for group in rows))
    if not groups:
        raise ValueError("scores: the table is empty; give at least one group's score")
    figure, (axes,) = new_figure(8, 1.3 + len(groups) * (0.22 + 0.26 * len(named)))
    thick = 0.84 / len(named)
    for i, (look, (name, rows)) in enumerate(zip(look_numbers(list(named)), named.items(), strict=True)):
        color = line_look(look)["color"]
        for j, group in enumerate(groups):
            if group not in rows:
                continue
            right, count = rows[group]
            share, (low, high) = right / max(count, 1), wilson(right, count)
            y = j + (i - (len(named) - 1) / 2) * thick
            axes.barh(y, share, thick * 0.9, color=color, alpha=0.55, hatch=HATCHES[look % len(HATCHES)],
                      edgecolor=color, label=name if group == next(iter(rows)) else None)  # fmt: skip
            axes.plot([low, high], [y, y], color="#1a1a1a", linewidth=1.3, marker="|", markersize=6)
            axes.annotate(f"{right}/{count}", (1.015, y), va="center", fontsize=9, annotation_clip=False)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlim=(0, 1.1), xlabel="answers exactly right (line: 95 % Wilson interval)")
    if len(named) > 1:
        legend_below(figure, axes, len(named))
    lines = [f"{name} {group} {r}/{c}".strip() for name, rows in named.items() for group, (r, c) in rows.items()]
    return Picture(figure, f"{title}: " + ", ".join(lines))


@our_look()
def quality_speed(
    rows: Sequence[Mapping], *, y: str = "exact_match", group: str = "style", note: str = "threshold",
    levels: Mapping[str, float] | None = None, log: bool = False,
) -> Picture:  # fmt: skip
    """Quality against tokens per forward pass: a point per row (dict), labeled with its `note`; a line joins a `group`.

    y: a share in 0..1; its interval is drawn when the row has `low` and `high`. A row's `cost`, a text, stands in the
    legend. levels: name → a share to compare with, a dotted line. log: a logarithmic axis of quality. Raises ValueError
    naming the row and the missing key.
    """
    x = "tokens_per_forward"
    for i, row in enumerate(rows):
        for key in (x, y, group):
            if key not in row:
                raise ValueError(f"quality_speed: row {i} has no {key!r}; it has {', '.join(map(str, row))}")
    figure, (axes,) = new_figure(7, 4.4)
    named: dict[str, list[Mapping]] = {}
    for row in rows:
        named.setdefault(STYLE_NAMES.get(str(row[group]), str(row[group])), []).append(row)
    for i, (name, points) in zip(look_numbers(list(named)), named.items(), strict=True):
        look, label = line_look(i), name + (f", {points[0]['cost']}" if points[0].get("cost") else "")
        axes.plot([row[x] for row in points], [row[y] for row in points], markersize=8, label=label, **look)
        for row in points:
            if "low" in row and "high" in row:
                axes.plot([row[x]] * 2, [row["low"], row["high"]], color=look["color"], linewidth=1, marker="_")
            if row.get(note) is not None:
                side, align = (-8, "right") if i % 2 else (6, "left")  # the notes of neighboring lines stand apart
                axes.annotate(visible(str(row[note])), (row[x], row[y]), xytext=(side, 6), textcoords="offset points",
                              ha=align, fontsize=10)  # fmt: skip
    for name, value in (levels or {}).items():
        axes.axhline(value, color="#444444", linestyle=":", label=name)
    axes.set(
        title=f"quality against speed (numbers at the points: {note.replace('_', ' ')})",
        xlabel="tokens per forward pass",
        ylabel=y.replace("_", " "),
        xlim=(0, 1.08 * max((row[x] for row in rows), default=1)),
    )
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # powers would be math text, which the look leaves as it is written
    else:
        axes.set_ylim(0, 1.05)
    legend_below(figure, axes, 1)
    return Picture(
        figure, "; ".join(f"{row[group]}: {row[y]:.3f} at {row[x]:.2f} tokens per forward pass" for row in rows)
    )


@our_look()
def batch_speed(rows: Sequence[Mapping], crossing: float | None = None) -> Picture:
    """Three panels over the batch size, a line for each name: tokens per second, and what each token costs of the two
    things that limit it, weights read and arithmetic.

    rows: of `notebook.batch_speed.measure`. crossing: a batch size to mark. Raises ValueError for an empty list.
    """
    if not rows:
        raise ValueError("batch_speed: the list is empty; give at least one row")
    figure, panels = new_figure(12, 3.8, columns=3)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for axes, y in zip(panels, ("tokens per second", "MB of weights per token", "MFLOP per token"), strict=True):
        for i, name in zip(look_numbers(names), names, strict=True):
            points = [(row["batch"], row[y]) for row in rows if row["name"] == name]
            axes.plot(*zip(*points, strict=True), markersize=7, label=name, **line_look(i))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["batch"] for row in rows}))
        axes.xaxis.set_major_formatter("{x:g}")  # powers would be math text, which the look leaves as it is written
        axes.set(title=y, xlabel="sequences in a batch", ylim=(0, None))
    if crossing is not None:
        panels[0].axvline(crossing, color="#444444", linestyle=":", label=f"equally fast at {crossing:.3g}")
    legend_below(figure, panels[0], len(names) + 1)
    lines = (f"{row['name']}, batch {row['batch']}: {row['tokens per second']:,.0f} tokens per second" for row in rows)
    return Picture(figure, "; ".join(lines))
