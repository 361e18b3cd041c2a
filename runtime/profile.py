"""Profiles of a few steps: a trace for TensorBoard or xprof, and a table of the costliest operations."""

import collections
import pathlib
from typing import Any

import jax


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
        self._span, self._folder = span, workdir / 'profile'
        self._running = False

    def before(self, step: int) -> None:
        """Call before each step, with its number."""
        if self._span and step == self._span[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: object) -> None:
        """Call after each step; after the last traced step it waits for `state`."""
        if self._running and step >= self._span[1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends the trace, if there is one, and prints the ten costliest operations."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(summary(self._folder), flush=True)


def summary(folder: pathlib.Path, count: int = 10) -> str:
    """Returns a table of the operations that took the most time in the newest trace below `folder`."""
    traces = sorted(folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise FileNotFoundError(f'{folder} holds no trace (*.xplane.pb): run with --profile=FIRST:LAST first.')
    totals: collections.Counter[str] = collections.Counter()
    for name, nanoseconds in _operations(traces[-1]):
        totals[name] += nanoseconds
    whole = sum(totals.values()) or 1
    rows = [f'{ns / 1e6:10.2f} ms {100 * ns / whole:5.1f} %  {name}' for name, ns in totals.most_common(count)]
    return '\n'.join([f'costliest operations of {traces[-1]}:', *rows])


def _operations(trace: pathlib.Path) -> list[tuple[str, float]]:
    """Returns (name, nanoseconds) of every operation that XLA ran, on devices or, if none ran there, on the host."""
    planes = list(jax.profiler.ProfileData.from_file(str(trace)).planes)
    lines = [line for plane in planes if plane.name.startswith('/device:') for line in plane.lines]
    found = [
        (_name(event), event.duration_ns)
        for line in lines
        if line.name in ('XLA Ops', 'Stream')
        for event in line.events
    ]
    # Once loaded, libtpu adds an empty plane even without a TPU.
    return found or [
        (_name(event), event.duration_ns)
        for plane in planes
        for line in plane.lines
        for event in line.events
        if 'hlo_op' in dict(event.stats)
    ]


def _name(event: Any) -> str:
    return str(dict(event.stats).get('hlo_op', event.name))
