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

from longview.kernels import dispatch, pallas, scan_tpu

_LANES = scan_tpu.LANES
_TILE = scan_tpu.TILE
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

    def grid(self, backwards: bool) -> scan_tpu.Grid:
        block = min(_LANES, pallas.round_up(self.tokens, _TILE))
        return scan_tpu.Grid(self.batch, self.channels // self.width, self.tokens, block, _TILE, backwards)

    def specs(self, grid: scan_tpu.Grid, arrays: dict) -> dict:
        """The blocks of arrays, by name."""
        shared = grid.groups // self.groups
        states = (1, self.states, self.width)
        tokens = (1, 1, self.states, _LANES)
        weights = pl.BlockSpec(tokens, lambda b, d, t: (b, lax.div(d, shared), 0, grid.at(t)))
        special = dict.fromkeys(('B', 'C'), weights)
        special |= dict.fromkeys(('dB', 'dC'), grid.spec(tokens, 'bg.t'))
        rows = grid.spec((1, grid.block, self.width), 'btg')
        special |= dict.fromkeys(('u', 'delta', 'y', 'dy', 'du', 'ddelta'), rows)
        special['edges'] = grid.spec((1, *states), 'bt.g')
        return {name: special.get(name, grid.spec(states, 'b.g')) for name in arrays}


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
    y, last = _scan(plan, u, steps, decay, _to_columns(plan, B), _to_columns(plan, C), start)
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


def _to_columns(plan: Plan, x: jax.Array) -> jax.Array:
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
    grid = plan.grid(plan.reverse)
    if keep:
        edges = (plan.batch, grid.blocks, plan.states, plan.channels)
        outs['edges'] = pallas.output_float32(ins['A'], *edges)
    return _call(_outputs_kernel, plan, grid, ins, outs, {'state': (plan.states, plan.width)})


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['state'], ins['start'])
    if 'edges' in outs:
        outs['edges'][0, 0] = scratch['state'][...]

    def tile(n: Any, state: jax.Array) -> jax.Array:
        delta, u = _rows(step, ins['delta'], n), _rows(step, ins['u'], n)
        B, C = _columns(ins['B'], n), _columns(ins['C'], n)
        y = [None] * _TILE
        for i in step.order(plan.reverse):
            state = _advance(ins['A'], state, delta[i], u[i], B[i])
            y[i] = jnp.sum(state * C[i], axis=0, keepdims=True)
        step.write(outs['y'], n, jnp.concatenate(y))
        return state

    scratch['state'][...] = step.walk(plan.reverse, tile, scratch['state'][...])
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, inputs: tuple, edges: jax.Array, dy: jax.Array, dlast: jax.Array) -> tuple:
    ins = dict(zip(('u', 'delta', 'A', 'B', 'C'), inputs))
    u, delta, A, B, _ = inputs
    grid = plan.grid(not plan.reverse)
    parts = pallas.output_float32(B, plan.batch, grid.groups, *B.shape[2:])
    outs = {'du': pallas.output(u.shape, u.dtype, u), 'ddelta': pallas.output_float32(delta)}
    outs |= {'dA': pallas.output_float32(A), 'dB': parts, 'dC': parts, 'dstart': pallas.output_float32(A)}
    state = (plan.states, plan.width)
    scratch = {'dstate': state, 'dA': state, 'states': (grid.block, *state)}
    ins |= {'edges': edges, 'dy': dy, 'dlast': dlast}
    found = _call(_cotangents_kernel, plan, grid, ins, outs, scratch)
    for name in ('dB', 'dC'):
        found[name] = found[name].reshape(plan.batch, plan.groups, -1, *B.shape[2:]).sum(2)
    return tuple(found[name] for name in ('du', 'ddelta', 'dA', 'dB', 'dC', 'dstart'))


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    step.begin(scratch['dstate'], ins['dlast'])
    step.begin(scratch['dA'], None)

    def store_states(n: Any, state: jax.Array) -> jax.Array:
        delta, u, B = _rows(step, ins['delta'], n), _rows(step, ins['u'], n), _columns(ins['B'], n)
        for i in step.order(plan.reverse):
            scratch['states'][n * _TILE + i] = state
            state = _advance(ins['A'], state, delta[i], u[i], B[i])
        return state

    step.walk(plan.reverse, store_states, ins['edges'][0, 0])

    def tile(n: Any, carry: tuple) -> tuple:
        dstate, dA, dB, dC = carry
        delta, u, dy = (_rows(step, ins[name], n) for name in ('delta', 'u', 'dy'))
        B, C = _columns(ins['B'], n), _columns(ins['C'], n)
        du, ddelta = [None] * _TILE, [None] * _TILE
        for i in step.order(not plan.reverse):
            x = delta[i] * u[i]
            faded = jnp.exp(delta[i] * ins['A'][0]) * scratch['states'][n * _TILE + i]
            dstate += dy[i] * C[i]
            dC = _put(dC, n, i, (faded + x * B[i]) * dy[i])
            dB = _put(dB, n, i, dstate * x)
            dx = jnp.sum(dstate * B[i], axis=0, keepdims=True)
            dexponent = dstate * faded
            du[i] = dx * delta[i]
            ddelta[i] = dx * u[i] + jnp.sum(dexponent * ins['A'][0], axis=0, keepdims=True)
            dA += dexponent * delta[i]
            dstate *= jnp.exp(delta[i] * ins['A'][0])
        step.write(outs['du'], n, jnp.concatenate(du))
        step.write(outs['ddelta'], n, jnp.concatenate(ddelta))
        return dstate, dA, dB, dC

    blank = jnp.zeros((plan.states, _LANES), jnp.float32)
    begin = (scratch['dstate'][...], scratch['dA'][...], blank, blank)
    dstate, dA, outs['dB'][0, 0], outs['dC'][0, 0] = step.walk(not plan.reverse, tile, begin)
    scratch['dstate'][...], scratch['dA'][...] = dstate, dA
    step.end(scratch['dstate'], outs['dstart'])
    step.end(scratch['dA'], outs['dA'])


