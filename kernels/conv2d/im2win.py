"""Convolution on windows of the rows of an image (im2win), in plain XLA.

Lu, Chu and Liu, 2022, "Im2win: Memory Efficient Convolution On SIMD Architectures", and Lu, Chu, Guo and Liu, 2023,
"Im2win: An Efficient Convolution Paradigm on GPU" (https://arxiv.org/abs/2306.14316). Reference:
https://github.com/seth-lu/Im2win, commit 3a66cdc, Convolution.hpp (C++ for CPUs, without a licence); no code was taken.
The kernels of the GPU paper are not public.

im2col copies every pixel once for each tap that reads it, I J / s^2 times. The window tensor holds, for each row p of
the output, the I rows of the image that it reads, pixel by pixel of the full width W:

    windows[p, q, i, c] = x[s p + i, q, c]        y[p, q, n] = sum_jic kernel[i, j, c, n] windows[p, s q + j, i, c]

so a pixel is copied I / s times, and all that an output reads lies in one contiguous slice of its row of windows,
which overlaps with those of its neighbours. The reference has channels before rows of windows; ours are the innermost
axis, as in all images here, which is contiguous in the same sense. Its tensor is too small where I > s >= J; ours has
the size of the equation.

The sum over the slice is XLA's convolution along the width, of I C channels. Gradients are those of `xla.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import derivatives
from longview.kernels.conv2d import xla
from longview.kernels.conv2d.plan import Plan


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j d n']) -> Float[Array, 'b p q n']:
    """See `reference.convolve`."""
    return derivatives.own_product('conv2d', partial(_outputs, plan), partial(xla.gradients, plan))(x, kernel)


def windows(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j d n']) -> Float[Array, 'b p v e']:
    """Returns the window tensor: v pixels of the padded width, with I C channels, group by group and row by row."""
    rows, groups, count = kernel.shape[0], plan.groups(x, kernel), plan.sizes(x, kernel)[0]
    padded = jnp.pad(x, ((0, 0), *plan.padding, (0, 0)))
    apart = padded.reshape(*padded.shape[:3], groups, -1)
    stop = (count - 1) * plan.stride[0] + 1
    tall = jnp.stack([apart[:, i : i + stop : plan.stride[0]] for i in range(rows)], axis=4)
    return tall.reshape(*tall.shape[:3], -1)


def kernel_windows(kernel: Float[Array, 'i j d n']) -> Float[Array, 'j e n']:
    """Returns the kernel in the order of the window tensor: column by column."""
    rows, columns, depth, outputs = kernel.shape
    return kernel.swapaxes(0, 1).reshape(columns, rows * depth, outputs)


def _outputs(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    along_width = Plan((1, plan.stride[1]), ((0, 0), (0, 0)))
    return xla.conv(along_width, windows(plan, x, kernel), kernel_windows(kernel)[None])
