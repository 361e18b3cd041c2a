"""All layers of a residual block in one op: the public function, its checks and its implementations.

Lavin, 2024, "On the Efficiency of Convolutional Neural Networks", https://arxiv.org/abs/2404.03617; the block is
ConvFirst of the author's benchmarks (https://github.com/andravin/spio, Apache-2.0, commit 6f95a0e,
scripts/profile_block.py). No code was taken; the paper's kernels are for GPUs, and those of whole blocks are not
public.

B batch, H W image, C channels in groups of D, E expanded channels, zeros outside of the image:

    u = conv(x; kernel) + kernel_bias      h = silu(u up + up_bias)      y = x + h down + down_bias

Only the convolution looks at other pixels, and it comes first. So a block of rows of `x` with the rows that the taps
reach is all that a block of rows of `y` depends on, and neither u nor h, which has E / C times the numbers of a map,
need be stored. Batch normalization is folded into kernels and biases by the caller, which is why this is for
evaluation.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import dispatch
from longview.kernels.fused_block import pallas_tpu, reference, xla
from longview.kernels.fused_block.arrays import Block

_IMAGES = (dispatch.BATCH, None, None, None)


@partial(jax.jit, static_argnames=('implementation',))
def fused_block(
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j d c'],
    kernel_bias: Float[Array, ' c'],
    up: Float[Array, 'c e'],
    up_bias: Float[Array, ' e'],
    down: Float[Array, 'e c'],
    down_bias: Float[Array, ' c'],
    *,
    implementation: str | None = None,
) -> Float[Array, 'b h w c']:
    """Returns ``x + down(silu(up(conv(x))))``, with biases and the stride 1.

    Args:
      x: images.
      kernel: of odd sides; the number of groups is the channels of `x` over its inputs.
      kernel_bias: bias of the convolution.
      up, up_bias: the matrix to the expanded channels.
      down, down_bias: the matrix back.
      implementation: 'xla', 'reference', 'pallas_tpu', or None for the default of the platform.

    Returns:
      Images like `x`, and in its dtype. Products have operands of the widest type of `x`, kernel and matrices; sums are
      float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    block = Block(kernel, kernel_bias, up, up_bias, down, down_bias)
    dispatch.check_floats(x=x, **block._asdict())
    _check(x, block)
    wide = jnp.result_type(x, kernel, up, down)
    forms = {
        'xla': dispatch.Form(xla.run),
        'reference': dispatch.Form(reference.run),
        'pallas_tpu': dispatch.Form(pallas_tpu.run, 'tpu', pallas_tpu.missing),
    }
    whole = tuple((None,) * array.ndim for array in block)
    split = dispatch.Split((_IMAGES, *whole), _IMAGES)
    y = dispatch.run('fused_block', implementation, forms, x.astype(wide), *block.rounded(wide), split=split)
    return y.astype(x.dtype)


def _check(x: jax.Array, block: Block) -> None:
    if x.ndim != 4 or not all(x.shape[1:]):
        raise ValueError(f'x has shape {x.shape}; wanted (batch, height, width, channels), none 0.')
    kernel, channels = block.kernel, x.shape[3]
    if kernel.ndim != 4 or not kernel.size or kernel.shape[3] != channels or channels % kernel.shape[2]:
        raise ValueError(
            f'kernel has shape {kernel.shape}; wanted (height, width, inputs, {channels}), none 0, with inputs that '
            f'divide the {channels} channels of the images.'
        )
    if not kernel.shape[0] % 2 or not kernel.shape[1] % 2:
        raise ValueError(f'kernel is {kernel.shape[0]} x {kernel.shape[1]}; wanted odd sides.')
    expanded = block.up.shape[-1]
    wanted = {
        'kernel_bias': (channels,),
        'up': (channels, expanded),
        'up_bias': (expanded,),
        'down': (expanded, channels),
        'down_bias': (channels,),
    }
    for name, shape in wanted.items():
        if getattr(block, name).shape != shape:
            raise ValueError(f'{name} has shape {getattr(block, name).shape}; wanted {shape}.')
