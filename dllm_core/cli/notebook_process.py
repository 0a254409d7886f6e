"""One notebook under way: papermill in a process of its own, listened to, measured, interrupted as a person would."""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

# The bar's lines are what `NotebookProcess._listen` reads. A run whose command was killed ends with it: nobody would read its
# result, and the command, given again, would train beside it in the same folder.
# jsonschema's check of internationalised addresses takes most of a second to start, and no notebook needs it. The kernel
# is ended at once when its last cell is through: what it made is in files by then.
CHILD = """import os, sys, threading, time
sys.modules["rfc3987_syntax"] = None
import papermill, psutil, yaml
def watch(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(0.5)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
notebook, executed, given = sys.argv[1:]
papermill.execute_notebook(notebook, executed, yaml.safe_load(open(given, encoding="utf-8")), kernel_name="python3",
    shutdown_kernel="immediate",
    progress_bar={"mininterval": 0, "miniters": 1, "file": sys.stderr, "bar_format": "cell {n}/{total}\\n"})
import resource
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)"""


class NotebookProcess:
    """`done` of `cells` cells are through; `peak` bytes is the most its processes held together (sampled).

    Starting it writes the values to `executed` with suffix .yaml, as `papermill -f` takes them.
    """

    def __init__(self, notebook: Path, executed: Path, given: dict, cwd: Path, threads: int, weights: Path | None = None):
        import psutil
        import yaml

        self.executed, self.cells, self.done, self.peak = executed, 0, 0, 0
        self.started, self.tail = time.time(), collections.deque(maxlen=30)
        executed.parent.mkdir(parents=True, exist_ok=True)
        values = executed.with_suffix(".yaml")
        values.write_text(yaml.safe_dump(given, allow_unicode=True, sort_keys=False), "utf-8")
        elsewhere = {"DLLM_WEIGHTS": str(weights)} if weights else {}
        # A session of its own: the terminal's Ctrl-C reaches the command alone, which passes it on, see `interrupt`.
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, (notebook, executed, values))], cwd=cwd, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **elsewhere}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
        self._child = psutil.Process(self.process.pid)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            if match := re.fullmatch(r"cell (\d+)/(\d+)", line.strip()):
                self.done, self.cells = map(int, match.groups())
            elif match := re.fullmatch(r"peak (\d+)", line.strip()):  # the kernel's own, which sampling can miss
                self.peak = max(self.peak, int(match[1]))
            elif line.strip():
                self.tail.append(line.rstrip())

    def _processes(self) -> list:
        import psutil

        with contextlib.suppress(psutil.Error):
            return [*self._child.children(recursive=True), self._child]
        return []

    @property
    def ended(self) -> bool:
        if self.process.poll() is None:
            return False
        self._listener.join(2)
        return True

    def memory(self) -> int:
        """Bytes resident now, the kernel and what it started included."""
        import psutil

        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak = max(self.peak, total)
        return total

    def interrupt(self) -> None:
        """What the stop button of a notebook does: the cell sees KeyboardInterrupt and can save before it ends."""
        import psutil

        kernels = []
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if "ipykernel_launcher" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGINT)
                    kernels.append(process)
        if not kernels:
            self.process.terminate()

    def kill(self) -> None:
        import psutil

        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def failure(self) -> str:
        """The failing cell as the executed notebook tells it: its number, its first lines, the traceback's last."""
        cells = []
        with contextlib.suppress(OSError, ValueError):
            cells = json.loads(self.executed.read_text("utf-8"))["cells"]
        cells = [cell for cell in cells if "papermill-error-cell-tag" not in cell["metadata"].get("tags", [])]
        for number, cell in enumerate(cells, 1):
            errors = [output for output in cell.get("outputs", []) if output["output_type"] == "error"]
            if errors or cell["metadata"].get("papermill", {}).get("exception"):
                traceback = "\n".join(line for error in errors for line in error["traceback"])
                lines = re.sub(r"\x1b\[[\d;]*m", "", traceback).splitlines() or list(self.tail)
                head = "".join(cell["source"]).splitlines()[:4]
                return "\n".join([f"cell {number} of {len(cells)}, In [{cell['execution_count']}]:",
                                  *(f"  > {line}" for line in head), *(f"    {line}" for line in lines[-14:])])
        return "\n".join([f"cell {min(self.done + 1, self.cells)} of {self.cells} left no error (killed? out of memory?):",
                          *(f"    {line}" for line in list(self.tail)[-6:])])


class StatusLine:
    """Lines that stay and, on a terminal, one last line that tells how far the running stages are."""

    def __init__(self):
        self.live, self.last, self.began = sys.stdout.isatty(), time.time(), time.time()

    def say(self, text: str) -> None:
        print(("\r\x1b[K" if self.live else "") + text, flush=True)

    def progress(self, running: dict[str, NotebookProcess]) -> None:
        """Every moment on a terminal, every minute in a log."""
        if not running or time.time() - self.last < (0.3 if self.live else 60):
            return
        self.last = time.time()
        line = " | ".join(f"{name} cell {min(one.done + 1, one.cells or 1)} of {one.cells or '?'}, {clock(one.started)}"
                          for name, one in running.items()) + f"  ({clock(self.began)} in all)"
        if self.live:
            print("\r\x1b[K" + line[:shutil.get_terminal_size().columns - 1], end="", flush=True)
        else:
            print(line, flush=True)


def clock(since: float) -> str:
    """Time since then, as minutes:seconds."""
    minutes, seconds = divmod(int(time.time() - since), 60)
    return f"{minutes}:{seconds:02d}"


def stop(running: list[NotebookProcess], screen: StatusLine) -> None:
    """Interrupts the cells and waits while they save; a notebook that then goes on is ended, a second Ctrl-C kills."""
    screen.say("interrupted: waiting for the notebooks to save (Ctrl-C again ends them at once)")
    done = [one.done for one in running]
    try:
        for one in running:
            one.interrupt()
        while not all(one.ended for one in running):
            for index, one in enumerate(running):
                if one.done > done[index]:  # the cell took the interrupt for its regular end, and the next one began
                    one.process.terminate()
                    done[index] = one.cells
            time.sleep(0.1)
    finally:
        for one in running:
            one.kill()
