"""Small trainings that one process or several can do: what `compute/test_processes.py` starts through Accelerate.

    accelerate launch … tests/several.py FOLDER [NAME=stop|kill ...]

trains every setting into FOLDER/NAME. stop: Ctrl-C in the first process at step STOPPED. kill: SIGKILL of the last one
in that step; a setting whose folder holds a state goes on from there.
"""

import dataclasses
import importlib
import os
import signal
import sys
from itertools import count
from pathlib import Path

import torch
from small import MASK, NoTokenizer, packed, tiny

from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.compute.processes import leave, local, rank, world_size
from dllm_core.config import CheckpointInfo, TrainConfig
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.train import TrainStep, train

training = importlib.import_module("dllm_core.train")  # the module: `from dllm_core import train` gives the function
STOPPED = 7
CONFIG = TrainConfig(
    12, batch_size=4, seq_len=12, micro_batch_size=1, optimizer="muon", learning_rate=0.01, warmup_steps=2,
    eval_every=4, save_every=5, keep_best=2, seed=1,
)  # fmt: skip
CURRICULUM = BlockSchedule(12, 12, (0.25, 0.5, 0.25), (1, 3), (6, 3))
SETTINGS = {  # name → (objective, blocks, what of CONFIG is another)
    "ar": (ar_loss, None, {"optimizer": "adamw"}),
    "llada1": (Diffusion(NoiseSchedule(draw_method="stratified"), MASK, random_length=0.3), None, {"activation_checkpointing": True}),
    "llada2": (
        Diffusion(NoiseSchedule.band(0.05, 0.95), MASK, complementary=True, cap_lambda=0.1),
        CURRICULUM,
        {"embedding_noise": 0.1, "embedding_noise_steps": 8},
    ),
}


def trained(folder: Path, name: str, ending: str = "") -> tuple[torch.nn.Module, list[TrainStep]]:
    """(the model, the steps this process was given) of one setting, by all processes there are. Raises
    KeyboardInterrupt where it was stopped."""
    objective, blocks, other = SETTINGS[name]
    if world_size() > 1:
        training.ASYNC_DEVICES = ("cpu",) if name != "ar" else ()  # as on GPUs, or waiting for each step
    calls = count(1)

    def killed(*args, **kwargs):
        """The objective, of a process that ends in the midst of a step."""
        if rank() == world_size() - 1 and next(calls) == 2 * STOPPED:
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(*args, **kwargs)

    model, steps = tiny(seed=5 if (folder / "state.pt").is_file() else 0), []
    run = RunFolder.open(str(folder), tiny(), CheckpointInfo("llada2", 3), NoTokenizer(), {"seed": 1}, CONFIG.keep_best)
    measure = lambda m: float(m.model.norm.weight.detach().abs().sum())
    config = dataclasses.replace(CONFIG, **other)
    for step in train(
        model, packed(4), killed if ending == "kill" else objective, config, blocks=blocks, validate=measure, run=run
    ):
        steps.append(step)
        if ending == "stop" and step.step == STOPPED:
            signal.raise_signal(signal.SIGINT)
    run.finish(model)
    return model, steps


def kept(optimizers: list[torch.optim.Optimizer]) -> float:
    """Share of their state that lies in this process."""
    states = [v for optimizer in optimizers for state in optimizer.state.values() for v in state.values() if v.ndim]
    return sum(local(state).numel() for state in states) / sum(state.numel() for state in states)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)  # the launcher's, who would cut off what a process has to tell
    seen_optimizers, plainly = [], training.optimizers

    def noted(*args):
        seen_optimizers[:] = plainly(*args)
        return list(seen_optimizers)

    training.optimizers = noted
    home, ways = Path(sys.argv[1]), dict(pair.split("=") for pair in sys.argv[2:])
    for setting in ways or SETTINGS:
        try:
            model, steps = trained(home / setting, setting, ways.get(setting, ""))
            torch.save(model.state_dict(), home / f"{setting}.{rank()}.pt")
            share = kept(seen_optimizers)
            print(f"process {rank()} of {world_size()}: {setting}, {len(steps)} steps seen, kept {share:.0%}", flush=True)
        except KeyboardInterrupt as stop:
            print(f"process {rank()} of {world_size()}: {setting}, {stop}", flush=True)
    leave()
