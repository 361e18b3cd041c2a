"""Where the time and the memory of a profiled run went, without a browser.

    python -m longview.runtime.profile runs/vig_digits --picture=profile.png

It reads the newest trace that ``train.py --profile=FIRST:LAST`` left in the workdir, and prints the time of each
operation and of each module of the network, how far each is from what the device can do at best, how long the device
waited for the next batch, for the host, and inside of steps, and what fills the memory of the step at its fullest.

In Python, ``profile.read('runs/vig_digits').table()`` and ``.figure()``. Of one process's devices only the first is
looked at: all run the same program.
"""

import argparse
import bisect
import collections
import itertools
import json
import pathlib
import re
import socket
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax

from longview.runtime import buffers, chips, xspace
from longview.runtime.memory import readable
from longview.runtime.work import Work, work

# What the loop calls the taking of a batch in a trace.
INPUT = 'next batch'
NO_MODULE = 'no module'

# Parts of an operation's path that say how it is computed, and not in which module: calls, control flow, the letters of
# an einsum.
_CALLS = re.compile(r'p?jit\(.*\)')
_WAYS = re.compile(r'|while|body|cond|branch_\d+_fun|closed_call|checkpoint|rematted_computation|shard_map|.*->.*')
# A TPU's operations are called by their whole text, '%fusion.3 = ...', and its executions 'jit_step(NUMBER)'.
_TEXT = re.compile(r'%?([\w.-]+)')
_EXECUTION = re.compile(r'.*\((\d+)\)')
# On the host, calls of Python functions, and what ends another event: most of all that is there.
_OTHERS = ('$', 'end: ')
# On the host, operations that XLA hands to other threads: their events end at the hand-over, and not with the work.
_HANDED_OVER = frozenset(('dot', 'convolution'))


class Event(NamedTuple):
    """One execution of an operation.

    Attributes:
        operation: its name in the compiled program.
        path: that it was traced in.
        run: which program it is of, and which execution of that; the latter is None where the trace does not say it.
        start, end: nanoseconds.
        own: nanoseconds without those of the operations inside of it, as of a loop; 0 of a launch.
        launch: the trace shows when the operation was handed over, and not when it was done.
    """

    operation: str
    path: str
    run: tuple[Any, Any]
    start: float
    end: float
    own: float
    launch: bool = False


class Row(NamedTuple):
    """An operation or module.

    Attributes:
        name: of it.
        ms: milliseconds in all.
        share: of the time of all operations.
        count: executions.
        launches: of these, how many the trace shows only the launch of: nothing but the count is with them.
        flops, bandwidth: what it did in a second, in 1 / s and bytes / s.
        least: it did more than these, for what some of its operations compute is not known.
        roof: the time that it takes at best, as a share of its time; None where no peak is known.
        bound: what it is bound by at best, ``compute`` or ``memory``; '' where that is not known.
    """

    name: str
    ms: float
    share: float
    count: int
    launches: int
    flops: float
    bandwidth: float
    least: bool
    roof: float | None
    bound: str


class Part(NamedTuple):
    """What the memory of the step is for at its fullest: kind (`buffers.KINDS`), module or argument, bytes, share."""

    kind: str
    name: str
    bytes: int
    share: float


class Waits(NamedTuple):
    """How long the device did nothing.

    Attributes:
        between: between two programs or steps.
        input: of that, while the host took the next batch; None where the trace does not say when it did.
        inside: inside of programs; None where launches hide what went on there.
    """

    between: float
    input: float | None
    inside: float | None


