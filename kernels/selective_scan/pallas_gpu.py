"""The selective scan as Pallas kernels for GPUs (the Triton backend), forward and backward.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752 (section 3.3). No code was taken from others.

Each program scans a block of channels of one sequence with the states in registers. For gradients the states that enter
each chunk of 16 tokens are stored; the backward kernel recomputes the states of a chunk in registers and scans in the
opposite direction. Step sizes, skip and gate (softplus, `D`, `z`) are left to XLA.

It has not been measured on a GPU: it lowers for CUDA, and its numbers were checked in the interpreter. So it runs only
when it is named.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import derivatives, dispatch, pallas
from longview.kernels.selective_scan.arrays import Inputs, State, Tokens

_CHUNK = 16
_WIDEST = 32  # most channels of a program
_STATES = 64  # most states of a channel: those of a chunk must fit into registers

_TOKENS = ('u', 'delta', 'y', 'dy', 'du', 'ddelta')


class Plan(NamedTuple):
    """Static arguments; `shared` is the number of programs that share rows of B and C."""

    tokens: int
    width: int
    shared: int
    reverse: bool
    interpret: bool

    def token(self, step: Any) -> Any:
        """The index of the token that a step of the scan reads."""
        return self.tokens - 1 - step if self.reverse else step

    def spec(self, name: str, x: Any) -> pl.BlockSpec:
        """The block of an array, by its name, for a program."""
        if name in _TOKENS:
            return pl.BlockSpec((None, x.shape[1], self.width), lambda b, d: (b, 0, d))
        if name in ('B', 'C'):
            sizes = (None, None, *x.shape[2:])
            return pl.BlockSpec(sizes, lambda b, d: (b, d // self.shared, 0, 0))
        if name in ('dB', 'dC'):
            return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, d: (b, d, 0, 0))
        sizes = (None, *x.shape[1:-2], self.width, x.shape[-1])
        zeros = (0,) * (x.ndim - 3)
        return pl.BlockSpec(sizes, lambda b, d: (b, *zeros, d, 0))


def selective_scan(*arrays: Any, softplus: bool, reverse: bool, interpret: bool = False) -> tuple[Tokens, State]:
    """See `kernels.selective_scan.selective_scan`; its arrays are those of `Inputs`.

    `interpret` runs the kernels as XLA programs, on any platform.
    """
    u, delta, A, B, C, D, z, delta_bias, initial_state = Inputs(*arrays)
    (batch, tokens, channels), states = u.shape, A.shape[1]
    wide = lambda x: None if x is None else x.astype(jnp.float32)
    steps = wide(delta) if delta_bias is None else wide(delta) + wide(delta_bias)[None, None]
    steps = jax.nn.softplus(steps) if softplus else steps
    start = jnp.zeros_like(u, jnp.float32, (batch, channels, states))
    start = start if initial_state is None else wide(initial_state)
    decay = jnp.broadcast_to(wide(A)[None], start.shape)
    groups = 1 if B.ndim == 3 else B.shape[2]
    width = _width(channels // groups)
    # Tokens are padded with step sizes of 0 and states with weights of 0, which change nothing.
    more, deep = -tokens % _CHUNK, (1 << (states - 1).bit_length()) - states
    fill = lambda x, *pads: jnp.pad(x, [(0, 0), *((0, n) for n in pads)])

    def rows(x: jax.Array) -> jax.Array:
        x = wide(x).reshape(batch, tokens, groups, states).swapaxes(1, 2)
        return fill(x, 0, more, deep)

    plan = Plan(tokens + more, width, channels // groups // width, reverse, interpret)
    u_steps = (fill(x, more, 0) for x in (u, steps))
    decay, start = (fill(x, 0, deep) for x in (decay, start))
    y, last = _scan(plan, *u_steps, decay, rows(B), rows(C), start)
    y = y[:, :tokens]
    y = y if D is None else y + wide(D)[None, None] * wide(u)
    y = y if z is None else y * jax.nn.silu(wide(z))
    return y.astype(u.dtype), last[:, :, :states]


def missing(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((u, delta, A, B, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    if A.shape[1] > _STATES:
        return f'{A.shape[1]} states a channel; wanted at most {_STATES}'
    return None


def _width(channels: int) -> int:
    """The number of channels of a program: the largest power of two that divides the channels of a group."""
    return min(_WIDEST, channels & -channels)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple | None]:
    """The outputs and the last state, given u, delta, A (B, D, N), B and C (B, G, T, N) and a state, all padded."""
    ins = dict(zip(('u', 'delta', 'A', 'B', 'C', 'start'), inputs))
    outs = {'y': pallas.output_float32(ins['u']), 'last': pallas.output_float32(ins['A'])}
    if keep:
        batch, *state = ins['A'].shape
        outs['edges'] = pallas.output_float32(ins['A'], batch, plan.tokens // _CHUNK, *state)
    found = _call(_outputs_kernel, plan, ins, outs)
    return (found['y'], found['last']), (*inputs[:5], found['edges']) if keep else None


def _outputs_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    A = ins['A'][...]

    def chunk(n: Any, state: jax.Array) -> jax.Array:
        if 'edges' in outs:
            outs['edges'][n] = state
        return lax.fori_loop(n * _CHUNK, (n + 1) * _CHUNK, token, state)

    def token(step: Any, state: jax.Array) -> jax.Array:
        t = plan.token(step)
        delta, u, B, C = (_row(ins[name], t) for name in ('delta', 'u', 'B', 'C'))
        state = _decay(delta, A) * state + _outer(delta * u, B)
        outs['y'][t, :] = jnp.sum(state * C[None], axis=1)
        return state

    outs['last'][...] = lax.fori_loop(0, plan.tokens // _CHUNK, chunk, ins['start'][...])


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    (u, delta, A, B, C, edges), (dy, dlast) = kept, cotangents
    batch, groups, *rows = B.shape
    ins = {'u': u, 'delta': delta, 'A': A, 'B': B, 'C': C, 'edges': edges, 'dy': dy, 'dlast': dlast}
    parts = pallas.output_float32(B, batch, groups * plan.shared, *rows)
    outs = {'du': pallas.output(u.shape, u.dtype, u), 'ddelta': pallas.output_float32(delta)}
    outs |= {'dA': pallas.output_float32(A), 'dB': parts, 'dC': parts, 'dstart': pallas.output_float32(A)}
    found = _call(_cotangents_kernel, plan, ins, outs)
    for name in ('dB', 'dC'):
        found[name] = found[name].reshape(batch, groups, -1, *rows).sum(2)
    return tuple(found[name] for name in ('du', 'ddelta', 'dA', 'dB', 'dC', 'dstart'))


_scan = derivatives.with_rule(_outputs, _cotangents)


def _cotangents_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    A, chunks = ins['A'][...], plan.tokens // _CHUNK

    def chunk(n: Any, carry: tuple) -> tuple:
        n = chunks - 1 - n
        places = [plan.token(n * _CHUNK + i) for i in range(_CHUNK)]
        state, before = ins['edges'][n], []
        for t in places:
            before.append(state)
            delta, u, B = (_row(ins[name], t) for name in ('delta', 'u', 'B'))
            state = _decay(delta, A) * state + _outer(delta * u, B)
        for t, state in zip(places[::-1], before[::-1]):
            carry = token(t, state, carry)
        return carry

    def token(t: Any, state: jax.Array, carry: tuple) -> tuple:
        dstate, dA = carry
        delta, u, B, C, dy = (_row(ins[name], t) for name in ('delta', 'u', 'B', 'C', 'dy'))
        decay, x = _decay(delta, A), delta * u
        faded = decay * state
        dstate += _outer(dy, C)
        outs['dC'][t, :] = jnp.sum((faded + _outer(x, B)) * dy[:, None], axis=0)
        outs['dB'][t, :] = jnp.sum(dstate * x[:, None], axis=0)
        dx = jnp.sum(dstate * B[None], axis=1)
        dexponent = dstate * faded
        outs['du'][t, :] = (dx * delta).astype(outs['du'].dtype)
        outs['ddelta'][t, :] = dx * u + jnp.sum(dexponent * A, axis=1)
        return dstate * decay, dA + dexponent * delta[:, None]

    begin = (ins['dlast'][...], jnp.zeros_like(A))
    outs['dstart'][...], outs['dA'][...] = lax.fori_loop(0, chunks, chunk, begin)


def _row(ref: Any, t: Any) -> jax.Array:
    return ref[t, :].astype(jnp.float32)


def _outer(row: jax.Array, column: jax.Array) -> jax.Array:
    return row[:, None] * column[None]


def _decay(delta: jax.Array, A: jax.Array) -> jax.Array:
    return jnp.exp(delta[:, None] * A)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict) -> dict:
    """Runs a kernel with one program per block of channels of a sequence."""
    batch, channels, states = ins['A'].shape
    specs = lambda arrays: {name: plan.spec(name, x) for name, x in arrays.items()}
    arrays = jax.tree.leaves((ins, outs))
    numbers, gradients = batch * plan.tokens * channels * states, 'dy' in ins
    return pallas.call(
        partial(kernel, plan),
        out_shape=outs,
        grid=(batch, channels // plan.width),
        in_specs=[specs(ins)],
        out_specs=specs(outs),
        interpret=plan.interpret,
        compiler_params=pallas.gpu_params(max(1, min(4, plan.width * states // 128))),
        cost_estimate=pallas.CostEstimate(
            flops=numbers * (24 if gradients else 6),
            transcendentals=numbers * (2 if gradients else 1),
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        name=f'selective_scan{kernel.__name__.removesuffix("_kernel")}',
    )(ins)
