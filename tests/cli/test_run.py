"""`dllm run`: checks before a run, skipping, order, failures, memory, Ctrl-C and kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from small import HANG_LIMIT, gone, notebook, wait_for

from dllm_core.cli import scheduler, stages
from dllm_core.cli.main import main
from dllm_core.cli.notebook_process import NotebookProcess
from dllm_core.cli.stages import Stage, choose

TOY = (
    Stage("01", "01_first", "01_first", cost=1),
    Stage("02-a", "02_second", "02_a", ("01",), cost=1, variant=True),
    Stage("02-b", "02_second", "02_b", ("01",), cost=9),
    Stage("03", "03_third", "03_third", ("02-a",), cost=1),
)
PARAMETERS = {
    "01_first": 'max_iters: int = 3  # steps\nlearning_rate: float = 1e-3\nprompt: str = "你好"\n',
    "02_second": 'max_iters: int = 5\nblocks: str = "4,8"\nrun_name: str = "second"\n',
    "03_third": 'threshold: float = 0.9\noutput: str = ""\n',
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project of three notebooks and presets, and the working directory in it."""
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks/presets/cpu").mkdir(parents=True)
    for name, parameters in PARAMETERS.items():
        (tmp_path / f"notebooks/{name}.ipynb").write_text(notebook("print(1)", parameters=parameters), "utf-8")
    (tmp_path / "notebooks/presets/cpu/02_a.yaml").write_text("run_name: other\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "STAGES", TOY)
    return tmp_path


@pytest.fixture
def stub(toy, monkeypatch):
    """Stages that end at once instead of running: `stub.started` in order, `stub.fail` names those that fail."""
    book = SimpleNamespace(started=[], fail=set(), together=0, threads=[], alive=[], again=[])

    class Fake:
        def __init__(self, job, cwd, threads, trains_again):
            executed = job.executed
            book.started.append(executed.stem)
            book.threads.append(threads)
            book.again.append(trains_again)
            book.alive.append(self)
            book.together = max(book.together, len(book.alive))
            self.started, self.began, self.peak = time.time(), time.monotonic(), 2**30
            self.polls, self.done, self.cells = 0, 0, 3
            failed = executed.stem in book.fail
            self.error = RuntimeError("no") if failed else None
            executed.parent.mkdir(parents=True, exist_ok=True)
            executed.write_text("{}")
            run_name = {"02_a": "other", "02_b": "second"}.get(executed.stem)
            if run_name and not failed:
                (toy / f"weights/{run_name}").mkdir(parents=True, exist_ok=True)
                (toy / f"weights/{run_name}/config.json").write_text("{}")

        def memory(self):
            return 2**30

        def failure(self):
            return "cell 2 of 3"

        @property
        def ended(self):
            self.polls += 1
            if self.polls == 2:
                book.alive.remove(self)
            return self.polls >= 2

    monkeypatch.setattr("dllm_core.cli.notebook_process.NotebookProcess", Fake)
    monkeypatch.setattr(scheduler.time, "sleep", lambda _: None)
    return book


def job(toy):
    """The job of stage 01, as it stands in the toy project."""
    (planned,) = stages.plan(TOY[:1], TOY, "cpu", [], toy / "runs")
    return planned


def run(*arguments: str) -> int:
    return main(["run", *arguments])


# What is checked before anything runs


@pytest.mark.parametrize(
    "names, expected",
    [
        (["all"], ["01", "02-a", "02-b", "03"]),
        (["02"], ["02-a", "02-b"]),
        (["03", "02-a"], ["02-a", "03"]),
        (["notebooks/02_second.ipynb"], ["02-a", "02-b"]),
        (["02_b"], ["02-b"]),
    ],
)
def test_names_of_stages(names, expected):
    assert [stage.name for stage in choose(names, TOY)] == expected


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["04"], ["'04'", "02-a"]),
        (["all", "-p", "max_iter", "3"], ["max_iter", "did you mean max_iters"]),
        (["03", "-p", "max_iters", "3"], ["max_iters", "no such parameter"]),
        (["01", "-p", "max_iters", "0"], ["stage 01: max_iters=0: must be an integer from 1"]),
        (["01", "-p", "max_iters", "many"], ["max_iters", "int", "'many'"]),
        (["01", "--preset", "h100"], ["'h100'", "cpu"]),
        (["02", "-p", "run_name", "same"], ["02-a", "02-b", "weights/same"]),
        (["01", "--jobs", "0"], ["--jobs", "0"]),
        ([], ["which stages", "02-a"]),
    ],
)
def test_bad_arguments_stop_before_any_run(stub, capsys, arguments, words):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not stub.started