class Profile(NamedTuple):
    """What a trace says; times are in milliseconds.

    Attributes:
        file: of the trace.
        program: that took the most time, and is called the step.
        steps: its executions; 0 where the trace does not tell them apart.
        each: the median time from the start of one to the start of the next; None of less than two.
        span: from the beginning of the first operation to the end of the last one.
        waits: of it.
        peak: what the device does at best; None where that is not known.
        operations, modules: the costliest first; at the end those of which only launches are known, by their FLOPs.
        memory: of the step on one device, the largest first; empty where the trace has none of it.
    """

    file: str
    program: str
    steps: int
    each: float | None
    span: float
    waits: Waits
    peak: chips.Peak | None
    operations: list[Row]
    modules: list[Row]
    memory: list[Part]

    def table(self, count: int = 10) -> str:
        """Returns it as text, with the `count` costliest operations, modules and parts of the memory."""
        each = '' if self.each is None else f', {self.each:.2f} ms from one to the next'
        lines = [
            self.file,
            f'{self.span:.2f} ms, {self.steps or "unknown"} steps ({self.program}){each}',
            self._waiting(),
            f'at best {self.peak.text}' if self.peak else 'at best: not known of this device; --chip names it',
        ]
        for title, rows in (('operation', self.operations), ('module', self.modules)):
            lines += [
                '',
                f'{"ms":>10} {"share":>7} {"count":>6} {"GFLOP/s":>10} {"GB/s":>9} {"of the roof":>18}  {title}',
            ]
            timed, launched = [[row for row in rows if _untimed(row) == which] for which in (False, True)]
            lines += map(_line, timed[:count] + launched[:count])
        return '\n'.join([*lines, *self._marks(), '', *self._memory(count)])

    def _marks(self) -> list[str]:
        """Returns what the marks in the rows mean, of those that there are."""
        rows = self.operations + self.modules
        marks = []
        if any(row.least for row in rows):
            marks.append('>= is of operations of which the program does not say what they compute, such as kernels.')
        if any(row.launches for row in rows):
            marks += [
                'launch only: handed to other threads of the CPU; the trace does not say for how long they computed.',
                '+ is the time of a module without its operations that are launch only.',
            ]
        if any(map(_above, rows)):
            marks.append(
                '! is faster than the device is said to be: a busy machine was measured, or the time is not all.'
            )
        return ['', *marks] if marks else []

    def _waiting(self) -> str:
        share = lambda ms: f'{ms:.2f} ms ({100 * ms / self.span:.1f} %)' if self.span else '0 ms'
        between, batch, inside = self.waits
        of_it = 'the trace does not say for what' if batch is None else f'of it for the next batch {share(batch)}'
        within = 'not known, for operations that are launch only' if inside is None else share(inside)
        return f'waiting between steps {share(between)}, {of_it}; inside of them {within}'

    def _memory(self, count: int) -> list[str]:
        if not self.memory:
            return ['memory of the step: not in this trace']
        kinds: collections.Counter[str] = collections.Counter()
        for part in self.memory:
            kinds[part.kind] += part.bytes
        lines = [
            f'memory of the step at its fullest: {readable(kinds.total())} on each device',
            ', '.join(f'{kind} {readable(size)}' for kind, size in kinds.most_common()),
            '',
            f'{"memory":>10} {"share":>7}  of',
        ]
        for part in self.memory[:count]:
            lines.append(f'{readable(part.bytes):>10} {100 * part.share:5.1f} %  {part.kind} {part.name}'.rstrip())
        return lines

    def as_json(self) -> dict[str, Any]:
        """Returns it as plain data."""
        plain = {name: value._asdict() for name, value in self._asdict().items() if name in ('waits', 'peak') and value}
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in ('operations', 'modules', 'memory')}
        return {**self._asdict(), **plain, **rows}

    def figure(self, count: int = 20) -> Any:
        """Returns a figure of matplotlib: time by module, coloured by what binds it, and memory by module.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from longview.runtime import profile_plot

        return profile_plot.draw(self.modules[:count], self.memory[:count], self.program)


def read(run: str | pathlib.Path, depth: int | None = None, chip: str | None = None) -> Profile:
    """Returns what the newest trace of a run says.

    Args:
        run: a workdir, or another folder that holds traces below it.
        depth: how many names of a module's path are kept, so that a block counts as one; None for all.
        chip: whose datasheet is the roof, one of `chips.NAMES`. None for what the trace says of its device; of a CPU
            what this machine is measured to do, if the trace is from here.

    Raises:
        FileNotFoundError: there is no trace.
        ValueError: the trace cannot be read, holds no operation, or there is no such chip.
    """
    trace = _load(newest(run))
    peak = chips.of_datasheet(chip) if chip else _peak(trace)
    step, starts = _step(trace.events)
    program = trace.programs.get(step)
    span = max(e.end for e in trace.events) - min(e.start for e in trace.events)
    between, batch, inside = waits(trace.events, trace.input)
    done = _done(trace)
    each = _each(starts)
    return Profile(
        str(trace.file),
        program.name if program else str(step),
        len(starts),
        None if each is None else each / 1e6,
        span / 1e6,
        Waits(between / 1e6, None if batch is None else batch / 1e6, None if inside is None else inside / 1e6),
        peak,
        _rows(((event.operation, event) for event in trace.events), done, peak),
        _rows(((module_of(event.path, depth) or NO_MODULE, event) for event in trace.events), done, peak),
        _parts(program, depth) if program else [],
    )


def newest(run: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of the newest trace below a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(pathlib.Path(run).rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'{run} holds no trace (*.xplane.pb): run train.py with --profile=FIRST:LAST first.')
    return files[-1]


def costliest(run: str | pathlib.Path, count: int = 10) -> str:
    """Returns the operations that took the most time in the newest trace, without all else that `read` finds out.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    trace = _load(newest(run))
    times: collections.Counter[str] = collections.Counter()
    for event in trace.events:
        times[event.operation] += event.own
    whole = sum(times.values()) or 1
    rows = [f'{ns / 1e6:10.2f} ms {100 * ns / whole:5.1f} %  {name}' for name, ns in times.most_common(count) if ns]
    launches = {event.operation for event in trace.events if event.launch}
    if launches:
        rows.append(
            f'without {len(launches)} operations of which the trace shows only the launch, such as {min(launches)}'
        )
    return '\n'.join([f'costliest operations of {trace.file}:', *rows])


