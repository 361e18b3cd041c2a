"""SIGTERM: the machine is about to be taken away. Finish the step, save, exit with status 0."""

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """SIGTERM came and the state was saved; the message says where."""


class Sigterm:
    """Notes a SIGTERM instead of dying from it, while the ``with`` block runs.

    In a run of several processes jax's own coordination catches the signal, which may reach only one of them,
    and all agree on the step to stop after.
    """

    def __enter__(self) -> 'Sigterm':
        self._came = False
        self._previous = None
        if not jax.distributed.is_initialized():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *unused: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def came(self, step: int) -> bool:
        """Whether to stop after `step` steps; every process gets the same answer."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._came

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._came = True