@pytest.mark.parametrize(
    "text, words",
    [
        ("max_iters: 5\nlearning_rate: 1e-3\n", ["01_first.yaml, line 2", "learning_rate", "write 0.001"]),
        ("max_iters: true\n", ["line 1", "max_iters", "int"]),
        ("\nmax_itres: 5\n", ["line 2", "max_itres", "did you mean max_iters"]),
        ("- 5\n", ["name: value"]),
        ("a: [\n", ["not YAML"]),
    ],
)
def test_bad_preset_names_file_and_line(toy, stub, capsys, text, words):
    (toy / "notebooks/presets/cpu/01_first.yaml").write_text(text)
    assert run("all") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not stub.started


def test_a_notebook_needs_one_parameters_cell(toy, stub, capsys):
    (toy / "notebooks/03_third.ipynb").write_text(notebook("x = 1"))
    assert run("all") == 2
    error = capsys.readouterr().err
    assert "03_third.ipynb" in error and "tagged 'parameters'" in error and not stub.started


def test_only_a_variant_needs_its_cpu_preset(toy, stub, capsys):
    assert run("01") == 0
    (toy / "notebooks/presets/cpu/02_a.yaml").unlink()
    assert run("02-b") == 0
    assert run("02-a") == 2
    assert "02_a.yaml" in capsys.readouterr().err


# Order, skipping, what depends on what


def test_order_and_summary(toy, stub):
    assert run("all") == 0
    assert stub.started == ["01_first", "02_a", "02_b", "03_third"] and stub.together == 1
    summary = json.loads((toy / "runs/cpu/summary.json").read_text())
    assert summary["stages"]["03"]["state"] == "done" and summary["memory_gib"] == 1
    assert summary["stages"]["03"]["seconds"] >= 0


