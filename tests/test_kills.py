"""Killed at any moment and started again: what comes out equals an uninterrupted run, bit for bit.

The test kills a few times, from a seed that it prints. By name a long form kills as often as asked and repeats a seed:

    python tests/test_kills.py 100
    python tests/test_kills.py 100 --seed 7
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from small import HANG_LIMIT, ROOT, gone

STAGES = ("01", "03")  # both validate, save and draw samples; 03 merges checkpoints
RUNS = {"minimind_pretrain": "01_ar_pretrain", "diffusion_llada2_pretrain": "03_llada2_pretrain"}  # run → executed notebook

SCRIPT = """
    # a training, its last save and its merge, as a notebook's cells do them
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import torch
    from small import MASK, VOCAB, NoTokenizer, packed
    from dllm_core import CheckpointInfo, Diffusion, ModelConfig, NoiseSchedule, TrainConfig, Transformer, train
    from dllm_core.checkpoints.run_folder import RunFolder

    torch.manual_seed(0)
    model = Transformer(ModelConfig(VOCAB, 256))  # its files take milliseconds to write
    run = RunFolder.open("story", model, CheckpointInfo("llada2"), NoTokenizer(), {{}}, keep_best=3)
    config = TrainConfig(24, batch_size=8, seq_len=12, eval_every=2, save_every=3, keep_best=3)
    validate = lambda model: sum(float(p.double().abs().sum()) for p in model.parameters())
    for _ in train(model, packed(8), Diffusion(NoiseSchedule(), MASK), config, validate=validate, run=run):
        pass
    run.finish(model)
    run.merge(3)
    run.use_as_best("merged")
"""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A command that trains; runs: the folders under weights/ that it writes, and the notebook that writes each."""

    name: str
    argv: list[str]
    runs: dict[str, str]


def script() -> Subject:
    source = textwrap.dedent(SCRIPT).format(tests=str(ROOT / "tests"), root=str(ROOT))
    return Subject("script", [sys.executable, "-c", source], {"story": ""})


def notebooks() -> Subject:
    return Subject("dllm run", [sys.executable, "-m", "dllm_core.cli.main", "run", *STAGES, "--preset", "smoke"], RUNS)


