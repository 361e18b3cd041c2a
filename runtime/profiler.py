"""Traces a few steps of a run, for ``python -m longview.runtime.profile``, TensorBoard or xprof."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from longview.runtime import profile


def parse(text: str | None) -> tuple[int, int] | None:
    """Reads ``FIRST:LAST`` (steps, the last one included).

    Raises:
        ValueError: the text is not of that form, or LAST is before FIRST.
    """
    if not text:
        return None
    first, colon, last = text.partition(':')
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f'--profile={text!r} is not FIRST:LAST, two step numbers in order, as in --profile=20:25.')
    return int(first), int(last)


class Profiler:
    """Traces the steps ``span[0]`` to ``span[1]`` into ``workdir/profile``."""

    def __init__(self, span: tuple[int, int] | None, workdir: pathlib.Path):
        self._span, self._workdir = span, workdir
        self._running = False

    def unreached(self, start: int, steps: int) -> str | None:
        """Returns what to say of a trace that a run of the steps `start` to ``steps - 1`` never begins; else None."""
        if self._span is None or start >= steps or start <= self._span[0] < steps:
            return None
        first, last = self._span
        return (
            f'--profile={first}:{last} traces nothing, for this run goes from step {start} to {steps - 1}: begin the '
            f'trace at one of these steps, as with --profile={start}:{min(start + last - first, steps - 1)}.'
        )

    def before(self, step: int) -> None:
        """Call before each step, with its number."""
        if self._span and step == self._span[0]:
            jax.profiler.start_trace(str(self._workdir / 'profile'))
            self._running = True

    def next(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch; a trace says how long that took."""
        with jax.profiler.TraceAnnotation(profile.INPUT):
            return next(batches)

    def after(self, step: int, state: object) -> None:
        """Call after each step; after the last traced step it waits for `state`."""
        if self._running and step >= self._span[1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace, if there is one, and prints the ten costliest operations."""
        if not self._running:
            return
        self._running = False
        jax.profiler.stop_trace()
        try:
            said = profile.costliest(self._workdir / 'profile')
        except ValueError as error:  # as a step that was not traced to its end: no reason to end the run
            said = f'note: {error}'
        print(f'{said}\nmore: python -m longview.runtime.profile {self._workdir}', flush=True)
