"""The long convolution of a sequence split over devices, inside of `jax.shard_map`.

The first level of the decomposition (see transforms.py) is over the devices: token l of device p is token p L + l of
the sequence, and a product over p turns the shards into one complex sequence of L tokens per device. The shards are
exchanged by transposing a matrix whose rows are distributed over the devices, an all-to-all: Bailey, FFTs in External
or Hierarchical Memory, 1990. No device ever holds more than its share of an array. No code was taken from others.
"""

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.long_conv.transforms import Level, conjugate, exact_sides, roots, times

Tokens = Float[Array, 'b t d']


def sequence_parallel_long_conv(
    u: Tokens,
    kernel: Float[Array, 't d'],
    *,
    axis_name: Hashable,
    skip: Float[Array, ' d'] | None = None,
    pre_gate: Tokens | None = None,
    post_gate: Tokens | None = None,
) -> Tokens:
    """The causal `long_conv` of the whole sequence, called on each device with its shard.

    Args:
      u, pre_gate, post_gate: as in `long_conv`, for the shard of the tokens.
      kernel: the shard of the taps, of as many taps as tokens: device p has those from lag p T on.
      axis_name: the mesh axis over which tokens and taps are split, in order.
      skip: as in `long_conv`, the same on all devices.

    Returns:
      The outputs of the shard in the dtype of `u`; sums are float32.

    Raises:
      ValueError: shapes that do not fit, or a shard whose length the number of devices does not divide.
    """
    count, (_, tokens, channels) = lax.axis_size(axis_name), u.shape
    if kernel.shape != (tokens, channels):
        raise ValueError(
            f'kernel has shape {kernel.shape}; wanted a tap for each token, {(tokens, channels)}: '
            'fill up the kernel with zeros and split it as the tokens.'
        )
    if tokens % count:
        raise ValueError(
            f'A shard has {tokens} tokens; wanted a multiple of the {count} devices along '
            f'{axis_name!r}: fill up the sequence with zeros at its end.'
        )
    wide = lambda x: x.astype(jnp.float32)
    x = wide(u) if pre_gate is None else wide(u) * wide(pre_gate)
    y = _convolve(axis_name, x, wide(kernel)[None])
    y = y if skip is None else y + wide(skip)[None, None] * x
    y = y if post_gate is None else y * wide(post_gate)
    return y.astype(u.dtype)


@partial(jax.checkpoint, static_argnums=0)
def _convolve(axis: Hashable, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Only the inputs are kept for the gradients."""
    z, k = (_apart(axis, part) for part in (x, kernel))
    sides = exact_sides(x.shape[1])
    forms = {'default': _by_fft}
    if sides is not None:
        forms['tpu'] = partial(_by_matrices, sides)
    return _together(axis, lax.platform_dependent(z, k, **forms))


def _apart(axis: Hashable, x: jax.Array) -> jax.Array:
    """Returns the complex sequence (2, B, L, D) of this device's frequency, given the shards (B, L, D)."""
    count, (batch, tokens, channels) = lax.axis_size(axis), x.shape
    x = x.reshape(batch, count, tokens // count, channels)
    x = _exchanged(axis, x, 1, 0)
    z = _dot('pbsd,pef->efbsd', x, _level(count).matrix(count))
    z = times(z, _twiddles(axis, tokens)[:, :, None, :, None])
    z = _exchanged(axis, z, 1, 2)
    return z.reshape(2, batch, tokens, channels)


def _together(axis: Hashable, z: jax.Array) -> jax.Array:
    """Undoes `_apart`."""
    count, (_, batch, tokens, channels) = lax.axis_size(axis), z.shape
    z = z.reshape(2, batch, count, tokens // count, channels)
    z = _exchanged(axis, z, 2, 1)
    z = times(z, conjugate(_twiddles(axis, tokens))[:, :, None, :, None])
    x = _dot('efbsd,pef->pbsd', z, _level(count).matrix(count) / count)
    x = _exchanged(axis, x, 0, 1)
    return x.reshape(batch, tokens, channels)


def _exchanged(axis: Hashable, x: jax.Array, split: int, concat: int) -> jax.Array:
    """Sends part n along the dimension `split` to device n, and stacks what is received along `concat`.

    JAX 0.10 transposes an all-to-all from one dimension to another into one of the wrong shape where batches have
    several sequences; from a dimension to itself it does not.
    """
    return lax.all_to_all(jnp.moveaxis(x, split, concat), axis, split_axis=concat, concat_axis=concat)


def _level(count: int) -> Level:
    return Level(count, 1, 1, count)


def _twiddles(axis: Hashable, tokens: int) -> jax.Array:
    """Returns (2, frequencies, tokens) for the tokens that this device holds between the transposes."""
    count = lax.axis_size(axis)
    size, share = count * tokens, tokens // count
    angle = np.pi / (2 * size) * np.outer(np.arange(count) * share, 4 * np.arange(count) + 1)
    first = jnp.asarray(np.stack([np.cos(angle), -np.sin(angle)]), jnp.float32)
    first = lax.dynamic_index_in_dim(first, lax.axis_index(axis), 1, keepdims=False)
    return times(first[..., None], roots(count, 1, size, share))


def _by_fft(z: jax.Array, kernel: jax.Array) -> jax.Array:
    """The circular convolution of complex sequences."""
    z, kernel = (jnp.fft.fft(lax.complex(x[0], x[1]), axis=1) for x in (z, kernel))
    found = jnp.fft.ifft(z * kernel, axis=1)
    return jnp.stack([found.real, found.imag])


def _by_matrices(sides: tuple[int, ...], z: jax.Array, kernel: jax.Array) -> jax.Array:
    tokens, batch = z.shape[2], z.shape[1]
    rests = [tokens // int(np.prod(sides[: n + 1])) for n in range(len(sides))]
    levels = [Level(side, rest, 0, side) for side, rest in zip(sides, rests)]

    def forward(x: jax.Array) -> jax.Array:
        for level in levels:
            x = level.into(x, jnp.float32)
        return x.reshape(2, -1, tokens, z.shape[-1])

    x = times(forward(z), forward(kernel)).reshape(2, batch * tokens, 1, z.shape[-1])
    for level in reversed(levels):
        x = level.out(x, 2, level.side * level.rest, jnp.float32)
    return x


def _dot(how: str, x: jax.Array, matrix: np.ndarray) -> jax.Array:
    matrix = jnp.asarray(matrix, jnp.float32)
    return jnp.einsum(how, x, matrix, precision=lax.Precision.HIGHEST)
