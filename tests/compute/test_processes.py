"""Several processes train as one does: the same steps on the same global batch, one writer, resumed by any number."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import several
import torch
from safetensors.torch import load_file
from small import HANG_LIMIT, NoTokenizer, batch_of, tiny

from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.cli import launch
from dllm_core.cli.main import main
from dllm_core.cli.stages import STAGES
from dllm_core.common.errors import UsageError
from dllm_core.compute import processes
from dllm_core.compute.processes import ProcessGroup
from dllm_core.config import CheckpointInfo
from dllm_core.notebook import parameters

LAUNCH = ["--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
ONE_MACHINE = ["--num_machines", "1", "--main_process_port", "0"]
FSDP = ["--use_fsdp", "--fsdp_version", "2"]


def started(project: Path, *command: object, engine=("--multi_gpu",), where=ONE_MACHINE, **environment: str):
    """`accelerate launch` of two processes, begun; its two streams as one."""
    line = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *engine, *LAUNCH, *where, *map(str, command)]
    paths = {"PYTHONPATH": os.pathsep.join([str(project), str(project / "tests")]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, cwd=project, env={**os.environ, **paths, **environment}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def ended(process: subprocess.Popen) -> SimpleNamespace:
    """What it said, and its exit code. Raises TimeoutExpired after `HANG_LIMIT` seconds."""
    try:
        said, _ = process.communicate(timeout=HANG_LIMIT)
    finally:
        process.kill()
    return SimpleNamespace(said=said, returncode=process.returncode)


def on_two(project: Path, *command: object, **how) -> SimpleNamespace:
    """What `accelerate launch` of two processes said of it."""
    return ended(started(project, *command, **how))


def on_two_machines(project: Path, *command: object) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What two launchers said, which meet at a port that was free; if another program took it since, at the next."""
    while True:
        port = str(free_port())
        address = ["--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
        launchers = [started(project, *command, where=[*address, "--machine_rank", rank]) for rank in "01"]
        try:
            first = ended(launchers[0])
            if "EADDRINUSE" not in first.said:
                return first, ended(launchers[1])
        finally:
            for launcher in launchers:
                launcher.kill()
                launcher.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def same_run(first_folder: Path, second_folder: Path) -> None:
    """Two finished runs: equal records and weights, to rounding."""
    first, second = RunFolder(first_folder).metrics(), RunFolder(second_folder).metrics()
    assert [step["step"] for step in first] == [step["step"] for step in second] == list(range(1, 13))
    for a, b in zip(first, second, strict=True):
        assert a.pop("seconds") and b.pop("seconds")
        assert a.pop("parts") == pytest.approx(b.pop("parts"), rel=1e-4)
        for name, value in a.items():
            assert b[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
    weights, others = load_file(first_folder / "model.safetensors"), load_file(second_folder / "model.safetensors")
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], atol=2e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of every setting trained by one process, and of llada2 stopped half-way (under half/)."""
    home = tmp_path_factory.mktemp("alone")
    for name in several.SETTINGS:
        several.trained(home / name, name)
    with pytest.raises(KeyboardInterrupt):
        several.trained(home / "half" / "llada2", "llada2", "stop")
    return home


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory, project) -> tuple[Path, str]:
    """(folder, what was said) of two processes: AR and LLaDA 1 whole, LLaDA 2 stopped half-way."""
    home = tmp_path_factory.mktemp("together")
    done = on_two(project, project / "tests/several.py", home, "ar=", "llada1=", "llada2=stop")
    assert done.returncode == 0, done.said
    return home, done.said


# --- the same steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ar", "llada1"])
def test_two_processes_train_as_one(alone, together, name):
    same_run(alone / name, together[0] / name)


@pytest.mark.parametrize("name", ["ar", "llada1"])
def test_only_the_first_process_yields_and_writes(together, name):
    home, said = together
    assert f"process 0 of 2: {name}, 12 steps seen" in said
    assert f"process 1 of 2: {name}, 0 steps seen" in said
    assert len(RunFolder(home / name).metrics()) == 12  # two writers would have left 24 lines
    first, second = (torch.load(home / f"{name}.{number}.pt", weights_only=True) for number in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)  # the second's weights are there, and the same


def test_two_machines_train_as_one(alone, tmp_path, project):
    """A launcher for each, of one process each, that meet at the first one's address. Here both are this machine."""
    first, second = on_two_machines(project, project / "tests/several.py", tmp_path, "ar=")
    assert (first.returncode, second.returncode) == (0, 0), first.said + second.said
    assert "process 0 of 2: ar, 12 steps seen" in first.said and "process 1 of 2: ar, 0 steps seen" in second.said
    same_run(alone / "ar", tmp_path / "ar")


# --- stopping and going on ------------------------------------------------------------------------------------------


def test_stopped_on_two_processes_it_goes_on_with_one(alone, together):
    """Ctrl-C reaches the first process only: both stop after the same step, with the state saved."""
    home, said = together
    stopped = re.findall(r"llada2, stopped after step (\d+)", said)  # the processes may write into one line
    assert len(stopped) == 2 and len(set(stopped)) == 1, said
    state = torch.load(home / "llada2" / "state.pt", weights_only=True)
    assert several.STOPPED <= state["step"] <= several.STOPPED + 2  # told by the sums of a step that may be begun already
    _, steps = several.trained(home / "llada2", "llada2")
    assert steps[0].step == state["step"] + 1
    same_run(alone / "llada2", home / "llada2")


def test_killed_on_two_processes_it_ends_and_the_same_command_goes_on(alone, tmp_path, project):
    """SIGKILL of the second process in step 7, two steps after the last save. The run before that is one process's."""
    shutil.copytree(alone / "half" / "llada2", tmp_path / "llada2")
    killed = on_two(project, project / "tests/several.py", tmp_path, "llada1=kill", "llada2=")
    assert killed.returncode not in (0, None)
    assert "SIGKILL" in killed.said and "another process of this training has ended" in killed.said, killed.said
    state = torch.load(tmp_path / "llada1" / "state.pt", weights_only=True)
    assert state["step"] == 5
    again = on_two(project, project / "tests/several.py", tmp_path, "llada1=", "llada2=")
    assert again.returncode == 0, again.said
    assert "process 0 of 2: llada1, 7 steps seen" in again.said
    same_run(alone / "llada1", tmp_path / "llada1")
    assert "process 0 of 2: llada2, 5 steps seen" in again.said  # stopped by one process at step 7, finished by two
    same_run(alone / "llada2", tmp_path / "llada2")


# --- shards (FSDP) --------------------------------------------------------------------------------------------------


def test_sharded_over_two_processes_it_trains_as_one(alone, tmp_path, project):
    """AR whole; LLaDA 1 stopped at step 7 and finished by one process; LLaDA 2 begun by one and finished in shards."""
    shutil.copytree(alone / "half" / "llada2", tmp_path / "llada2")
    done = on_two(project, project / "tests/several.py", tmp_path, "ar=", "llada1=stop", "llada2=", engine=FSDP)
    assert done.returncode == 0, done.said
    assert "process 0 of 2: ar, 12 steps seen" in done.said and "process 0 of 2: llada2, 5 steps seen" in done.said
    shares = [int(share) for share in re.findall(r"steps seen, kept (\d+)%", done.said)]
    assert len(shares) == 4 and all(40 < share < 60 for share in shares), done.said
    assert done.said.count("llada1, stopped after step") == 2
    _, steps = several.trained(tmp_path / "llada1", "llada1")
    assert steps[-1].step == 12 and len(steps) <= 12 - several.STOPPED
    for name in several.SETTINGS:
        same_run(alone / name, tmp_path / name)
    first, second = (torch.load(tmp_path / f"ar.{number}.pt", weights_only=True) for number in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


# --- the launcher of notebooks --------------------------------------------------------------------------------------

NOTEBOOK = """
    import torch
    (torch.randn(400, 400) @ torch.randn(400, 400)).sum()  # as a notebook's earlier cells would
    from accelerate import notebook_launcher
    from dllm_core.cli.launch import train_stage
    notebook_launcher(train_stage, ([{folder!r}],), num_processes=2, rdzv_backend="c10d",
                      rdzv_endpoint="127.0.0.1:0")  # any free port
    print("back in the notebook")
"""


def test_a_notebook_is_trained_by_accelerate_launch_and_its_run_by_a_notebook(tmp_path, project):
    """01 of the smoke preset, in two processes; then, by notebook_launcher, the run that its config.json describes."""
    environment = {"DLLM_WEIGHTS": str(tmp_path), "MPLBACKEND": "Agg", "DLLM_TRAIN_AGAIN": "1"}
    done = on_two(project, "-m", "dllm_core.cli.main", "launch", "01", "--preset", "smoke", "-p", "valid_rows", "4", **environment)
    assert done.returncode == 0, done.said
    folder = tmp_path / "minimind_pretrain"
    first = load_file(folder / "model.safetensors")
    assert done.said.count("same text with and without the cache: yes") == 1  # the notebook's end, once
    settings = json.loads((folder / "config.json").read_text())["dllm"]["settings"]
    assert settings["hidden_size"] == 32 and settings["valid_rows"] == 4
    code = textwrap.dedent(NOTEBOOK).format(folder=str(folder))
    again = subprocess.run([sys.executable, "-c", code], cwd=project, env={**os.environ, **environment}, check=False,
                           capture_output=True, text=True, timeout=HANG_LIMIT)  # fmt: skip
    assert again.returncode == 0 and "back in the notebook" in again.stdout, again.stdout + again.stderr
    assert (tmp_path / "minimind_pretrain.old").is_dir()  # the finished run was kept, a new one trained
    second = load_file(folder / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_notebook_that_trains_does_so_in_one_cell(project):
    for notebook in sorted({stage.notebook for stage in STAGES}):
        cells = [
            source for source in parameters.read_code(project / f"notebooks/{notebook}.ipynb") if launch.TRAINS in source
        ]
        assert len(cells) == ("01" <= notebook < "06"), notebook


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["05"], "'05' means 2 stages, train one: 05-llada1, 05-llada2"),
        (["06"], "notebooks/06_parallel_decoding.ipynb trains nothing"),
        (["01", "-p", "batch_sise", "4"], "did you mean batch_size"),
        (["weights/tiny-ar"], "weights/tiny-ar/config.json: its settings are those of no notebook here; name a stage"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(argv, message, capsys):
    with pytest.raises(UsageError, match=message):
        launch.train_stage(argv)
    assert main(["launch", *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_described_by_its_config(tmp_path, project):
    declared = parameters.read_parameters(project / "notebooks/03_llada2_pretrain.ipynb")
    settings = {name: parameter.default for name, parameter in declared.items()} | {"run_name": "mine", "max_iters": 7}
    (tmp_path / "config.json").write_text(json.dumps({"dllm": {"settings": settings}}))
    notebook, values = launch.find_run(str(tmp_path), "cpu", [["seed", "3"]])
    assert notebook.stem == "03_llada2_pretrain" and values == settings | {"seed": 3}
    with pytest.raises(UsageError, match="-p sead: no such parameter; did you mean seed"):
        launch.find_run(str(tmp_path), "cpu", [["sead", "3"]])
    with pytest.raises(UsageError, match="-p seed: must be int, not 'x'"):
        launch.find_run(str(tmp_path), "cpu", [["seed", "x"]])
    for settings, words in (({**values, "seed": "x"}, "seed must be int"), (5, "are those of no notebook")):
        (tmp_path / "config.json").write_text(json.dumps({"dllm": {"settings": settings}}))
        with pytest.raises(UsageError, match=words):
            launch.find_run(str(tmp_path), "cpu", [])


# --- what is told when it cannot work -------------------------------------------------------------------------------


def group_of_two(monkeypatch, **attributes) -> ProcessGroup:
    """The second process of two, with an Accelerator that has these attributes."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    accelerator = SimpleNamespace(**{"distributed_type": SimpleNamespace(value="MULTI_GPU"), **attributes})
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: accelerator)
    return ProcessGroup(torch.device("cpu"))


def test_a_batch_with_too_few_parts_is_an_error(monkeypatch):
    group = group_of_two(monkeypatch)
    assert [len(part.tokens) for part in group.split(batch_of([4], [3], [2]), 0)] == [2, 1]
    group.size = 4
    assert [len(part.tokens) for part in group.split(batch_of(*[[4]] * 6), 0)] == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="a batch of 3 rows makes 3 parts of micro_batch_size=0, too few for 4 proc"):
        group.split(batch_of([4], [3], [2]), 0)
    group.size = 2
    with pytest.raises(ValueError, match="a batch of 3 rows makes 1 parts of micro_batch_size=4, too few for 2 proc"):
        group.split(batch_of([4], [3], [2]), 4)


def test_an_engine_that_cannot_train_here_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="configured for DEEPSPEED; DDP .* and FSDP .* can train here"):
        group_of_two(monkeypatch, distributed_type=SimpleNamespace(value="DEEPSPEED"))


def sharding(monkeypatch, version: int = 2) -> dict:
    monkeypatch.setenv("FSDP_VERSION", str(version))
    return {"distributed_type": SimpleNamespace(value="FSDP"), "state": SimpleNamespace()}


@pytest.mark.parametrize(("version", "offload"), [(1, False), (2, True)])
def test_unsupported_fsdp_settings_are_an_error(monkeypatch, version, offload):
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", str(offload).lower())
    with pytest.raises(ValueError, match=f"version {version}, offload {offload}.*launch with --fsdp_version 2"):
        group_of_two(monkeypatch, **sharding(monkeypatch, version))


def test_shards_need_the_same_number_of_parts_for_each(monkeypatch):
    group = group_of_two(monkeypatch, **sharding(monkeypatch))
    with pytest.raises(ValueError, match="3 rows makes 3 parts of micro_batch_size=1; FSDP needs the same number for each"):
        group.split(batch_of([4], [3], [2]), 1)


def test_another_device_than_accelerates_is_an_error(monkeypatch):
    group_of_two(monkeypatch, device=torch.device("cuda:0"))
    with pytest.raises(ValueError, match="the model is on cuda:1, this process's device is cuda:0"):
        ProcessGroup(torch.device("cuda:1"))


def test_a_second_process_does_not_change_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    RunFolder.open(str(tmp_path / "run"), tiny(), CheckpointInfo("ar"), NoTokenizer(), {}).finish(tiny())
    assert not (tmp_path / "run").exists()


def test_a_single_process_needs_no_accelerate(monkeypatch):
    monkeypatch.setenv("RANK", "3")  # left in the environment without a WORLD_SIZE
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    group = ProcessGroup(torch.device("cpu"))
    assert (
        group.is_single
        and processes.rank() == 0
        and group.broadcast_object("x") == "x"
        and group.sum([1.5, torch.ones(())]).tolist() == [1.5, 1]
    )
