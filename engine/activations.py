"""What a step holds at once between its operations, estimated on the traced program: nothing is compiled.

A compiler fuses: most values never reach memory. The estimate follows what libtpu's is seen to do.

- Matrix products, convolutions, reductions, gathers, sorts, loops and kernels write what they compute to memory. All
  else, arithmetic and changes of type and shape, is computed again wherever it is read.
- So is erf, for the rule of GELU (modelzoo/layers/frame/mlp.py) keeps its argument alone.
- But a dear operation (exp, tanh, a division) that is computed from one product alone is done with that product and
  stored, if operations read it that come one after the other, such as one of the forward and one of the backward pass.
- What arithmetic has made of a bfloat16 product, and only float32 reads, is stored in float32. What a kernel writes is
  stored as it is.
- Every operation is done as late as it can be: gradients with respect to weights after those with respect to
  activations, which therefore live until the end.
- Of the axes of an array two are filled up to whole tiles.

A stored value lives until the last operation that reads it. The most that lives at once is the estimate; docs/scale.md
says how near it comes to what libtpu allots.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from longview.counting import bare, inner

_CHEAP = frozenset(
    'add add_any sub mul neg max min and or not xor abs sign select_n convert_element_type broadcast_in_dim reshape '
    'transpose squeeze expand_dims slice pad rev iota eq ne lt le gt ge floor ceil round integer_pow square copy name '
    'is_finite clamp shift_left shift_right_logical shift_right_arithmetic concatenate split sharding_constraint '
    'bitcast_convert_type rem real imag random_wrap random_unwrap reduce_precision optimization_barrier '
    'stop_gradient erf'.split()
)
_DEAR = frozenset(
    'exp exp2 log log1p expm1 tanh logistic erfc erf_inv pow div rsqrt sqrt sin cos tan atan2 cbrt random_bits '
    'random_fold_in random_split random_seed threefry2x32'.split()
)
_ARITHMETIC = ('add', 'sub', 'mul')
_LOOPS = ('scan', 'while')
# A program inside of these says how two elements are joined, not what is computed.
_JOINS = ('reduce', 'reduce_window', 'scatter', 'scatter-add', 'sort', 'select_and_scatter_add', 'pallas_call')
# Bytes of a compiled program for each operation of the traced one: 3,100 to 7,200 in steps of five networks.
_CODE = 5_500
# Of two axes of an array in a TPU's memory.
_TILE = (8, 128)


class _Operation(NamedTuple):
    """One operation of a program without calls; `inside` are bytes that its body holds at once."""

    name: str
    reads: list[int]
    writes: list[int]
    inside: int


class _Program:
    """A program without calls: its operations in order, over values that are numbered."""

    def __init__(self, program: core.Jaxpr) -> None:
        self.bytes: list[int] = []
        self.operations: list[_Operation] = []
        self.outputs = self._run(program, [self._new(v) for v in program.invars])

    def _new(self, variable: Any) -> int:
        self.bytes.append(_padded(variable.aval))
        return len(self.bytes) - 1

    def _run(self, program: core.Jaxpr, inputs: Sequence[int]) -> list[int]:
        known = dict(zip(program.invars, inputs)) | {v: self._new(v) for v in program.constvars}
        number = lambda v: self._new(v) if isinstance(v, core.Literal) else known[v]
        for equation in program.eqns:
            name, reads = equation.primitive.name, [number(v) for v in equation.invars]
            called = None if name in _LOOPS + _JOINS else _called(equation)
            if called is not None:
                writes = self._run(called, reads[1:] if name == 'cond' else reads)
            else:
                writes = [self._new(v) for v in equation.outvars]
                inside = max(map(_most, inner(equation.params)), default=0) if name in _LOOPS else 0
                self.operations.append(_Operation(name, reads, writes, inside))
            known |= dict(zip(equation.outvars, writes))
        return [number(v) for v in program.outvars]


class Estimate(NamedTuple):
    """Bytes in a TPU's memory: what a program holds at once beside its arguments, and the program itself."""

    held: int
    code: int


def estimate(function: Callable[..., Any], *arguments: Any) -> Estimate:
    """Returns what ``function(*arguments)`` is expected to need.

    Args:
        function: traceable.
        *arguments: arrays or their shapes, of one device.
    """
    flat = _Program(jax.make_jaxpr(function)(*arguments).jaxpr)
    operations = _needed(flat)
    return Estimate(_held(flat, operations), _CODE * len(operations))


def _most(program: core.Jaxpr) -> int:
    flat = _Program(program)
    return _held(flat, _needed(flat))


def _held(flat: _Program, operations: Sequence[_Operation]) -> int:
    dear = _read_again(operations) & _of_one_product(operations)
    operations = _late(operations, dear)
    # The stored values from which a value is computed where it is read; of a stored value itself.
    origin: dict[int, frozenset[int]] = {}
    born: dict[int, int] = {}
    last: dict[int, int] = {}
    for time, one in enumerate(operations):
        read = _origins(one.reads, origin)
        if _fused(one, dear):
            origin |= dict.fromkeys(one.writes, read)
            continue
        last |= dict.fromkeys(read, time)
        for value in one.writes:
            origin[value], born[value], last[value] = frozenset([value]), time, time
    last |= dict.fromkeys(_origins(flat.outputs, origin), len(operations) - 1)
    wide = _widened(operations, flat.bytes)
    change = [0] * (len(operations) + 1)
    for value, time in born.items():
        size = flat.bytes[value] * (2 if value in wide else 1)
        change[time] += size
        change[last[value] + 1] -= size
    inside = (one.inside for one in operations)
    return max((living + own for living, own in zip(itertools.accumulate(change), inside)), default=0)


