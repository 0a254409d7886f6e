"""The small trained weights that come with the project: `python -m dllm_core.workshop.bundle_weights`, after `dllm run all`.

Copies of the three fine-tuned runs, in half precision so that they stay small, with what notebook 07 measured of them.
Who opens 06 or 07 before training anything sees these.
"""

import argparse
from pathlib import Path

from dllm_core.checkpoints.formats import load, run_name, save_tensors
from dllm_core.cli import report
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json, write_json, write_whole
from dllm_core.common.paths import resolve, root

SHIPPED = {  # the chain's run → the copy of it that comes with the project
    "minimind_sft": "tiny-ar",
    "diffusion_llada1_sft": "tiny-llada1",
    "diffusion_llada2_sft": "tiny-llada2",
}


def bundled_checkpoint(name: str | Path) -> str | None:
    """The shipped copy of the run that `name` (any of its names) means, where there is one: in the project's own
    weights/, also when DLLM_WEIGHTS keeps the runs elsewhere."""
    copy = root() / "weights" / SHIPPED.get(run_name(name), "none")
    return str(copy) if (copy / "model.safetensors").is_file() else None


def copy_run(name: str | Path, folder: Path) -> int:
    """Write checkpoint `name` into `folder`: weights as float16, tokenizer, config without its training's settings.
    Gives the bytes of the weights. Raises RunError when there is no such run, or none with a tokenizer."""
    found = load(name)
    if found.tokenizer is None:
        raise RunError(f"{found.path}: no tokenizer with it; ship a run folder, not a bare state dict")
    record = read_json(found.path / "config.json")
    record["dllm"].pop("settings", None)
    state = {key: value.half().contiguous() for key, value in found.model.state_dict().items()}
    if found.model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    found.tokenizer.save_pretrained(folder)
    save_tensors(state, folder / "model.safetensors")
    write_json(folder / "config.json", record, indent=2)
    return (folder / "model.safetensors").stat().st_size


def main(arguments: list[str] | None = None) -> list[Path]:
    """Write weights/tiny-* and weights/README.md, which says how they were made and how good they are."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.workshop.bundle_weights", description=__doc__.splitlines()[0])
    parser.add_argument("--scores", default="outputs/compare_sft.scores.json", help="what 07 measured of these runs")
    given = parser.parse_args(arguments)
    scores = [report.load(resolve(given.scores))]
    folders, sizes = [], []
    for run, copy in SHIPPED.items():
        folders.append(resolve("weights") / copy)
        sizes.append(copy_run(f"weights/{run}.pt", folders[-1]))  # the last weights, which 07 measured
    questions = sum(group["count"] for group in scores[0]["exact_match"]["AR"])
    lines = [
        "# Small trained weights",
        "",
        "Made by `dllm run all --jobs 2` and then `python -m dllm_core.workshop.bundle_weights`, which also writes this page.",
        "06 and 07 show them until you have trained your own.",
        "",
        *(f"- `{folder.name}`: {size / 1e6:.1f} MB, float16" for folder, size in zip(folders, sizes)),
        "",
        f"What 07 measured of these runs (in float32; {questions} test questions, seed {scores[0]['settings']['seed']}):",
        "",
        *report.settings_table(scores),
        "",
        *report.groups_table(scores),
    ]
    write_whole(resolve("weights/README.md"), "\n".join(lines) + "\n")
    return folders


if __name__ == "__main__":
    for folder in main():
        print(folder)
