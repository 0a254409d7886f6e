"""`dllm export`: a checkpoint as a folder that another program reads, with a model card."""

import argparse
from pathlib import Path

from dllm_core.checkpoints.export import READERS, export
from dllm_core.checkpoints.formats import find_checkpoint, load_checkpoint
from dllm_core.checkpoints.lineage import lineage
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.cli.model_card import model_card
from dllm_core.cli.scores import scores_of
from dllm_core.common.files import display_path, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm export`."""
    parser.add_argument("run", help="a run's folder or any of its names, such as weights/NAME_best.pt")
    parser.add_argument("folder", help="where to write: an empty folder, or one that does not exist")
    parser.add_argument("--to", choices=READERS, required=True, help="the program that is to read it")


def run(options: argparse.Namespace) -> None:
    """Write the folder and its card. Raises RunError for a checkpoint that the program would misread."""
    folder = Path(options.folder)
    loaded = load_checkpoint(options.run)
    _, variant = find_checkpoint(options.run)
    trainings = lineage(loaded.path)
    trained = [{**entry, "run": Path(entry.get("run", "")).name} for entry in loaded.trained]
    export(loaded, folder, options.to, trained=trained, lineage=trainings)
    title = folder.resolve().name
    scores = scores_of(loaded, variant)
    card = model_card(title, loaded, options.to, trained, trainings, validation(loaded.path, variant), scores)
    write_whole(folder / "README.md", card)
    print(display_path(folder / "README.md"))


def validation(folder: Path, variant: str) -> float | None:
    """The validation loss in nats per token that a run's folder records of its last weights, or the least of all for
    others; None where it records none."""
    losses = [step["validation"] for step in RunFolder(folder).metrics() if step.get("validation") is not None]
    if not losses:
        return None
    return losses[-1] if variant == "last" else min(losses)