def _needed(flat: _Program) -> list[_Operation]:
    """Returns the operations that the outputs follow from, in order."""
    needed, kept = set(flat.outputs), []
    for one in reversed(flat.operations):
        if not needed.isdisjoint(one.writes):
            needed.update(one.reads)
            kept.append(one)
    return kept[::-1]


def _read_again(operations: Sequence[_Operation]) -> set[int]:
    """Returns the values of dear operations that stored ones read, through fused ones too, one after the other."""
    depths = _depths(operations)
    readers: dict[int, frozenset[int]] = {}
    dear: set[int] = set()
    for one, depth in zip(reversed(operations), reversed(depths)):
        # Two are enough to know.
        found = frozenset(itertools.islice(_origins(one.writes, readers), 2))
        if one.name in _DEAR and len(found) > 1:
            dear.update(one.writes)
        here = found if _fused(one, dear) else frozenset([depth])
        for value in one.reads:
            readers[value] = frozenset(itertools.islice(readers.get(value, frozenset()) | here, 2))
    return dear


def _depths(operations: Sequence[_Operation]) -> list[int]:
    """Returns how many products and the like come one after the other up to each operation, itself included."""
    behind: dict[int, int] = {}
    depths = []
    for one in operations:
        fused = one.name in _CHEAP or one.name in _DEAR
        depths.append(max((behind.get(value, 0) for value in one.reads), default=0) + (not fused))
        behind |= dict.fromkeys(one.writes, depths[-1])
    return depths


def _of_one_product(operations: Sequence[_Operation]) -> set[int]:
    """Returns the values of fused operations that are computed from one stored value alone."""
    origin: dict[int, frozenset[int]] = {}
    found: set[int] = set()
    for one in operations:
        fused = one.name in _CHEAP or one.name in _DEAR
        read = frozenset(itertools.islice(_origins(one.reads, origin), 2))
        origin |= dict.fromkeys(one.writes, read) if fused else {value: frozenset([value]) for value in one.writes}
        if fused and len(read) == 1:
            found.update(one.writes)
    return found


def _late(operations: Sequence[_Operation], dear: set[int]) -> list[_Operation]:
    """Returns the operations in an order in which each comes as late as it can, before those that read it."""
    # How many stored operations follow, one from the other.
    follow: dict[int, int] = {}
    behind = []
    for one in reversed(operations):
        here = max((follow.get(value, 0) for value in one.writes), default=0) + (not _fused(one, dear))
        for value in one.reads:
            follow[value] = max(follow.get(value, 0), here)
        behind.append(here)
    return [one for _, one in sorted(zip(reversed(behind), operations), key=lambda each: -each[0])]


def _widened(operations: Sequence[_Operation], sizes: Sequence[int]) -> set[int]:
    """Returns the values of which arithmetic is only read in twice their precision, one operation after the other."""
    readers: dict[int, list[_Operation]] = {}
    for one in operations:
        for value in one.reads:
            readers.setdefault(value, []).append(one)
    converted: set[int] = set()
    wide: set[int] = set()
    for one in reversed(operations):
        # A kernel writes what it says.
        for value in () if one.name == 'pallas_call' else one.writes:
            if len(readers.get(value, ())) != 1 or readers[value][0].name not in _CHEAP:
                continue
            (reader,) = readers[value]
            after = reader.writes[0]
            if reader.name == 'convert_element_type' and sizes[after] == 2 * sizes[value]:
                converted.add(value)
            elif sizes[after] == sizes[value] and (after in wide or reader.name in _ARITHMETIC and after in converted):
                wide.add(value)
            elif sizes[after] == sizes[value] and after in converted:
                converted.add(value)
    return wide


def _origins(values: Iterable[int], known: Mapping[int, frozenset[int]]) -> frozenset[int]:
    return frozenset().union(*(known.get(value, frozenset()) for value in values))


def _fused(one: _Operation, dear: set[int]) -> bool:
    return one.name in _CHEAP or (one.name in _DEAR and dear.isdisjoint(one.writes))


def _called(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Returns the program that an equation calls; of a choice by platform the TPU's, of another the longest."""
    params = equation.params
    if equation.primitive.name != 'cond':
        return next(iter(inner(params)), None)
    branches = params['branches']
    names = params.get('branches_platforms') or [()] * len(branches)
    own = [branch for branch, platforms in zip(branches, names) if platforms and 'tpu' in platforms]
    rest = [branch for branch, platforms in zip(branches, names) if not platforms]
    return max(map(bare, own or rest), key=lambda branch: len(branch.eqns))


def _padded(aval: Any) -> int:
    """Returns the bytes of an array in a TPU's memory: two axes, those that waste least, are filled up to tiles."""
    shape = getattr(aval, 'shape', None)
    if shape is None:
        return 0
    size, count = getattr(aval.dtype, 'itemsize', 4), math.prod(shape)
    if len(shape) < 2:
        return size * _up(count, math.prod(_TILE) if count > _TILE[1] else _TILE[1])
    tiled = lambda i, j: count // max(shape[i] * shape[j], 1) * _up(shape[i], _TILE[0]) * _up(shape[j], _TILE[1])
    return size * min(itertools.starmap(tiled, itertools.permutations(range(len(shape)), 2)))


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
