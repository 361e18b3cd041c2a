"""The long convolution as Pallas kernels for TPUs that fuse transform, product and inverse transform.

The order-2 decomposition of Fu et al., FlashFFTConv, 2023, https://arxiv.org/abs/2311.05908, Algorithm 1. For longer
sequences there are further levels around it (see `transforms.Monarch`), each a kernel of its own. No code was taken
from others.

Gates and skip are applied while a block is in VMEM. Gradients are convolutions too, with conjugated spectra; one kernel
computes all of them.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from longview.kernels import dispatch, gates, vmem
from longview.kernels.long_conv.pallas_tpu_call import Call
from longview.kernels.long_conv.pallas_tpu_level import LANES, ROWS, run_into, run_out, stored
from longview.kernels.long_conv.transforms import LEAST, SIDE, Level, Monarch, monarch_sides, period_for, wrapped

_SPARE = vmem.MIB  # of VMEM, for what the compiler keeps there


def convolve(
    u: jax.Array,
    taps: jax.Array,
    pre: jax.Array | None = None,
    post: jax.Array | None = None,
    skip: jax.Array | None = None,
    *,
    before: int,
    keep: float = 1.0,
) -> jax.Array:
    """`kernels.long_conv.long_conv` with joined taps; see `reference.convolve`."""
    batch, tokens, channels = u.shape
    size = period_for(tokens, taps.shape[-2], before)
    narrow = u.dtype == taps.dtype == jnp.bfloat16
    ahead = before if before < tokens - 1 and keep == 1 else None
    plan = Plan(size, jnp.bfloat16 if narrow else jnp.float32, keep, ahead, vmem.limit() - _SPARE)
    taps = wrapped(taps, before, size)
    # Several sequences are concatenated along the channels to fill the lanes.
    fits = lambda n: batch % n == 0 and n * channels <= max(LANES, channels)
    beside = max(filter(fits, range(1, batch + 1)))
    full = -(-beside * channels // LANES) * LANES
    shared = partial(_lanes, beside=1, full=full)
    if taps.ndim == 3:
        taps = _lanes(taps, beside, full)
    else:
        taps = shared(jnp.tile(taps, (1, beside))[None])
    skip = None if skip is None else shared(jnp.tile(skip, beside)[None, None])
    u, pre, post = (None if x is None else _lanes(x, beside, full) for x in (u, pre, post))
    factors = (pre, post, skip)
    if any(x is not None for x in factors) and not plan.is_one_kernel(u, taps, *factors):
        skip = None if skip is None else skip[0, 0]
        y = gates.gated(partial(_convolve, plan))(u, taps, pre, post, skip)
    else:
        y = _convolve(plan, u, taps, *factors)
    y = y[..., : beside * channels].reshape(batch // beside, tokens, beside, channels)
    return jnp.swapaxes(y, 1, 2).reshape(batch, tokens, channels)


def missing(u: jax.Array, taps: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    return dispatch.lacking((u, taps, others), ('float32', 'bfloat16'))


class Plan(NamedTuple):
    """Static arguments.

    size: of the transform; dtype: type of the operands of products; keep: share of the frequencies that is kept; ahead:
      how many later tokens a token sees, further than which no NaN reaches, or None if it sees all of them; memory:
      bytes of VMEM that a kernel may take.
    """

    size: int
    dtype: DTypeLike
    keep: float
    ahead: int | None
    memory: int

    def is_one_kernel(self, u: jax.Array, taps: jax.Array, *factors: jax.Array | None) -> bool:
        """Whether outputs, and gradients, are computed by a kernel alone, without levels around it."""
        ins = _named(u, taps, *factors)
        kinds = _cotangents(ins)
        return not self.outputs(ins).levels and not self.gradients(ins | {'dy': u}, kinds).levels

    def outputs(self, ins: dict) -> 'Transform':
        return self._fitting(ins, {'y': ins['x'].dtype})

    def gradients(self, ins: dict, outs: dict[str, DTypeLike]) -> 'Transform':
        return self._fitting(ins, outs)

    def _monarchs(self) -> Iterator[Monarch]:
        """Yields the transforms whose last two levels may fit into VMEM, from the largest one on."""
        within = min(self.size, SIDE**2)
        while within >= LEAST:
            outer = self.size // within
            if outer == 1 or outer >= ROWS:  # a level of fewer rows would be padded in HBM
                sides = monarch_sides(outer) if outer > 1 else ()
                yield Monarch((*sides, *monarch_sides(within, 2)), self.dtype).keeping(self.keep)
            within //= 2

    def _fitting(self, ins: dict, outs: dict[str, DTypeLike]) -> 'Transform':
        for monarch in self._monarchs():
            levels = monarch.levels[:-2]
            if levels:
                count = self.size // levels[-1].rest
                lines, kind = stored(levels[-1].rest, self.dtype)
                inner = lambda x: jax.ShapeDtypeStruct((len(x) * count, lines, x.shape[-1]), kind)
                call = Call.of(monarch, None, {name: inner(x) for name, x in ins.items()}, outs, True)
            else:
                call = Call.of(monarch, self.ahead, ins, outs, False)
            if call.memory() <= self.memory:
                break
        return Transform(levels, call, self.dtype, self.memory)


class Transform(NamedTuple):
    """A kernel, and the levels around it."""

    levels: tuple[Level, ...]
    call: Call
    dtype: DTypeLike
    memory: int

    def run(self, ins: dict[str, jax.Array], like: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Runs all kernels; `like` has the lengths and dtypes of the outputs."""
        found = self.call.run({name: self._into(x) for name, x in ins.items()}, self.memory)
        return {name: self._out(x, like[name]) for name, x in found.items()}

    def _into(self, x: jax.Array) -> jax.Array:
        for place, level in enumerate(self.levels):
            x = run_into(level, x, self.dtype, whole=place > 0)
        return x

    def _out(self, x: jax.Array, like: jax.Array) -> jax.Array:
        for level in self.levels[:0:-1]:
            x = run_out(level, x, level.side * level.rest, self.dtype, None)
        if self.levels:
            return run_out(self.levels[0], x, like.shape[1], self.dtype, like.dtype)
        return x[:, : like.shape[1]]


