"""Convolution tap by tap: the definition against which the fast forms are tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels.conv2d.plan import Plan


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j d n']) -> Float[Array, 'b p q n']:
    """`y[p, q, n] = sum_ijd kernel[i, j, d, n] x[s p + i - before, s q + j - before, ..]`."""
    wide, sizes = jnp.result_type(float), plan.sizes(x, kernel)
    groups = plan.groups(x, kernel)
    padded = jnp.pad(x.astype(wide), ((0, 0), *plan.padding, (0, 0)))
    parts = kernel.astype(wide).reshape(*kernel.shape[:3], groups, -1)

    def tap(i: int, j: int) -> jax.Array:
        pixels = jax.vmap(lambda image: plan.read(image, (i, j), sizes))(padded)
        pixels = pixels.reshape(*pixels.shape[:3], groups, -1)
        return jnp.einsum('bpqgd,dgn->bpqgn', pixels, parts[i, j], precision='highest')

    y = sum(tap(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
    return y.reshape(*y.shape[:3], -1).astype(x.dtype)
