"""The command `dllm` and what the project ships with it: its words, the README's two commands, presets, pins."""

import re
import subprocess

import pytest
import yaml

from dllm_core.cli import main as command_line
from dllm_core.cli.main import COMMANDS, main
from dllm_core.cli.stages import STAGES, plan
from dllm_core.notebook.parameters import read_parameters


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


# What is shipped


def commands(text: str) -> dict[str, str]:
    return dict(re.findall(r"^<!-- command: (\w+) -->\n```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_readme_has_the_two_commands(project, name):
    if not (project / name).exists() and name != "README.md":
        pytest.skip(f"{name} is not there")
    blocks = commands((project / name).read_text("utf-8"))
    assert set(blocks) == {"run", "test"}
    assert blocks == commands((project / "README.md").read_text("utf-8"))
    for text in blocks.values():
        assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0
        assert "-c constraints.txt -e" in text
    assert "dllm run all" in blocks["run"] and "pytest" in blocks["test"]


@pytest.mark.parametrize(
    "command, code",
    [
        ("echo '3 passed, 1 skipped in 0.1s'", 0),
        ("echo '2 skipped in 0.1s'", 1),
        ("echo '0 passed'", 1),
        ("echo '3 passed' && exit 5", 5),
        (None, 1),
    ],
)
def test_ci_runs_the_readmes_command_and_wants_passed_tests(project, tmp_path, command, code):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((project / ".ci/run").read_text())
    block = "" if command is None else f"<!-- command: test -->\n```bash\n{command}\n```\n"
    (tmp_path / "README.md").write_text(f"# x\n\n```bash\necho no\n```\n{block}\n```bash\necho '9 passed'\n```\n")
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "9 passed" not in done.stdout


def test_every_dependency_is_pinned_and_no_address_is_named(project):
    tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11")
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    pins = (project / "constraints.txt").read_text("utf-8")
    wanted = [*table["dependencies"], *table["optional-dependencies"]["dev"]]
    missing = [name for name in wanted if not re.search(rf"^{re.split('[><=]', name)[0]}==", pins, re.MULTILINE)]
    assert not missing
    assert not re.search(r"://|^-|file:|@", pins, re.MULTILINE)
    assert table["scripts"]["dllm"] == "dllm_core.cli.main:main"


@pytest.mark.parametrize("scale", ["cpu", "smoke", "h100"])
def test_every_shipped_preset_fits_its_notebook(project, scale):
    jobs = plan(STAGES, STAGES, scale, [], project / "runs/none")
    assert [job.stage for job in jobs] == list(STAGES)
    files = {path.stem: path for path in (project / f"notebooks/presets/{scale}").glob("*.yaml")}
    for name in files.keys() - {stage.preset for stage in STAGES}:  # for papermill by hand: another use of 06
        assert name.startswith("06_eval_"), "a preset that no stage uses"
        declared = read_parameters(project / "notebooks/06_parallel_decoding.ipynb")
        assert yaml.safe_load(files[name].read_text("utf-8")).keys() <= declared.keys()
