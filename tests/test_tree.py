"""The repository: nothing large in git, the two commands of the README, CI, pinned dependencies."""

import re
import shutil
import subprocess

import pytest


def test_nothing_large_is_tracked(project):
    """Weights of a run, caches and archives do not belong there, wherever DLLM_WEIGHTS put them."""
    if not shutil.which("git") or not (project / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = [project / name for name in listed.split("\0") if name]
    assert len(paths) > 100
    large = {str(path.relative_to(project)): path.stat().st_size for path in paths if path.is_file() and path.stat().st_size > 2**21}
    assert not large, f"over 2 MiB: {large}"
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 24 * 2**20


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
