"""The small trained weights in the repository: `dllm bundle`, after `dllm run all`.

Copies of the three fine-tuned runs in half precision, with the scores that notebook 07 measured.
"""

import argparse
from pathlib import Path

from dllm_core.checkpoints.bundled import BUNDLED
from dllm_core.checkpoints.export import write_description
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.lineage import lineage
from dllm_core.checkpoints.tensors import save_weights
from dllm_core.cli import report
from dllm_core.common.errors import RunError
from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import resolve
from dllm_core.show.html import table


def copy_run(name: str | Path, folder: Path) -> int:
    """Write the checkpoint `name` into `folder`: float16 weights, tokenizer, config without the training's settings.
    Returns the bytes of the weights. Raises RunError when there is no such run, or no tokenizer with it."""
    loaded = load_checkpoint(name)
    if loaded.tokenizer is None:
        raise RunError(f"{loaded.path}: no tokenizer with it; bundle a run folder, not a bare state dict")
    write_description(folder, loaded, trained=loaded.trained, lineage=lineage(loaded.path))
    save_weights(loaded.model.half(), folder / "model.safetensors")
    return (folder / "model.safetensors").stat().st_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm bundle`."""
    parser.add_argument("--scores", default="outputs/compare_sft.scores.json", help="what 07 measured of these runs")


def run(options: argparse.Namespace) -> None:
    """Write weights/tiny-* and weights/README.md, which says how they were trained and how well they answer."""
    scores = [report.load_scores(resolve(options.scores))]
    folders = {resolve("weights") / copy: f"weights/{name}.pt" for name, copy in BUNDLED.items()}  # the last weights
    sizes = {folder: copy_run(checkpoint, folder) for folder, checkpoint in folders.items()}
    questions = sum(group["count"] for group in scores[0]["exact_match"]["AR"])
    parts = [
        "# Small trained weights",
        "`dllm run all --jobs 2` trained them; `dllm bundle` then wrote the copies and this page.",
        "06 and 07 show them until you have trained your own.",
        "\n".join(f"- `{folder.name}`: {size / 1e6:.1f} MB, float16" for folder, size in sizes.items()),
        f"Scores that 07 measured (in float32; {questions} test questions, seed {scores[0]['settings']['seed']}):",
        table(report.settings_rows(scores)).markdown,
        table(report.group_rows(scores)).markdown,
    ]
    write_whole(resolve("weights/README.md"), "\n\n".join(parts) + "\n")
    for folder in sizes:
        print(display_path(folder))
