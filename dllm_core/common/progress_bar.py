"""One progress bar for all that takes long: plain text, also in JupyterLab, seldom renewed where nobody looks on."""

import os
import sys


def interactive() -> bool:
    """Whether a person is likely to look on: a kernel started by JupyterLab, VS Code or Colab, not by papermill.

    `DLLM_HEADLESS=1` says no, `DLLM_HEADLESS=0` yes.
    """
    wish = os.environ.get("DLLM_HEADLESS")
    if wish is not None:
        return wish in ("", "0", "false")
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    return any(name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"))


def progress_bar(total: float | None, name: str, **options):
    """A tqdm of `total` units on stdout, renewed every half second, every 10 s where nobody looks on.

    options: tqdm's own. A widget's saved text would stay at 0 %, so it is never one.
    """
    from tqdm import tqdm

    pause = 0.5 if interactive() else 10
    return tqdm(total=total, desc=name, mininterval=pause, ncols=100, file=sys.stdout, **options)
