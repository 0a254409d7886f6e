"""The face of `show`: what its import needs, and its names."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dllm_core import show


def test_show_imports_without_the_drawing_libraries():
    code = (
        "import sys\nfor name in ('matplotlib', 'ipywidgets', 'IPython', 'PIL', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from dllm_core import show\nassert show.table([{'a': 1}]).text and show.source(show.table).text"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, dllm_core.show as show\nassert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "import dllm_core.show.player.page, dllm_core.show.terminal, dllm_core.show.attention.explorer\n"
        "assert [callable(getattr(show, name)) for name in show.__all__] == [True] * len(show.__all__)\n"
        "assert 'matplotlib' not in sys.modules and set(show.__all__) <= set(dir(show))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        show.nothing  # noqa: B018


def test_interactive_follows_the_wish(monkeypatch):
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "0")
    assert show.interactive()
    monkeypatch.setitem(os.environ, "DLLM_HEADLESS", "1")
    assert not show.interactive()
    monkeypatch.delenv("DLLM_HEADLESS")
    assert not show.interactive()  # no kernel here
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=True))
    assert not show.interactive()  # papermill's
    for started_by in ("JPY_SESSION_NAME", "VOILA_PREHEAT"):
        monkeypatch.setenv(started_by, "False")
        assert show.interactive()
        monkeypatch.delenv(started_by)
