"""Ctrl-C and the notebook's stop button, held back until what they would stop is whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Interrupt:
    """asked: Ctrl-C came. working: the training is in a step, not the consumer of its steps."""

    asked: bool = False
    working: bool = True

    def check(self, step: int, stop: bool) -> None:
        """Raise KeyboardInterrupt where `stop` says so; step: the last one that is whole."""
        if stop:
            raise KeyboardInterrupt(f"stopped after step {step}; run the cell again to go on from there")


@contextlib.contextmanager
def deferred_interrupt(alone: bool = True) -> Iterator[Interrupt]:
    """Hold Ctrl-C (the notebook's stop button) back until a step is whole, so that what is saved is consistent.

    Also while the consumer draws: it is stopped with its next step; at once when asked twice, if `alone`, for several
    processes can only stop together. Outside the main thread nothing is held back.
    """
    held = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return

    def hold(*_) -> None:
        if held.asked and not held.working and alone:
            raise KeyboardInterrupt
        held.asked = True

    before = signal.signal(signal.SIGINT, hold) or signal.default_int_handler
    try:
        yield held
    finally:
        # a generator closed late, or by another thread, leaves the handlers of others alone
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, before)
