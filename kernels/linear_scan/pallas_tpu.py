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

from longview.kernels import dispatch, pallas

_LANES = 128
_TILE = 16  # tokens that are read together and processed in an unrolled loop: rows of a bfloat16 register
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

    @property
    def block(self) -> int:
        return min(_BLOCK, -(-self.tokens // _TILE) * _TILE)

    @property
    def grid(self) -> tuple[int, int, int]:
        return (self.batch, self.channels // self.width, -(-self.tokens // self.block))

    def spec(self, x: Any, backwards: bool) -> pl.BlockSpec:
        """The block of an array for a grid step; the grid goes over the tokens in either direction."""
        last = self.grid[2] - 1
        place = (lambda t: last - t) if backwards else (lambda t: t)
        if x.ndim == 4:
            return pl.BlockSpec((1, 1, 1, self.width), lambda b, d, t: (b, place(t), 0, d))
        if x.shape[1] == self.tokens > 1:
            return pl.BlockSpec((1, self.block, self.width), lambda b, d, t: (b, place(t), d))
        return pl.BlockSpec((1, x.shape[1], self.width), lambda b, d, t: (b, 0, d))


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
    if keep:
        shape = (plan.batch, plan.grid[2], 1, plan.channels)
        outs['edges'] = pallas.output(shape, ins['start'].dtype, ins['start'])
    return _call(_outputs_kernel, plan, ins, outs, {'state': (1, plan.width)})


def _outputs_kernel(plan: Plan, ins: dict, outs: dict, scratch: dict) -> None:
    step = Step(plan, plan.reverse, plan.reverse)
    step.begin(scratch['state'], ins['start'])
    for out, held in zip(outs.get('edges', ()), scratch['state']):
        out[0, 0] = held[...]

    def tile(n: Any, state: Planes) -> Planes:
        a, x = step.decays(ins['a'], n), step.rows(ins['x'], n)
        h = [state] * _TILE
        for i in step.order:
            h[i] = state = _add(_times(a[i], state), x[i])
        step.write(outs['h'], n, h)
        return state

    _set(scratch['state'], step.walk(tile, _get(scratch['state'])))
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, inputs: tuple, edges: jax.Array, dh: jax.Array, dlast: jax.Array) -> tuple:
    ins = dict(zip(('a', 'x'), inputs)) | {'edges': edges, 'dh': dh, 'dlast': dlast}
    outs = {
        'da': pallas.output_like(inputs[0]),
        'dx': pallas.output_like(inputs[1]),
        'dstart': pallas.output_like(dlast),
    }
    row = (1, plan.width)
    scratch = {'dstate': row, 'states': (plan.block, plan.width), 'da': row}
    found = _call(_cotangents_kernel, plan, ins, outs, scratch)
    return tuple(found[name] for name in ('da', 'dx', 'dstart'))


def _cotangents_kernel(plan: Plan, ins: dict, outs: dict, scratch: dict) -> None:
    backwards = not plan.reverse
    there, back = Step(plan, plan.reverse, backwards), Step(plan, backwards, backwards)
    back.begin(scratch['dstate'], ins['dlast'])
    back.begin(scratch['da'], None)

    def store_states(n: Any, state: Planes) -> Planes:
        a, x = there.decays(ins['a'], n), there.rows(ins['x'], n)
        before = [state] * _TILE
        for i in there.order:
            before[i] = state
            state = _add(_times(a[i], state), x[i])
        for held, rows in zip(scratch['states'], zip(*before)):
            held[there.place(n), :] = jnp.concatenate(rows)
        return state

    there.walk(store_states, tuple(x[0, 0] for x in ins['edges']))

    def tile(n: Any, carry: tuple) -> tuple:
        dstate, total = carry
        a, dh = back.decays(ins['a'], n), back.rows(ins['dh'], n)
        before = back.split([x[back.place(n), :] for x in scratch['states']], n)
        da, dx = [dstate] * _TILE, [dstate] * _TILE
        for i in back.order:
            dx[i] = _add(dstate, dh[i])
            da[i] = _times(dx[i], before[i])
            dstate = _times(a[i], dx[i])
            total = _add(total, da[i])
        back.write(outs['dx'], n, dx)
        if not plan.constant:
            back.write(outs['da'], n, da)
        return dstate, total

    dstate, total = back.walk(tile, (_get(scratch['dstate']), _get(scratch['da'])))
    _set(scratch['dstate'], dstate)
    _set(scratch['da'], total)
    back.end(scratch['dstate'], outs['dstart'])
    if plan.constant:
        back.end(scratch['da'], outs['da'])


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


class Step:
    """One step of the grid: reads, writes and loops over the tiles of a block of tokens."""

    def __init__(self, plan: Plan, backwards: bool, grid_is_backwards: bool) -> None:
        self.plan, self.backwards = plan, backwards
        self.order = range(_TILE)[::-1] if backwards else range(_TILE)
        self.count = pl.program_id(2)
        self.block = plan.grid[2] - 1 - self.count if grid_is_backwards else self.count

    def begin(self, held: Planes, start: Planes | None) -> None:
        """Before the first block: sets the scratch memory `held` to `start`, or to zero if that is None."""

        @pl.when(self.count == 0)
        def _() -> None:
            zeros = tuple(jnp.zeros(x.shape, x.dtype) for x in held)
            _set(held, zeros if start is None else tuple(x[0] for x in start))

    def end(self, held: Planes, out: Planes) -> None:
        """After the last block: writes the scratch memory `held` to an output."""

        @pl.when(self.count == self.plan.grid[2] - 1)
        def _() -> None:
            for ref, x in zip(out, held):
                ref[0] = x[...]

    def walk(self, tile: Callable, carry: Any) -> Any:
        """Loops over the tiles of the block in order; the body is `tile(n, carry) -> carry`."""
        last = self.plan.block // _TILE - 1
        place = (lambda n: last - n) if self.backwards else (lambda n: n)
        return lax.fori_loop(0, last + 1, lambda n, carry: tile(place(n), carry), carry)

    def place(self, n: Any) -> Any:
        return pl.ds(pl.multiple_of(n * _TILE, _TILE), _TILE)

    def rows(self, refs: Planes, n: Any) -> list[Planes]:
        """The tokens of a tile in float32."""
        return self.split([x[0, self.place(n), :].astype(jnp.float32) for x in refs], n)

    def decays(self, refs: Planes, n: Any) -> list[Planes]:
        """The decays of a tile; they are 1 after the end of the sequence, so that the state does not change there."""
        if self.plan.constant:
            planes = [jnp.broadcast_to(x[0], (_TILE, self.plan.width)) for x in refs]
        else:
            planes = [x[0, self.place(n), :].astype(jnp.float32) for x in refs]
        return self.split(planes, n, (1.0, 0.0))

    def split(self, planes: list[jax.Array], n: Any, behind: Planes = (0.0, 0.0)) -> list[Planes]:
        """The rows of a tile as (1, channels), with the values `behind` after the end of the sequence."""
        if self.plan.tokens % self.plan.block:
            token = lax.broadcasted_iota(jnp.int32, planes[0].shape, 0)
            token += self.block * self.plan.block + n * _TILE
            inside = token < self.plan.tokens
            planes = [jnp.where(inside, x, fill) for x, fill in zip(planes, behind)]
        return [tuple(x[i : i + 1] for x in planes) for i in range(_TILE)]

    def write(self, out: Planes, n: Any, rows: list[Planes]) -> None:
        for ref, plane in zip(out, zip(*rows)):
            ref[0, self.place(n), :] = jnp.concatenate(plane).astype(ref.dtype)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel over batch, blocks of channels and blocks of tokens; blocks of tokens run in order.

    Under vmap the mapped axis joins the batch, the first axis of every array.
    """
    backwards = plan.reverse != ('dh' in ins)
    planes = 2 if jnp.issubdtype(ins['x'].dtype, jnp.complexfloating) else 1

    def run(batch: int, ins: dict) -> dict:
        wider = plan._replace(batch=batch)
        split = jax.tree.map(lambda x: (x.real, x.imag) if planes == 2 else (x,), ins)
        batched = jax.tree.map(lambda x: x.update(shape=(batch, *x.shape[1:])), outs)
        narrow = lambda x: (x.update(dtype=jnp.float32),) * 2 if planes == 2 else (x,)
        shapes = jax.tree.map(narrow, batched)
        spec = partial(wider.spec, backwards=backwards)
        found = pallas.call(
            partial(kernel, wider),
            out_shape=shapes,
            grid=wider.grid,
            in_specs=[jax.tree.map(spec, split)],
            out_specs=jax.tree.map(spec, shapes),
            scratch_shapes=[{name: (pallas.vmem(x, jnp.float32),) * planes for name, x in scratch.items()}],
            compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary')),
            cost_estimate=_cost(wider, planes, ins, batched),
            name=f'linear_scan{kernel.__name__.removesuffix("_kernel")}',
        )(jax.tree.map(pallas.in_hbm, split))
        return {name: lax.complex(*x) if planes == 2 else x[0] for name, x in found.items()}

    return pallas.joining_batch(run, plan.batch)(ins)


def _cost(plan: Plan, planes: int, ins: dict, outs: dict) -> object:
    """The cost of a kernel that reads and writes every array once."""
    _, _, blocks = plan.grid
    numbers = plan.batch * blocks * plan.block * plan.channels
    one = 8 if planes == 2 else 2
    return pallas.CostEstimate(
        flops=numbers * one * (3 if 'dh' in ins else 1),
        transcendentals=0,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*ins.values(), *outs.values())),
    )
