"""The effect that a sweep found, in one line: how far one configuration is from another, seed by seed.

A sweep's file says what is compared: `effect: {rows: answers, column: exact_match, of: {cell: a}, against: {cell: b}}`. Each
side is a cell, settings of a row, or both, and picks one row of a record.
"""

from collections.abc import Mapping, Sequence

from dllm_core.common.errors import UsageError
from dllm_core.workshop.sweeps.files import Sweep
from dllm_core.workshop.sweeps.results import Spread, heading, setting


def effect(sweep: Sweep, records: Sequence[dict]) -> str:
    """The column's name, the mean over the seeds of the difference of both sides, its range, and what was compared.

    Without `against` it is the value itself. "–" where no seed has both sides. Raises UsageError where a side fits
    several rows of a record."""
    spec = sweep.text.get("effect")
    if not spec:
        return "–"
    of, against = spec["of"], spec.get("against")
    values = _by_seed(sweep, records, of)
    if against:
        others = _by_seed(sweep, records, against)
        values = {seed: value - others[seed] for seed, value in values.items() if seed in others}
    if not values:
        return "–"
    spread = Spread(tuple(values.values()))
    seeds = " (one seed)" if len(values) == 1 and len(sweep.seeds) > 1 else ""
    size = spread.signed if against else str(spread)
    return f"{heading(spec['column'])} {size}{seeds}: {_compared(of, against or {}, records)}"


def _by_seed(sweep: Sweep, records: Sequence[dict], side: Mapping) -> dict[int, float]:
    """Seed → the value of the one row that fits a side."""
    spec, values = sweep.text["effect"], {}
    for record in records:
        rows = [{"cell": record["cell"], **row} for row in record["rows"] if row.get("kind") == spec["rows"]]
        for row in rows:
            if row.get(spec["column"]) is None or any(row.get(name) != wanted for name, wanted in side.items()):
                continue
            if record["seed"] in values:
                raise UsageError(f"sweep {sweep.name}: effect: {dict(side)} fits several rows; name another setting")
            values[record["seed"]] = float(row[spec["column"]])
    return values


def _compared(of: Mapping, against: Mapping, records: Sequence[dict]) -> str:
    """Both sides in words, then what they share; a cell under its label."""
    labels = {record["cell"]: record["label"] for record in records}
    word = lambda name, value: labels.get(value, value) if name == "cell" else setting(name, value)
    words = lambda items: [word(*item) for item in items]
    shared = [item for item in of.items() if item in against.items()]
    sides = [", ".join(words(item for item in side.items() if item not in shared)) for side in (of, against) if side]
    return ", ".join([" against ".join(sides), *words(shared)])
