"""Ctrl-C and the notebook's stop button, held back until a training step is complete; signals that do the same."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """SIGTERM (a polite kill, a queue's time limit) and SIGHUP (a closed terminal) do what Ctrl-C does: what runs saves
    before it stops. One that is ignored stays so (nohup)."""

    def interrupt(number: int, frame) -> None:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)  # a closed terminal sends it twice
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell script's background job
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
