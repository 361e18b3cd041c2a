"""What signals do while a run is on."""

import signal
import threading

import pytest

from longview.runtime.preemption import StopSignals

pytestmark = pytest.mark.quick


def test_sigterm_is_noted_and_afterwards_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        assert signals.came() is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.came() == signals.came(3) == 'SIGTERM'
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_first_ctrl_c_is_noted_and_the_second_interrupts(interrupts: None) -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.came() == 'Ctrl-C'
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_ctrl_c_stays_ignored(interrupts: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.came() is None


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with StopSignals() as signals:
            found.extend([signals.came(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None, before]
