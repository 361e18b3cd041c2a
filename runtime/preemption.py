"""SIGTERM, Ctrl-C or the end of a given time: finish the step, save, exit with status 0.

SIGTERM says that the machine is about to be taken away. Ctrl-C counts as the same wish; pressed a second time it ends
the program at once, as in any Python program.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_NAMES = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}


class Preempted(Exception):
    """A signal came and the state, if there was one, was saved; the message says where."""


class StopSignals:
    """Records SIGTERM, Ctrl-C and the end of a given time, instead of ending, while the ``with`` block runs.

    Python hands signals to the main thread only; in any other they keep what they did before. So does a Ctrl-C that is
    ignored, as shells have it for what they start in the background.

    In a run of several processes jax's own coordination catches SIGTERM, which may reach only one of them, and all
    agree on the step to stop after; a Ctrl-C is passed on as a SIGTERM, and so is the end of the first process's time.

    Args:
        minutes: how long the block may run; None for as long as it takes.
    """

    def __init__(self, minutes: float | None = None):
        self._minutes = minutes

    def __enter__(self) -> 'StopSignals':
        self._came: str | None = None
        self._timer = None if self._minutes is None else threading.Timer(60 * self._minutes, self._time_is_up)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        self._asked = 0
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT] if jax.distributed.is_initialized() else list(_NAMES)
            heard = [n for n in numbers if n != signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *unused: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number in self._previous:
            self._restore(number)

    def came(self, step: int | None = None) -> str | None:
        """Returns the name of the signal for which to stop now, or None.

        Args:
            step: how many steps are done, where all processes ask after the same one and all get the same answer; None
                before there are steps, when several processes cannot agree and go on.
        """
        if not jax.distributed.is_initialized():
            return self._came
        if step is None:
            return None
        # All processes ask equally often. The number of a step would not do: each stage counts from 0, and processes
        # agree on a number that is yet to come.
        self._asked += 1
        agreed = multihost_utils.reached_preemption_sync_point(self._asked)
        return (self._came or _NAMES[signal.SIGTERM]) if agreed else None

    def _time_is_up(self) -> None:
        self._came = f'the end of {self._minutes:g} minutes'
        if jax.distributed.is_initialized() and jax.process_index() == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._came = _NAMES[number]
        if number == signal.SIGINT:
            self._restore(number)
            if jax.distributed.is_initialized():
                signal.raise_signal(signal.SIGTERM)

    def _restore(self, number: int) -> None:
        previous = self._previous[number]
        # None: the handler before was not Python's, and cannot be set again from here.
        signal.signal(number, signal.SIG_DFL if previous is None else previous)
