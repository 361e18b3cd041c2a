"""Collectives of a compiled program, read from its text.

XLA's own cost analysis counts the body of a loop once and has no collectives. The text has both: which computation
calls which, how often a loop runs, and the shape and the devices of each all-reduce and its like.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_COLLECTIVE = re.compile(rf' = (.*?) ({"|".join(KINDS)})(?:-start)?\(')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'\b(?:branch_computations|called_computations)=\{([^}]*)\}')
_LOOP = re.compile(r' while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r' = s\d+\[\][^ ]* constant\((\d+)\)')
_SHAPE = re.compile(r'\b([a-z]+)(\d*)\w*\[([\d,]*)\]')
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
        kind: of `KINDS`.
        bytes: of its whole array on one chip: the input of a reduction, the output of a gather.
        group: chips that take part together.
        times: how often a run of the program does it.
    """

    kind: str
    bytes: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that one chip sends in all runs of it, around a ring: an all-reduce goes around twice."""
        if self.kind == 'collective-permute':
            return float(self.bytes * self.times)
        rounds = 2 if self.kind == 'all-reduce' else 1
        return rounds * self.bytes * self.times * (self.group - 1) / self.group


class Program(NamedTuple):
    """What the text of a compiled program says.

    Attributes:
        collectives: each once.
        loops: how often the body of each loop runs in all; None where the text does not say it, and it counts once.
    """

    collectives: list[Collective]
    loops: list[int | None]


def read(text: str, devices: int) -> Program:
    """Returns the collectives and loops of a compiled program.

    Args:
        text: ``compiled.as_text()``.
        devices: that the program runs on, which are the group where none is named.
    """
    bodies = _computations(text)
    loops: list[int | None] = []
    standing: list[tuple[str, str | None, Collective]] = []
    for name, times in _times(bodies, loops).items():
        for line in bodies[name]:
            one = _collective(line, name, devices, times)
            if one is not None and one.group > 1:
                channel = _CHANNEL.search(line)
                standing.append((name, channel and channel[1], one))
    # A collective that overlaps with other work stands in the computations that begin, carry and end it, each time
    # with the same channel. Those of `jax.shard_map` all have one channel, which then stands in a computation twice.
    often = collections.Counter((name, channel) for name, channel, _ in standing)
    shared = {None} | {channel for (_, channel), count in often.items() if count > 1}
    found: dict[Any, Collective] = {}
    for number, (_, channel, one) in enumerate(standing):
        key = number if channel in shared else channel
        found[key] = max(one, found.get(key, one), key=lambda each: each.times)
    return Program(list(found.values()), loops)


def _computations(text: str) -> dict[str, list[str]]:
    """Returns the lines of each computation by its name; the program's own is ''."""
    bodies: dict[str, list[str]] = {'': []}
    lines = bodies['']
    for line in text.splitlines():
        begin = _COMPUTATION.match(line)
        if begin:
            lines = bodies.setdefault('' if begin[1] else begin[2], [])
        elif line.startswith('  '):
            lines.append(line)
    return bodies


def _times(bodies: Mapping[str, list[str]], loops: list[int | None]) -> dict[str, int]:
    """Returns how often each computation runs; notes the runs of each loop's body in `loops`."""
    times: dict[str, int] = collections.Counter()
    waiting = [('', 1)]
    while waiting:
        name, runs = waiting.pop()
        times[name] += runs
        for line in bodies[name]:
            loop = _LOOP.search(line)
            trips = _trips(line, bodies[loop[1]]) if loop else 1
            if loop:
                loops.append(None if trips is None else trips * runs)
            waiting += [(called, runs * (trips or 1)) for called in _called(line) if called in bodies]
    return times


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for names in _BRANCHES.findall(line):
        yield from re.findall(r'[\w.-]+', names)


def _trips(line: str, condition: list[str]) -> int | None:
    """Returns how often a loop runs: as the compiler notes it, or the number that its counter is compared with.

    The loops of `jax.lax.scan` and `fori_loop` count from 0 by 1.
    """
    known = _TRIPS.search(line)
    limits = _LIMIT.findall('\n'.join(condition))
    if known:
        return int(known[1])
    return int(limits[0]) if len(limits) == 1 and 'direction=LT' in '\n'.join(condition) else None


def _collective(line: str, computation: str, devices: int, times: int) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    kind = match[2]
    # A tuple is of several arrays; that of a start has the inputs beside the outputs, of which the larger counts.
    sizes = [_bytes(*shape) for shape in _SHAPE.findall(match[1])]
    size = max(sizes) if f'{kind}-start(' in line and kind != 'all-reduce' else sum(sizes)
    group = _group(line, devices)
    if kind == 'reduce-scatter':
        size *= group
    # A TPU's reduce-scatter is an all-reduce in a fusion that keeps a slice of it.
    scatters = kind == 'all-reduce' and 'all-reduce-scatter' in computation
    return Collective('reduce-scatter' if scatters else kind, size, group, times)


def _bytes(letters: str, bits: str, axes: str) -> int:
    """Returns the bytes of an array: ``bf16[8,128]`` is ('bf', '16', '8,128'), and pred has a byte each."""
    count = math.prod(int(size) for size in axes.split(',') if size)
    return count * int(bits or 8) // 8


def _group(line: str, devices: int) -> int:
    """Returns how many chips take part together, in each of the forms that XLA writes."""
    listed = re.search(r'replica_groups=\{\{([\d,]+)\}', line)
    if listed:
        return listed[1].count(',') + 1
    counted = re.search(r'replica_groups=\[\d+,(\d+)\]<=', line)
    if counted:
        return int(counted[1])
    mesh = re.search(r'replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}', line)
    if mesh:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", mesh[2]))
    return devices
