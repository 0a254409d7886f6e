"""A run's folder: what training leaves behind and decoding reads.

    weights/NAME/config.json        model shape in Hugging Face's Qwen3 form, and how it was trained under "dllm"
    weights/NAME/model.safetensors  last weights; best.safetensors, merged.safetensors where made
    weights/NAME/tokenizer*.json    so that a run needs nothing else
    weights/NAME/metrics.jsonl      one TrainStep a line
    weights/NAME/state.pt           optimiser, RNG and data position, for an exact resume
    weights/NAME/checkpoints/       the k best on validation, for the top-k merge

The report's names `weights/NAME.pt`, `NAME_state_dict.pt`, `NAME_best.pt` resolve to the folder NAME.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dllm_core.checkpoints.formats import (
    VARIANTS,
    LoadedCheckpoint,
    find_checkpoint,
    fit,
    hf_config,
    load,
    mean_weights,
    read_state,
    save_tensors,
    save_weights,
)
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json, replaced_whole, write_json, write_whole
from dllm_core.common.paths import resolve
from dllm_core.compute.processes import rank
from dllm_core.config import CheckpointInfo
from dllm_core.model import Transformer

# Parameters of the notebooks that only look at a training, and change nothing of it; so does every gen_… one.
LOOKING = frozenset({
    "prompt", "checkpoint", "max_new_tokens", "sample_every", "save_every", "valid_items", "llada1_block_length",
    "llada2_enable_parallel_decoding", "device",
})  # fmt: skip

__all__ = [
    "LOOKING",
    "VARIANTS",
    "LoadedCheckpoint",
    "RunFolder",
    "find_checkpoint",
    "fit",
    "load",
    "mean_weights",
    "read_state",
    "save_weights",
]  # fmt: skip


class RunFolder:
    """The folder of one training, written to while it goes on."""

    def __init__(self, folder: Path, keep_best: int = 1):
        self.folder, self.keep_best = Path(folder), keep_best

    @classmethod
    def open(cls, name: str, model: Transformer, checkpoint: CheckpointInfo, tokenizer, settings: dict, keep_best: int = 1):
        """The run `name` under weights/, continued when its folder holds an unfinished training of equal settings (those
        in `LOOKING` and gen_… left out); a run of other settings, or a finished one, is kept as NAME.old and a new one
        begun. Raises RunError for a name that means weights/ itself or a folder above it.
        Of several processes that train together only the first touches the folder, here and in `finish`."""
        folder = resolve(name) if os.sep in name else resolve("weights") / name
        shared = Path(os.path.abspath(resolve("weights")))
        if Path(os.path.abspath(folder)) in (shared, *shared.parents):  # it would be set aside with all runs in it
            raise RunError(f"run_name={name!r}: must name a folder of its own, such as my_run (under weights/)")
        run = cls(folder, keep_best)
        if rank() > 0:
            return run
        config = hf_config(model.config, checkpoint, settings)
        config = json.loads(json.dumps(config))  # as it is read back: tuples have become lists
        if (folder / "config.json").is_file():
            found = read_json(folder / "config.json", RunError)
            same = _training_of(found) == _training_of(config)
            if same and (folder / "state.pt").is_file() and not (folder / VARIANTS["last"]).is_file():
                run._write_config(config)
                return run
            run._set_aside("dllm" in found)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        run._write_config(config)
        return run

    def _write_config(self, config: dict) -> None:
        write_json(self.folder / "config.json", config, indent=2)

    def _set_aside(self, own: bool) -> None:
        """Rename the folder to NAME.old; a run of this project's `own` that was stopped before it saved anything is
        dropped instead, so that it does not push a better NAME.old out."""
        if own and not any((self.folder / name).is_file() for name in ("state.pt", *VARIANTS.values())):
            shutil.rmtree(self.folder)
            return
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        self.folder.rename(old)

    def record(self, step, model: Transformer) -> None:
        """Append the TrainStep to metrics.jsonl; a validated one competes for the `keep_best` best checkpoints."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        if step.validation is None:
            return
        kept = self.checkpoints()
        if len(kept) >= self.keep_best and kept[self.keep_best - 1][0] <= step.validation:
            return
        save_weights(model, self.folder / "checkpoints" / f"{step.step:07d}.safetensors")
        scores = {file.name: value for value, file in kept} | {f"{step.step:07d}.safetensors": step.validation}
        ranked = sorted(scores, key=scores.get)
        write_json(self.folder / "checkpoints" / "scores.json", {name: scores[name] for name in ranked[: self.keep_best]})
        for name in ranked[self.keep_best :]:
            (self.folder / "checkpoints" / name).unlink()

    def checkpoints(self) -> list[tuple[float, Path]]:
        """(validation, file) of the kept checkpoints, best first."""
        scores = self.folder / "checkpoints" / "scores.json"
        if not scores.is_file():
            return []
        return sorted((value, scores.with_name(name)) for name, value in read_json(scores, RunError).items())

    def metrics(self) -> list[dict]:
        """The recorded TrainSteps as dicts; a last line that a kill left unfinished is skipped."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def save_state(self, state: dict) -> None:
        with replaced_whole(self.folder / "state.pt") as partial:
            torch.save(state, partial)

    def load_state(self) -> dict | None:
        """The saved training state, or None; metrics written after it was saved are dropped."""
        file = self.folder / "state.pt"
        if not file.is_file():
            return None
        state = torch.load(file, map_location="cpu", weights_only=True)
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= state["step"]]
        write_whole(self.folder / "metrics.jsonl", "".join(lines))
        return state

    def finish(self, model: Transformer) -> None:
        """Write the last weights and the best (a copy of the best checkpoint); the state for resuming is dropped."""
        if rank() > 0:
            return
        kept = self.checkpoints()
        if kept:
            self._copy(kept[0][1], VARIANTS["best"])
        else:
            save_weights(model, self.folder / VARIANTS["best"])
        save_weights(model, self.folder / VARIANTS["last"])
        (self.folder / "state.pt").unlink(missing_ok=True)

    def merge(self, k: int) -> dict[str, Tensor]:
        """Top-k merge (LLaDA 2.0 §4.3): the mean of the weights of the k checkpoints best on validation, written as
        merged.safetensors and returned. Raises RunError when fewer than k were kept."""
        kept = self.checkpoints()[:k]
        if len(kept) < k:
            raise RunError(
                f"{self.folder}: only {len(kept)} validated checkpoints for llada2_topk_merge_k={k}; "
                "validate more often (eval_every)"
            )
        merged = mean_weights([load_file(file) for _, file in kept])
        save_tensors(merged, self.folder / VARIANTS["merged"])
        return merged

    def use_as_best(self, variant: str) -> None:
        """Let best.safetensors be a copy of `variant` (the merge, where it validated better)."""
        self._copy(self.folder / VARIANTS[variant], VARIANTS["best"])

    def _copy(self, source: Path, name: str) -> None:
        with replaced_whole(self.folder / name) as partial:
            shutil.copyfile(source, partial)


def _training_of(config: dict) -> dict:
    """A run's config.json without the settings that only look at it."""
    own = config.get("dllm", {})
    settings = own.get("settings", {})
    kept = {name: settings[name] for name in settings if name not in LOOKING and not name.startswith("gen_")}
    return {**config, "dllm": {**own, "settings": kept}}
