"""The linear scan as Pallas kernels for TPUs, forward and backward. No code was taken from others.

The state stays in VMEM from one block of tokens to the next. The kernels read and write each array once, and this
traffic bounds their speed. For gradients one state per block is stored; the backward kernel recomputes the states of a
block and then scans it in the opposite direction.

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
from jaxtyping import Array, Inexact

from longview.kernels import dispatch, pallas, scan_tpu

_LANES = 128
_BLOCK = 256  # tokens in VMEM at a time
_WIDEST = 512  # most channels of a block

Planes = tuple[Any, ...]  # (real,) or (real, imaginary)


class Plan(NamedTuple):
    """Static arguments; `width` is the number of channels of a block, 0 if no width fits."""

    batch: int
    tokens: int
    channels: int
    width: int
    constant: bool
    reverse: bool

    def grid(self, backwards: bool) -> scan_tpu.Grid:
        block = min(_BLOCK, pallas.round_up(self.tokens, scan_tpu.TILE))
        return scan_tpu.Grid(self.batch, self.channels // self.width, self.tokens, block, scan_tpu.TILE, backwards)


def linear_scan(
    a: Inexact[Array, 'b t d'] | Inexact[Array, ' d'],
    x: Inexact[Array, 'b t d'],
    initial_state: Inexact[Array, 'b d'] | None = None,
    *,
    reverse: bool,
) -> tuple[Inexact[Array, 'b t d'], Inexact[Array, 'b d']]:
    """See `kernels.linear_scan.linear_scan`."""
    plan = _plan(a, x, reverse)
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
    if _plan(a, x, False).width == 0:
        return f'{x.shape[2]} channels; wanted a multiple of {_LANES}, or at most {_WIDEST}'
    return None


def _plan(a: jax.Array, x: jax.Array, reverse: bool) -> Plan:
    channels = x.shape[2]
    width = next((w for w in (_WIDEST, 256, _LANES) if channels % w == 0), 0)
    if not width and channels <= _WIDEST:
        width = channels
    return Plan(*x.shape, width, a.ndim == 1, reverse)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan: Plan, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scan of decays (B, T, D) or (B, 1, D), inputs (B, T, D) and the initial state (B, 1, D)."""
    found = _outputs(plan, inputs, False)
    return found['h'], found['last']


def _scan_forward(plan: Plan, *inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    found = _outputs(plan, inputs, True)
    return (found['h'], found['last']), (inputs[:2], found['edges'])


def _scan_backward(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _cotangents(plan, *kept, *cotangents)


_scan.defvjp(_scan_forward, _scan_backward)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> dict:
    ins = dict(zip(('a', 'x', 'start'), inputs))
    outs = {'h': pallas.output_like(ins['x']), 'last': pallas.output_like(ins['start'])}
    grid = plan.grid(plan.reverse)
    if keep:
        shape = (plan.batch, grid.blocks, 1, plan.channels)
        outs['edges'] = pallas.output(shape, ins['start'].dtype, ins['start'])
    return _call(_outputs_kernel, plan, grid, ins, outs, {'state': (1, plan.width)})


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['state'], ins['start'])
    for out, held in zip(outs.get('edges', ()), scratch['state']):
        out[0, 0] = held[...]

    def tile(n: Any, state: Planes) -> Planes:
        a, x = _decays(plan, step, ins['a'], n), _rows(step, ins['x'], n)
        h = [state] * scan_tpu.TILE
        for i in step.order(plan.reverse):
            h[i] = state = _add(_times(a[i], state), x[i])
        _write(step, outs['h'], n, h)
        return state

    _set(scratch['state'], step.walk(plan.reverse, tile, _get(scratch['state'])))
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, inputs: tuple, edges: jax.Array, dh: jax.Array, dlast: jax.Array) -> tuple:
    ins = dict(zip(('a', 'x'), inputs)) | {'edges': edges, 'dh': dh, 'dlast': dlast}
    outs = {name: pallas.output_like(x) for name, x in zip(('da', 'dx', 'dstart'), (*inputs, dlast))}
    grid = plan.grid(not plan.reverse)
    row = (1, plan.width)
    scratch = {'dstate': row, 'states': (grid.block, plan.width), 'da': row}
    found = _call(_cotangents_kernel, plan, grid, ins, outs, scratch)
    return tuple(found[name] for name in outs)


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['dstate'], ins['dlast'])
    step.begin(scratch['da'], None)

    def store_states(n: Any, state: Planes) -> Planes:
        a, x = _decays(plan, step, ins['a'], n), _rows(step, ins['x'], n)
        before = [state] * scan_tpu.TILE
        for i in step.order(plan.reverse):
            before[i] = state
            state = _add(_times(a[i], state), x[i])
        for held, rows in zip(scratch['states'], zip(*before)):
            held[step.rows(n), :] = jnp.concatenate(rows)
        return state

    step.walk(plan.reverse, store_states, tuple(x[0, 0] for x in ins['edges']))

    def tile(n: Any, carry: tuple) -> tuple:
        dstate, total = carry
        a, dh = _decays(plan, step, ins['a'], n), _rows(step, ins['dh'], n)
        before = _apart([step.within(x[step.rows(n), :], n) for x in scratch['states']])
        da, dx = [dstate] * scan_tpu.TILE, [dstate] * scan_tpu.TILE
        for i in step.order(not plan.reverse):
            dx[i] = _add(dstate, dh[i])
            da[i] = _times(dx[i], before[i])
            dstate = _times(a[i], dx[i])
            total = _add(total, da[i])
        _write(step, outs['dx'], n, dx)
        if not plan.constant:
            _write(step, outs['da'], n, da)
        return dstate, total

    dstate, total = step.walk(not plan.reverse, tile, (_get(scratch['dstate']), _get(scratch['da'])))
    _set(scratch['dstate'], dstate)
    _set(scratch['da'], total)
    step.end(scratch['dstate'], outs['dstart'])
    if plan.constant:
        step.end(scratch['da'], outs['da'])