def _rows(step: scan_tpu.Step, ref: Any, n: Any) -> list[jax.Array]:
    """The tokens of a tile as (1, channels) in float32; they are 0 after the end of the sequence."""
    x = step.read(ref, n)
    return [x[i : i + 1] for i in range(_TILE)]


def _columns(ref: Any, n: Any) -> list[jax.Array]:
    """The tokens of a tile as (states, 1)."""
    x = pallas.roll(ref[0, 0], lax.rem(_LANES - n * _TILE, _LANES), 1)
    return [x[:, i : i + 1] for i in range(_TILE)]


def _put(out: jax.Array, n: Any, i: int, x: jax.Array) -> jax.Array:
    """Returns `out` (states, tokens) with the column of a token set to the sum of `x` over the channels."""
    lane = lax.broadcasted_iota(jnp.int32, out.shape, 1)
    return jnp.where(lane == n * _TILE + i, jnp.sum(x, axis=1, keepdims=True), out)


def _advance(A: Any, state: jax.Array, delta: jax.Array, u: jax.Array, B: jax.Array) -> jax.Array:
    """The state after a token."""
    return jnp.exp(delta * A[0]) * state + delta * u * B


def _call(kernel: Callable, plan: Plan, grid: scan_tpu.Grid, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel; it reads B and C once for each block of channels."""
    states = grid.blocks * grid.block * plan.channels * plan.states
    passes, exponentials = (24, 2) if 'dy' in ins else (6, 1)
    again = (grid.groups // plan.groups - 1) * sum(ins[name].nbytes for name in ('B', 'C')) // plan.batch
    return scan_tpu.call(
        partial(kernel, plan),
        grid,
        partial(plan.specs, grid),
        ins,
        outs,
        scratch,
        scan_tpu.Work(states * passes, states * exponentials, again),
        f'selective_scan{kernel.__name__.removesuffix("_kernel")}',
    )