def module_of(path: str, depth: int | None = None) -> str:
    """Returns the modules in which an operation was traced, of a gradient with ``(backward)`` behind.

    Args:
        path: of the operation, its ``op_name``.
        depth: how many names are kept; None for all.

    >>> module_of('jit(step)/transpose(jvp(Net))/block00/mlp/up/dot_general')
    'Net/block00/mlp/up (backward)'
    >>> module_of('jit(step)/jvp(Net)/block00/mlp/up/dot_general', depth=2)
    'Net/block00'
    >>> module_of('jit(step)/add')
    ''
    """
    names: list[str] = []
    for part in path.split('/')[:-1]:
        while not _CALLS.fullmatch(part) and re.fullmatch(r'\w+\(.*\)', part):  # as transpose(jvp(Net))
            part = part.partition('(')[2][:-1]
        if _CALLS.fullmatch(part) or _WAYS.fullmatch(part):
            continue
        name, method, _ = part.partition('.')  # as Net/Net.encode, or mixer.write where another module calls it
        if not (method and names and names[-1] == name):
            names.append(name)
    return '/'.join(names[:depth]) + (' (backward)' if names and 'transpose(' in path else '')


def waits(events: Iterable[Event], batches: Sequence[tuple[float, float]] | None = None) -> Waits:
    """Returns the nanoseconds in which no operation ran.

    A launch says that something runs, and not until when: with one, nobody knows how long programs waited inside.

    Args:
        events: what ran.
        batches: when the host took a batch, from and to; None where nobody knows.
    """
    between = inside = batch = 0.0
    last: Event | None = None
    ordered = sorted(events, key=lambda event: event.start)
    for event in ordered:
        if last is not None and event.start > last.end and event.run == last.run:
            inside += event.start - last.end
        elif last is not None and event.start > last.end:
            between += event.start - last.end
            batch += sum(max(0.0, min(event.start, to) - max(last.end, since)) for since, to in batches or ())
        if last is None or event.end > last.end:
            last = event
    hidden = any(event.launch for event in ordered)
    return Waits(between, None if batches is None else batch, None if hidden else inside)


def _step(events: Sequence[Event]) -> tuple[Any, list[float]]:
    """Returns the program that took the most time, and when its executions started, in order."""
    totals: collections.Counter[Any] = collections.Counter()
    starts: dict[Any, float] = {}
    for event in events:
        # A launch counts for what is seen of it, so that a program of nothing else counts too.
        totals[event.run[0]] += event.end - event.start if event.launch else event.own
        starts[event.run] = min(event.start, starts.get(event.run, event.start))
    step = totals.most_common(1)[0][0]
    return step, sorted(start for run, start in starts.items() if run[0] == step and run[1] is not None)


def _each(starts: Sequence[float]) -> float | None:
    """Returns the median distance of starts, which one cut execution, or one evaluation in between, does not move."""
    return statistics.median(later - start for start, later in itertools.pairwise(starts)) if starts[1:] else None


def _done(trace: '_Trace') -> dict[tuple[Any, str], Work]:
    """Returns what one execution of each operation does, by its program and name."""
    return {
        (key, name): work(trace.programs[key], name) if key in trace.programs else Work(None, 0)
        for key, name in {(event.run[0], event.operation) for event in trace.events}
    }


