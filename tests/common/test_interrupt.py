"""Ctrl-C is recorded while a step runs, and the handler before is put back."""

import signal
import threading

import pytest

from dllm_core.common.interrupt import deferred_interrupt, signals_as_interrupt


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield before
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_recorded_and_raises_only_between_steps(handler):
    with deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        interrupt.working = False
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_several_processes_never_raise_by_themselves():
    with deferred_interrupt(is_single=False) as interrupt:
        interrupt.working = False
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested


def test_another_thread_changes_no_handler(handler):
    seen = []

    def work():
        with deferred_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])  # ignored: as of a script's background
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_and_a_closed_terminal_are_interrupts(number, ctrl_c):
    old, old_sigint = signal.getsignal(number), signal.signal(signal.SIGINT, ctrl_c)
    try:
        with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
            signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGINT, old_sigint)
    assert signal.getsignal(number) is old


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals_as_interrupt():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_hangs_up_twice_interrupts_once():
    times = 0
    with signals_as_interrupt():
        for _ in range(2):
            try:
                signal.raise_signal(signal.SIGHUP)
            except KeyboardInterrupt:
                times += 1
    assert times == 1
