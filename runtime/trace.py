"""Where the time of a profiled run went, without a browser: ``python -m longview.runtime.trace runs/vig_digits``.

It reads the newest trace that ``train.py --profile=FIRST:LAST`` left in the workdir, and prints the time of each
operation and of each module of the network, and how long the device waited, between steps (for data or the host) and
inside of them. In Python, ``trace.read('runs/vig_digits').table()``.

A trace of XLA is an ``XSpace`` (https://github.com/openxla/xla, xla/tsl/profiler/protobuf/xplane.proto, Apache-2.0). It
holds the programs that ran, whose instructions are named by the flax modules that they were traced in. Of one process's
devices only the first is looked at: all run the same program.
"""

import argparse
import collections
import json
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import jax

# Numbers of fields: in an XSpace, an XPlane, an entry of a map, an XEventMetadata, an XStat, an HloProto, an
# HloModuleProto, an HloComputationProto, an HloInstructionProto and an OpMetadata.
_PLANE, _PLANE_NAME, _EVENTS, _ENTRY, _EVENT_NAME, _STATS, _BYTES = 1, 2, 4, 2, 2, 5, 6
_MODULE, _COMPUTATION, _INSTRUCTION, _NAME, _METADATA, _OP_NAME = 1, 3, 2, 1, 7, 2
_VARINT, _FIXED64, _COUNTED, _FIXED32 = 0, 1, 2, 5

# Parts of an operation's path that say how it is computed, and not in which module: calls, control flow, the letters of
# an einsum.
_CALLS = re.compile(r'p?jit\(.*\)')
_WAYS = re.compile(r'|while|body|cond|branch_\d+_fun|closed_call|checkpoint|rematted_computation|shard_map|.*->.*')


class Event(NamedTuple):
    """One execution of an operation.

    Attributes:
        operation: its name in the compiled program.
        module: the flax modules it was traced in, as ``Net/block00/mlp``, with ``(backward)`` behind those of a
            gradient; '' for what is outside of all.
        run: which program it is of, and which execution of that; the latter is None where the trace does not say it.
        start, end: nanoseconds.
        own: nanoseconds without those of the operations inside of it, as of a loop.
    """

    operation: str
    module: str
    run: tuple[Any, Any]
    start: float
    end: float
    own: float


class Row(NamedTuple):
    """An operation or module: milliseconds in all, their share of the time of all operations, and executions."""

    name: str
    ms: float
    share: float
    count: int


class Trace(NamedTuple):
    """What a trace says; times are in milliseconds.

    Attributes:
        file: of the trace.
        steps: executions of the program that took the most time; 0 where the trace does not tell them apart.
        span: from the beginning of the first operation to the end of the last one.
        between: of it the device waited so long between two programs or steps: for data, or for the host.
        inside: and so long inside of a program.
        operations, modules: the costliest first.
    """

    file: str
    steps: int
    span: float
    between: float
    inside: float
    operations: list[Row]
    modules: list[Row]

    def table(self, count: int = 10) -> str:
        """Returns it as text, with the `count` costliest operations and modules."""
        share = lambda ms: f'{100 * ms / self.span:.1f} %' if self.span else '0 %'
        each = f', {self.span / self.steps:.2f} ms each' if self.steps else ''
        lines = [
            self.file,
            f'{self.span:.2f} ms, {self.steps or "unknown"} steps{each}',
            f'waiting between steps {self.between:.2f} ms ({share(self.between)}), inside {self.inside:.2f} ms '
            f'({share(self.inside)})',
        ]
        for title, rows in (('operation', self.operations), ('module', self.modules)):
            lines += ['', f'{"ms":>10} {"share":>7} {"count":>6}  {title}']
            lines += [f'{r.ms:10.2f} {100 * r.share:5.1f} % {r.count:6}  {r.name}' for r in rows[:count]]
        return '\n'.join(lines)


def read(run: str | pathlib.Path, depth: int | None = None) -> Trace:
    """Returns what the newest trace of a run says.

    Args:
        run: a workdir, or another folder that holds traces below it.
        depth: how many names of a module's path are kept, so that a block counts as one; None for all.

    Raises:
        FileNotFoundError: there is no trace.
    """
    files = sorted(pathlib.Path(run).rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'{run} holds no trace (*.xplane.pb): run train.py with --profile=FIRST:LAST first.')
    events = list(_events(files[-1]))
    between, inside = waits(events)
    cut = lambda event: '/'.join(event.module.split('/')[:depth])
    back = lambda event: ' (backward)' if event.module.endswith(' (backward)') else ''
    modules = [(cut(event).removesuffix(' (backward)') + back(event) or 'no module', event) for event in events]
    span = max((e.end for e in events), default=0.0) - min((e.start for e in events), default=0.0)
    return Trace(
        str(files[-1]),
        _steps(events),
        span / 1e6,
        between / 1e6,
        inside / 1e6,
        _rows((event.operation, event) for event in events),
        _rows(modules),
    )


def module_of(op_name: str) -> str:
    """Returns the modules in which an operation was traced.

    >>> module_of('jit(step)/transpose(jvp(Net))/block00/mlp/up/dot_general')
    'Net/block00/mlp/up (backward)'
    >>> module_of('jit(step)/add')
    ''
    """
    names: list[str] = []
    for part in op_name.split('/')[:-1]:
        while not _CALLS.fullmatch(part) and re.fullmatch(r'\w+\(.*\)', part):  # as transpose(jvp(Net))
            part = part.partition('(')[2][:-1]
        method = bool(names) and part.startswith(f'{names[-1]}.')  # as Net/Net.encode
        if not (method or _CALLS.fullmatch(part) or _WAYS.fullmatch(part)):
            names.append(part)
    return '/'.join(names) + (' (backward)' if names and 'transpose(' in op_name else '')


