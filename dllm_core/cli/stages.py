"""The stages of the chain: their notebooks, their order, their parameters, and which of them are up to date."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dllm_core.common.errors import DataError, UsageError
from dllm_core.common.files import display_path, json_text, read_json
from dllm_core.common.paths import resolve, run_path
from dllm_core.common.records import fits
from dllm_core.notebook.parameters import (
    Parameter,
    code_digest,
    parse_value,
    read_parameters,
    read_preset,
    unknown_name,
)
from dllm_core.notebook.ranges import check_settings

CODE_CHANGED = "the notebook's code changed"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the chain: a notebook under one preset.

    `preset` names the YAML file in notebooks/presets/<scale>/ and the executed notebook. At scale `cpu` the file may be
    absent (the notebook's own parameters), unless `variant`: a second use of a notebook. `cost`: relative duration.
    """

    name: str
    notebook: str
    preset: str
    needs: tuple[str, ...] = ()
    cost: int = 1
    variant: bool = False


STAGES = (
    Stage("00", "00_the_idea", "00_the_idea"),
    Stage("01", "01_ar_pretrain", "01_ar_pretrain", cost=19),
    Stage("02", "02_llada1_pretrain", "02_llada1_pretrain", ("01",), cost=10),
    Stage("03", "03_llada2_pretrain", "03_llada2_pretrain", ("01",), cost=11),
    Stage("04", "04_ar_sft", "04_ar_sft", ("01",), cost=42),
    Stage("05-llada1", "05_llada2_sft", "05_llada1_sft", ("02",), cost=47, variant=True),
    Stage("05-llada2", "05_llada2_sft", "05_llada2_sft", ("03",), cost=48),
    Stage("06", "06_parallel_decoding", "06_parallel_decoding", ("04", "05-llada1", "05-llada2"), cost=4),
    Stage("07-pretrain", "07_compare_styles", "07_compare_pretrain", ("01", "02", "03"), cost=4, variant=True),
    Stage("07-sft", "07_compare_styles", "07_compare_sft", ("04", "05-llada1", "05-llada2"), cost=10),
)


