"""Depthwise convolution tap by tap: the definition against which the fast forms are tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv.plan import Plan


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j 1 c']) -> Float[Array, 'b p q c']:
    """`y[p, q] = sum_ij kernel[i, j] x[s p + d i - before, s q + d j - before]`, zero outside."""
    wide = jnp.result_type(float)
    (height, width), channels = plan.sizes(x, kernel), x.shape[3]
    padded = jnp.pad(x.astype(wide), ((0, 0), *plan.padding, (0, 0)))
    reach = [(n - 1) * step + 1 for n, step in zip((height, width), plan.stride)]

    def add(total: jax.Array, tap: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        row, column, weight = tap
        start = (0, row * plan.dilation[0], column * plan.dilation[1], 0)
        window = lax.dynamic_slice(padded, start, (x.shape[0], *reach, channels))
        return total + weight * window[:, :: plan.stride[0], :: plan.stride[1]], None

    rows, columns = kernel.shape[:2]
    places = jnp.repeat(jnp.arange(rows), columns), jnp.tile(jnp.arange(columns), rows)
    weights = kernel.astype(wide).reshape(-1, 1, 1, 1, channels)
    zero = jnp.zeros_like(x, wide, (x.shape[0], height, width, channels))
    return lax.scan(add, zero, (*places, weights))[0].astype(x.dtype)
