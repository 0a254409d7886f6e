"""A run's folder: what training writes and decoding reads.

    weights/NAME/config.json        what it is, in Hugging Face's form; under "dllm" how it was trained
    weights/NAME/model.safetensors  last weights; also best.safetensors and merged.safetensors
    weights/NAME/tokenizer*.json    so that a run needs nothing else
    weights/NAME/metrics.jsonl      one TrainStep per line
    weights/NAME/state.pt           weights, optimizer and data position of an unfinished training, for an exact resume
    weights/NAME/checkpoints/       the k best on validation, for the top-k merge

The report's names `weights/NAME.pt`, `NAME_state_dict.pt`, `NAME_best.pt` resolve to the folder NAME.
"""

import json
import math
import os
import shutil
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dllm_core.checkpoints import price
from dllm_core.checkpoints.formats import VARIANTS
from dllm_core.checkpoints.hf_config import generation_config, hf_config
from dllm_core.checkpoints.run_lock import read_run, take_lock
from dllm_core.checkpoints.same_training import same_settings, same_start, starts_from
from dllm_core.checkpoints.tensors import mean_weights, read_state, save_tensors, save_weights
from dllm_core.common.errors import RunError
from dllm_core.common.files import (
    display_path,
    explain_full_disk,
    json_text,
    read_json,
    read_json_lines,
    replaced_whole,
    write_json,
    write_whole,
)
from dllm_core.common.paths import run_path
from dllm_core.compute.processes import rank
from dllm_core.config import CheckpointInfo
from dllm_core.model import Transformer
from dllm_core.train import TrainStep

_trained_here: dict[Path, weakref.ref] = {}  # folder → the model that this process trains in place


