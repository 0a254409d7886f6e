"""Sweeps as files: notebooks/sweeps/*.yaml, read and checked into cells; `sweeping` runs them.

A sweep is a question, how each of its cells is trained, what is then measured. A cell at one seed is finished when its
record lies in notebooks/sweeps/records, a small file to commit; what was trained for it is not kept.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from dllm_core.cli import main as batch
from dllm_core.cli import scheduler as jobs
from dllm_core.common.errors import UsageError
from dllm_core.common.paths import resolve
from dllm_core.notebook import parameters as known

FOLDER = "notebooks/sweeps"
MEASURE = "sweeps/measure"
KEYS = {"title", "question", "answer", "order", "seeds", "chain", "train", "measure", "cells", "tables", "figure",
        "paired", "alone", "environment", "by_name"}  # fmt: skip
SCALES = ("cpu", "h100", "smoke")
STEP_KEYS = {"notebook", "preset", "cells", "given", *SCALES}


@dataclass(frozen=True)
class Trial:
    """One line of a sweep at one seed. steps: (notebook, what it is given) of each training, in order; `{previous}` in a
    value stands for the run of the step before. measure: what the measuring notebook is given."""

    sweep: str
    name: str
    label: str
    seed: int
    steps: tuple[tuple[str, dict], ...]
    measure: dict
    scale: str = "cpu"

    @property
    def key(self) -> str:
        """A digest of everything the cell was asked; a record with another key is of another question."""
        return digest([self.steps, self.measure, self.seed])

    @property
    def path(self) -> Path:
        """Where its record lies."""
        folder = resolve(FOLDER) / "records" / ("" if self.scale == "cpu" else self.scale) / self.sweep
        return folder / f"{self.name}.seed{self.seed}.json"

    @property
    def done(self) -> bool:
        return jobs.read(self.path).get("key") == self.key


@dataclass(frozen=True)
class Sweep:
    """A YAML file of notebooks/sweeps, read and checked. `text` holds its words, tables and figure."""

    name: str
    text: dict
    seeds: tuple[int, ...]
    chain: tuple[str, ...]
    cells: tuple[Trial, ...]

    @property
    def missing(self) -> str:
        """The environment variable that has to name a folder and does not; empty when there is none."""
        name = self.text.get("environment", "")
        return name if name and not Path(os.environ.get(name) or "/nonexistent").is_dir() else ""

    def records(self) -> list[dict]:
        """The records of the finished cells, in the order of the file."""
        return [jobs.read(cell.path) for cell in self.cells if cell.done]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def read(path: Path, scale: str = "cpu") -> Sweep:
    """The sweep of a file at a scale (cpu, h100, smoke). Raises Problem that names file and key."""
    try:
        text = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: the sweep cannot be read ({error})") from error
    lacking = {"title", "question", "measure", "cells"} - set(text if isinstance(text, dict) else ())
    if lacking:
        raise UsageError(f"{path}: a sweep needs {', '.join(sorted(lacking))}")
    if extra := set(text) - KEYS:
        raise UsageError(f"{path}: {min(extra)}: no such key; there are {', '.join(sorted(KEYS))}")
    seeds, train = tuple(text.get("seeds", (0, 1, 2))), text.get("train", [])
    for name in text.get("chain", ()):
        if name not in {stage.name for stage in batch.STAGES}:
            raise UsageError(f"{path}: chain: {name!r} is no stage of the chain, written in quotes, such as \"03\" or 05-llada2")
    cells = []
    for name, own in text["cells"].items():
        if not re.fullmatch(r"[a-z0-9.+-]+", str(name)):
            raise UsageError(f"{path}: cell {name!r}: a name is made of small letters, digits, '.', '+' and '-'")
        own = dict(own or {})
        at_scales = {key: own.pop(key) for key in SCALES if key in own}
        own |= at_scales.get(scale, {})
        label, used = own.pop("label", str(name)), set()
        steps = tuple((step["notebook"], _given(path, step, own, scale, used))
                      for step in train if name in step.get("cells", text["cells"]))  # fmt: skip
        asked = {key: value for key, value in text["measure"].items() if key not in SCALES}
        at_scale = {key: value for key, value in text["measure"].items() if key in SCALES}
        measure = _given(path, {"notebook": MEASURE, "given": asked, **at_scale}, own, scale, used)
        if unused := set(own) - used:
            unused = min(unused)
            raise UsageError(f"{path}: cell {name}: {unused}: none of the notebooks it runs has such a parameter")
        cells += [Trial(path.stem, str(name), label, seed, steps, measure, scale) for seed in seeds]
    return Sweep(path.stem, text, seeds, tuple(text.get("chain", ())), tuple(cells))


def _given(path: Path, step: dict, own: dict, scale: str, used: set) -> dict:
    """What a notebook is given: its preset at this scale, the step's values, the cell's; each checked against it."""
    if extra := set(step) - STEP_KEYS:
        raise UsageError(f"{path}: train: {min(extra)}: no such key; there are {', '.join(sorted(STEP_KEYS))}")
    declared = known.read_parameters(resolve(f"notebooks/{step['notebook']}.ipynb"))
    preset = resolve(f"notebooks/presets/{scale}/{step.get('preset') or step['notebook']}.yaml")
    given = known.from_file(preset, declared) if preset.exists() else {}
    own = {name: value for name, value in own.items() if name in declared}
    used.update(own)
    for name, value in {**step.get("given", {}), **step.get(scale, {}), **own}.items():
        where = f"{path}: {step['notebook']}"
        if name not in declared:
            raise UsageError(f"{where}: {name}: {known.unknown(name, set(declared))}")
        known.check(declared[name], value, where)
        given[name] = value
    return given


def find(names: list[str], scale: str = "cpu") -> list[Sweep]:
    """The sweeps of these names, or all, in their order. Raises Problem for a name that means none."""
    there = {path.stem: path for path in resolve(FOLDER).glob("*.yaml")}
    for name in names:
        if name not in (*there, "all"):
            raise UsageError(f"no sweep {name!r} in {FOLDER}; there are {', '.join(sorted(there))}")
    chosen = there if not names or "all" in names else names
    return sorted((read(there[name], scale) for name in chosen), key=lambda sweep: (sweep.text.get("order", 99), sweep.name))