def test_a_run_has_as_many_threads_as_requested_and_links_that_lead_as_before(toy, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cell = 'import os\nopen("threads", "w").write(os.environ["OMP_NUM_THREADS"])'
    written = json.loads(notebook(cell, parameters=PARAMETERS["01_first"]))
    words = "![a](../figures/a.png) [b](02_second.ipynb#c) [d](https://e.f) [g](#h)"
    written["cells"].append({"cell_type": "markdown", "id": "words", "metadata": {}, "source": words})
    (toy / "notebooks/01_first.ipynb").write_text(json.dumps(written), "utf-8")
    NotebookProcess(job(toy), toy, 1)._thread.join()
    assert (toy / "threads").read_text() == "1"
    executed = json.loads((toy / "runs/01_first.ipynb").read_text("utf-8"))  # in another folder: its links lead as before
    assert "".join(executed["cells"][-1]["source"]) == (
        "![a](../figures/a.png) [b](../notebooks/02_second.ipynb#c) [d](https://e.f) [g](#h)"
    )


def test_side_by_side_takes_the_longest_chain_first_and_shares_the_cores(stub, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert run("all", "--jobs", "2") == 0
    assert stub.started == ["01_first", "02_b", "02_a", "03_third"] and stub.together == 2
    assert stub.threads[:3] == [4, 2, 2]  # 01 has the machine to itself: all others rest on it
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    stub.threads.clear()
    assert run("all", "--force") == 0 and set(stub.threads) == {3}


def test_a_long_stage_is_not_left_for_the_end():
    """Longest chain first would start b and c, then their ends side by side, and leave a to run alone."""
    costs = {"a": (8, ()), "b": (2, ()), "c": (2, ()), "b2": (9, ("b",)), "c2": (9, ("c",))}
    jobs = [SimpleNamespace(stage=Stage(name, name, name, needs, cost)) for name, (cost, needs) in costs.items()]
    order = scheduler._best_order(jobs, 2)
    assert scheduler._duration(order, 2) == 17 and scheduler._duration([jobs[i] for i in (1, 2, 3, 4, 0)], 2) == 19
    assert scheduler._duration(scheduler._best_order(jobs, 3), 3) == 11 and scheduler._duration(jobs, 1) == 30


def test_a_short_stage_takes_no_cores_from_a_long_one(stub, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    for cost, threads in ((13, [4, 2]), (9, [2, 2])):
        short, long = Stage("00", "03_third", "03_third"), Stage("01", "01_first", "01_first", cost=cost)
        monkeypatch.setattr(stages, "STAGES", (short, long))
        stub.threads.clear()
        assert run("all", "--jobs", "2", "--force") == 0
        assert (stub.started[-2:], stub.threads) == (["01_first", "03_third"], threads)


def test_what_is_done_is_skipped_with_its_reason(stub, capsys):
    run("all")
    stub.started.clear()
    assert run("all") == 0 and stub.started == []
    assert "skipped, its result is there" in capsys.readouterr().out
    assert run("all", "--force") == 0 and len(stub.started) == 4


@pytest.mark.parametrize(
    "change, rerun",
    [
        ("preset", ["01_first", "02_a", "02_b", "03_third"]),
        ("option", ["02_a", "03_third"]),
        ("weights", ["02_b"]),
        ("code", ["03_third"]),
        ("prose", []),
        ("overwritten", ["02_b"]),
        ("executed", ["01_first", "02_a", "02_b", "03_third"]),
    ],
)
def test_changes_that_rerun_a_stage(toy, stub, change, rerun):
    run("all")
    stub.started.clear()
    arguments = ["all"]
    third = toy / "notebooks/03_third.ipynb"
    match change:
        case "preset":
            (toy / "notebooks/presets/cpu/01_first.yaml").write_text("max_iters: 4\n")
        case "option":
            (toy / "notebooks/presets/cpu/02_a.yaml").write_text('run_name: other\nblocks: "16"\n')
        case "weights":
            (toy / "weights/second/config.json").unlink()
        case "overwritten":
            os.utime(toy / "weights/second/config.json", (time.time() + 60,) * 2)
        case "code":
            third.write_text(notebook("print(2)", parameters=PARAMETERS["03_third"]))
        case "prose":
            book = json.loads(third.read_text())
            third.write_text(json.dumps(book | {"cells": [{"cell_type": "markdown", "source": "#"}, *book["cells"]]}))
        case "executed":
            (toy / "runs/cpu/01_first.ipynb").unlink()
    assert run(*arguments) == 0
    assert stub.started == rerun


@pytest.mark.parametrize("content", [
    "5", '"x"', "{}", '{"parameters": 5}', '{"parameters": {}}', "[" * 100_000, "9" * 5000, "",
], ids=lambda content: content[:20])  # fmt: skip
def test_a_damaged_record_counts_as_no_result(toy, stub, content):
    run("all")
    stub.started.clear()
    (toy / "runs/cpu/01_first.json").write_text(content)
    assert run("02-b") == 0 and run("01") == 0
    assert stub.started == ["01_first"]


def test_an_upstream_run_by_itself_counts_too(stub, capsys):
    run("all")
    run("01", "--force")
    stub.started.clear()
    assert run("02-b", "--list") == 0
    assert "01 ran again since" in capsys.readouterr().out and stub.started == []


def test_an_option_goes_to_stages_that_have_it_and_out_folders_are_independent(toy, stub, capsys):
    assert run("all", "-p", "max_iters", "9", "--out", "runs/mine") == 0
    assert "-p max_iters goes to 01, 02-a, 02-b" in capsys.readouterr().out
    records = {path.stem: json.loads(path.read_text()) for path in (toy / "runs/mine").glob("0*.json")}
    assert records["02_b"]["parameters"]["max_iters"] == 9 and "max_iters" not in records["03_third"]["parameters"]
    assert not (toy / "runs/cpu").exists()


def test_a_failure_stops_what_rests_on_it_and_nothing_else(toy, stub, capsys):
    stub.fail = {"02_a"}
    assert run("all") == 1
    assert stub.started == ["01_first", "02_a", "02_b"]
    out = capsys.readouterr().out
    assert "FAILED" in out and "cell 2 of 3" in out and "not run: it needs 02-a" in out
    assert not (toy / "runs/cpu/02_a.json").exists()
    stub.fail, stub.started = set(), []
    assert run("all") == 0 and stub.started == ["02_a", "03_third"]


def test_parameters_are_listed(stub, capsys):
    assert run("01", "--parameters") == 0
    assert "max_iters: int = 3  # steps" in capsys.readouterr().out and not stub.started


# Through papermill itself


def test_a_real_run_and_a_real_failure(toy, capfd):
    first = 'open("seen.txt", "w", encoding="utf-8").write(f"{max_iters} {prompt}")'
    (toy / "notebooks/01_first.ipynb").write_text(notebook(first, parameters=PARAMETERS["01_first"]), "utf-8")
    second = notebook("1", "# the guilty one\n1 / 0", "2", parameters=PARAMETERS["02_second"])
    (toy / "notebooks/02_second.ipynb").write_text(second, "utf-8")
    assert run("01", "02-b", "--jobs", "2", "-p", "prompt", "你是谁？") == 1
    assert (toy / "seen.txt").read_text("utf-8") == "3 你是谁？"  # the kernel works in the project's root
    out = capfd.readouterr().out
    assert "FAILED" in out and "# the guilty one" in out and "ZeroDivisionError" in out
    assert re.search(r"cell 3 of 4, In \[3\]", out), out
    assert "done in" in out and (toy / "runs/cpu/01_first.json").exists()
    record = json.loads((toy / "runs/cpu/01_first.json").read_text())
    assert 0.01 < record["memory_gib"] < 4 and record["parameters"]["prompt"] == "你是谁？"
    assert "ZeroDivisionError" in (toy / "runs/cpu/02_b.ipynb").read_text()


def test_a_clock_that_goes_back_makes_no_negative_time(stub, monkeypatch):
    clock = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert run("01") == 0
    assert json.loads(stages.resolve("runs/cpu/01_first.json").read_text())["seconds"] >= 0


def test_a_folder_that_cannot_be_trained_in_is_refused_before_anything_runs(stub, toy, capsys):
    parameters = 'train: bool = True\nrun_name: str = "second"\n'
    (toy / "notebooks/01_first.ipynb").write_text(notebook("print(1)", parameters=parameters), "utf-8")
    (toy / "weights/second").mkdir(parents=True)
    (toy / "weights/second/photo.png").touch()
    assert run("01", "-p", "train", "False") == 0 and stub.started == ["01_first"]
    stub.started.clear()
    assert run("01") == 2 and stub.started == []
    assert "weights/second: holds files, but no run of this project" in capsys.readouterr().err


def test_force_and_changed_code_train_again(stub, toy):
    assert run("all") == 0 and not any(stub.again)
    assert run("all", "--force") == 0 and all(stub.again[4:])
    (toy / "notebooks/01_first.ipynb").write_text(notebook("print(2)", parameters=PARAMETERS["01_first"]), "utf-8")
    stub.again.clear()
    assert run("01") == 0 and stub.again == [True]


def test_memory_is_measured_without_a_progress_display(toy):
    """Taken and given back at once, by the kernel and by a child of it: no sample in between is needed."""
    hold = "size = 200 * 2**20\nheld = bytearray(size)\nheld[::4096] = bytes(len(held[::4096]))"
    child = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hold.replace('200', '400')!r}], check=True)"
    )
    for cell, least in ((hold + "\ndel held", 200), (child, 400)):
        (toy / "notebooks/01_first.ipynb").write_text(notebook(cell, parameters=PARAMETERS["01_first"]), "utf-8")
        process = NotebookProcess(job(toy), toy, 1)
        process._thread.join()
        assert process.error is None and least * 2**20 < process.peak < 2 * least * 2**20


