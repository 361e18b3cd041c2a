"""A block layer by layer and tap by tap: the definition against which the fast forms are tested.

In float32, or in float64 with `jax_enable_x64`. Gradients are JAX's own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels.fused_block.arrays import Block


def run(x: Float[Array, 'b h w c'], *weights: jax.Array) -> Float[Array, 'b h w c']:
    """``y = x + down(silu(up(conv(x))))``."""
    wide = jnp.result_type(float)
    block = Block(*(array.astype(wide) for array in weights))
    rows, columns, depth, channels = block.kernel.shape
    padded = jnp.pad(x.astype(wide), ((0, 0), *block.reach, (0, 0)))
    taps = block.kernel.reshape(rows, columns, depth, channels // depth, depth)
    u = block.kernel_bias[None, None, None]
    for i in range(rows):
        for j in range(columns):
            seen = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            seen = seen.reshape(*seen.shape[:3], channels // depth, depth)
            product = jnp.einsum('bhwgd,dgn->bhwgn', seen, taps[i, j], precision='highest')
            u = u + product.reshape(x.shape)
    h = jax.nn.silu(jnp.matmul(u, block.up, precision='highest') + block.up_bias[None, None, None])
    y = x + jnp.matmul(h, block.down, precision='highest') + block.down_bias[None, None, None]
    return y.astype(x.dtype)
