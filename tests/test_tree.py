"""What is kept in git: nothing large, nothing that a run makes."""

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
