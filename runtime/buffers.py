"""What the memory of a compiled program is for: its arguments, its results, and what is alive at the fullest moment.

The compiler gives each program a few allocations before it runs. An argument, a result and a constant have one of their
own; all else shares one, in which the place of a value is given on once nobody needs it. Which values are in it
at the moment when they are most is in the ``HeapSimulatorTrace`` that the compiler leaves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from longview.runtime.xspace import Fields, Program, fields, number

KINDS = ('argument', 'result', 'temporary', 'constant', 'between')
_FREE, _SHARE = 1, 2


class Held(NamedTuple):
    """Memory of one value.

    Attributes:
        kind: of `KINDS`; an argument that is given up for a result is an argument, and ``between`` is what lies unused
            between the values that are alive.
        path: where the value was traced; of an argument its name.
        bytes: on one device.
    """

    kind: str
    path: str
    bytes: int


def held(program: Program) -> list[Held]:
    """Returns what the memory of a program holds at its fullest, on one device; nothing where the trace has none."""
    assignment = program.assignment
    values: dict[int, _Value] = {}
    for value in map(fields, assignment.get(1, ())):
        place = fields(value[3][0]) if 3 in value else {}
        one = program.numbered.get(number(place, 4))
        values[number(value, 1)] = _Value(number(value, 2), one.path if one else '')
    # The number of its allocation in a trace is that of before allocations were joined: its values tell which it is.
    traces = [list(map(fields, fields(trace).get(1, ()))) for trace in assignment.get(4, ())]
    found: list[Held] = []
    for allocation in map(fields, assignment.get(3, ())):
        # What threads hold while they compute a number is of no size.
        if not number(allocation, 3):
            found += _of_allocation(program, allocation, values, traces)
    return found


class _Value(NamedTuple):
    bytes: int
    path: str


def _of_allocation(
    program: Program, allocation: Fields, values: Mapping[int, _Value], traces: Sequence[Sequence[Fields]]
) -> Iterator[Held]:
    whole, inside = number(allocation, 2), [number(fields(part), 1) for part in allocation.get(9, ())]
    if number(allocation, 5):
        yield Held('argument', _argument(program, number(allocation, 6)), whole)
    elif number(allocation, 7) or number(allocation, 12):
        largest = max((values[key] for key in inside), default=_Value(0, ''))
        yield Held('result' if number(allocation, 7) else 'constant', largest.path, whole)
    else:
        traced = [events for events in traces if {number(event, 2) for event in events} & set(inside)]
        for value in _alive(whole, inside, values, traced):
            yield Held('temporary', value.path, value.bytes)
            whole -= value.bytes
        yield Held('between', '', whole)


def _alive(
    room: int, inside: Sequence[int], values: Mapping[int, _Value], traces: Sequence[Sequence[Fields]]
) -> Iterator[_Value]:
    """Yields the values of an allocation that are in it at its fullest.

    Those of no trace, such as the addresses in a tuple, share their places in ways that are not told: the largest
    are there, as many as there is room for.
    """
    known = {number(event, 2) for events in traces for event in events}
    alive = [values[key] for events in traces for key in _fullest(events, lambda key: values[key].bytes)]
    room -= sum(value.bytes for value in alive)
    yield from alive
    for value in sorted((values[key] for key in inside if key not in known), reverse=True):
        if value.bytes <= room:
            room -= value.bytes
            yield value


def _argument(program: Program, place: int) -> str:
    """Returns the name of an argument, as ``state.variables.params['head']['kernel']``."""
    for one in program.entry.instructions.values():
        if one.opcode == 'parameter' and number(one.fields, 9) == place:
            return one.path or one.name
    return ''


def _fullest(events: Sequence[Fields], size: Callable[[int], int]) -> list[int]:
    """Returns the values that are alive when they are most.

    A value that shares the place of another stands in it from then on, and the place is free once both are gone.
    """
    place_of: dict[int, int] = {}
    users: dict[int, int] = {}
    alive: dict[int, int] = {}
    now, most, fullest = 0, -1, []
    for event in events:
        kind, value = number(event, 1), number(event, 2)
        if kind == _FREE:
            place = place_of[value]
            users[place] -= 1
            if not users[place]:
                now -= size(place)
                del alive[place]
            continue
        place = place_of.get(number(event, 5), number(event, 5)) if kind == _SHARE else value
        place_of[value] = place
        users[place] = users.get(place, 0) + 1
        if users[place] == 1:
            now += size(place)
        alive[place] = value
        if now > most:
            most, fullest = now, list(alive.values())
    return fullest