def _rows(
    named: Iterable[tuple[str, Event]], done: Mapping[tuple[Any, str], Work], peak: chips.Peak | None
) -> list[Row]:
    groups: dict[str, list[tuple[Event, Work]]] = collections.defaultdict(list)
    for name, event in named:
        groups[name].append((event, done[event.run[0], event.operation]))
    whole = sum(event.own for group in groups.values() for event, _ in group) or 1
    cost = lambda name: (sum(e.own for e, _ in groups[name]), sum(each.flops or 0 for _, each in groups[name]))
    return [_row(name, *zip(*groups[name]), whole, peak) for name in sorted(groups, key=cost, reverse=True)]


def _row(name: str, events: Sequence[Event], done: Sequence[Work], whole: float, peak: chips.Peak | None) -> Row:
    time = sum(event.own for event in events)
    per_second = lambda amount: 1e9 * amount / time if time else 0.0
    timed = [each for event, each in zip(events, done) if not event.launch]
    flops, moved = sum(each.flops or 0 for each in timed), sum(each.bytes for each in timed)
    roof, bound = None, ''
    if peak and time and (flops or moved):
        # Each operation has a roof of its own.
        best = sum(max((each.flops or 0) / peak.flops, each.bytes / peak.bandwidth) for each in timed)
        roof = per_second(best)
        bound = 'compute' if flops / peak.flops > moved / peak.bandwidth else 'memory'
    return Row(
        name,
        time / 1e6,
        time / whole,
        len(events),
        len(events) - len(timed),
        per_second(flops),
        per_second(moved),
        any(each.flops is None for each in timed),
        roof,
        bound,
    )


def _untimed(row: Row) -> bool:
    return row.launches == row.count


def _above(row: Row) -> bool:
    """Returns whether a row is beyond what can be; memory is passed by what caches hold."""
    return row.bound == 'compute' and row.roof is not None and row.roof > 1


def _line(row: Row) -> str:
    if _untimed(row):
        return f'{"-":>10} {"-":>7} {row.count:6} {"-":>10} {"-":>9} {"launch only":>18}  {row.name}'
    least = '>=' if row.least else ''
    roof = '-' if row.roof is None else f'{least}{100 * row.roof:.1f} % {row.bound}{"!" if _above(row) else ""}'
    ms = f'{row.ms:.2f}{"+" if row.launches else ""}'
    return (
        f'{ms:>10} {100 * row.share:5.1f} % {row.count:6} {f"{least}{row.flops / 1e9:.4g}":>10} '
        f'{row.bandwidth / 1e9:9.4g} {roof:>18}  {row.name}'
    )


def _parts(program: xspace.Program, depth: int | None) -> list[Part]:
    sizes: collections.Counter[tuple[str, str]] = collections.Counter()
    for value in buffers.held(program):
        # Of an argument the tree that it is a leaf of, as state.opt_state of state.opt_state[1].mu['head'].
        name = value.path.partition('[')[0] if value.kind == 'argument' else module_of(value.path, depth)
        sizes[value.kind, name or ('' if value.kind == 'between' else NO_MODULE)] += value.bytes
    whole = sum(sizes.values()) or 1
    return [Part(*key, size, size / whole) for key, size in sizes.most_common() if size]


class _Trace(NamedTuple):
    """A file: what ran, the programs, when batches were taken, what it says of the device, and if that is the host."""

    file: pathlib.Path
    events: list[Event]
    programs: dict[int | str, xspace.Program]
    input: list[tuple[float, float]] | None
    device: dict[str, Any]
    on_host: bool


def _load(file: pathlib.Path) -> _Trace:
    try:
        programs = xspace.programs(file.read_bytes())
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f'{file} is no trace that can be read ({error}): trace the run again.') from error
    batches: list[tuple[float, float]] = []
    on_host: list[Event] = []
    for line in (line for plane in planes if not plane.name.startswith('/device:') for line in plane.lines):
        found = [event for event in line.events if not event.name.startswith(_OTHERS)]
        batches += [(e.start_ns, e.start_ns + e.duration_ns) for e in found if e.name == INPUT]
        on_host += (_as_launch(event, programs) for event in _nested(_operations(found, programs, ())))
    for plane in sorted((plane for plane in planes if plane.name.startswith('/device:')), key=lambda plane: plane.name):
        events = list(_of_device(plane, programs))
        if events:
            return _Trace(file, events, programs, batches or None, dict(plane.stats), on_host=False)
    if not on_host:
        raise ValueError(f'{file} holds no operation that ran: trace steps that the run does, as with --profile=20:25.')
    return _Trace(file, on_host, programs, batches or None, {}, on_host=True)