class RunFolder:
    """The folder of one training, written while it runs.

    is_finished: the training had ended when the folder was opened. saved_step: the step of the saved state, 0: none.
    """

    def __init__(self, folder: Path, keep_best: int = 1):
        self.folder, self.keep_best = Path(folder), keep_best
        self.is_finished, self.saved_step, self.has_kept = False, 0, False

    @classmethod
    def open(cls, name: str, model: Transformer, checkpoint: CheckpointInfo, tokenizer, settings: dict, keep_best: int = 1):
        """The run `name` (`run_path`), locked for this process. A training of the same settings (except those
        without effect), from the same weights and data, is continued or, where it had finished, taken up. Another run
        is set aside, a finished one as NAME.old, a stopped one as NAME.stopped, and a new one begins. With the
        environment variable DLLM_TRAIN_AGAIN a finished training is another run.

        Of several processes that train together only the first changes the folder, here and in `finish`.
        Raises RunError for a name that cannot be, a folder that another process trains in and one that is no run.
        """
        run = cls(run_path(name), keep_best)
        if rank() > 0:
            return run
        folder = run.folder
        read_run(folder)  # before anything is written there
        folder.mkdir(parents=True, exist_ok=True)
        take_lock(folder)
        config = hf_config(model.config, checkpoint, tokenizer, settings=settings)
        config["dllm"]["starts_from"] = starts_from(model, settings) | {"trained": price.before(settings)}
        config = json.loads(json_text(config))  # as it will be read: tuples become lists
        trains_on = folder in _trained_here and _trained_here[folder]() is model  # its weights are no longer the first
        earlier = read_run(folder)
        # left by a process that was killed while it wrote; safetensors calls its own .tmp
        for partial in (*folder.rglob("*.[0-9]*.partial"), *folder.rglob(".tmp??????")):
            partial.unlink()
        if earlier:
            before = earlier["dllm"].get("starts_from", {})
            same = same_settings(earlier, config) and (trains_on or same_start(before, config["dllm"]["starts_from"]))
            run.is_finished = same and (folder / VARIANTS["last"]).is_file() and not os.environ.get("DLLM_TRAIN_AGAIN")
            if run.is_finished or (same and run._is_stopped()):
                config["dllm"]["starts_from"] |= before
                config["dllm"] |= {"trained": earlier["dllm"]["trained"]} if "trained" in earlier["dllm"] else {}
            else:
                run._set_aside()
        write_json(folder / "config.json", config, indent=2)
        if generation := generation_config(tokenizer, checkpoint.objective):
            write_json(folder / "generation_config.json", generation, indent=2)
        tokenizer.save_pretrained(folder)
        _trained_here[folder] = weakref.ref(model)
        return run

    def _is_stopped(self) -> bool:
        return (self.folder / "state.pt").is_file() and not (self.folder / VARIANTS["last"]).is_file()

    def _set_aside(self) -> None:
        """Rename the folder of a finished run to NAME.old and of a stopped one to NAME.stopped, in the place of an
        earlier one. Of a run that saved nothing, delete what it wrote."""
        if not any((self.folder / name).is_file() for name in ("state.pt", *VARIANTS.values())):
            for name in ("metrics.jsonl", "samples.jsonl"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            return
        aside = self.folder.with_name(self.folder.name + (".stopped" if self._is_stopped() else ".old"))
        if read_run(aside):
            take_lock(aside)
            shutil.rmtree(aside)
        self.folder.rename(aside)
        self.folder.mkdir()
        take_lock(self.folder)

    @contextmanager
    def _naming_state(self) -> Iterator[None]:
        """Around writing during a training: an error says which state is left."""
        try:
            yield
        except RunError as error:
            left = f"the state of step {self.saved_step} is intact" if self.saved_step else "no state was saved yet"
            raise RunError(f"{error} ({left})") from error

    def record(self, step, model: Transformer) -> None:
        """Append the TrainStep to metrics.jsonl; after a validation, keep the weights if they are among the best."""
        with self._naming_state():
            self._append(json_text(asdict(step)) + "\n")
            if step.validation is not None:
                self._keep_best(step, model)

    def _append(self, line: str) -> None:
        file = self.folder / "metrics.jsonl"
        with explain_full_disk(file, len(line)), open(file, "a", encoding="utf-8") as metrics:
            metrics.write(line)

    def _keep_best(self, step, model: Transformer) -> None:
        kept = self.checkpoints()
        if len(kept) >= self.keep_best and kept[self.keep_best - 1][0] <= step.validation:
            return
        save_weights(model, self.folder / "checkpoints" / f"{step.step:07d}.safetensors")
        scores = {file.name: value for value, file in kept} | {f"{step.step:07d}.safetensors": step.validation}
        ranked = sorted(scores, key=scores.get)
        write_json(self.folder / "checkpoints" / "scores.json", {name: scores[name] for name in ranked[: self.keep_best]})
        for name in ranked[self.keep_best :]:
            (self.folder / "checkpoints" / name).unlink()
        self.has_kept = True

    def checkpoints(self) -> list[tuple[float, Path]]:
        """(validation loss, file) of the kept checkpoints, best first. Raises RunError when one of them is gone."""
        scores = self.folder / "checkpoints" / "scores.json"
        if not scores.is_file() and not self.has_kept:
            return []
        try:
            kept = sorted((float(value), scores.with_name(name)) for name, value in read_json(scores, RunError).items())
            lost = [file.name for _, file in kept if not file.is_file()]
            if lost:
                raise RunError(f"{', '.join(lost)} is gone")
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{scores}: damaged or deleted ({error}): the best weights so far are lost; delete the folder "
                f"{display_path(scores.parent)} and run again, then the best is chosen among later ones"
            ) from error
        return kept

    def metrics(self) -> list[dict]:
        """The recorded TrainSteps as dicts; a last line that a killed process left incomplete is skipped."""
        return read_json_lines(self.folder / "metrics.jsonl", RunError)

    def steps(self) -> list[TrainStep]:
        """The recorded steps. Raises RunError for a line that is none."""
        try:
            return [TrainStep(**line) for line in self.metrics()]
        except TypeError as error:
            raise RunError(f"{self.folder}/metrics.jsonl: a line is no step ({error}); delete the line") from error

    def save_state(self, state: dict) -> None:
        size = sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
        with self._naming_state(), replaced_whole(self.folder / "state.pt", size) as partial:
            torch.save(state, partial)
        self.saved_step = state["step"]

    def load_state(self) -> dict | None:
        """The saved training state, or None; of a finished training its weights, at a step beyond all. Metrics recorded
        after the state was saved are deleted. Raises RunError for a damaged state."""
        if self.is_finished:
            weights = read_state(self.folder / VARIANTS["last"])
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])  # tied weights are saved once
            return {"model": weights, "step": math.inf}
        file = self.folder / "state.pt"
        if not file.is_file():
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            self.saved_step = state["step"]
        except Exception as error:  # whatever the reader raises, the cause is this file
            raise RunError(
                f"{file}: damaged ({type(error).__name__}); put a copy in its place, or delete it to train from the "
                "start"
            ) from error
        lines = [json_text(asdict(step)) + "\n" for step in self.steps() if step.step <= self.saved_step]
        recorded = write_whole(self.folder / "metrics.jsonl", "".join(lines))
        if lost := self.saved_step - len(lines):
            words = f"{lost} of {self.saved_step} steps are missing, and so in the curve"
            warnings.warn(f"{recorded}: {words}", stacklevel=2)
        return state

    def finish(self, model: Transformer) -> None:
        """Write what the training took (`price`), the last weights and the best (a copy of the best checkpoint), and
        delete the state for resuming. A training that had finished before keeps its last weights."""
        if rank() > 0:
            return
        with self._naming_state():
            kept = self.checkpoints()
            if kept:
                self._copy(kept[0][1], VARIANTS["best"])
            elif not self.is_finished:
                save_weights(model, self.folder / VARIANTS["best"])
            if not self.is_finished:
                self._record_price(model)
                save_weights(model, self.folder / VARIANTS["last"])
        (self.folder / "state.pt").unlink(missing_ok=True)

    def _record_price(self, model: Transformer) -> None:
        config = read_json(self.folder / "config.json", RunError)
        record, steps = config["dllm"], self.steps()
        if steps:
            entry = price.entry(self.folder.name, record["checkpoint"]["chat"], steps, model.device)
            settings = record.get("settings", {})
            if length := settings.get("seq_len") or settings.get("max_seq_len"):
                entry["seq_len"] = length
            record["trained"] = [*record["starts_from"].get("trained", ()), entry]
            write_json(self.folder / "config.json", config, indent=2)

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
        with replaced_whole(self.folder / name, source.stat().st_size) as partial:
            shutil.copyfile(source, partial)
