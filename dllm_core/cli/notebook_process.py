"""One notebook in a kernel process of its own: papermill runs it in a thread; it can be measured and interrupted."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml
from jupyter_client import BlockingKernelClient

from dllm_core.cli.stages import NotebookJob
from dllm_core.common.files import write_whole
from dllm_core.common.links import relinked

# jsonschema's check of internationalized addresses takes a second to import, and no notebook needs it
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

LOG = logging.getLogger("papermill")
LOG.addHandler(logging.NullHandler())  # errors are shown by `NotebookProcess.failure`

# An expression for the kernel: the most memory that it and the largest of its ended children held, as the system counts
PEAKS = "[__import__('resource').getrusage(who).ru_maxrss for who in (0, -1)]"
LOST = 5.0  # seconds in which a cell that has ended is written down


class NotebookProcess:
    """A notebook that runs: `done` of `cells` cells are finished, and `peak` is the most bytes that were resident.

    Creating it starts the run. The values go to a .yaml beside the executed notebook too, as `papermill -f` takes them.
    trains_again: a training that is finished is not taken up.
    """

    def __init__(self, job: NotebookJob, cwd: Path, threads: int, trains_again: bool = False):
        self.cells, self.done, self.peak = 0, 0, 0
        self.started, self.began = time.time(), time.monotonic()  # the second clock never goes back
        self.error: BaseException | None = None
        self.stopping = False
        self.kernel: psutil.Process | None = None
        self.connection_file = ""
        self._probe: BlockingKernelClient | None = None
        self._answered = 0.0  # when the kernel answered the probe
        values = yaml.safe_dump(job.overrides, allow_unicode=True, sort_keys=False)
        write_whole(job.executed.with_suffix(".yaml"), values)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if trains_again:
            environment["DLLM_TRAIN_AGAIN"] = "1"
        if job.weights:
            environment["DLLM_WEIGHTS"] = str(job.weights)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  what the kernel writes beside the cells' outputs
        start = {"env": environment, "cwd": str(cwd), "stdout": subprocess.DEVNULL, "stderr": self._stderr}
        self._thread = threading.Thread(target=self._run, args=(job, start), daemon=True)
        self._thread.start()

    def _run(self, job: NotebookJob, start: dict) -> None:
        options = {"engine_name": "dllm", "kernel_name": "python3", "progress_bar": False}
        try:
            papermill.execute_notebook(
                job.notebook, job.executed, job.overrides, **options, process=self, start=start,
                folders=(job.notebook.parent, job.executed.parent),
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001  a thread has nobody else to tell
            self.error = error

    @property
    def ended(self) -> bool:
        """Whether the run is over and its kernel has gone."""
        return not self._thread.is_alive()

    def memory(self) -> int:
        """The bytes that are resident now, the kernel's and those of the processes that it started."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak = max(self.peak, total)
        return total

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            if self.kernel:
                return [*self.kernel.children(recursive=True), self.kernel]
        return []

    def interrupt(self) -> None:
        """Do what a notebook's stop button does: the cell gets KeyboardInterrupt and may save; no other cell starts."""
        self.stopping = True
        with contextlib.suppress(psutil.Error):
            if self.kernel:
                self.kernel.send_signal(signal.SIGINT)

    def has_lost_its_cell(self) -> bool:
        """Whether, some seconds ago, the kernel answered another question although a cell is running: an interrupt that
        comes as the kernel takes up a cell loses the cell, and it never ends. To be asked after `interrupt`."""
        if self._probe is None and self.connection_file:
            self._probe = BlockingKernelClient(connection_file=self.connection_file)
            self._probe.load_connection_file()
            self._probe.start_channels(iopub=False, stdin=False, hb=False, control=False)
            self._probe.kernel_info()  # the kernel answers one after another
        if self._probe and not self._answered and self._probe.shell_channel.msg_ready():
            self._answered = time.monotonic()
        return bool(self._answered) and time.monotonic() - self._answered > LOST

    def kill(self) -> None:
        """End the kernel and the processes that it started at once."""
        self.stopping = True
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._thread.join(10)

    def failure(self) -> str:
        """The failing cell's number, its first lines and the last lines of its traceback."""
        error = self.error
        self._stderr.seek(0)
        stderr = self._stderr.read().decode("utf-8", "replace").splitlines()
        if isinstance(error, PapermillExecutionError):
            title = f"cell {error.cell_index + 1} of {self.cells}, In [{error.exec_count}]:"
            source = error.source.splitlines()[:4]
            traceback = strip_color("\n".join(error.traceback)).splitlines() or stderr
            return "\n".join([title, *(f"  > {line}" for line in source), *(f"    {line}" for line in traceback[-14:])])
        where = f"cell {self.done + 1} of {self.cells} left no error" if self.cells else "the kernel did not start"
        title = f"{where} (killed? out of memory?):"
        lines = [*stderr, *f"{type(error).__name__}: {error}".splitlines()]
        return "\n".join([title, *(f"    {line}" for line in lines[-6:])])


class _Client(PapermillNotebookClient):
    """Papermill's client; it tells `process` how far it is and starts no cell after an interrupt."""

    def __init__(self, manager, process: NotebookProcess, **options):
        super().__init__(manager, **options)
        self.process = process

    def papermill_execute_cells(self) -> None:
        self.process.cells = len(self.nb.cells)
        self.process.connection_file = self.km.connection_file
        self.process.kernel = psutil.Process(self.km.provisioner.pid)
        super().papermill_execute_cells()
        self.process.peak = max(self.process.peak, self._peak())

    def execute_cell(self, cell, index: int, *arguments, **options):
        if self.process.stopping:
            raise KeyboardInterrupt
        result = super().execute_cell(cell, index, *arguments, **options)
        self.process.done = index + 1
        return result

    def _peak(self) -> int:
        """Bytes: the kernel's high-water mark, or that of its largest ended child if this is higher.

        getrusage counts a process from before its exec on, when it was a copy of this one; /proc counts from there.
        """
        reply = self.wait_for_reply(self.kc.execute("", silent=True, user_expressions={"peaks": PEAKS}))
        answer = reply["content"].get("user_expressions", {}).get("peaks", {})
        if answer.get("status") != "ok":  # after a failed cell, or on a system without getrusage
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        kernel, children = (unit * peak for peak in json.loads(answer["data"]["text/plain"]))
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.kernel.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    kernel = 1024 * int(line.split()[1])
        return max(kernel, children)


class _Engine(NBClientEngine):
    """Papermill's engine with the client above; `start` holds options of the kernel's process, `folders` those of the
    notebook and of the executed one, where links must lead to the same files."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man, kernel_name, *, process: NotebookProcess, start: dict, folders: tuple[Path, Path], **_
    ):
        for cell in nb_man.nb.cells:
            if cell.cell_type == "markdown":
                cell.source = relinked(cell.source, *folders)
        # the kernel is ended at once after its last cell: its results are in files by then
        client = _Client(nb_man, process, kernel_name=kernel_name, log=LOG, timeout=None, shutdown_kernel="immediate")
        return client.execute(**start)


papermill_engines.register("dllm", _Engine)
