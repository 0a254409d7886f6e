"""The records of the sweeps as tables: numbers pooled over seeds, under readable headings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dllm_core.notebook.grading import paired
from dllm_core.workshop.sweeps import curves
from dllm_core.workshop.sweeps.files import Sweep

HEADINGS = {  # of names that do not say enough
    "label": "", "cfg_scale": "guidance", "ended": "ends with eos", "length": "tokens of an answer",
    "too_long": "longer than asked", "distinct_2": "distinct pairs", "repetition": "repeated", "mean": "nats per token",
    "error": "standard error", "block_size": "block", "step_1": "loss of step 1", "step_10": "mean of steps 1–10",
    "step_50": "mean of steps 41–50", "norm_10": "largest gradient of steps 1–10", "prompt_length": "prompt tokens",
    "milliseconds": "ms per forward", "milliseconds_per_token": "ms per token", "k": "checkpoints averaged",
    "direction": "told", "way": "how asked", "trained_steps": "steps", "times": "times AR", "flops": "FLOP",
    "right": "share right", "fine_tuning_tokens": "fine-tuning tokens", "fine_tuning_positions": "fine-tuning positions",
    "fine_tuning_flops": "fine-tuning FLOP", "fine_tuning_seconds": "fine-tuning s", "all_flops": "FLOP in all",
}  # fmt: skip
REBUILT = "2026-11-30"  # the day from which on noise is drawn by (seed, step, part)
PRICE = ("fine_tuning_flops", "fine_tuning_seconds")  # the columns that stand beside a score
IN_WORDS = {  # settings whose value alone says nothing
    ("block_size", 0): "full attention", ("k", 0): "last weights", ("cache", "with"): "with cache",
    ("cache", "without"): "without cache",
}  # fmt: skip
PAIRED = "Paired: the same questions, the same seeds; a loss above 0.02 is excluded where the interval is above -0.02"
OWN_ANSWERS = "exact match here: the share of held-out prompts answered as the model itself does one token a forward"


def heading(name: str) -> str:
    return HEADINGS.get(name, name.replace("_", " "))


def setting(name: str, value: object) -> str:
    """A setting in words: "threshold 0.9"; a value of several words speaks for itself."""
    if (name, value) in IN_WORDS:
        return IN_WORDS[name, value]
    if isinstance(value, str):
        return value if " " in value else f"{heading(name)} {value}"
    return f"{heading(name)} {value:g}"


@dataclass(frozen=True)
class Spread:
    """A value over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def __str__(self) -> str:
        return self._text("", "–")

    @property
    def signed(self) -> str:
        """A difference in words: "+0.12 (+0.04 to +0.19)"."""
        return self._text("+", " to ")

    def _text(self, sign: str, between: str) -> str:
        digits = 0 if abs(self.mean) >= 100 else 2 if abs(self.mean) >= 10 else 3
        style = ".1e" if self.mean >= 1e9 else f",.{digits}f"
        mean, least, greatest = (f"{value:{sign}{style}}" for value in (self.mean, min(self.values), max(self.values)))
        return mean if least == greatest else f"{mean} ({least}{between}{greatest})"


def gather(records: Iterable[dict], row_kind: str, by: Sequence[str], columns: Sequence[str]) -> list[dict]:
    """The rows with row["kind"] == row_kind, pooled over seeds: one dict for each cell and each combination of the
    settings `by`, in order of appearance; `columns` as `Spread`. Rows that lack a column are left out."""
    pooled: dict[tuple, list[dict]] = {}
    for record in records:
        for row in record["rows"]:
            row = row | {group: right / count for group, (right, count) in row.get("groups", {}).items()}
            if row.get("kind") == row_kind and all(row.get(name) is not None for name in columns):
                pooled.setdefault((record["label"], *(row.get(name) for name in by)), []).append(row)
    rows = []
    for key, values in pooled.items():
        spreads = {name: Spread(tuple(float(row[name]) for row in values)) for name in columns}
        rows.append(dict(zip(("label", *by), key, strict=True)) | spreads)
    return rows


def is_old(record: dict) -> bool:
    """Whether a record was measured before the code was rebuilt."""
    return record["date"] < REBUILT