def waits(events: Iterable[Event]) -> tuple[float, float]:
    """Returns nanoseconds in which no operation ran: between two executions of programs, and inside of one."""
    between = inside = 0.0
    last: Event | None = None
    for event in sorted(events, key=lambda event: event.start):
        if last is not None and event.start > last.end:
            gap = event.start - last.end
            between, inside = (between + gap, inside) if event.run != last.run else (between, inside + gap)
        if last is None or event.end > last.end:
            last = event
    return between, inside


def _steps(events: Sequence[Event]) -> int:
    """Returns how often the program ran that took the most time."""
    totals: collections.Counter[Any] = collections.Counter()
    for event in events:
        totals[event.run[0]] += event.own
    costliest = totals.most_common(1)[0][0] if totals else None
    return len({event.run for event in events if event.run[0] == costliest and event.run[1] is not None})


def _rows(named: Iterable[tuple[str, Event]]) -> list[Row]:
    times, counts = collections.Counter(), collections.Counter()
    for name, event in named:
        times[name] += event.own
        counts[name] += 1
    whole = sum(times.values()) or 1
    return [Row(name, ns / 1e6, ns / whole, counts[name]) for name, ns in times.most_common()]


def _events(file: pathlib.Path) -> Iterator[Event]:
    """Yields what ran on the first device or, if nothing ran on one, what XLA ran on the host."""
    paths = dict(_paths(file.read_bytes()))
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    for plane in sorted((p for p in planes if p.name.startswith('/device:')), key=lambda p: p.name):
        lines = list(plane.lines)
        ops = [line for line in lines if line.name == 'XLA Ops'] or [x for x in lines if x.name.startswith('Stream')]
        found = [event for line in ops for event in _of_line(line, paths)]
        if found:
            yield from found
            return
    for plane in planes:
        for line in plane.lines:
            yield from _of_line(line, paths)


def _of_line(line: Any, paths: dict[tuple[int, str], str]) -> Iterator[Event]:
    """Yields the operations of a line, in which those inside of another stand behind it."""
    found = [(event.start_ns, event.start_ns + event.duration_ns, dict(event.stats)) for event in line.events]
    found = sorted((x for x in found if 'hlo_op' in x[2]), key=lambda x: (x[0], -x[1]))
    own = [end - start for start, end, _ in found]
    around: list[int] = []
    for n, (start, end, _) in enumerate(found):
        while around and found[around[-1]][1] <= start:
            around.pop()
        if around:
            own[around[-1]] -= end - start
        around.append(n)
    for (start, end, stats), time in zip(found, own):
        name, program = str(stats['hlo_op']), stats.get('program_id', stats.get('hlo_module'))
        path = paths.get((program, name), str(stats.get('tf_op', '')))
        yield Event(name, module_of(path), (program, stats.get('run_id')), start, end, time)


def _paths(space: bytes) -> Iterator[tuple[tuple[int, str], str]]:
    """Yields (program, instruction) and the path in which it was traced, of the programs that a trace holds."""
    for plane in _all(space, _PLANE):
        if b'/host:metadata' not in _all(plane, _PLANE_NAME):
            continue
        for event in (event for entry in _all(plane, _EVENTS) for event in _all(entry, _ENTRY)):
            # A program is called NAME(NUMBER).
            number = re.search(rb'\((\d+)\)$', _all(event, _EVENT_NAME)[0])
            program = int(number[1]) if number else None
            for proto in (data for stat in _all(event, _STATS) for data in _all(stat, _BYTES)):
                for name, path in _instructions(proto):
                    yield (program, name), path


def _instructions(proto: bytes) -> Iterator[tuple[str, str]]:
    """Yields the instructions of a program that have a path, and that."""
    computations = (each for module in _all(proto, _MODULE) for each in _all(module, _COMPUTATION))
    for instruction in (each for computation in computations for each in _all(computation, _INSTRUCTION)):
        for path in (path for data in _all(instruction, _METADATA) for path in _all(data, _OP_NAME)):
            yield _all(instruction, _NAME)[0].decode(), path.decode()


def _all(message: bytes, field: int) -> list[Any]:
    """Returns all values of a field of a serialized message (https://protobuf.dev/programming-guides/encoding)."""
    found, place = [], 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
        else:
            size, place = _varint(message, place) if kind == _COUNTED else ({_FIXED64: 8, _FIXED32: 4}[kind], place)
            value, place = message[place : place + size], place + size
        if tag >> 3 == field:
            found.append(value)
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Returns the number that begins at a place, seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1, as train.py does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = _Parser('longview.runtime.trace', description=__doc__.split('\n\n')[1], allow_abbrev=False)
    parser.add_argument('run', metavar='RUN', help='a workdir, or another folder that holds traces')
    parser.add_argument('--depth', type=int, help='names of a module that are kept, so that a block counts as one')
    parser.add_argument('--count', type=int, default=10, help='how many operations and modules are shown')
    parser.add_argument('--json', action='store_true', help='print all as JSON instead of tables')
    asked = parser.parse_args(arguments)
    try:
        found = read(asked.run, asked.depth)
    except OSError as error:
        sys.exit(f'error: {error}')
    if asked.json:
        rows = {name: [row._asdict() for row in getattr(found, name)] for name in ('operations', 'modules')}
        print(json.dumps({**found._asdict(), **rows}, indent=1))
    else:
        print(found.table(asked.count))


if __name__ == '__main__':
    main()
