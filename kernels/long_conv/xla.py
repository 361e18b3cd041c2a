"""Long convolution in the frequency domain, in plain XLA, for any length and with gradients.

Only the inputs are kept for the gradients; spectra are recomputed.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import derivatives, gates
from longview.kernels.long_conv import fft
from longview.kernels.long_conv.transforms import (
    Monarch,
    conjugate,
    fft_size,
    monarch_sides,
    period_for,
    size_for,
    times,
    wrapped,
)


class Plan(NamedTuple):
    """Static arguments.

    size: least size of the transform; keep: share of its frequencies that is kept; way: 'fft' or 'monarch', or None to
      choose by platform; order: order of the Monarch transform, or None to choose by size.
    """

    size: int
    keep: float
    way: str | None
    order: int | None


def convolve(
    x: Float[Array, 'b t d'],
    taps: Float[Array, 'k d'] | Float[Array, 'b k d'],
    before: int,
    keep: float = 1.0,
    way: str | None = None,
    order: int | None = None,
) -> Float[Array, 'b t d']:
    """See `reference.convolve`; in float32, or in float64 if an input is float64."""
    size = size_for(x.shape[1], taps.shape[-2], before)
    if before or keep < 1:
        # Taps wrap around the period, and shares of its frequencies are kept, so it has to be the same in all forms.
        size = period_for(x.shape[1], taps.shape[-2], before)
    plan = Plan(size, keep, way, order)
    product = partial(_where_it_runs, plan, fft.convolve, _forward)
    run = derivatives.own_product('long_conv', product, partial(_cotangents, plan))
    taps = wrapped(taps, before, size)
    if before >= x.shape[1] - 1 or keep < 1:
        return run(x, taps)  # every token sees every other one
    known, lost = gates.finite(x, before)
    return jnp.where(lost, jnp.nan, run(jnp.where(known, x, 0), taps))


def _cotangents(plan: Plan, x: jax.Array, taps: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    dx, dtaps = _where_it_runs(plan, fft.cotangents, _backward, x, taps, dy)
    return dx.astype(x.dtype), dtaps.astype(taps.dtype)


def _where_it_runs(plan: Plan, by_fft, by_matrices, *arrays: jax.Array):
    narrow = all(x.dtype == jnp.bfloat16 for x in arrays[:2])
    arrays = tuple(x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in arrays)
    wide = jnp.result_type(*arrays)
    size = fft_size(plan.size)
    keep = None if plan.keep == 1 else int(size * plan.keep)
    groups, whole = (partial(by_fft, fft.FFT(size, keep, grouped)) for grouped in (True, False))
    matrices = whole
    if wide == jnp.float32:
        operands = jnp.bfloat16 if narrow else jnp.float32
        monarch = Monarch(monarch_sides(plan.size, plan.order), operands).keeping(plan.keep)
        matrices = partial(by_matrices, monarch)
    if plan.way == 'monarch':
        return matrices(*arrays)
    if plan.way == 'fft':
        return lax.platform_dependent(*arrays, cpu=groups, default=whole)
    return lax.platform_dependent(*arrays, tpu=matrices, cpu=groups, default=whole)


def _forward(monarch: Monarch, x: jax.Array, taps: jax.Array) -> jax.Array:
    taps = taps if taps.ndim == 3 else taps[None]
    return monarch.backward(times(monarch.forward(x), monarch.forward(taps)), x.shape[1])


def _backward(monarch: Monarch, x: jax.Array, taps: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = monarch.forward(dy)
    kernel = monarch.forward(taps if taps.ndim == 3 else taps[None])
    dx = monarch.backward(times(found, conjugate(kernel)), x.shape[1])
    with_x = times(found, conjugate(monarch.forward(x)))
    if taps.ndim == 2:
        return dx, monarch.backward(jnp.sum(with_x, axis=1, keepdims=True), taps.shape[0])[0]
    return dx, monarch.backward(with_x, taps.shape[1])
