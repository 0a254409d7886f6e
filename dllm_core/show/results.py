"""Results: answers in a table, scores with their intervals, decodings over their forwards, quality against speed."""

from collections.abc import Iterable, Mapping, Sequence

from dllm_core.notebook.gloss import gloss
from dllm_core.notebook.grading import wilson
from dllm_core.show.figures import COLORS, HATCHES, LINES, Picture, legend_below, line_look, new_figure, our_look
from dllm_core.show.html import Table, table, visible
from dllm_core.show.trace_view import STYLE_NAMES, masked_after, times, trace_labels
from dllm_core.trace import Trace

STYLE_COLORS = {"ar": "grey", "llada1": "vermilion", "llada2": "blue"}
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
    for i, (name, rows) in enumerate(named.items()):
        color = COLORS[LINES[i % len(LINES)][0]]
        for j, group in enumerate(groups):
            if group not in rows:
                continue
            right, count = rows[group]
            share, (low, high) = right / max(count, 1), wilson(right, count)
            y = j + (i - (len(named) - 1) / 2) * thick
            axes.barh(y, share, thick * 0.9, color=color, alpha=0.55, hatch=HATCHES[i % len(HATCHES)],
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
def compare(traces: Sequence[Trace], labels: Sequence[str] | None = None, clock: str = "forwards") -> Picture:
    """Two curves per decoding over a common clock: positions still masked, and tokens per forward so far.

    clock: "forwards" or "seconds". Raises ValueError for an empty list.
    """
    traces = list(traces)
    if not traces:
        raise ValueError("compare: the list is empty; give at least one Trace")
    figure, (left, right) = new_figure(10, 3.6, columns=2)
    labels = trace_labels(traces, labels)
    for i, (trace, label) in enumerate(zip(traces, labels, strict=True)):
        x, forwards = times(trace, clock), times(trace)
        masked = [masked_after(trace, k) for k in range(len(trace.steps) + 1)]
        done, rates = 0, []
        for step, passed in zip(trace.steps, forwards[1:], strict=True):
            done += sum(commit.reason != "edit" for commit in step.commits)
            rates.append(done / max(passed, 1))
        look = line_look(i) | {"markevery": max(1, len(x) // 12)}
        left.plot(x, masked, label=f"{label}: {trace.tokens} tokens in {trace.forwards} forwards", **look)
        right.plot(x[1:], rates, **look)
    for axes, title in ((left, "positions still masked"), (right, "positions filled per forward, so far")):
        axes.set(title=title, ylim=(0, None), xlabel="model forwards" if clock == "forwards" else "seconds")
    legend_below(figure, left, min(len(traces), 3))
    rates = {label: trace.tokens_per_forward for label, trace in zip(labels, traces, strict=True)}
    return Picture(figure, "; ".join(f"{label}: {rate:.2f} tokens per forward" for label, rate in rates.items()))


@our_look()
def quality_speed(
    rows: Sequence[Mapping], *, y: str = "exact_match", group: str = "style", note: str = "threshold"
) -> Picture:
    """Quality against tokens per forward: a point per row (dict), labeled with its `note`; a line joins a `group`.

    y: a share in 0..1; its interval is drawn when the row has `low` and `high`. A row's `cost`, a text, stands in the
    legend. Raises ValueError naming the row and the missing key.
    """
    x = "tokens_per_forward"
    for i, row in enumerate(rows):
        for key in (x, y, group):
            if key not in row:
                raise ValueError(f"quality_speed: row {i} has no {key!r}; it has {', '.join(map(str, row))}")
    figure, (axes,) = new_figure(7, 4)
    for i, name in enumerate(dict.fromkeys(row[group] for row in rows)):
        points = [row for row in rows if row[group] == name]
        look = line_look(i)
        if name in STYLE_COLORS:
            look["color"] = COLORS[STYLE_COLORS[name]]
        label = STYLE_NAMES.get(str(name), str(name)) + (f", {points[0]['cost']}" if points[0].get("cost") else "")
        axes.plot([row[x] for row in points], [row[y] for row in points], markersize=8, label=label, **look)
        for row in points:
            if "low" in row and "high" in row:
                axes.plot([row[x]] * 2, [row["low"], row["high"]], color=look["color"], linewidth=1, marker="_")
            if row.get(note) is not None:
                axes.annotate(visible(str(row[note])), (row[x], row[y]), xytext=(6, 6), textcoords="offset points",
                              fontsize=10)  # fmt: skip
    axes.set(
        title=f"quality against speed (numbers at the points: {note.replace('_', ' ')})",
        xlabel="tokens per forward",
        ylabel=y.replace("_", " "),
        xlim=(0, None),
        ylim=(0, 1.05),
    )
    axes.legend(loc="lower right")
    return Picture(figure, "; ".join(f"{row[group]}: {row[y]:.3f} at {row[x]:.2f} tokens per forward" for row in rows))
