"""The linear scan as Pallas kernels for GPUs (the Triton backend), forward and backward.

No code was taken from others. Each program scans a block of channels of one sequence with the state in registers, and
reads and writes each array once. The backward pass recomputes the states of all tokens, an array as large as the
inputs, and scans in the opposite direction.

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
from longview.kernels.linear_scan.arrays import Constant, State, Tokens

_WIDEST = 128  # channels of a program


class Plan(NamedTuple):
    """Static arguments; `width`: channels of a program, `constant`: whether the decays are the same for all tokens."""

    tokens: int
    width: int
    constant: bool
    reverse: bool
    interpret: bool

    def walk(self, body: Callable, carry: Any, backwards: bool = False) -> Any:
        """Loops over the tokens; the body is `body(token, is_first, carry) -> carry`."""
        last = self.tokens - 1
        place = (lambda n: last - n) if self.reverse != backwards else (lambda n: n)
        first = last if self.reverse else 0
        step = lambda n, carry: body(place(n), place(n) == first, carry)
        return lax.fori_loop(0, self.tokens, step, carry)

    def spec(self, x: Any) -> pl.BlockSpec:
        """The block of an array with all tokens of a block of channels."""
        return pl.BlockSpec((None, x.shape[1], self.width), lambda b, d: (b, 0, d))


def linear_scan(
    a: Tokens | Constant, x: Tokens, initial_state: State | None = None, *, reverse: bool, interpret: bool = False
) -> tuple[Tokens, State]:
    """See `kernels.linear_scan.linear_scan`. `interpret` runs the kernels as XLA programs, on any platform."""
    batch, tokens, channels = x.shape
    width = min(_WIDEST, 1 << (channels - 1).bit_length())
    plan = Plan(tokens, width, a.ndim == 1, reverse, interpret)
    start = jnp.zeros_like(x, jnp.float32, (batch, channels))
    start = start if initial_state is None else initial_state.astype(jnp.float32)
    if plan.constant:
        a = jnp.broadcast_to(a[None, None].astype(jnp.float32), (batch, 1, channels))
    fill = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, -channels % width)))
    h, last = _scan(plan, fill(a), fill(x), fill(start[:, None]))
    return h[:, :, :channels], last[:, 0, :channels]


def missing(a: jax.Array, x: jax.Array, initial_state: jax.Array | None = None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    return dispatch.lacking((a, x, initial_state), ('float32', 'bfloat16'))


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple]:
    """The states after each token and the last one, given decays (B, T or 1, D), inputs and a state (B, 1, D)."""
    found = _states(plan, inputs, inputs[1].dtype)
    return (found['h'], found['last']), inputs


def _states(plan: Plan, inputs: tuple, dtype: Any) -> dict:
    ins = dict(zip(('a', 'x', 'start'), inputs))
    outs = {'h': pallas.output(ins['x'].shape, dtype, ins['x']), 'last': pallas.output_like(ins['start'])}
    return _call(_states_kernel, plan, ins, outs)


def _states_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    def token(t: Any, _: Any, state: jax.Array) -> jax.Array:
        state = _decay(plan, ins, t) * state + ins['x'][t, :].astype(jnp.float32)
        outs['h'][t, :] = state.astype(outs['h'].dtype)
        return state

    outs['last'][0, :] = plan.walk(token, ins['start'][0, :])


def _cotangents(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    (a, x, start), (dh, dlast) = inputs, cotangents
    ins = {'a': a, 'h': _states(plan, inputs, jnp.float32)['h'], 'start': start}
    ins |= {'dh': dh, 'dlast': dlast}
    outs = {'a': pallas.output_like(a), 'x': pallas.output_like(x), 'start': pallas.output_like(start)}
    found = _call(_cotangents_kernel, plan, ins, outs)
    return tuple(found[name] for name in ('a', 'x', 'start'))


_scan = derivatives.with_rule(_outputs, _cotangents)


def _cotangents_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    earlier = 1 if plan.reverse else -1

    def token(t: Any, first: Any, carry: tuple) -> tuple:
        dstate, total = carry
        dx = dstate + ins['dh'][t, :].astype(jnp.float32)
        before = ins['h'][jnp.clip(t + earlier, 0, plan.tokens - 1), :]
        da = dx * jnp.where(first, ins['start'][0, :], before)
        outs['x'][t, :] = dx.astype(outs['x'].dtype)
        if not plan.constant:
            outs['a'][t, :] = da.astype(outs['a'].dtype)
        return _decay(plan, ins, t) * dx, total + da

    dstate = ins['dlast'][0, :]
    dstate, total = plan.walk(token, (dstate, jnp.zeros_like(dstate)), backwards=True)
    outs['start'][0, :] = dstate
    if plan.constant:
        outs['a'][0, :] = total


def _decay(plan: Plan, ins: dict, t: Any) -> jax.Array:
    return ins['a'][0 if plan.constant else t, :].astype(jnp.float32)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict) -> dict:
    """Runs a kernel with one program per block of channels of a sequence."""
    batch, _, channels = ins['start'].shape
    arrays = jax.tree.leaves((ins, outs))
    return pallas.call(
        partial(kernel, plan),
        out_shape=outs,
        grid=(batch, channels // plan.width),
        in_specs=[jax.tree.map(plan.spec, ins)],
        out_specs=jax.tree.map(plan.spec, outs),
        interpret=plan.interpret,
        compiler_params=pallas.gpu_params(max(1, plan.width // 32)),
        cost_estimate=pallas.CostEstimate(
            flops=batch * plan.tokens * channels * (4 if 'dh' in ins else 2),
            transcendentals=0,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        name=f'linear_scan{kernel.__name__.removesuffix("_kernel")}',
    )(ins)
