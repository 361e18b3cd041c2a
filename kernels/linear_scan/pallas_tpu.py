"""The linear scan as Pallas kernels for TPUs, forward and backward. No code was taken from others.

The state stays in VMEM from one block of tokens to the next. The kernels read and write each array once, and this
traffic bounds their speed. For gradients one state per block is stored; the backward kernel recomputes the states of a
block and then scans it in the opposite direction.

A register holds 8 rows of 128 lanes, and the channels of one token would leave 7 rows idle. So a tile is turned in VMEM
first, by loads and stores with a stride: a token becomes (channels / 128, 128).

A TPU has no complex numbers, so the kernels take them as two planes, real and imaginary. Outside of the kernels, and in
the formulas, numbers are complex: by JAX's convention a cotangent is multiplied by a decay, not by its conjugate.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import derivatives, dispatch, pallas, scan_tpu, scans
from longview.kernels.linear_scan.arrays import Constant, State, Tokens

_LANES, _TILE = scan_tpu.LANES, scan_tpu.TILE
_WIDEST = 8 * _LANES  # most channels of a block: the rows of a register
_STRIDE = _TILE + 1  # rows from 128 channels of a token to the next 128: odd, so that they lie in different banks
_BLOCK = 2**17  # most numbers of a block: 1/2 MiB in float32

Planes = tuple[Any, ...]  # (real,) or (real, imaginary)


class Plan(NamedTuple):
    """Static arguments; `width`, `block`: channels, in whole lanes, and tokens in VMEM at a time."""

    batch: int
    tokens: int
    channels: int
    width: int
    block: int
    constant: bool
    reverse: bool

    def grid(self, backwards: bool) -> scan_tpu.Grid:
        groups = -(-self.channels // self.width)
        return scan_tpu.Grid(self.batch, groups, self.tokens, self.block, _TILE, backwards)


def linear_scan(
    a: Tokens | Constant, x: Tokens, initial_state: State | None = None, *, reverse: bool, numbers: int = _BLOCK
) -> tuple[Tokens, State]:
    """See `kernels.linear_scan.linear_scan`; `numbers`: the most of a block."""
    plan = _plan(a, x, reverse, numbers)
    wide = jnp.promote_types(jnp.result_type(*jax.tree.leaves((a, x, initial_state))), jnp.float32)
    if jnp.issubdtype(wide, jnp.complexfloating):
        a, x = a.astype(wide), x.astype(wide)
    state = jnp.zeros_like(x, wide, (plan.batch, 1, plan.channels))
    if initial_state is not None:
        state = initial_state.astype(wide)[:, None]
    if plan.constant:
        a = jnp.broadcast_to(a[None, None].astype(wide), state.shape)
    h, last = _scan(plan, a, x, state)
    return h, last[:, 0]


def missing(a: jax.Array, x: jax.Array, initial_state: jax.Array | None = None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((a, x, initial_state), ('float32', 'bfloat16', 'complex64'))
    if lacking is not None:
        return lacking
    if x.shape[1] == 1:
        return 'it is for sequences, and this one has 1 token'
    return None


def _plan(a: jax.Array, x: jax.Array, reverse: bool, numbers: int) -> Plan:
    batch, tokens, channels = x.shape
    width = pallas.round_up(-(-channels // -(-channels // _WIDEST)), _LANES)
    fit = max(scans.power_of_two(numbers // width + 1) // 2, _TILE)
    block = min(fit, pallas.round_up(tokens, _TILE))
    return Plan(batch, tokens, channels, width, block, a.ndim == 1, reverse)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple | None]:
    """The states after each token and the last one, given decays (B, T or 1, D), inputs and a state (B, 1, D)."""
    ins = dict(zip(('a', 'x', 'start'), inputs))
    outs = {'h': pallas.output_like(ins['x']), 'last': pallas.output_like(ins['start'])}
    grid = plan.grid(plan.reverse)
    if keep:
        shape = (plan.batch, grid.blocks, 1, plan.channels)
        outs['edges'] = pallas.output(shape, ins['start'].dtype, ins['start'])
    found = _call(_outputs_kernel, plan, grid, ins, outs, {'state': (1, plan.width)})
    return (found['h'], found['last']), (*inputs[:2], found['edges']) if keep else None


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['state'], ins['start'])
    for out, held in zip(outs.get('edges', ()), scratch['state']):
        out[0, 0] = held[...]

    def tile(block: Block, n: Any, state: Planes) -> Planes:
        a, x = block.decays(ins['a'], n), block.tokens('x', ins['x'], n)
        h = [state] * _TILE
        for i in step.order(plan.reverse):
            h[i] = state = _add(_times(a[i], state), x[i])
        block.write('h', outs['h'], n, h)
        return state

    state = _walk(plan, step, scratch, plan.reverse, tile, tuple(_folded(x[...]) for x in scratch['state']))
    _set(scratch['state'], state)
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    ins = dict(zip(('a', 'x', 'edges', 'dh', 'dlast'), (*kept, *cotangents)))
    outs = {f'd{name}': pallas.output_like(ins[like]) for name, like in (('a', 'a'), ('x', 'x'), ('start', 'dlast'))}
    grid = plan.grid(not plan.reverse)
    row = (1, plan.width)
    scratch = {'dstate': row, 'states': (grid.block, plan.width // _LANES, _LANES), 'da': row}
    found = _call(_cotangents_kernel, plan, grid, ins, outs, scratch)
    return tuple(found[name] for name in outs)


_scan = derivatives.with_rule(_outputs, _cotangents)


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['dstate'], ins['dlast'])
    step.begin(scratch['da'], None)

    def store_states(block: Block, n: Any, state: Planes) -> Planes:
        a, x = block.decays(ins['a'], n), block.tokens('x', ins['x'], n)
        for i in step.order(plan.reverse):
            for held, before in zip(scratch['states'], state):
                held[n * _TILE + i] = before
            state = _add(_times(a[i], state), x[i])
        return state

    edges = tuple(_folded(x[0, 0]) for x in ins['edges'])
    _walk(plan, step, scratch, plan.reverse, store_states, edges)

    def tile(block: Block, n: Any, carry: tuple) -> tuple:
        dstate, total = carry
        a, dh = block.decays(ins['a'], n), block.tokens('dh', ins['dh'], n)
        da, dx = [dstate] * _TILE, [dstate] * _TILE
        for i in step.order(not plan.reverse):
            dx[i] = _add(dstate, dh[i])
            da[i] = _times(dx[i], tuple(x[n * _TILE + i] for x in scratch['states']))
            dstate = _times(a[i], dx[i])
            if plan.constant:
                total = _add(total, block.within(da[i], n, i))
        block.write('dx', outs['dx'], n, dx)
        if not plan.constant:
            block.write('da', outs['da'], n, da)
        return dstate, total

    begin = tuple(tuple(_folded(x[...]) for x in scratch[name]) for name in ('dstate', 'da'))
    dstate, total = _walk(plan, step, scratch, not plan.reverse, tile, begin)
    _set(scratch['dstate'], dstate)
    step.end(scratch['dstate'], outs['dstart'])
    if plan.constant:
        _set(scratch['da'], total)
        step.end(scratch['da'], outs['da'])


class Block(NamedTuple):
    """A block of tokens and channels, whose tokens are turned to (channels / 128, 128); `turned`: memory for that."""

    plan: Plan
    step: scan_tpu.Step
    turned: dict

    def tokens(self, name: str, refs: Planes, n: Any, behind: Planes = (0.0, 0.0)) -> list[Planes]:
        """The tokens of a tile, with the values `behind` after the end of the sequence."""
        for held, ref, fill in zip(self.turned[name], refs, behind):
            x = self.step.read(ref, n, fill)
            for group in range(self._groups):
                held[self._rows(group), :] = x[:, group * _LANES : (group + 1) * _LANES]
        return [tuple(held[self._token(i), :] for held in self.turned[name]) for i in range(_TILE)]

    def decays(self, refs: Planes, n: Any) -> list[Planes]:
        """The decays of a tile; they are 1 after the end of the sequence, so that the state does not change there."""
        one = (1.0, 0.0)
        if not self.plan.constant:
            return self.tokens('a', refs, n, one)
        a = tuple(_folded(x[0]) for x in refs)
        return [self.within(a, n, i, one) for i in range(_TILE)]

    def within(self, planes: Planes, n: Any, i: int, behind: Planes = (0.0, 0.0)) -> Planes:
        """What belongs to a token, or the values `behind` after the end of the sequence."""
        grid = self.step.grid
        if grid.tokens % grid.block == 0:
            return planes
        inside = self.step.block * grid.block + n * _TILE + i < grid.tokens
        return tuple(jnp.where(inside, x, fill) for x, fill in zip(planes, behind))

    def write(self, name: str, outs: Planes, n: Any, rows: list[Planes]) -> None:
        for held, out, plane in zip(self.turned[name], outs, zip(*rows)):
            for i, row in enumerate(plane):
                held[self._token(i), :] = row
            x = [held[self._rows(group), :] for group in range(self._groups)]
            self.step.write(out, n, jnp.concatenate(x, axis=1))

    @property
    def _groups(self) -> int:
        return self.plan.width // _LANES

    def _rows(self, group: int) -> slice:
        return slice(group * _STRIDE, group * _STRIDE + _TILE)

    def _token(self, i: int) -> Any:
        return pl.ds(i, self._groups, stride=_STRIDE)


def _walk(plan: Plan, step: scan_tpu.Step, scratch: dict, backwards: bool, tile: Callable[..., Any], carry: Any) -> Any:
    """Runs `tile(block, n, carry) -> carry` for the tiles of a block; the next one is turned while one is scanned."""
    tiles = tuple(partial(tile, Block(plan, step, turned)) for turned in scratch['turned'])
    return step.walk_in_pairs(backwards, tiles, carry)


def _folded(x: jax.Array) -> jax.Array:
    """A row of channels (1, channels) as (channels / 128, 128)."""
    return jnp.concatenate([x[:, n : n + _LANES] for n in range(0, x.shape[1], _LANES)])


def _unfolded(x: jax.Array) -> jax.Array:
    """Undoes `_folded`."""
    return jnp.concatenate([x[n : n + 1] for n in range(x.shape[0])], axis=1)


def _times(a: Planes, b: Planes) -> Planes:
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _add(a: Planes, b: Planes) -> Planes:
    return tuple(x + y for x, y in zip(a, b))


def _set(refs: Planes, values: Planes) -> None:
    for ref, value in zip(refs, values):
        ref[...] = _unfolded(value)


def _call(kernel: Callable, plan: Plan, grid: scan_tpu.Grid, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel on one plane per array, or on two if numbers are complex."""
    planes = 2 if jnp.issubdtype(ins['x'].dtype, jnp.complexfloating) else 1

    def spec(x: Any) -> pl.BlockSpec:
        if x.ndim == 4:
            return grid.spec((1, 1, 1, plan.width), 'bt.g')
        if x.shape[1] == plan.tokens > 1:
            return grid.spec((1, grid.block, plan.width), 'btg')
        return grid.spec((1, 1, plan.width), 'b.g')

    turned = [name for name, x in (ins | outs).items() if x.shape[1] == plan.tokens]
    scratch = scratch | {'turned': [dict.fromkeys(turned, (plan.width // _LANES * _STRIDE, _LANES))] * 2}
    flops = grid.blocks * grid.block * plan.channels * (8 if planes == 2 else 2)
    found = scan_tpu.call(
        partial(kernel, plan),
        grid,
        partial(jax.tree.map, spec),
        {name: (x.real, x.imag) if planes == 2 else (x,) for name, x in ins.items()},
        {name: (x.update(dtype=jnp.float32),) * 2 if planes == 2 else (x,) for name, x in outs.items()},
        jax.tree.map(lambda shape: (shape,) * planes, scratch, is_leaf=lambda x: isinstance(x, tuple)),
        scan_tpu.Work(flops * (3 if 'dh' in ins else 1)),
        f'linear_scan{kernel.__name__.removesuffix("_kernel")}',
    )
    return {name: lax.complex(*x) if planes == 2 else x[0] for name, x in found.items()}
