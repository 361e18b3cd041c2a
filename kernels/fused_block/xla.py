"""A block layer by layer in plain XLA, a few images at a time on a CPU; gradients compute it again.

XLA fuses neither two products nor a convolution with one, so u and h are stored. On a CPU they are those of a few
images at a time, and stay in the cache. On other platforms, where a loop over the batch would leave the chip empty,
they are those of the batch. Gradients keep the inputs alone.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import scans
from longview.kernels.fused_block.arrays import Block, wide

_HIDDEN = 2**20  # numbers of h at a time on a CPU


def run(x: Float[Array, 'b h w c'], *weights: jax.Array) -> Float[Array, 'b h w c']:
    """See `reference.run`."""
    hidden = x.shape[1] * x.shape[2] * weights[2].shape[1]

    def whole(x: jax.Array) -> jax.Array:
        return _layers(x, Block(*weights))

    def on_cpu(x: jax.Array) -> jax.Array:
        return jax.checkpoint(_layers)(x, Block(*weights).rounded(x.dtype))

    return scans.where_it_runs(jax.checkpoint(whole), on_cpu, scans.few(x, _HIDDEN // hidden), (x,))


def _layers(x: jax.Array, block: Block) -> jax.Array:
    sums, bias = wide(x), lambda vector: vector.astype(wide(x))[None, None, None]
    layout = ('NHWC', 'HWIO', 'NHWC')
    groups = x.shape[3] // block.kernel.shape[2]
    u = lax.conv_general_dilated(
        x, block.kernel, (1, 1), block.reach, dimension_numbers=layout, feature_group_count=groups
    )
    u = u + bias(block.kernel_bias)
    h = jnp.matmul(u.astype(x.dtype), block.up, preferred_element_type=sums) + bias(block.up_bias)
    y = jnp.matmul(jax.nn.silu(h).astype(x.dtype), block.down, preferred_element_type=sums) + bias(block.down_bias)
    return (x + y).astype(x.dtype)
