"""The selective scan as Pallas kernels for TPUs, forward and backward.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752 (section 3.3, for GPUs). No code was taken from others.

The state (N, channels of a block) stays in VMEM from one block of tokens to the next. Only for gradients one copy per
block of 128 tokens is written to HBM; the backward kernel recomputes the states of a block in VMEM and scans it in the
opposite direction. Channels are in lanes, states in sublanes. B and C have tokens in lanes; the column of states of a
token is broadcast over the lanes of the channels.

Step sizes, skip and gate (softplus, `D`, `z`) are left to XLA, before and after the kernels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from longview.kernels import dispatch, pallas

_LANES = 128
_TILE = 16  # tokens that are read together and processed in an unrolled loop: rows of a bfloat16 register
_WIDEST = 512  # most channels of a block
_STATES = 2**20  # most numbers in the states of a block: 4 MiB of at least 16 MiB


class Plan(NamedTuple):
    """Static arguments; `width` is the number of channels of a block, 0 if no width fits."""

    batch: int
    tokens: int
    channels: int
    states: int
    groups: int
    width: int
    reverse: bool

    @property
    def block(self) -> int:
        """The number of tokens in VMEM at a time."""
        return min(_LANES, -(-self.tokens // _TILE) * _TILE)

    @property
    def grid(self) -> tuple[int, int, int]:
        return (self.batch, self.channels // self.width, -(-self.tokens // self.block))

    def specs(self, arrays: dict, backwards: bool) -> dict:
        """The blocks of arrays, by name, for a grid step; the grid goes over the tokens in either direction."""
        last = self.grid[2] - 1
        place = (lambda t: last - t) if backwards else (lambda t: t)
        shared = self.channels // self.groups // self.width
        states = (1, self.states, self.width)
        weights = pl.BlockSpec((1, 1, self.states, _LANES), lambda b, d, t: (b, lax.div(d, shared), 0, place(t)))
        apart = pl.BlockSpec((1, 1, self.states, _LANES), lambda b, d, t: (b, d, 0, place(t)))
        special = {
            'B': weights,
            'C': weights,
            'dB': apart,
            'dC': apart,
            'edges': pl.BlockSpec((1, *states), lambda b, d, t: (b, place(t), 0, d)),
        }
        for name in ('u', 'delta', 'y', 'dy', 'du', 'ddelta'):
            special[name] = pl.BlockSpec((1, self.block, self.width), lambda b, d, t: (b, place(t), d))
        one = pl.BlockSpec(states, lambda b, d, t: (b, 0, d))
        return {name: special.get(name, one) for name in arrays}


def selective_scan(
    u: Float[Array, 'b t d'],
    delta: Float[Array, 'b t d'],
    A: Float[Array, 'd n'],
    B: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    C: Float[Array, 'b t n'] | Float[Array, 'b t g n'],
    D: Float[Array, ' d'] | None = None,
    z: Float[Array, 'b t d'] | None = None,
    delta_bias: Float[Array, ' d'] | None = None,
    initial_state: Float[Array, 'b d n'] | None = None,
    *,
    softplus: bool,
    reverse: bool,
) -> tuple[Float[Array, 'b t d'], Float[Array, 'b d n']]:
    """See `kernels.selective_scan.selective_scan`."""
    plan = _plan(u, A, B, reverse)
    wide = lambda x: None if x is None else x.astype(jnp.float32)
    steps = wide(delta) if delta_bias is None else wide(delta) + wide(delta_bias)[None, None]
    steps = jax.nn.softplus(steps) if softplus else steps
    shape = (plan.batch, plan.states, plan.channels)
    start = jnp.zeros_like(u, jnp.float32, shape)
    if initial_state is not None:
        start = wide(initial_state).swapaxes(1, 2)
    decay = jnp.broadcast_to(wide(A).T[None], shape)
    y, last = _scan(plan, u, steps, decay, _columns(plan, B), _columns(plan, C), start)
    y = y if D is None else y + wide(D)[None, None] * wide(u)
    y = y if z is None else y * jax.nn.silu(wide(z))
    return y.astype(u.dtype), last.swapaxes(1, 2)


def missing(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((u, delta, A, B, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    plan = _plan(u, A, B, False)
    if plan.width == 0:
        return (
            f'{plan.groups} groups of {plan.channels // plan.groups} channels of {plan.states} '
            f'states; wanted groups of a multiple of {_LANES} channels and at most '
            f'{_STATES // _LANES**2} states'
        )
    return None


def _plan(u: jax.Array, A: jax.Array, B: jax.Array, reverse: bool) -> Plan:
    groups, states = (1 if B.ndim == 3 else B.shape[2]), A.shape[1]
    group = u.shape[2] // groups
    most = min(_WIDEST, _STATES // _LANES // states)
    width = next((w for w in (512, 256, 128) if w <= most and group % w == 0), 0)
    if not width and groups == 1 and group <= most:
        width = group
    return Plan(*u.shape, states, groups, width, reverse)


def _columns(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns (B, G, N, T) in float32, with tokens padded by zeros to whole registers."""
    x = x.astype(jnp.float32).reshape(plan.batch, plan.tokens, plan.groups, plan.states)
    x = jnp.pad(x, ((0, 0), (0, -plan.tokens % _LANES), (0, 0), (0, 0)))
    return x.transpose(0, 2, 3, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan: Plan, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scan of u, delta, A, B, C and the initial state, in the layout of the kernels."""
    found = _outputs(plan, inputs, False)
    return found['y'], found['last']


def _scan_forward(plan: Plan, *inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    found = _outputs(plan, inputs, True)
    return (found['y'], found['last']), (inputs[:5], found['edges'])


def _scan_backward(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    return _cotangents(plan, *kept, *cotangents)


_scan.defvjp(_scan_forward, _scan_backward)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> dict:
    ins = dict(zip(('u', 'delta', 'A', 'B', 'C', 'start'), inputs))
    outs = {'y': pallas.output_float32(ins['u']), 'last': pallas.output_float32(ins['A'])}
    if keep:
        edges = (plan.batch, plan.grid[2], plan.states, plan.channels)
        outs['edges'] = pallas.output_float32(ins['A'], *edges)
    return _call(_outputs_kernel, plan, ins, outs, {'state': (plan.states, plan.width)})


def _outputs_kernel(plan: Plan, ins: dict, outs: dict, scratch: dict) -> None:
    step = Step(plan, ins, plan.reverse)
    step.begin(scratch['state'], ins['start'])
    if 'edges' in outs:
        outs['edges'][0, 0] = scratch['state'][...]

    def tile(n: Any, state: jax.Array) -> jax.Array:
        delta, u = step.rows('delta', n), step.rows('u', n)
        B, C = step.columns('B', n), step.columns('C', n)
        y = [None] * _TILE
        for i in step.order:
            state = step.advance(state, delta[i], u[i], B[i])
            y[i] = jnp.sum(state * C[i], axis=0, keepdims=True)
        step.write(outs['y'], n, y)
        return state

    scratch['state'][...] = step.walk(tile, scratch['state'][...])
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, inputs: tuple, edges: jax.Array, dy: jax.Array, dlast: jax.Array) -> tuple:
    ins = dict(zip(('u', 'delta', 'A', 'B', 'C'), inputs))
    u, delta, A, B, _ = inputs
    parts = pallas.output_float32(B, plan.batch, plan.grid[1], *B.shape[2:])
    outs = {'du': pallas.output(u.shape, u.dtype, u), 'ddelta': pallas.output_float32(delta)}
    outs |= {'dA': pallas.output_float32(A), 'dB': parts, 'dC': parts, 'dstart': pallas.output_float32(A)}
    state = (plan.states, plan.width)
    scratch = {'dstate': state, 'dA': state, 'states': (plan.block, *state)}
    ins |= {'edges': edges, 'dy': dy, 'dlast': dlast}
    found = _call(_cotangents_kernel, plan, ins, outs, scratch)
    for name in ('dB', 'dC'):
        found[name] = found[name].reshape(plan.batch, plan.groups, -1, *B.shape[2:]).sum(2)
    return tuple(found[name] for name in ('du', 'ddelta', 'dA', 'dB', 'dC', 'dstart'))


def _cotangents_kernel(plan: Plan, ins: dict, outs: dict, scratch: dict) -> None:
    there, back = Step(plan, ins, plan.reverse), Step(plan, ins, not plan.reverse)
    back.begin(scratch['dstate'], ins['dlast'])
    back.begin(scratch['dA'], None)

    def store_states(n: Any, state: jax.Array) -> jax.Array:
        delta, u, B = there.rows('delta', n), there.rows('u', n), there.columns('B', n)
        for i in there.order:
            scratch['states'][n * _TILE + i] = state
            state = there.advance(state, delta[i], u[i], B[i])
        return state

    there.walk(store_states, ins['edges'][0, 0])

    def tile(n: Any, carry: tuple) -> tuple:
        dstate, dA, dB, dC = carry
        delta, u, dy = (back.rows(name, n) for name in ('delta', 'u', 'dy'))
        B, C = back.columns('B', n), back.columns('C', n)
        du, ddelta = [None] * _TILE, [None] * _TILE
        for i in back.order:
            x = delta[i] * u[i]
            faded = jnp.exp(delta[i] * ins['A'][0]) * scratch['states'][n * _TILE + i]
            dstate += dy[i] * C[i]
            dC = back.put(dC, n, i, (faded + x * B[i]) * dy[i])
            dB = back.put(dB, n, i, dstate * x)
            dx = jnp.sum(dstate * B[i], axis=0, keepdims=True)
            dexponent = dstate * faded
            du[i] = dx * delta[i]
            ddelta[i] = dx * u[i] + jnp.sum(dexponent * ins['A'][0], axis=0, keepdims=True)
            dA += dexponent * delta[i]
            dstate *= jnp.exp(delta[i] * ins['A'][0])
        back.write(outs['du'], n, du)
        back.write(outs['ddelta'], n, ddelta)
        return dstate, dA, dB, dC

    blank = jnp.zeros((plan.states, _LANES), jnp.float32)
    begin = (scratch['dstate'][...], scratch['dA'][...], blank, blank)
    dstate, dA, outs['dB'][0, 0], outs['dC'][0, 0] = back.walk(tile, begin)
    scratch['dstate'][...], scratch['dA'][...] = dstate, dA
    back.end(scratch['dstate'], outs['dstart'])
    back.end(scratch['dA'], outs['dA'])


class Step:
    """One step of the grid: reads, writes and loops over the tiles of a block of tokens."""

    def __init__(self, plan: Plan, ins: dict, backwards: bool) -> None:
        self.plan, self.ins, self.backwards = plan, ins, backwards
        self.order = range(_TILE)[::-1] if backwards else range(_TILE)

    @property
    def count(self) -> jax.Array:
        return pl.program_id(2)

    def begin(self, held: Any, start: Any) -> None:
        """Before the first block: sets the scratch memory `held` to `start`, or to zero if that is None."""

        @pl.when(self.count == 0)
        def _() -> None:
            held[...] = jnp.zeros(held.shape, held.dtype) if start is None else start[0]

    def end(self, held: Any, out: Any) -> None:
        """After the last block: writes the scratch memory `held` to an output."""

        @pl.when(self.count == self.plan.grid[2] - 1)
        def _() -> None:
            out[0] = held[...]

    def walk(self, tile: Callable, carry: Any) -> Any:
        """Loops over the tiles of the block in order; the body is `tile(n, carry) -> carry`."""
        last = self.plan.block // _TILE - 1
        place = (lambda n: last - n) if self.backwards else (lambda n: n)
        return lax.fori_loop(0, last + 1, lambda n, carry: tile(place(n), carry), carry)

    def rows(self, name: str, n: Any) -> list[jax.Array]:
        """The tokens of a tile as (1, channels) in float32; they are 0 after the end of the sequence."""
        x = self.ins[name][0, self._rows(n), :].astype(jnp.float32)
        if self.plan.tokens % self.plan.block:
            walked = self.count
            block = self.plan.grid[2] - 1 - walked if self._grid_is_backwards else walked
            first = block * self.plan.block + n * _TILE
            token = lax.broadcasted_iota(jnp.int32, x.shape, 0) + first
            x = jnp.where(token < self.plan.tokens, x, 0.0)
        return [x[i : i + 1] for i in range(_TILE)]

    @property
    def _grid_is_backwards(self) -> bool:
        """Outputs are computed in the direction of the scan, cotangents in the opposite one."""
        return self.plan.reverse != ('dy' in self.ins)

    def columns(self, name: str, n: Any) -> list[jax.Array]:
        """The tokens of a tile as (states, 1)."""
        x = pallas.roll(self.ins[name][0, 0], lax.rem(_LANES - n * _TILE, _LANES), 1)
        return [x[:, i : i + 1] for i in range(_TILE)]

    def put(self, out: jax.Array, n: Any, i: int, x: jax.Array) -> jax.Array:
        """Returns `out` (states, tokens) with the column of a token set to the sum of `x` over the channels."""
        lane = lax.broadcasted_iota(jnp.int32, out.shape, 1)
        return jnp.where(lane == n * _TILE + i, jnp.sum(x, axis=1, keepdims=True), out)

    def advance(self, state: jax.Array, delta: jax.Array, u: jax.Array, B: jax.Array) -> jax.Array:
        """The state after a token."""
        return jnp.exp(delta * self.ins['A'][0]) * state + delta * u * B

    def write(self, out: Any, n: Any, rows: list[jax.Array]) -> None:
        out[0, self._rows(n), :] = jnp.concatenate(rows).astype(out.dtype)

    def _rows(self, n: Any) -> Any:
        return pl.ds(pl.multiple_of(n * _TILE, _TILE), _TILE)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel over batch, blocks of channels and blocks of tokens; blocks of tokens run in order.

    Under vmap the mapped axis joins the batch, the first axis of every array.
    """
    backwards = plan.reverse != ('dy' in ins)

    def run(batch: int, ins: dict) -> dict:
        wider = plan._replace(batch=batch)
        batched = jax.tree.map(lambda x: x.update(shape=(batch, *x.shape[1:])), outs)
        return pallas.call(
            partial(kernel, wider),
            out_shape=batched,
            grid=wider.grid,
            in_specs=[wider.specs(ins, backwards)],
            out_specs=wider.specs(batched, backwards),
            scratch_shapes=[{name: pallas.vmem(x, jnp.float32) for name, x in scratch.items()}],
            compiler_params=pallas.tpu_params(('parallel', 'parallel', 'arbitrary')),
            cost_estimate=_cost(wider, ins, batched),
            name=f'selective_scan{kernel.__name__.removesuffix("_kernel")}',
        )(jax.tree.map(pallas.in_hbm, ins))

    return pallas.joining_batch(run, plan.batch)(ins)


def _cost(plan: Plan, ins: dict, outs: dict) -> object:
    """The cost of a kernel that reads each block once, and B and C once for each block of channels."""
    arrays = {**ins, **outs}
    again = {name: plan.grid[1] // plan.groups for name in ('B', 'C')}
    moved = sum(x.size * x.dtype.itemsize * again.get(name, 1) for name, x in arrays.items())
    _, blocks, steps = plan.grid
    states = plan.batch * steps * plan.block * plan.channels * plan.states
    gradients = 'dy' in ins
    return pallas.CostEstimate(
        flops=states * (24 if gradients else 6),
        transcendentals=states * (2 if gradients else 1),
        bytes_accessed=moved,
    )