def command(toy, project) -> subprocess.Popen:
    """`dllm run 01` as a process of its own. A shell starts its background jobs with SIGINT ignored; a person's Ctrl-C
    comes to a process that listens."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dllm_core.cli import main, stages; stages.STAGES = (stages.Stage('01', '01_first', '01_first'),); "
        "sys.exit(main.main(['run', '01']))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=toy, env={**os.environ, "PYTHONPATH": str(project)},
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def kernel_of(toy) -> int:
    """The kernel's process id, once its cell is under way and has written it."""
    file = toy / "pid"
    return int(wait_for(lambda: file.exists() and file.read_text(), "no cell began"))


BEGIN = (
    "import os, pathlib, time\ndef begun():\n    pathlib.Path('part').write_text(str(os.getpid()))\n"
    "    os.replace('part', 'pid')\n"
)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_lets_the_cell_save_and_starts_no_other(toy, project, sent):
    long = (
        BEGIN + "try:\n    begun()\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    pathlib.Path('saved').touch()"
    )
    after = "pathlib.Path('went_on').touch()"
    (toy / "notebooks/01_first.ipynb").write_text(notebook(long, after, parameters=PARAMETERS["01_first"]), "utf-8")
    process = command(toy, project)
    try:
        kernel = kernel_of(toy)
        process.send_signal(sent)
        out, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in out
    assert (toy / "saved").exists() and not (toy / "went_on").exists()
    assert not (toy / "runs/cpu/01_first.json").exists() and (toy / "runs/cpu/01_first.ipynb").exists()
    wait_for(lambda: gone(kernel), "the kernel lives on")


