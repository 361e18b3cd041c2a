"""What each instruction of a compiled program computes and moves: FLOPs, and bytes to and from memory.

Both are counted on shapes, by the same rules on each kind of device. Elementwise arithmetic counts one FLOP an element,
whatever the function; a multiply-add counts two. An instruction reads its operands and writes its result; what it takes
a slice of, or writes a slice into, counts as that slice. What begins in one instruction and ends in another, as
copy-start and copy-done, counts once, where it ends.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from longview.runtime.xspace import Computation, Fields, Instruction, Program, fields, number, numbers

_ARITHMETIC = frozenset(
    'abs add and atan2 cbrt ceil clamp compare cosine divide erf exponential exponential-minus-one floor is-finite log '
    'log-plus-one logistic maximum minimum multiply negate not or power remainder round-nearest-afz round-nearest-even '
    'rsqrt select shift-left shift-right-arithmetic shift-right-logical sign sine sqrt subtract tan tanh xor'.split()
)
# The instructions inside of these are counted, and timed, themselves.
_AROUND = frozenset(('while', 'conditional', 'async-start', 'async-update'))
_CALLS = frozenset(('call', 'custom-call', 'fusion', 'while'))
_FREE = frozenset(('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id'))
_SLICES = frozenset(('slice', 'dynamic-slice', 'gather'))
_UPDATE = 'dynamic-update-slice'


class Work(NamedTuple):
    """What an execution does.

    Attributes:
        flops: None where the program does not say it, as of a kernel or a library's routine.
        bytes: to and from memory.
    """

    flops: int | None
    bytes: int


def work(program: Program, name: str) -> Work:
    """Returns what one execution of an instruction does; of one that is not in the program nothing is known."""
    instruction = program.named.get(name)
    if instruction is None:
        return Work(None, 0)
    if instruction.opcode in _AROUND:
        return Work(0, 0)
    if instruction.opcode == 'async-done':
        return _wrapped(program, instruction)
    return Work(_flops(program, instruction), _bytes(program, instruction))


def _wrapped(program: Program, done: Instruction) -> Work:
    """Returns what ends here that was begun by a general ``async-start``, which a program's text calls slice-start.

    What is called is timed itself.
    """
    begun = program.numbered[done.operands[0]]
    while begun.opcode == 'async-update':
        begun = program.numbered[begun.operands[0]]
    inside = [each for each in _inside(program, begun) if each.opcode not in _CALLS]
    return Work(sum(_flops(program, each) or 0 for each in inside), sum(_bytes(program, each) for each in inside))


def _flops(program: Program, one: Instruction) -> int | None:
    operands = [program.numbered[key] for key in one.operands]
    if one.opcode == 'dot':
        summed = numbers(fields(one.fields[30][0]), 1)
        return 2 * one.elements * math.prod(operands[0].arrays[0].sizes[axis] for axis in summed)
    if one.opcode == 'convolution':
        return _of_convolution(one, *operands)
    if one.opcode == 'custom-call':
        return None
    if one.opcode in ('fusion', 'call'):
        inner = [_flops(program, each) for each in _inside(program, one)]
        return None if None in inner else sum(inner)
    if one.opcode in ('reduce', 'reduce-window', 'scatter', 'select-and-scatter'):
        return _folded(one, operands) * sum(each.opcode in _ARITHMETIC for each in _inside(program, one))
    if one.opcode == 'fft':
        # The textbook's count of a complex transform by halves.
        return round(5 * one.elements * math.log2(math.prod(numbers(one.fields, 32))))
    return one.elements if one.opcode in _ARITHMETIC else 0


def _of_convolution(one: Instruction, image: Instruction, kernel: Instruction) -> int:
    """Counts the products of a convolution that are not with padding, or between the elements of a dilated input."""
    places = fields(one.fields[16][0])
    products = one.elements * kernel.arrays[0].sizes[number(places, 3)]
    windows = map(fields, fields(one.fields[15][0]).get(1, ())) if 15 in one.fields else ()
    for window, into, out in zip(windows, numbers(places, 11), numbers(places, 12)):
        size = one.arrays[0].sizes[out]
        products = products // size * _pairs(window, image.arrays[0].sizes[into], size)
    return 2 * products


def _pairs(window: Fields, inputs: int, outputs: int) -> int:
    """Counts the pairs of a window's place and an element that meet along one axis."""
    stride, padding, between, dilation = (
        number(window, 2, 1),
        number(window, 3),
        number(window, 5, 1),
        number(window, 6, 1),
    )
    first = np.arange(outputs) * stride - padding
    found = 0
    for element in range(number(window, 1, 1)):
        place = first + element * between
        found += int(np.sum((place >= 0) & (place <= (inputs - 1) * dilation) & (place % dilation == 0)))
    return found


