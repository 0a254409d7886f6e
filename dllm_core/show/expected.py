"""What a reader should see: how a training of the chain ended at the recorded seeds, beside the reader's own run."""

import statistics
from collections.abc import Sequence

from dllm_core.common.errors import UsageError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.show.html import Table, table

CHAIN_RECORDS = "notebooks/sweeps/records/chain"  # STAGE-seedN.json, written by `dllm sweep`
LAST_STEPS = 50  # a loss is the mean over so many steps, because that of one step is noisy
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # recorded seeds → the 97.5 % quantile


def expected(stage: str, curve: Sequence) -> Table:
    """Training loss and validation at the end of a `stage` of the chain ("01" … "05-llada2"), nats per token: the recorded
    seeds, the range that holds one more seed with 95 %, and the run whose `TrainStep`s are `curve`.

    The range is the prediction interval mean ± t · s · √(1 + 1/n) of n seeds with standard deviation s: three seeds alone
    hold a fourth only half of the time. A run with other settings may well lie outside. Raises UsageError without
    records of the stage.
    """
    records = [read_json(path) for path in sorted(resolve(CHAIN_RECORDS).glob(f"{stage}-seed*.json"))]
    if not records:
        raise UsageError(f"no record of stage {stage!r} in {CHAIN_RECORDS}: `dllm sweep all` writes them")
    last = [step.loss for step in curve[-LAST_STEPS:]]
    own = {"loss": sum(last) / len(last), "validation": curve[-1].validation} if curve else {}
    rows = []
    for name, words in (("loss", f"training loss, mean of the last {LAST_STEPS} steps"), ("validation", "validation")):
        values = [record[name] for record in records]
        row = {"nats per token at the end": words, "recorded seeds": ", ".join(f"{value:.3f}" for value in values)}
        if len(values) in STUDENT_T:
            half = STUDENT_T[len(values)] * statistics.stdev(values) * (1 + 1 / len(values)) ** 0.5
            middle = statistics.mean(values)
            row["expected of yours (95 %)"] = f"{max(0.0, middle - half):.3f} to {middle + half:.3f}"
        rows.append(row | {"this run": f"{own[name]:.3f}" if own.get(name) is not None else None})
    seeds = ", ".join(str(record["seed"]) for record in records)
    return table(rows, caption=f"what you should see: stage {stage} with the notebook's settings, seeds {seeds}")
