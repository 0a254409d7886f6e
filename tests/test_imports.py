"""What the library needs to be imported: GPU machines often have little more than torch and transformers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dllm_core

ELSEWHERE = ("accelerate", "modelscope", "modelscope_hub", "papermill", "matplotlib", "ipywidgets", "IPython", "PIL")
ELSEWHERE += ("psutil", "rich", "tqdm", "requests", "pandas", "jupyterlab")
ENGINE = "dllm_core.cli.notebook_process"  # a subclass of papermill's engine, imported when a notebook is run
EXPORTED = "dllm_core.checkpoints.modeling_block_diffusion"  # copied into exported folders, where transformers imports it


def in_a_fresh_process(code: str) -> str:
    """What the code prints."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_package_itself_imports_only_the_standard_library():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport dllm_core\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert in_a_fresh_process(code).split() == ["dllm_core"]


def test_generating_needs_no_notebook():
    code = "import sys\nfrom dllm_core import generate\nprint(*sys.modules)"
    assert not set(in_a_fresh_process(code).split()) & {"matplotlib", "papermill", "ipywidgets"}


@pytest.mark.parametrize("file, name", [(file, name) for file, names in dllm_core.NAMES.items() for name in names])
def test_each_name_of_the_public_api_exists_and_is_in_its_docstring(file, name):
    assert getattr(dllm_core, name).__name__ == name
    assert re.search(rf"^    .*\b{name}\b.* {file}$", dllm_core.__doc__, re.MULTILINE)
    assert name in dir(dllm_core)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dllm_core.trian
    with pytest.raises(ImportError, match="trian"):
        from dllm_core import trian  # noqa: F401


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 1, 0), (3, 2, 0, 1)])
def test_train_is_the_function_in_whatever_order_it_is_imported(order):
    """Importing a submodule sets the package's attribute of its name; here that is the function's."""
    lines = (
        "from dllm_core import train",
        "from dllm_core.train import TrainStep",
        "import dllm_core.train",
        "import importlib; module = importlib.import_module('dllm_core.train')",
    )
    code = "\n".join(lines[i] for i in order)
    code += "\nimport dllm_core; print(train is module.train is dllm_core.train, TrainStep is module.TrainStep)"
    assert in_a_fresh_process(code).strip() == "True True"


def test_every_module_imports_without_rarely_used_packages():
    """But for papermill's engine and the code of exported folders; the maintainers' tools may measure processes."""
    code = (
        f"import importlib, pkgutil, sys\nfor name in {ELSEWHERE}:\n    sys.modules[name] = None\n"
        "import dllm_core\nnames = {module.name for module in pkgutil.walk_packages(dllm_core.__path__, 'dllm_core.')}\n"
        f"names -= {{{ENGINE!r}, {EXPORTED!r}}}\ntools = {{name for name in names if '.workshop' in name}}\n"
        "for name in sorted(names - tools):\n    importlib.import_module(name)\n"
        "del sys.modules['psutil']\nfor name in sorted(tools):\n    importlib.import_module(name)\nprint(len(names))"
    )
    assert int(in_a_fresh_process(code)) > 80