def test_ctrl_c_between_two_cells_ends_the_command(toy, project):
    """A kernel that is interrupted as it takes up a cell never answers: here it drops every cell after the first."""
    deaf = BEGIN + "async def drop(*_):\n    begun()\nget_ipython().kernel.shell_handlers['execute_request'] = drop"
    (toy / "notebooks/01_first.ipynb").write_text(notebook(deaf, "1", parameters=PARAMETERS["01_first"]), "utf-8")
    process = command(toy, project)
    try:
        kernel = kernel_of(toy)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=HANG_LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in out
    wait_for(lambda: gone(kernel), "the kernel lives on")


def test_a_second_ctrl_c_ends_what_does_not_stop(toy, project):
    deaf = BEGIN + "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nbegun()\ntime.sleep(600)"
    (toy / "notebooks/01_first.ipynb").write_text(notebook(deaf, parameters=PARAMETERS["01_first"]), "utf-8")
    process = command(toy, project)
    try:
        kernel = kernel_of(toy)
        process.send_signal(signal.SIGINT)
        while "waiting for the notebooks to save" not in (line := process.stdout.readline()):
            assert line, "the command ended"
        process.send_signal(signal.SIGINT)
        process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    wait_for(lambda: gone(kernel), "the kernel lives on")


def test_a_killed_command_leaves_no_kernel(toy, project):
    cell = BEGIN + "begun()\nwhile True:\n    pass"
    (toy / "notebooks/01_first.ipynb").write_text(notebook(cell, parameters=PARAMETERS["01_first"]), "utf-8")
    process = command(toy, project)
    try:
        kernel = kernel_of(toy)
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: gone(kernel), "the kernel lives on")


def test_a_killed_kernel_is_a_reported_failure(toy, capfd):
    cell = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    (toy / "notebooks/01_first.ipynb").write_text(notebook(cell, parameters=PARAMETERS["01_first"]), "utf-8")
    assert run("01") == 1
    out = capfd.readouterr().out
    assert "cell 2 of 2 left no error (killed? out of memory?)" in out and "Kernel died" in out