def _folded(one: Instruction, operands: list[Instruction]) -> int:
    """Returns how often an instruction applies its computation."""
    if one.opcode == 'reduce':
        return operands[0].elements
    if one.opcode == 'scatter':
        return operands[-1].elements
    window = fields(one.fields[15][0])
    size = math.prod(number(fields(each), 1, 1) for each in window.get(1, ()))
    return size * (one.arrays[0].elements if one.opcode == 'reduce-window' else operands[1].elements)


def _inside(program: Program, one: Instruction) -> Iterator[Instruction]:
    for called in one.called:
        yield from program.computations[called].instructions.values()


def _bytes(program: Program, one: Instruction) -> int:
    operands = [program.numbered[key] for key in one.operands]
    if one.opcode in _FREE or one.opcode.endswith('-start'):
        return 0
    if one.opcode.endswith('-done') and operands and operands[0].opcode.endswith('-start'):
        # The start gives its operands too, which are not moved by that.
        return one.bytes + sum(program.numbered[key].bytes for key in operands[0].operands)
    if one.opcode in _SLICES:
        return 2 * one.bytes
    if one.opcode == _UPDATE:
        return 2 * operands[1].bytes
    if one.opcode == 'scatter':
        return 2 * operands[-1].bytes
    if one.opcode == 'fusion':
        inside = program.computations[one.called[0]]
        return sum(_read_of(inside, place, each) for place, each in enumerate(operands)) + _written(inside)
    return one.bytes + sum(operand.bytes for operand in operands)


def _read_of(inside: Computation, place: int, operand: Instruction) -> int:
    """Returns the bytes that a fusion reads of an operand."""
    parameters = {number(one.fields, 9): key for key, one in inside.instructions.items() if one.opcode == 'parameter'}
    sizes = [_read_by(inside, key, user) for key, user in _users(inside, parameters[place])]
    return operand.bytes if None in sizes else min(operand.bytes, sum(sizes))


def _users(inside: Computation, key: int) -> Iterator[tuple[int, Instruction]]:
    """Yields what reads an instruction, or the same array by another shape, with the number it is read by."""
    for number_, one in inside.instructions.items():
        if key in one.operands and one.opcode == 'bitcast':
            yield from _users(inside, number_)
        elif key in one.operands:
            yield key, one


def _read_by(inside: Computation, key: int, user: Instruction) -> int | None:
    """Returns the bytes that an instruction in a fusion reads of another; None for all."""
    if user.opcode in _SLICES and user.operands[0] == key:
        return user.bytes
    # What a slice is written into stays where it is.
    return 0 if user.opcode == _UPDATE and user.operands[0] == key else None


def _written(inside: Computation) -> int:
    """Returns the bytes that a fusion writes."""
    root = inside.instructions[inside.root]
    results = [inside.instructions[key] for key in root.operands] if root.opcode == 'tuple' else [root]
    written = 0
    for one in results:
        while one.opcode == 'bitcast':
            one = inside.instructions[one.operands[0]]
        written += inside.instructions[one.operands[1]].bytes if one.opcode == _UPDATE else one.bytes
    return written
