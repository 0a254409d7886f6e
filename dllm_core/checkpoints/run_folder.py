"""A run's folder: what training writes and decoding reads.

    weights/NAME/config.json        model shape in Hugging Face's Qwen3 form; under "dllm" how it was trained
    weights/NAME/model.safetensors  last weights; also best.safetensors and merged.safetensors
    weights/NAME/tokenizer*.json    so that a run needs nothing else
    weights/NAME/metrics.jsonl      one TrainStep per line
    weights/NAME/state.pt           weights, optimizer and data position of an unfinished training, for an exact resume
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

from dllm_core.checkpoints.formats import VARIANTS, hf_config, mean_weights, save_tensors, save_weights
from dllm_core.common.errors import RunError
from dllm_core.common.files import json_text, read_json, replaced_whole, write_json, write_whole
from dllm_core.common.paths import resolve
from dllm_core.compute.processes import rank
from dllm_core.config import CheckpointInfo
from dllm_core.model import Transformer

# Settings that change nothing of the training itself; neither do those that begin with gen_.
WITHOUT_EFFECT = frozenset({
    "prompt", "checkpoint", "max_new_tokens", "sample_every", "save_every", "valid_items", "llada1_block_length",
    "llada2_enable_parallel_decoding", "device",
})  # fmt: skip


class RunFolder:
    """The folder of one training, written while it runs."""

    def __init__(self, folder: Path, keep_best: int = 1):
        self.folder, self.keep_best = Path(folder), keep_best

    @classmethod
    def open(cls, name: str, model: Transformer, checkpoint: CheckpointInfo, tokenizer, settings: dict, keep_best: int = 1):
        """The run `name` under weights/, which continues an unfinished training with the same settings (except those
        `WITHOUT_EFFECT`). A finished run, or one with other settings, is kept as NAME.old, and a new one begins.

        Of several processes that train together only the first changes the folder, here and in `finish`.
        Raises RunError for a name that means weights/ itself or a folder above it.
        """
        folder = resolve(name) if os.sep in name else resolve("weights") / name
        weights = Path(os.path.abspath(resolve("weights")))
        if Path(os.path.abspath(folder)) in (weights, *weights.parents):  # renaming it would move all runs
            raise RunError(f"run_name={name!r}: must name a folder of its own, such as my_run (under weights/)")
        run = cls(folder, keep_best)
        if rank() > 0:
            return run
        config = hf_config(model.config, checkpoint, settings)
        config = json.loads(json_text(config))  # as it will be read: tuples become lists
        if (folder / "config.json").is_file():
            earlier = read_json(folder / "config.json", RunError)
            same = _training_of(earlier) == _training_of(config)
            if same and (folder / "state.pt").is_file() and not (folder / VARIANTS["last"]).is_file():
                for partial in folder.rglob("*.partial"):  # left by a process that was killed while it wrote
                    partial.unlink()
                run._write_config(config)
                return run
            run._set_aside("dllm" in earlier)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        run._write_config(config)
        return run

    def _write_config(self, config: dict) -> None:
        write_json(self.folder / "config.json", config, indent=2)

    def _set_aside(self, written_here: bool) -> None:
        """Rename the folder to NAME.old. One that this project wrote and that has neither weights nor a state is deleted
        instead, so that it does not replace a better NAME.old."""
        if written_here and not any((self.folder / name).is_file() for name in ("state.pt", *VARIANTS.values())):
            shutil.rmtree(self.folder)
            return
        old = self.folder.with_name(self.folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        self.folder.rename(old)

    def record(self, step, model: Transformer) -> None:
        """Append the TrainStep to metrics.jsonl; after a validation, keep the weights if they are among the best."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json_text(asdict(step)) + "\n")
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
        """(validation loss, file) of the kept checkpoints, best first."""
        scores = self.folder / "checkpoints" / "scores.json"
        if not scores.is_file():
            return []
        return sorted((value, scores.with_name(name)) for name, value in read_json(scores, RunError).items())

    def metrics(self) -> list[dict]:
        """The recorded TrainSteps as dicts; a last line that a killed process left incomplete is skipped."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def save_state(self, state: dict) -> None:
        with replaced_whole(self.folder / "state.pt") as partial:
            torch.save(state, partial)

    def load_state(self) -> dict | None:
        """The saved training state, or None. Metrics recorded after it was saved are deleted."""
        file = self.folder / "state.pt"
        if not file.is_file():
            return None
        state = torch.load(file, map_location="cpu", weights_only=True)
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= state["step"]]
        write_whole(self.folder / "metrics.jsonl", "".join(lines))
        return state

    def finish(self, model: Transformer) -> None:
        """Write the last weights and the best (a copy of the best checkpoint), and delete the state for resuming."""
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
        """Top-k merge (LLaDA 2.0 §4.3): write the mean of the weights of the k checkpoints best on validation to
        merged.safetensors and return it. Raises RunError when fewer than k were kept."""
        kept = self.checkpoints()[:k]
        if len(kept) < k:
            raise RunError(
                f"{self.folder}: {len(kept)} validated checkpoints are kept, too few for a merge of {k}: validate more often "
                "(eval_every) and keep more (keep_best)"
            )
        merged = mean_weights([load_file(file) for _, file in kept])
        save_tensors(merged, self.folder / VARIANTS["merged"])
        return merged

    def use_as_best(self, variant: str) -> None:
        """Make best.safetensors a copy of `variant`, such as a merge with a better validation."""
        self._copy(self.folder / VARIANTS[variant], VARIANTS["best"])

    def _copy(self, source: Path, name: str) -> None:
        with replaced_whole(self.folder / name) as partial:
            shutil.copyfile(source, partial)


def _training_of(config: dict) -> dict:
    """A run's config.json with only the settings that change the training."""
    record = config.get("dllm", {})
    settings = record.get("settings", {})
    kept = {name: settings[name] for name in settings if name not in WITHOUT_EFFECT and not name.startswith("gen_")}
    return {**config, "dllm": {**record, "settings": kept}}
