"""Where a checkpoint comes from: the trainings behind it, and the texts of each."""

from contextlib import suppress
from pathlib import Path

from dllm_core.checkpoints.formats import find_checkpoint, run_name
from dllm_core.common.errors import DataError, RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.common.records import fits
from dllm_core.data.embedded import is_embedded


def lineage(folder: Path) -> list[dict]:
    """The trainings behind the checkpoint in a folder, the first one first: "run", its name; "data", the name of its
    file of texts, "" where none is recorded; "embedded", whether that file is of the embedded corpus. No paths."""
    return _behind(folder, frozenset())


def _behind(folder: Path, seen: frozenset[Path]) -> list[dict]:
    record: dict = {}
    with suppress(DataError, OSError):
        record = read_json(folder / "config.json").get("dllm", {})
    if fits(record.get("lineage"), list[dict]):
        return record["lineage"]
    settings = record.get("settings", {})
    data = settings.get("data", "")
    entry = {"run": folder.name, "data": Path(data).name, "embedded": bool(data) and is_embedded(resolve(data))}
    source = settings.get("load_from") or settings.get("init_from_minimind")
    if not source or folder in seen:  # a run may have been trained on from itself
        return [entry]
    try:
        path, variant = find_checkpoint(source)
    except RunError:  # it is there no longer, and what it was trained on is not known
        return [{"run": Path(run_name(source)).name, "data": "", "embedded": False}, entry]
    return [*_behind(path.with_suffix("") if variant == "file" else path, seen | {folder}), entry]


def licence(trainings: list[dict]) -> str:
    """The licence that a model of these trainings can have, in the Hub's words: this project's where all texts are of
    the embedded corpus, else "unknown", for its author to say."""
    return "apache-2.0" if trainings and all(training["embedded"] for training in trainings) else "unknown"