def origin(sweep: Sweep, records: Sequence[dict]) -> str:
    """What a sweep was measured with: command, seeds, machine, dates."""
    seeds = ", ".join(str(seed) for seed in sorted({record["seed"] for record in records}))
    versions = [record["versions"] for record in records]
    machines = sorted({f"{version['device']}, torch {version['torch']}" for version in versions})
    dates = sorted({record["date"] for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    done, count = len(records), len(sweep.trials)
    unfinished = "" if done == count else f" **{done} of {count} measurements are done.**"
    return f"`dllm sweep {sweep.name}` · seeds {seeds} · {'; '.join(machines)} · {when}.{unfinished}"


def prices(records: Iterable[dict]) -> dict[str, dict[str, Spread]]:
    """Label of a cell → what its fine-tuning took, in the columns of `PRICE`; empty where no record has it."""
    return {row["label"]: {name: row[name] for name in PRICE} for row in gather(records, "training", [], PRICE)}


def questions(records: Iterable[dict]) -> list[str]:
    """Which questions were graded: "N = 42 questions of sft_test.jsonl, 6 of each group"; empty where no record says it."""
    found = {}
    for record in records:
        for row in record["rows"]:
            if record["asked"].get("test_data") and row.get("kind") == "answers" and row.get("groups"):
                of_group = {count for _, count in row["groups"].values()}
                each = f", {of_group.pop()} of each group" if len(of_group) == 1 else ""
                found[f"N = {row['items']:,} questions of {Path(record['asked']['test_data']).name}{each}"] = True
    return list(found)


def tables(sweep: Sweep, records: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
    """(caption, rows) of each table that the sweep's file asks for; columns under their headings."""
    figure = sweep.text.get("figure", {})
    if figure.get("kind") == "curves":
        points = list(curves.points(records, figure["threshold"]))
        yield f"LLaDA 2 at threshold {figure['threshold']:g}", curves.score_rows(points)
        yield "How many times the compute, for the same score", curves.equal_score_rows(points, figure["against"])
    for spec in sweep.text.get("paired", ()):
        yield PAIRED, paired_rows(records, spec["against"], spec.get("cells", ()))
    for spec in sweep.text.get("tables", ()):
        rows = gather(records, spec["rows"], spec.get("by", []), spec["columns"])
        hidden = () if spec.get("labels", True) else ("label",)
        captions = [spec["caption"]] if spec.get("caption") else []
        if "exact_match" in spec["columns"]:
            captions += questions(records)
            of_label = prices(records)
            if len(of_label) > 1 or "label" not in hidden:
                unknown = dict.fromkeys(PRICE) if of_label else {}
                rows = [row | of_label.get(row["label"], unknown) for row in rows]
            elif of_label:
                (price,) = of_label.values()
                captions.append(", ".join(f"{heading(name)} {value}" for name, value in price.items()))
        if "exact_match" in spec["columns"] and any(record["asked"].get("own_answers") for record in records):
            captions.append(OWN_ANSWERS)
        rows = [{name: IN_WORDS.get((name, value), value) for name, value in row.items()} for row in rows]
        rows = [{heading(key) or "configuration": row[key] for key in row if key not in hidden} for row in rows]
        yield "; ".join(captions), rows


def paired_rows(records: Sequence[dict], against: str, cells: Sequence[str]) -> list[dict]:
    """`paired: {against: CELL}`: the answers of `cells` (none: every other) against that cell's, question by question.

    At each setting (at the same one, where that cell has it): the difference of exact match with its 95 % interval, and
    on how many answers only one of the two was right.
    """
    references: dict[tuple, list[bool]] = {}  # (seed, threshold) → which answers of that cell are right
    pooled: dict[tuple, list[tuple]] = {}  # (label, threshold) → (seed, which answers are right, tokens per forward)
    for record in records:
        for row in record["rows"]:
            seed, threshold = record["seed"], row.get("threshold")
            right = [mark == "1" for mark in row.get("right", "")]
            if right and record["cell"] == against:
                references[seed, threshold] = right
            elif right and (not cells or record["cell"] in cells):
                pooled.setdefault((record["label"], threshold), []).append((seed, right, row["tokens_per_forward"]))
    label = next((record["label"] for record in records if record["cell"] == against), against)
    of_label, rows = prices(records), []
    for (name, threshold), of_seeds in pooled.items():
        pairs = []
        for seed, right, pace in of_seeds:
            if reference := references.get((seed, threshold), references.get((seed, None))):
                pairs.append((right, reference, pace))
        if not pairs:
            continue
        rights, of_reference, paces = zip(*pairs, strict=True)
        difference = paired(rights, of_reference)
        rows.append({
            f"against {label}": name, "threshold": threshold, "questions × seeds": f"{difference.items} × {len(pairs)}",
            "difference (95 % interval)": f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            "a loss above 0.02 is excluded": "yes" if difference.low > -0.02 else "no",
            "only it right": difference.only_first, f"only {label} right": difference.only_second,
            "tokens per forward": Spread(paces), **{heading(key): value for key, value in of_label.get(name, {}).items()},
        })  # fmt: skip
    return rows