def _named(u: jax.Array, taps: jax.Array, *factors: jax.Array | None) -> dict[str, jax.Array]:
    arrays = zip(('x', 'taps', 'pre', 'post', 'skip'), (u, taps, *factors))
    return {name: x for name, x in arrays if x is not None}


def _cotangents(ins: dict) -> dict[str, DTypeLike]:
    """The dtypes of the cotangents by name; that of a skip is summed over kernels later."""
    return {f'd{name}': jnp.float32 if name == 'skip' else x.dtype for name, x in ins.items()}


def _lanes(x: jax.Array, beside: int, full: int) -> jax.Array:
    """Returns (B / beside, T, full) for x (B, T, D): `beside` sequences concatenated along the channels, and zeros."""
    batch, tokens, channels = x.shape
    x = jnp.swapaxes(x.reshape(batch // beside, beside, tokens, channels), 1, 2)
    x = x.reshape(batch // beside, tokens, beside * channels)
    return jnp.pad(x, ((0, 0), (0, 0), (0, full - beside * channels)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(plan: Plan, u: jax.Array, taps: jax.Array, *factors: jax.Array | None) -> jax.Array:
    ins = _named(u, taps, *factors)
    return plan.outputs(ins).run(ins, {'y': u})['y']


def _convolve_forward(plan: Plan, *inputs: jax.Array | None) -> tuple[jax.Array, tuple]:
    return _convolve(plan, *inputs), inputs


def _convolve_backward(plan: Plan, inputs: tuple, dy: jax.Array) -> tuple:
    ins = _named(*inputs)
    found = plan.gradients(ins | {'dy': dy}, _cotangents(ins)).run(ins | {'dy': dy}, _like(ins))
    if 'dskip' in found:
        found['dskip'] = jnp.sum(found['dskip'], axis=0, keepdims=True)
    names = ('x', 'taps', 'pre', 'post', 'skip')[: len(inputs)]
    return tuple(None if x is None else found[f'd{name}'].astype(x.dtype) for name, x in zip(names, inputs))


def _like(ins: dict) -> dict:
    return {f'd{name}': x for name, x in ins.items()}


_convolve.defvjp(_convolve_forward, _convolve_backward)
