"""The progress bar of everything that takes long: plain text, also in JupyterLab; seldom redrawn where nobody watches."""

import os
import sys


def interactive() -> bool:
    """Whether a person probably watches: in a kernel that JupyterLab, Voilà, VS Code or Colab started, not papermill.

    `DLLM_HEADLESS=1` means no, `DLLM_HEADLESS=0` yes.
    """
    headless = os.environ.get("DLLM_HEADLESS")
    if headless is not None:
        return headless in ("", "0", "false")
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    return any(name in os.environ for name in ("JPY_SESSION_NAME", "VOILA_PREHEAT", "VSCODE_PID", "COLAB_RELEASE_TAG"))


def progress_bar(total: float | None, name: str, **options):
    """A tqdm of `total` units on stdout, redrawn every half second, or every 10 s where nobody watches.

    options: those of tqdm. It is never tqdm's widget, whose text in a saved notebook would stay at 0 %.
    """
    from tqdm import tqdm

    seconds = 0.5 if interactive() else 10
    return tqdm(total=total, desc=name, mininterval=seconds, ncols=100, file=sys.stdout, **options)