RECORD = {  # of a stage's last finished run
    "stage": str, "parameters": dict, "code": str, "started": float, "finished": float, "seconds": float,
    "memory_gib": float,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class NotebookJob:
    """A stage that is ready to run.

    declared: the parameters of its notebook. overrides: the values that papermill is passed. code: a digest of the
    notebook's code. executed: where the executed notebook goes. upstream: the records of the stages before it.
    weights: the folder that stands for weights/ (None: that folder). threads: None leaves the number to the scheduler.
    """

    stage: Stage
    notebook: Path
    declared: dict[str, Parameter]
    overrides: dict
    code: str
    executed: Path
    upstream: tuple[Path, ...]
    weights: Path | None = None
    threads: int | None = None

    @property
    def parameters(self) -> dict:
        """The value of every parameter in this run."""
        return {name: parameter.default for name, parameter in self.declared.items()} | self.overrides

    @property
    def record(self) -> Path:
        """The record of the last finished run, beside the executed notebook."""
        return self.executed.with_suffix(".json")

    @property
    def products(self) -> list[Path]:
        """The files that show that the stage has its result: its run folder's config, its output."""
        output = self.parameters.get("output")
        products = [self.run_folder / "config.json"] if self.run_folder else []
        return products + ([resolve(output)] if output else [])

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run that the stage trains or shows. Raises RunError for a run_name that cannot be."""
        name = self.parameters.get("run_name")
        return None if name is None else run_path(name, self.weights)

    def why_stale(self) -> str:
        """Why the stage has to run; empty when its result is there and nothing that it depends on has changed."""
        record = read_record(self.record, RECORD)
        if not record:
            return "no result yet"
        before, after = record["parameters"], json.loads(json_text(self.parameters))
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        if changed:
            words = [f"{name}: {before.get(name)!r} -> {after.get(name)!r}" for name in changed[:3]]
            return f"parameters changed ({', '.join(words)}{', ...' if len(changed) > 3 else ''})"
        if record["code"] != self.code:
            return CODE_CHANGED
        for path in (self.executed, *self.products):
            if not path.exists():
                return f"{display_path(path)} is missing"
            if path != self.executed and path.stat().st_mtime > record["finished"] + 1:
                return f"{display_path(path)} was written since by another run"
        records = [read_record(path, RECORD) for path in self.upstream]
        later = [other["stage"] for other in records if other and other["finished"] > record["started"]]
        return f"{', '.join(later)} ran again since" if later else ""


def read_record(path: Path, types: Mapping[str, type]) -> dict:
    """A record of what has finished; empty when there is none that can be read and has the fields of `types`."""
    try:
        record = read_json(path)
    except (OSError, DataError):
        return {}
    return record if all(fits(record.get(name), kind) for name, kind in types.items()) else {}


def choose(names: Sequence[str], stages: Sequence[Stage]) -> list[Stage]:
    """The stages that the names stand for, in the chain's order: `03`, `05` (both), `05-llada1`, a notebook, `all`.

    Raises UsageError for a name that stands for none.
    """
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matches = [s for s in stages if stem in ("all", s.name, s.name.split("-")[0], s.notebook, s.preset)]
        if not matches:
            raise UsageError(f"no stage is called {name!r}; choose from {', '.join(s.name for s in stages)} or all")
        chosen.update(matches)
    return [stage for stage in stages if stage in chosen]


def plan(
    chosen: Sequence[Stage], stages: Sequence[Stage], preset: str, pairs: Sequence[Sequence[str]], out: Path,
    weights: Path | None = None,
) -> list[NotebookJob]:  # fmt: skip
    """A job for every chosen stage, its parameters checked. pairs: (name, text) of each `-p`.

    Before anything has run, raises UsageError for a parameter that no notebook has or whose value does not fit, and
    RunError for a run_name that cannot be.
    """
    scales = sorted({"cpu", *(folder.name for folder in resolve("notebooks/presets").glob("*/"))})
    if preset not in scales:
        raise UsageError(f"no preset {preset!r} in notebooks/presets; there are {', '.join(scales)}")
    notebooks = {stage: resolve(f"notebooks/{stage.notebook}.ipynb") for stage in chosen}
    declared = {stage: read_parameters(path) for stage, path in notebooks.items()}
    names = {name for parameters in declared.values() for name in parameters}
    for name, _ in pairs:
        if name not in names:
            raise UsageError(f"-p {name}: {unknown_name(name, names)}")
    jobs = []
    for stage, parameters in declared.items():
        path = resolve(f"notebooks/presets/{preset}/{stage.preset}.yaml")
        optional = preset == "cpu" and not stage.variant
        overrides = {} if optional and not path.exists() else read_preset(path, parameters)
        overrides |= {name: parse_value(text, parameters[name]) for name, text in pairs if name in parameters}
        upstream = tuple(out / f"{other.preset}.json" for other in stages if other.name in stage.needs)
        executed, code = out / f"{stage.preset}.ipynb", code_digest(notebooks[stage])
        job = NotebookJob(stage, notebooks[stage], parameters, overrides, code, executed, upstream, weights)
        try:
            check_settings(parameters, job.parameters)
        except ValueError as error:
            raise UsageError(f"stage {stage.name}: {error}") from error
        jobs.append(job)
    _refuse_shared_products(jobs)
    return jobs


def _refuse_shared_products(jobs: list[NotebookJob]) -> None:
    """Raises UsageError when two jobs would write the same file."""
    writers: dict[Path, NotebookJob] = {}
    for job in jobs:
        for path in job.products:
            other = writers.setdefault(path, job)
            if other is not job:
                raise UsageError(
                    f"stages {other.stage.name} and {job.stage.name} would both write {display_path(path)}: "
                    "give run_name or output to one of them at a time"
                )
