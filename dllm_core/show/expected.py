"""What a reader should see: how a training of the chain ended at the recorded seeds, beside the reader's own run."""

from collections.abc import Sequence

from dllm_core.common.errors import UsageError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.show.html import Table, table

CHAIN_RECORDS = "notebooks/sweeps/records/chain"  # STAGE-seedN.json, written by `dllm sweep`
LAST_STEPS = 50  # a loss is the mean over so many steps, because that of one step is noisy


def expected(stage: str, curve: Sequence) -> Table:
    """Training loss and validation at the end of a `stage` of the chain ("01" … "05-llada2"), nats per token: the least
    and the greatest of the recorded seeds, and the run whose `TrainStep`s are `curve`. A run with other settings may well
    lie outside. Raises UsageError without records of the stage."""
    records = [read_json(path) for path in sorted(resolve(CHAIN_RECORDS).glob(f"{stage}-seed*.json"))]
    if not records:
        raise UsageError(f"no record of stage {stage!r} in {CHAIN_RECORDS}: `dllm sweep all` writes them")
    last = [step.loss for step in curve[-LAST_STEPS:]]
    own = {"loss": sum(last) / len(last), "validation": curve[-1].validation} if curve else {}
    rows = []
    for name, words in (("loss", f"training loss, mean of the last {LAST_STEPS} steps"), ("validation", "validation")):
        values = [record[name] for record in records]
        row = {"nats per token at the end": words, "recorded seeds": f"{min(values):.3f} to {max(values):.3f}"}
        rows.append(row | {"this run": f"{own[name]:.3f}" if own.get(name) is not None else None})
    seeds = ", ".join(str(record["seed"]) for record in records)
    return table(rows, caption=f"what you should see: stage {stage} with the notebook's settings, seeds {seeds}")
