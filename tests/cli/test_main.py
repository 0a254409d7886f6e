"""The command `dllm`: its words and their help."""


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
