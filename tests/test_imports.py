"""What the library needs to be imported: GPU machines often have little more than torch and transformers."""

import subprocess
import sys
from pathlib import Path

ELSEWHERE = ("accelerate", "modelscope", "modelscope_hub", "papermill", "matplotlib", "ipywidgets", "IPython", "PIL")
ELSEWHERE += ("psutil", "rich", "tqdm", "requests", "pandas", "jupyterlab")


def test_every_module_imports_without_what_is_used_in_some_place_only():
    code = (
        f"import importlib, pkgutil, sys\nfor name in {ELSEWHERE}:\n    sys.modules[name] = None\n"
        "import dllm_core\nfor module in pkgutil.walk_packages(dllm_core.__path__, 'dllm_core.'):\n"
        "    importlib.import_module(module.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
