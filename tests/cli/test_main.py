"""The command `dllm`: its words and their help; what stands around it: a pipe, a terminal, folders that cannot be."""

import os
import signal
import subprocess
import sys

import pytest

from dllm_core.cli import main as command_line
from dllm_core.cli.main import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_word_has_its_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert f"usage: dllm {name}" in capsys.readouterr().out


def test_the_help_names_every_word_and_imports_none(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    with pytest.raises(SystemExit, match="2"):
        main(["runn"])
    assert "invalid choice: 'runn'" in capsys.readouterr().err


def test_an_installed_package_reports_that_it_has_no_workshop(monkeypatch, capsys):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="dllm_core.workshop")

    monkeypatch.setattr(command_line.importlib, "import_module", absent)
    assert main(["bench"]) == 2
    assert "`dllm bench` is a tool of the project's workshop" in capsys.readouterr().err


def shell(command: str, **environment) -> subprocess.CompletedProcess:
    """A shell's command line; `dllm` in it is this project's."""
    dllm = f"{sys.executable} -m dllm_core.cli.main"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)), **environment}
    return subprocess.run(["bash", "-o", "pipefail", "-c", command.replace("dllm ", dllm + " ")], env=environment,
                          check=False, capture_output=True, text=True)  # fmt: skip


def test_a_reader_that_ends_early_is_no_error(project):
    done = shell(f"cd {project} && dllm run --parameters | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "00  notebooks/00_the_idea.ipynb\n", "")


def test_a_terminal_without_chinese_gets_the_numbers_of_its_signs(project):
    done = shell(f"cd {project} && dllm run 01 --parameters", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\u8bf7" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("command, message", [
    ("dllm run 01 --out /dev/null/x", "/dev/null/x: Not a directory"),
    ("cd $(mktemp -d) && rmdir $PWD && dllm run 01 --list", "the working directory was deleted: change to a folder"),
    ("DLLM_WEIGHTS=pyproject.toml dllm run 01 --list", "DLLM_WEIGHTS=pyproject.toml: is a file; name a folder, or unset"),
    ("dllm run 01 -p run_name ../x", "run_name='../x': must name a folder of its own"),
    ("dllm run 01 -p run_name ''", "run_name='': must name a folder of its own"),
    ("dllm launch 01 -p run_name a/../../x", "run_name='a/../../x': must name a folder of its own"),
])  # fmt: skip
def test_what_cannot_be_is_one_line_before_anything_runs(project, command, message):
    done = shell(f"cd {project} && {command}")
    assert done.returncode == 2 and done.stderr.startswith("dllm: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_terminal_is_an_interrupt_for_every_command(monkeypatch, capsys):
    class Module:
        add_arguments = staticmethod(lambda parser: None)
        run = staticmethod(lambda options: signal.raise_signal(signal.SIGHUP))

    monkeypatch.setattr(command_line, "_load", lambda *_: Module)
    assert main(["run"]) == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().out
