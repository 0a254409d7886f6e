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
from dllm_core.common.records import check_fields
from dllm_core.common.yaml_file import read_yaml
from dllm_core.notebook.parameters import check, read_parameters, read_preset, unknown_name

FOLDER = "notebooks/sweeps"
MEASURE = "sweeps/measure"  # the notebook that measures a trial
SCALES = ("cpu", "h100", "smoke")
KEYS = {  # of a sweep's file, with their types
    "title": str, "question": str, "answer": str, "short": str, "effect": dict, "order": float, "seeds": list[int],
    "chain": list[str | int], "train": list[dict], "measure": dict, "cells": dict[str, dict | None],
    "tables": list[dict], "figure": dict, "paired": list[dict], "alone": bool, "environment": str, "by_name": bool,
}  # fmt: skip
NEEDED_KEYS = {"title", "question", "measure", "cells"}
SHORT = 5  # most words of a short answer
FIGURES = {  # kind → what it needs
    "lines": ("rows", "x", "y"), "dots": ("rows", "x", "y"), "heat": ("rows", "x", "y", "values"),
    "curves": ("against", "threshold"),
}  # fmt: skip
PART_KEYS = {  # of the dicts in it: key → (types, those that are needed)
    "train": ({"notebook": str, "preset": str, "cells": list[str], "given": dict, **dict.fromkeys(SCALES, dict)},
              {"notebook"}),
    "tables": ({"rows": str, "by": list[str], "columns": list[str], "caption": str, "labels": bool},
               {"rows", "columns"}),
    "figure": ({"kind": str, "rows": str, "x": str, "y": str, "by": list[str], "note": str, "values": list[str],
                "only": dict, "log": bool, "against": str, "threshold": float}, {"kind"}),
    "paired": ({"against": str, "cells": list[str]}, {"against"}),
    "effect": ({"rows": str, "column": str, "of": dict, "against": dict}, {"rows", "column", "of"}),
}  # fmt: skip
RECORD = {"key": str, "cell": str, "label": str, "seed": int, "asked": dict, "rows": list[dict]}  # of a trial


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
        return read_record(self.path, RECORD).get("key") == self.key


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
        """The records of the finished trials, in the order of the file and under its labels."""
        return [read_record(trial.path, RECORD) | {"label": trial.label} for trial in self.trials if trial.done]


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read_sweep(path: Path, scale: str = "cpu") -> Sweep:
    """The sweep of a file at a scale of `SCALES`. Raises UsageError that names file and key."""
    text = read_yaml(path)
    _check_keys(path, text)
    seeds, chain, trials = tuple(text.get("seeds", (0, 1, 2))), tuple(text.get("chain", ())), []
    stages = {stage.name for stage in STAGES}
    for name in chain:
        _require(name in stages, path, "chain", f'{name!r} is no stage, written in quotes, such as "03" or 05-llada2')
    _require(text["cells"], path, "cells", "must hold at least one")
    is_right = seeds and min(seeds) >= 0 and len(set(seeds)) == len(seeds)
    _require(is_right, path, "seeds", "must be one or several numbers from 0, each once")
    timed = text.get("alone", False)
    for name in text["cells"]:
        label, steps, measure = _read_cell(path, text, name, scale)
        trials += [Trial(path.stem, str(name), label, seed, steps, measure, chain, timed, scale) for seed in seeds]
    return Sweep(path.stem, text, seeds, tuple(trials))


def _check_keys(path: Path, text: object) -> None:
    """Raises UsageError for a key that is unknown, missing or of another type, and for a name that is none."""
    check_fields(text, KEYS, str(path), UsageError, NEEDED_KEYS)
    for name in (path.stem, *text["cells"]):
        _require_name(path, name)
    _require(len(text.get("short", "").split()) <= SHORT, path, "short", f"must have at most {SHORT} words")
    for key, (types, needed) in PART_KEYS.items():
        parts = text.get(key, [])
        for part in parts if isinstance(parts, list) else [parts]:
            check_fields(part, types, f"{path}: {key}", UsageError, needed)
            _require_name(path, part.get("notebook", "x"))
            _require_name(path, part.get("preset", "x"))
            for name in _cells_of(key, part):
                _require(name in text["cells"], path, key, f"there is no cell {name!r}")
            if "kind" in part:
                needs = FIGURES.get(part["kind"], ())
                _require(needs, path, key, f"there is no kind {part['kind']!r}, only {', '.join(FIGURES)}")
                _require(set(needs) <= set(part), path, key, f"kind {part['kind']} needs {', '.join(needs)}")


