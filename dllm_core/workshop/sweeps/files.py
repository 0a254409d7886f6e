"""Sweeps as files: each YAML file of notebooks/sweeps is read, checked and turned into a list of trials.

A sweep states a question, and for each of its cells the trainings and the measurement. A trial is a cell at one seed. It
is finished when notebooks/sweeps/records has its record, a small file to commit; the trained weights are not kept.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dllm_core.cli.stages import STAGES, read_record
from dllm_core.common.errors import UsageError
from dllm_core.common.paths import resolve
from dllm_core.common.yaml_file import read_yaml
from dllm_core.notebook.parameters import check, read_parameters, read_preset, unknown_name

FOLDER = "notebooks/sweeps"
MEASURE = "sweeps/measure"  # the notebook that measures a trial
KEYS = {"title", "question", "answer", "order", "seeds", "chain", "train", "measure", "cells", "tables", "figure",
        "paired", "alone", "environment", "by_name"}  # fmt: skip
NEEDED_KEYS = {"title", "question", "measure", "cells"}
SCALES = ("cpu", "h100", "smoke")
STEP_KEYS = {"notebook", "preset", "cells", "given", *SCALES}


@dataclass(frozen=True)
class Trial:
    """A cell of a sweep at one seed.

    steps: (notebook, values) of each training, in order; `{previous}` in a value stands for the run of the step before.
    measure: the values for the measuring notebook. chain: the stages of `dllm run` that the trial starts from. timed:
    it runs alone, because it measures seconds.
    """

    sweep: str
    name: str
    label: str
    seed: int
    steps: tuple[tuple[str, dict], ...]
    measure: dict
    chain: tuple[str, ...] = ()
    timed: bool = False
    scale: str = "cpu"

    @property
    def key(self) -> str:
        """A digest of all values that the trial runs with; a record with another key belongs to other values."""
        return digest([self.steps, self.measure, self.seed])

    @property
    def path(self) -> Path:
        """The file of its record."""
        folder = resolve(FOLDER) / "records" / ("" if self.scale == "cpu" else self.scale) / self.sweep
        return folder / f"{self.name}.seed{self.seed}.json"

    @property
    def done(self) -> bool:
        return read_record(self.path).get("key") == self.key


@dataclass(frozen=True)
class Sweep:
    """A YAML file of notebooks/sweeps. `text` holds its words, tables and figure."""

    name: str
    text: dict
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def missing(self) -> str:
        """The environment variable that must name a folder and does not; empty when all is there."""
        name = self.text.get("environment", "")
        return "" if not name or os.path.isdir(os.environ.get(name, "")) else name

    def records(self) -> list[dict]:
        """The records of the finished trials, in the order of the file."""
        return [read_record(trial.path) for trial in self.trials if trial.done]


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read_sweep(path: Path, scale: str = "cpu") -> Sweep:
    """The sweep of a file at a scale of `SCALES`. Raises UsageError that names file and key."""
    text = read_yaml(path)
    missing = NEEDED_KEYS - set(text if isinstance(text, dict) else ())
    if missing:
        raise UsageError(f"{path}: a sweep needs {', '.join(sorted(missing))}")
    if unknown := set(text) - KEYS:
        raise UsageError(f"{path}: {min(unknown)}: no such key; there are {', '.join(sorted(KEYS))}")
    chain, timed = tuple(text.get("chain", ())), bool(text.get("alone"))
    for name in chain:
        if name not in {stage.name for stage in STAGES}:
            raise UsageError(
                f'{path}: chain: {name!r} is no stage of the chain, written in quotes, such as "03" or 05-llada2'
            )
    seeds, trials = tuple(text.get("seeds", (0, 1, 2))), []
    for name in text["cells"]:
        label, steps, measure = _read_cell(path, text, name, scale)
        trials += [Trial(path.stem, str(name), label, seed, steps, measure, chain, timed, scale) for seed in seeds]
    return Sweep(path.stem, text, seeds, tuple(trials))


def _read_cell(path: Path, text: dict, name: object, scale: str) -> tuple[str, tuple[tuple[str, dict], ...], dict]:
    """(label, steps, measure) of a cell: the values of each notebook are those of its preset, of the step and of the cell.

    Raises UsageError for a value that none of its notebooks takes."""
    if not re.fullmatch(r"[a-z0-9.+-]+", str(name)):
        raise UsageError(f"{path}: cell {name!r}: a name is made of small letters, digits, '.', '+' and '-'")
    cell = _at_scale(text["cells"][name] or {}, scale)
    label = cell.pop("label", str(name))
    steps, unused = [], set(cell)
    for step in [*text.get("train", []), {"notebook": MEASURE, "given": _at_scale(text["measure"], scale)}]:
        if unknown := set(step) - STEP_KEYS:
            raise UsageError(f"{path}: train: {min(unknown)}: no such key; there are {', '.join(sorted(STEP_KEYS))}")
        if name not in step.get("cells", text["cells"]):
            continue
        notebook = step["notebook"]
        declared = read_parameters(resolve(f"notebooks/{notebook}.ipynb"))
        values = {key: value for key, value in cell.items() if key in declared}
        values = {**step.get("given", {}), **step.get(scale, {}), **values}
        for key, value in values.items():
            if key not in declared:
                raise UsageError(f"{path}: {notebook}: {key}: {unknown_name(key, declared)}")
            check(declared[key], value, f"{path}: {notebook}")
        preset = resolve(f"notebooks/presets/{scale}/{step.get('preset') or notebook}.yaml")
        steps.append((notebook, (read_preset(preset, declared) if preset.exists() else {}) | values))
        unused -= set(declared)
    if unused:
        raise UsageError(f"{path}: cell {name}: {min(unused)}: none of the notebooks it runs has such a parameter")
    *training, (_, measure) = steps
    return label, tuple(training), measure


def _at_scale(values: dict, scale: str) -> dict:
    """The values, with those for this scale among them and without those for others."""
    return {key: value for key, value in values.items() if key not in SCALES} | values.get(scale, {})


def find_sweeps(names: Sequence[str] = (), scale: str = "cpu") -> list[Sweep]:
    """The sweeps of these names, or all, in their order. Raises UsageError for an unknown name."""
    paths = {path.stem: path for path in resolve(FOLDER).glob("*.yaml")}
    for name in names:
        if name not in (*paths, "all"):
            raise UsageError(f"no sweep {name!r} in {FOLDER}; there are {', '.join(sorted(paths))}")
    chosen = paths if not names or "all" in names else names
    sweeps = [read_sweep(paths[name], scale) for name in chosen]
    return sorted(sweeps, key=lambda sweep: (sweep.text.get("order", 99), sweep.name))