@dataclasses.dataclass
class Trial:
    """One place in which `subject` runs: a folder of its own for weights/ and for the executed notebooks."""

    subject: Subject
    home: Path

    def start(self) -> subprocess.Popen:
        argv = self.subject.argv + (["--out", str(self.home / "runs")] if self.subject.name == "dllm run" else [])
        environment = os.environ | {"DLLM_WEIGHTS": str(self.home / "weights"), "OMP_NUM_THREADS": "1"}
        with open(self.home / "log", "ab") as log:
            return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def finish(self) -> None:
        """Start it and wait for its end, which has to be a good one."""
        code = self.start().wait(HANG_LIMIT)
        assert code == 0, f"exit code {code}: {(self.home / 'log').read_text('utf-8', 'replace')[-3000:]}"

    def folders(self) -> list[Path]:
        return [self.home / "weights" / name for name in self.subject.runs]

    def lines(self) -> int:
        """Lines in the metrics of all runs."""
        return sum(_bytes(folder / "metrics.jsonl").count(b"\n") for folder in self.folders())

    def taken_up(self) -> dict[Path, bytes]:
        """The runs whose training has ended but whose notebook has not, and their metrics, whose seconds show whether they
        were trained again."""
        return {
            folder: _bytes(folder / "metrics.jsonl")
            for folder in self.folders()
            if (folder / "model.safetensors").is_file()
            and not (self.home / "runs" / f"{self.subject.runs[folder.name]}.json").is_file()
        }

    def results(self) -> dict[str, object]:
        """What the runs left: the bytes of every file; without seconds where these are recorded."""
        assert sorted(path.name for path in (self.home / "weights").iterdir()) == sorted(self.subject.runs)
        return {
            str(path.relative_to(self.home)): (
                _without_seconds(path) if path.suffix == ".jsonl" or path.name == "config.json" else path.read_bytes()
            )
            for folder in self.folders()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _without_seconds(path: Path) -> list:
    def cleaned(value):
        if isinstance(value, dict):
            return {key: cleaned(part) for key, part in value.items() if key != "seconds"}
        return [cleaned(part) for part in value] if isinstance(value, list) else value

    text = path.read_text("utf-8")
    return [cleaned(json.loads(part)) for part in ([text] if path.suffix == ".json" else text.splitlines())]


class Campaign:
    """Kills of one subject, each in a place of its own, compared with one uninterrupted run."""

    def __init__(self, subject: Subject, home: Path, dice: random.Random):
        self.subject, self.home, self.dice = subject, home, dice
        self.counts = collections.Counter()
        whole = self._place("whole")
        began = time.monotonic()
        whole.finish()
        self.seconds = time.monotonic() - began
        last = whole.folders()[-1]
        self.after = time.time() - (last / "metrics.jsonl").stat().st_mtime  # seconds from the last step to the end
        self.steps = {folder.name: _bytes(folder / "metrics.jsonl").count(b"\n") for folder in whole.folders()}
        self.expected = whole.results()

    def _place(self, name: str) -> Trial:
        (self.home / name / "weights").mkdir(parents=True)
        return Trial(self.subject, self.home / name)

    def kill(self, moment: str) -> None:
        """Kill one run at a random point of `moment`, finish it with the same command and compare.

        moment: "any" time of the whole; "step": around a step; "save": while a file is written; "end": after the last step.
        """
        trial = self._place(f"{moment}-{sum(self.counts.values())}")
        process = trial.start()
        self._wait(trial, process, moment)
        victims = self._kill(process)
        process.wait()
        while not all(gone(pid) for pid in victims):
            time.sleep(0.01)
        taken_up = trial.taken_up()
        trial.finish()
        results = trial.results()
        different = [name for name in {**self.expected, **results} if self.expected.get(name) != results.get(name)]
        assert not different, f"after a kill at {moment!r} in {trial.home}: {different}"
        for folder, metrics in taken_up.items():
            assert _bytes(folder / "metrics.jsonl") == metrics, f"{folder}: its training had ended and was done again"
        self.counts[moment] += 1
        self.counts["trainings taken up"] += len(taken_up)

    def _wait(self, trial: Trial, process: subprocess.Popen, moment: str) -> None:
        """Return at the moment, or when the process has ended."""
        dice = self.dice
        if moment == "any":
            self._sleep(process, dice.uniform(0, self.seconds))
            return
        if moment == "end":
            ended = dice.choice(trial.folders()) / "metrics.jsonl"
            reached = lambda: _bytes(ended).count(b"\n") == self.steps[ended.parent.name]
        else:
            wanted = dice.randrange(1, sum(self.steps.values()))
            reached = lambda: trial.lines() >= wanted
        while process.poll() is None and not reached():
            time.sleep(0.002)
        if moment == "save":
            while process.poll() is None and not any(any(folder.rglob("*.partial")) for folder in trial.folders()):
                pass
        else:
            self._sleep(process, dice.uniform(0, self.after if moment == "end" else 0.05))

    @staticmethod
    def _sleep(process: subprocess.Popen, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    def _kill(self, process: subprocess.Popen) -> list[int]:
        """SIGKILL to the command, to its kernel or to both; the pids that have to go."""
        with contextlib.suppress(psutil.NoSuchProcess):
            command = psutil.Process(process.pid)
            children = command.children(recursive=True)
            victims = self.dice.choice([[command], children, [command, *children]]) or [command]
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            return [child.pid for child in children]
        return []

    def __str__(self) -> str:
        return f"{self.subject.name}: " + ", ".join(f"{count} × {name}" for name, count in self.counts.items())


@pytest.fixture
def dice(request) -> random.Random:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the kills: {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def test_a_killed_training_save_and_merge_go_on_bit_for_bit(tmp_path, dice):
    campaign = Campaign(script(), tmp_path, dice)
    for moment in ("step", "save", "end"):
        campaign.kill(moment)


def test_killed_notebooks_go_on_bit_for_bit_and_train_nothing_twice(tmp_path, dice):
    campaign = Campaign(notebooks(), tmp_path, dice)
    for moment in ("any", "end"):
        campaign.kill(moment)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill trainings and whole runs at random points, resume and compare.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"{options.kills} kills, seed {options.seed}", flush=True)
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home:
        trainings = Campaign(script(), Path(home) / "script", dice)
        chains = Campaign(notebooks(), Path(home) / "notebooks", dice)
        for number in range(options.kills):
            if number % 5 < 3:
                trainings.kill(dice.choice(("step", "save", "end", "any")))
            else:  # most between the last step of a notebook and its end
                chains.kill(dice.choice(("end", "end", "any")))
            print(f"{number + 1} of {options.kills} bit-equal; {trainings}; {chains}", flush=True)


if __name__ == "__main__":
    main()