def _as_launch(event: Event, programs: Mapping[int | str, xspace.Program]) -> Event:
    """Returns an event of the host, as a launch if its operation goes on in other threads when the event ends."""
    program = programs.get(event.run[0])
    one = program.named.get(event.operation) if program else None
    return event._replace(own=0, launch=True) if one and one.opcode in _HANDED_OVER else event


def _of_device(plane: Any, programs: dict[int | str, xspace.Program]) -> Iterator[Event]:
    """Yields what ran on a device: of a TPU in one line, of a GPU in one for each stream."""
    lines = list(plane.lines)
    runs = sorted(
        (e.start_ns, e.start_ns + e.duration_ns, _EXECUTION.fullmatch(e.name))
        for line in lines
        if line.name == 'XLA Modules'
        for e in line.events
    )
    chosen = [line for line in lines if line.name == 'XLA Ops'] or [x for x in lines if x.name.startswith('Stream')]
    for line in chosen:
        yield from _nested(_operations(line.events, programs, runs))


def _operations(
    events: Iterable[Any], programs: dict[int | str, xspace.Program], runs: Sequence[tuple[float, float, Any]]
) -> Iterator[Event]:
    """Yields the operations among the events of a line.

    Args:
        events: of the line.
        programs: of the trace.
        runs: of a TPU, whose operations do not say it themselves: when a program ran, and its number as a match.
    """
    for event in events:
        start, end, stats = event.start_ns, event.start_ns + event.duration_ns, dict(event.stats)
        if 'hlo_op' in stats:
            name, run = str(stats['hlo_op']), (stats.get('program_id', stats.get('hlo_module')), stats.get('run_id'))
        elif runs:
            name = _TEXT.match(event.name)[1]
            place = bisect.bisect(runs, start, key=lambda run: run[0]) - 1
            match = runs[place][2] if place >= 0 and start < runs[place][1] else None
            run = (int(match[1]), place) if match else (None, None)
        else:
            continue
        one = programs[run[0]].named.get(name) if run[0] in programs else None
        yield Event(name, one.path if one else str(stats.get('tf_op', '')), run, start, end, end - start)


def _nested(events: Iterable[Event]) -> list[Event]:
    """Returns the events of a line, in which those inside of another stand behind it, with each one's own time."""
    found = sorted(events, key=lambda event: (event.start, -event.end))
    own = [event.own for event in found]
    around: list[int] = []
    for n, event in enumerate(found):
        while around and found[around[-1]].end <= event.start:
            around.pop()
        if around:
            own[around[-1]] -= event.end - event.start
        around.append(n)
    return [event._replace(own=time) for event, time in zip(found, own)]


def _peak(trace: _Trace) -> chips.Peak | None:
    if not trace.on_host:
        return chips.of_trace(trace.device)
    # The file has the name of the machine.
    return chips.measured() if trace.file.name == f'{socket.gethostname()}.xplane.pb' else None


class _Parser(argparse.ArgumentParser):
    """Ends a mistake in one sentence and with status 1, as train.py does."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f'error: {message} (--help shows how.)')


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is no number of at least 1')
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the command line says."""
    parser = _Parser('longview.runtime.profile', description=__doc__.split('\n\n')[2], allow_abbrev=False)
    parser.add_argument('run', metavar='RUN', help='a workdir, or another folder that holds traces')
    parser.add_argument(
        '--depth', type=_positive, help='names of a module that are kept, so that a block counts as one'
    )
    parser.add_argument('--count', type=_positive, default=10, help='how many operations, modules and parts are shown')
    parser.add_argument('--chip', choices=chips.NAMES, help='whose datasheet is the roof; here: this CPU, measured')
    parser.add_argument('--picture', type=pathlib.Path, metavar='FILE', help='write a picture, such as profile.png')
    parser.add_argument('--json', action='store_true', help='print all as JSON instead of tables')
    asked = parser.parse_args(arguments)
    try:
        found = read(asked.run, asked.depth, asked.chip)
        print(json.dumps(found.as_json(), indent=1) if asked.json else found.table(asked.count))
        if asked.picture:
            asked.picture.parent.mkdir(parents=True, exist_ok=True)
            found.figure().savefig(asked.picture, dpi=100)
            # What reads the JSON is not to find a sentence behind it.
            print(f'written: {asked.picture}', file=sys.stderr if asked.json else sys.stdout)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
