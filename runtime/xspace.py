"""The compiled programs that a trace holds, read from its bytes.

A trace of XLA is an ``XSpace`` (https://github.com/openxla/xla, xla/tsl/profiler/protobuf/xplane.proto, Apache-2.0).
Beside what ran when, which `jax.profiler.ProfileData` reads, it holds each program that ran as an ``HloProto``
(xla/service/hlo.proto): its instructions with the path that each was traced in, and the memory that the compiler gave
them. No package that JAX needs has those messages, so the few fields that are needed are named here by their numbers.
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

_VARINT, _FIXED64, _COUNTED, _FIXED32 = 0, 1, 2, 5

# Bits of an element by the number of its type in xla/xla_data.proto; tokens and opaque values have none.
_PRED, _PLAIN = (
    1,
    {2: 8, 3: 16, 4: 32, 5: 64, 6: 8, 7: 16, 8: 32, 9: 64, 10: 16, 11: 32, 12: 64, 15: 64, 16: 16, 18: 128},
)
_SMALL = {19: 8, 20: 8, 21: 4, 22: 4, 23: 8, 24: 8, 25: 8, 26: 2, 27: 2, 28: 8, 29: 8, 32: 4, 33: 8}
_BITS = {_PRED: 8, **_PLAIN, **_SMALL}

Fields = dict[int, list[Any]]


class Array(NamedTuple):
    """The shape of an array: sizes of its axes, and bits of an element."""

    sizes: tuple[int, ...]
    bits: int

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        return (self.elements * self.bits + 7) // 8


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
        name: as in the program's text, ``fusion.3``.
        opcode: what it does, ``fusion``.
        arrays: what it gives, of a tuple each.
        path: of the modules that it was traced in; of a parameter the name of the argument.
        operands: numbers of the instructions that it reads.
        called: numbers of the computations that it runs.
        fields: all that its message holds.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    path: str
    operands: tuple[int, ...]
    called: tuple[int, ...]
    fields: Fields

    @property
    def elements(self) -> int:
        return sum(array.elements for array in self.arrays)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)


class Computation(NamedTuple):
    """Instructions by their numbers, of which `root` gives the result."""

    instructions: dict[int, Instruction]
    root: int


class Program:
    """A compiled program.

    Attributes:
        name: of the jitted function, ``jit_step``.
    """

    def __init__(self, name: str, proto: bytes):
        self.name = name
        self._proto = fields(proto)

    @functools.cached_property
    def _module(self) -> Fields:
        return fields(self._proto[1][0])

    @functools.cached_property
    def computations(self) -> dict[int, Computation]:
        """By their numbers."""
        read = (fields(message) for message in self._module.get(3, ()))
        return {
            number(each, 5): Computation(dict(map(_instruction, each.get(2, ()))), number(each, 6)) for each in read
        }

    @functools.cached_property
    def entry(self) -> Computation:
        """The computation that the program begins with."""
        return self.computations[number(self._module, 6)]

    @functools.cached_property
    def named(self) -> dict[str, Instruction]:
        """The instructions by name, of all computations."""
        return {one.name: one for each in self.computations.values() for one in each.instructions.values()}

    @functools.cached_property
    def numbered(self) -> dict[int, Instruction]:
        """The instructions by number, of all computations."""
        return {key: one for each in self.computations.values() for key, one in each.instructions.items()}

    @functools.cached_property
    def assignment(self) -> Fields:
        """The compiler's ``BufferAssignmentProto``; empty where the trace has none."""
        return fields(self._proto[3][0]) if 3 in self._proto else {}


def programs(space: bytes) -> dict[int | str, Program]:
    """Returns the programs of a trace, by their numbers and by their names."""
    found: dict[int | str, Program] = {}
    for plane in map(fields, fields(space).get(1, ())):
        if text(plane, 2) != '/host:metadata':
            continue
        for event in (fields(message) for entry in plane.get(4, ()) for message in fields(entry).get(2, ())):
            # A program is called NAME(NUMBER).
            match = re.fullmatch(r'(.*)\((\d+)\)', text(event, 2))
            for proto in (data for stat in event.get(5, ()) for data in fields(stat).get(6, ())):
                name = match[1] if match else text(event, 2)
                found[name] = Program(name, proto)
                if match:
                    found[int(match[2])] = found[name]
    return found


def fields(message: bytes) -> Fields:
    """Returns the values of a serialized message (https://protobuf.dev/programming-guides/encoding) by field.

    Raises:
        ValueError: the bytes are no message.
    """
    found: Fields = {}
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
        elif kind in (_FIXED64, _COUNTED, _FIXED32):
            size, place = _varint(message, place) if kind == _COUNTED else ({_FIXED64: 8, _FIXED32: 4}[kind], place)
            value, place = message[place : place + size], place + size
        else:
            raise ValueError(f'a field of kind {kind}, which no message has, at byte {place}')
        if place > end:
            raise ValueError(f'a field that goes on {place - end} bytes behind the end of its message')
        found.setdefault(tag >> 3, []).append(value)
    return found


def number(message: Fields, field: int, default: int = 0) -> int:
    """Returns the signed number that a message holds once or not at all."""
    value = message.get(field, (default,))[-1]
    return value - 2**64 if value >= 2**63 else value


def numbers(message: Fields, field: int) -> tuple[int, ...]:
    """Returns the numbers that a message holds several of, packed or one by one."""
    found: list[int] = []
    for value in message.get(field, ()):
        found += [value] if isinstance(value, int) else _packed(value)
    return tuple(found)


def text(message: Fields, field: int) -> str:
    """Returns the text that a message holds once or not at all."""
    return message.get(field, (b'',))[-1].decode()


def _instruction(message: bytes) -> tuple[int, Instruction]:
    read = fields(message)
    metadata = fields(read[7][0]) if 7 in read else {}
    arrays = tuple(_arrays(fields(read[3][0]))) if 3 in read else ()
    return number(read, 35), Instruction(
        text(read, 1), text(read, 2), arrays, text(metadata, 2), numbers(read, 36), numbers(read, 38), read
    )


def _arrays(shape: Fields) -> Iterator[Array]:
    parts = shape.get(4, ())
    for part in parts:
        yield from _arrays(fields(part))
    if not parts:
        yield Array(numbers(shape, 3), _BITS.get(number(shape, 2), 0))


def _packed(value: bytes) -> Sequence[int]:
    found, place = [], 0
    while place < len(value):
        one, place = _varint(value, place)
        found.append(one)
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Returns the number that begins at a place, seven bits a byte, and the place behind it."""
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
    raise ValueError('a number that goes on behind the end of its message')
