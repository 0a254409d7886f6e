"""What a checkpoint cost: each run's config.json lists, under "dllm" → "trained", its training and those before it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean

import torch

from dllm_core.checkpoints.formats import find_checkpoint, run_name
from dllm_core.common.errors import DataError, RunError
from dllm_core.common.files import read_json
from dllm_core.compute.devices import machine
from dllm_core.train import TrainStep

NUMBERS = ("tokens", "positions", "flops", "seconds")


@dataclass(frozen=True)
class Price:
    """tokens: read, each once per epoch; positions: computed, clean halves, noisy views and padding included; flops:
    model FLOP (`compute.work.training_work`); seconds: of training, without validation and drawing."""

    tokens: int
    positions: int
    flops: float
    seconds: float


def total(trained: Sequence[Mapping], stages: str = "all") -> Price | None:
    """The sum over a checkpoint's trainings, or over those on conversations (stages="fine-tuning"). None where there is
    none, or one of them has no numbers."""
    chosen = [entry for entry in trained if stages == "all" or entry.get("chat")]
    if not chosen or not all(isinstance(entry.get(name), int | float) for entry in chosen for name in NUMBERS):
        return None
    return Price(*(sum(entry[name] for entry in chosen) for name in NUMBERS))


def rows(trained: Sequence[Mapping]) -> list[dict]:
    """The trainings as rows of a table, the first one first."""
    return [
        {
            "run": entry.get("run"), "steps": entry.get("steps"), "tokens": entry.get("tokens"),
            "positions": entry.get("positions"), "FLOP": f"{entry['flops']:.1e}" if "flops" in entry else None,
            "seconds": round(entry["seconds"]) if "seconds" in entry else None,
            "machine": f"{entry['machine']}, {entry['threads']} threads" if "machine" in entry else None,
        }
        for entry in trained
    ]  # fmt: skip


def cells(seeds: Sequence[Sequence[Mapping]]) -> dict[str, str]:
    """The columns that stand beside a score: what fine-tuning took, and the FLOP of all trainings, pretraining too; the
    mean over the seeds, each a list of trainings; – where unknown."""

    def cell(stages: str, name: str, form: Callable[[float], str]) -> str:
        prices = [total(trained, stages) for trained in seeds]
        return form(mean(getattr(price, name) for price in prices)) if prices and all(prices) else "–"

    return {
        "fine-tuning tokens": cell("fine-tuning", "tokens", lambda tokens: f"{tokens / 1e6:.2f} M"),
        "fine-tuning FLOP": cell("fine-tuning", "flops", "{:.1e}".format),
        "fine-tuning s": cell("fine-tuning", "seconds", "{:,.0f}".format),
        "FLOP in all": cell("all", "flops", "{:.1e}".format),
    }


def entry(run: str, chat: bool, steps: Sequence[TrainStep], device: torch.device) -> dict:
    """The entry of a finished training; without numbers where its first steps were recorded without them."""
    last = steps[-1]
    numbers = {name: getattr(last, name) for name in NUMBERS} if steps[0].flops else {}
    about = {"run": run, "chat": chat, "steps": last.step, **numbers}
    return about | {"machine": machine(device), "threads": torch.get_num_threads()}


def before(settings: Mapping) -> list[dict]:
    """The entries of the checkpoint that a training with these settings starts from; one without numbers where that
    checkpoint has none."""
    source = settings.get("load_from") or settings.get("init_from_minimind")
    if not source:
        return []
    record: dict = {}
    with suppress(RunError, DataError, OSError):
        path, _ = find_checkpoint(source)
        record = read_json((path if path.is_dir() else path.parent) / "config.json").get("dllm", {})
    chat = bool(record.get("checkpoint", {}).get("chat"))
    return record.get("trained") or [{"run": run_name(source), "chat": chat}]