def _cells_of(key: str, part: dict) -> list[str]:
    """The cells that a dict of `PART_KEYS` names."""
    names = [*part.get("cells", ())]
    if key == "paired":
        names.append(part["against"])
    if key == "effect":
        names += [part[side]["cell"] for side in ("of", "against") if "cell" in part.get(side, {})]
    return names


def _require_name(path: Path, name: str) -> None:
    """A name that is a part of a file's name: it stays in its folder."""
    words = "a name is made of small letters, digits, '_', '+', '-', and single '.' between them"
    _require(re.fullmatch(r"[a-z0-9_+-]+(\.[a-z0-9_+-]+)*", name), path, repr(name), words)


def _require(is_right: object, path: Path, key: str, words: str) -> None:
    if not is_right:
        raise UsageError(f"{path}: {key}: {words}")


def _read_cell(path: Path, text: dict, name: object, scale: str) -> tuple[str, tuple[tuple[str, dict], ...], dict]:
    """(label, steps, measure) of a cell: the values of each notebook are those of its preset, of the step and of the cell,
    there under their own names, for all its notebooks, or in a dict under a notebook's name.

    Raises UsageError for a value that none of its notebooks takes."""
    cell = _at_scale(path, f"cell {name}", text["cells"][name] or {}, scale)
    label = cell.pop("label", str(name))
    for key, value in cell.items():
        known = not isinstance(value, dict) or key in (MEASURE, *(step["notebook"] for step in text.get("train", ())))
        _require(known, path, f"cell {name}", f"{key} is none of its notebooks")
    _require(isinstance(label, str), path, f"cell {name}", f"label must be a text, not {label!r}")
    steps, unused = [], set(cell)
    measuring = {"notebook": MEASURE, "given": _at_scale(path, "measure", text["measure"], scale)}
    for step in [*text.get("train", []), measuring]:
        if name not in step.get("cells", text["cells"]):
            continue
        notebook = step["notebook"]
        declared = read_parameters(resolve(f"notebooks/{notebook}.ipynb"))
        values = {key: value for key, value in cell.items() if key in declared} | cell.get(notebook, {})
        values = {**step.get("given", {}), **step.get(scale, {}), **values}
        for key, value in values.items():
            if key not in declared:
                raise UsageError(f"{path}: {notebook}: {key}: {unknown_name(key, declared)}")
            check(declared[key], value, f"{path}: {notebook}")
        preset = resolve(f"notebooks/presets/{scale}/{step.get('preset') or notebook}.yaml")
        steps.append((notebook, (read_preset(preset, declared) if preset.exists() else {}) | values))
        unused -= {*declared, notebook}
    words = f"{', '.join(map(str, unused))}: none of the notebooks it runs has such a parameter"
    _require(not unused, path, f"cell {name}", words)
    *training, (_, measure) = steps
    return label, tuple(training), measure


def _at_scale(path: Path, key: str, values: dict, scale: str) -> dict:
    """The values, with those for this scale among them and without those for others."""
    _require(isinstance(values.get(scale, {}), dict), path, key, f"{scale} must hold names with values")
    return {key: value for key, value in values.items() if key not in SCALES} | values.get(scale, {})


def find_sweeps(names: Sequence[str] = (), scale: str = "cpu", left_out: list[str] | None = None) -> list[Sweep]:
    """The sweeps of these names, or all, in their order.

    Raises UsageError for an unknown name or scale, or a file that is wrong; where `left_out` is given, the errors of
    files that no name asks for are added to it instead.
    """
    if scale not in SCALES:
        raise UsageError(f"no scale {scale!r}; there are {', '.join(SCALES)}")
    paths = {path.stem: path for path in resolve(FOLDER).glob("*.yaml")}
    for name in names:
        if name not in (*paths, "all"):
            raise UsageError(f"no sweep {name!r} in {FOLDER}; there are {', '.join(sorted(paths))}")
    sweeps = []
    for name in paths if not names or "all" in names else names:
        try:
            sweeps.append(read_sweep(paths[name], scale))
        except UsageError as error:
            if left_out is None or name in names:
                raise
            left_out.append(str(error))
    return sorted(sweeps, key=lambda sweep: (sweep.text.get("order", 99), sweep.name))
