"""Ctrl-C and the notebook's stop button, held back until a training step is complete."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Interrupt:
    """requested: Ctrl-C was pressed. working: the training is in a step, not the consumer of its steps."""

    requested: bool = False
    working: bool = True


@contextlib.contextmanager
def deferred_interrupt(is_single: bool = True) -> Iterator[Interrupt]:
    """Record Ctrl-C (the notebook's stop button) instead of raising it, so that what is saved is consistent.

    The training looks at the record after each step. While the consumer works, a second Ctrl-C raises KeyboardInterrupt
    at once if `is_single`; several processes can only stop together. Outside the main thread nothing changes.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def record(*_) -> None:
        if interrupt.requested and not interrupt.working and is_single:
            raise KeyboardInterrupt
        interrupt.requested = True

    previous = signal.signal(signal.SIGINT, record) or signal.default_int_handler
    try:
        yield interrupt
    finally:
        # a generator closed late, or by another thread, leaves the handlers of others alone
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is record:
            signal.signal(signal.SIGINT, previous)
