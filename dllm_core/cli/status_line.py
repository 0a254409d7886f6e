"""What a command prints while it works: lines that stay and, on a terminal, a last line with the progress."""

import shutil
import sys
import time
from collections.abc import Mapping

from dllm_core.common.text import safe


class StatusLine:
    """Prints lines; on a terminal the progress is a last line that is drawn anew, in a log one line a minute."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.began = time.monotonic()
        self.drawn = self.began

    def say(self, text: str) -> None:
        """Print a line that stays, in the place of the progress line."""
        print(("\r\x1b[K" if self.live else "") + safe(text, 100_000), flush=True)

    def progress(self, running: Mapping) -> None:
        """Draw how far each `NotebookProcess` is, by name: every 0.3 seconds on a terminal, every minute in a log."""
        if not running or time.monotonic() - self.drawn < (0.3 if self.live else 60):
            return
        self.drawn = time.monotonic()
        parts = [
            f"{name} cell {min(job.done + 1, job.cells or 1)} of {job.cells or '?'}, {elapsed(job.began)}"
            for name, job in running.items()
        ]
        line = f"{' | '.join(parts)}  ({elapsed(self.began)} in all)"
        if self.live:
            print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        else:
            print(line, flush=True)


def elapsed(since: float) -> str:
    """The time since `since` (of the monotonic clock), as minutes:seconds."""
    minutes, seconds = divmod(int(time.monotonic() - since), 60)
    return f"{minutes}:{seconds:02d}"
