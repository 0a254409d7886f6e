"""The rows of the sweeps' tables: the records' numbers, pooled over seeds, under readable headings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dllm_core.notebook.grading import paired
from dllm_core.workshop.sweeps.files import Sweep

HEADINGS = {
    "label": "", "threshold": "threshold", "block_length": "block length", "steps": "steps", "style": "style",
    "temperature": "temperature", "cfg_scale": "guidance", "exact_match": "exact match", "ended": "ends with eos",
    "tokens_per_forward": "tokens per forward", "tokens_per_second": "tokens per second", "right": "right",
    "length": "tokens of an answer", "too_long": "longer than asked", "distinct_2": "distinct pairs",
    "repetition": "repeated", "mean": "nats per token", "error": "standard error", "block_size": "block",
    "estimator": "estimator", "step_1": "loss of step 1", "step_10": "mean of steps 1–10",
    "step_50": "mean of steps 41–50", "norm_10": "largest gradient of steps 1–10", "prompt_length": "prompt",
    "cache": "cache", "milliseconds": "ms per forward", "milliseconds_per_token": "ms per token",
    "forwards": "forwards", "k": "checkpoints averaged", "direction": "told", "way": "how asked",
    "trained_steps": "steps", "tokens": "tokens", "seconds": "seconds", "times": "times AR", "least": "least",
    "most": "most",
}  # fmt: skip

OWN_ANSWERS = "exact match here: the share of held-out prompts answered as the model itself does one token a forward"


@dataclass(frozen=True)
class Spread:
    """A value over seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def __str__(self) -> str:
        digits = 0 if abs(self.mean) >= 100 else 2 if abs(self.mean) >= 10 else 3
        mean, least, greatest = (f"{value:,.{digits}f}" for value in (self.mean, min(self.values), max(self.values)))
        return mean if least == greatest else f"{mean} ({least}–{greatest})"


def gather(records: Iterable[dict], row_kind: str, by: Sequence[str], columns: Sequence[str]) -> list[dict]:
    """The rows with row["kind"] == row_kind, pooled over seeds: one dict for each cell and each combination of the
    settings `by`, in order of appearance; `columns` as `Spread`. Rows that lack a column are left out."""
    pooled: dict[tuple, list[dict]] = {}
    for record in records:
        for row in record["rows"]:
            if row["kind"] == row_kind and all(row.get(name) is not None for name in columns):
                pooled.setdefault((record["label"], *(row.get(name) for name in by)), []).append(row)
    rows = []
    for key, values in pooled.items():
        spreads = {name: Spread(tuple(float(row[name]) for row in values)) for name in columns}
        rows.append(dict(zip(("label", *by), key, strict=True)) | spreads)
    return rows


def tables(sweep: Sweep, records: Sequence[dict]) -> Iterator[tuple[str, list[dict]]]:
    """(caption, rows) of each table that the sweep's file asks for; columns under their headings."""
    if sweep.text.get("paired"):
        yield "Paired: the same questions, the same seeds", paired_rows(sweep, records)
    for spec in sweep.text.get("tables", ()):
        rows = gather(records, spec["rows"], spec.get("by", []), spec["columns"])
        hidden = () if spec.get("labels", True) else ("label",)
        captions = [spec["caption"]] if spec.get("caption") else []
        if "exact_match" in spec["columns"] and any(record["asked"].get("own_answers") for record in records):
            captions.append(OWN_ANSWERS)
        rows = [{HEADINGS.get(key, key) or "cell": row[key] for key in row if key not in hidden} for row in rows]
        yield "; ".join(captions), rows


def paired_rows(sweep: Sweep, records: Sequence[dict]) -> list[dict]:
    """`paired: {against: CELL}`: the answers of every other cell against that cell's, question by question.

    At each setting (at the same one, where that cell has it): the difference of exact match with its 95 % interval, and
    on how many answers only one of the two was right.
    """
    against = sweep.text["paired"]["against"]
    references: dict[tuple, str] = {}  # (seed, threshold) → right answers of that cell
    pooled: dict[tuple, dict[int, dict]] = {}  # (label, threshold) → seed → row
    for record in records:
        for row in record["rows"]:
            if "right" in row and record["cell"] == against:
                references[record["seed"], row.get("threshold")] = row["right"]
            elif "right" in row:
                pooled.setdefault((record["label"], row.get("threshold")), {})[record["seed"]] = row
    label = next((record["label"] for record in records if record["cell"] == against), against)
    rows = []
    for (name, threshold), of_seed in pooled.items():
        pairs = []
        for seed, row in sorted(of_seed.items()):
            reference = references.get((seed, threshold), references.get((seed, None)))
            if reference:
                pairs.append((row, _marks(row["right"]), _marks(reference)))
        if not pairs:
            continue
        difference = paired([answers for _, answers, _ in pairs], [reference for _, _, reference in pairs])
        rows.append({
            f"against {label}": name, "threshold": threshold, "questions × seeds": f"{difference.items} × {len(pairs)}",
            "difference (95 % interval)": f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
            "a loss above 0.02 is excluded": "yes" if difference.low > -0.02 else "no",
            "only it right": difference.only_first, f"only {label} right": difference.only_second,
            "tokens per forward": Spread(tuple(row["tokens_per_forward"] for row, _, _ in pairs)),
        })  # fmt: skip
    return rows


def _marks(right: str) -> list[bool]:
    return [mark == "1" for mark in right]