def _times(a: Planes, b: Planes) -> Planes:
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _add(a: Planes, b: Planes) -> Planes:
    return tuple(x + y for x, y in zip(a, b))


def _get(refs: Planes) -> Planes:
    return tuple(x[...] for x in refs)


def _set(refs: Planes, values: Planes) -> None:
    for ref, value in zip(refs, values):
        ref[...] = value


def _rows(step: scan_tpu.Step, refs: Planes, n: Any) -> list[Planes]:
    """The tokens of a tile as (1, channels)."""
    return _apart([step.read(x, n) for x in refs])


def _decays(plan: Plan, step: scan_tpu.Step, refs: Planes, n: Any) -> list[Planes]:
    """The decays of a tile; they are 1 after the end of the sequence, so that the state does not change there."""
    one = (1.0, 0.0)
    if not plan.constant:
        return _apart([step.read(x, n, behind) for x, behind in zip(refs, one)])
    planes = [jnp.broadcast_to(x[0], (scan_tpu.TILE, plan.width)) for x in refs]
    return _apart([step.within(x, n, behind) for x, behind in zip(planes, one)])


def _apart(planes: list[jax.Array]) -> list[Planes]:
    return [tuple(x[i : i + 1] for x in planes) for i in range(scan_tpu.TILE)]


def _write(step: scan_tpu.Step, outs: Planes, n: Any, rows: list[Planes]) -> None:
    for ref, plane in zip(outs, zip(*rows)):
        step.write(ref, n, jnp.concatenate(plane))


def _call(kernel: Callable, plan: Plan, grid: scan_tpu.Grid, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel on one plane per array, or on two if numbers are complex."""
    planes = 2 if jnp.issubdtype(ins['x'].dtype, jnp.complexfloating) else 1

    def spec(x: Any) -> pl.BlockSpec:
        if x.ndim == 4:
            return grid.spec((1, 1, 1, plan.width), 'bt.g')
        if x.shape[1] == plan.tokens > 1:
            return grid.spec((1, grid.block, plan.width), 'btg')
        return grid.spec((1, 1, plan.width), 'b.g')

    flops = grid.blocks * grid.block * plan.channels * (8 if planes == 2 else 2)
    found = scan_tpu.call(
        partial(kernel, plan),
        grid,
        partial(jax.tree.map, spec),
        {name: (x.real, x.imag) if planes == 2 else (x,) for name, x in ins.items()},
        {name: (x.update(dtype=jnp.float32),) * 2 if planes == 2 else (x,) for name, x in outs.items()},
        {name: (shape,) * planes for name, shape in scratch.items()},
        scan_tpu.Work(flops * (3 if 'dh' in ins else 1)),
        f'linear_scan{kernel.__name__.removesuffix("_kernel")}',
    )
    return {name: lax.complex(*x) if planes == 2 else x[0] for name, x in found.items()}
