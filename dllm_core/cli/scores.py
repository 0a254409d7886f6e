"""What notebook 07 measured of a checkpoint, as rows of its model card."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dllm_core.checkpoints.formats import LoadedCheckpoint, find_checkpoint
from dllm_core.common.errors import DataError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.notebook.grading import wilson

DAMAGED = (OSError, DataError, LookupError, TypeError, ValueError, AttributeError)


def scores_of(loaded: LoadedCheckpoint, variant: str) -> list[dict[str, str]]:
    """A row for each decoding of these weights that an outputs/*.scores.json holds; none where there is no such file.

    variant: of the checkpoint's folder. A file counts where it names this folder and variant and the trainings that it
    records are the checkpoint's own, so that the scores of an earlier training of the name are left out.
    """
    rows: list[dict[str, str]] = []
    for file in sorted(resolve("outputs").glob("*.scores.json")):
        with suppress(*DAMAGED):  # of another version, or half of a file
            scores = read_json(file)
            rows += [row for name in _names(scores, loaded, variant) for row in _rows(scores, name)]
    return rows


def _names(scores: Mapping, loaded: LoadedCheckpoint, variant: str) -> Iterator[str]:
    """The names under which these weights take part in a comparison."""
    settings = scores["settings"]
    of_parameter = {"AR": "ar_checkpoint", "LLaDA 1": "llada1_checkpoint"}
    for name, trained in scores["trained"].items():
        source = settings[of_parameter.get(name, "checkpoint")] or settings["checkpoint"]
        if trained and trained == loaded.trained and find_checkpoint(source) == (loaded.path, variant):
            yield name


def _rows(scores: Mapping, name: str) -> list[dict[str, str]]:
    settings, nats = scores["settings"], scores["likelihood"].get(name)
    bound = nats and f"{'at most ' if nats['draws'] else ''}{nats['mean']:.3f} ± {nats['error']:.3f}"
    asked, text = Path(settings["test_data"]).name, Path(settings["valid_data"] or settings["data"]).name
    rows = []
    for result in scores["answers"]:
        if result["name"] == name:
            low, high = wilson(sum(result["right"]), result["items"])
            threshold = result["threshold"]
            rows.append({
                "decoded as": f"{name}, threshold {threshold:g}" if threshold else name,
                "exact match (95 % interval)": f"{result['exact_match']:.3f} ({low:.3f}–{high:.3f})",
                "questions": f"{result['items']:,} of {asked}",
                "tokens per forward pass": f"{result['tokens_per_forward']:.2f}",
            })  # fmt: skip
    if bound:
        rows = rows or [{"decoded as": name}]
        rows[0] |= {"nats per token": f"{bound}, {text}"}
    return rows
