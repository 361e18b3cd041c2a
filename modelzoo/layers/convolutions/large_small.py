"""The large-small convolution: small kernels whose taps depend on what a large kernel sees around each pixel.

Wang et al., 2025, "LSNet: See Large, Focus Small", https://arxiv.org/abs/2503.23135. Reference:
https://github.com/jameslahm/lsnet (no licence), commit cbe737c. As there, channels c and c + D / 8 share their taps,
which are normalized together over the whole map.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels import derivatives
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

SIDE = 3  # of the small kernel
TAPS = SIDE**2


class PointNorm(nn.Module):
    """``norm(x @ kernel)``: a 1x1 convolution; as a block it has nothing to skip.

    Attributes:
        features: output channels.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same size."""
        del mask
        x = Dense(self.features, False, init.uniform_fan_in(x.shape[-1]), self.dtype, name='conv')(x)
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class DepthNorm(nn.Module):
    """``norm(conv(x))`` with a kernel per channel; as a block it has nothing to skip.

    Attributes:
        kernel_size: odd side of the kernel.
        stride: step of the output grid.
        norm: factory of the normalization.
        dtype: compute type.
    """

    kernel_size: int = SIDE
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 c']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        del mask
        conv = StridedDepthwise(self.kernel_size, self.stride, self.kernel_size // 2, dtype=self.dtype, name='conv')
        return self.norm(dtype=self.dtype, name='norm')(conv(x), train=train)


class Taps(nn.Module):
    """The taps of each pixel: ``x @ kernel + bias``, of which those of one kernel are normalized over the whole map.

    Attributes:
        kernels: number of different kernels at a pixel.
        dtype: compute type of the product; the rest is float32.
    """

    kernels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w k n']:
        """Returns the taps, row by row of a kernel.

        The parameters have the taps of a kernel side by side, as published. They are turned, so that neighbours in
        memory are neighbouring channels.
        """
        channels = x.shape[-1]
        torch_s = init.uniform_fan_in(channels)

        def turned(name: str, initial: init.Initializer, *leading: int) -> Array:
            value = self.param(name, initial, (*leading, self.kernels * TAPS))
            return value.reshape(*leading, self.kernels, TAPS).swapaxes(-1, -2)

        kernel = turned('kernel', torch_s, channels).reshape(channels, -1).astype(self.dtype)
        y = x.reshape(-1, channels).astype(self.dtype) @ kernel
        y = y.reshape(*x.shape[:3], TAPS, self.kernels).astype(jnp.float32)
        y = y + turned('bias', torch_s)[None, None, None]
        centered = y - jnp.mean(y, axis=(1, 2, 3), keepdims=True)
        y = centered * jax.lax.rsqrt(jnp.mean(jnp.square(centered), axis=(1, 2, 3), keepdims=True) + 1e-5)
        y = y * turned('norm_scale', jax.nn.initializers.ones)[None, None, None]
        return (y + turned('norm_bias', jax.nn.initializers.zeros)[None, None, None]).astype(self.dtype)


def aggregate(x: Float[Array, 'b h w c'], taps: Float[Array, 'b h w k n']) -> Float[Array, 'b h w c']:
    """Returns the weighted sum of the 3x3 pixels around each, zeros outside of the map; summed in float32.

    Only `x` and `taps` are kept for the gradients, whose temporary arrays are about as large as their inputs and
    outputs; JAX's own rule has an array of its own for each tap. They may be differentiated again, in reverse mode.

    Args:
        x: the map; channels c, c + N, c + 2 N, ... share the kernel c.
        taps: the kernels of each pixel, K = 9 row by row.

    Raises:
        ValueError: N does not divide the channels.
    """
    channels, kernels = x.shape[-1], taps.shape[-1]
    if channels % kernels:
        raise ValueError(f'{channels} channels cannot share {kernels} kernels: change one to divide the other.')
    return _aggregate(x.reshape(*x.shape[:3], channels // kernels, kernels), taps).reshape(x.shape)


@derivatives.own_derivative('aggregate')
def _aggregate(x: Float[Array, 'b h w g n'], taps: Float[Array, 'b h w k n']) -> Float[Array, 'b h w g n']:
    around = _padded(x)
    y = sum(_seen(around, tap) * taps[:, :, :, tap, None].astype(jnp.float32) for tap in range(TAPS))
    return y.astype(x.dtype)


def _aggregate_backward(kept: tuple[Array, Array], dy: Float[Array, 'b h w g n']) -> tuple[Array, Array]:
    """A pixel has its cotangent from the pixels that see it: those around it, each with the opposite tap."""
    x, taps = kept
    around, around_dy, around_taps = _padded(x), _padded(dy), _padded(taps)
    dx = sum(_seen(around_dy, tap) * _seen(around_taps[:, :, :, TAPS - 1 - tap, None], tap) for tap in range(TAPS))

    def tap_gradient(tap: int) -> Float[Array, 'b h w n']:
        # Term by term: on a CPU, XLA writes the products of a `jnp.sum` into memory.
        terms = (_seen(around[:, :, :, group], tap) * dy[:, :, :, group] for group in range(x.shape[3]))
        return sum(terms).astype(taps.dtype)

    return dx.astype(x.dtype), jnp.stack([tap_gradient(tap) for tap in range(TAPS)], axis=3)


_aggregate.defvjp(lambda x, taps: (_aggregate(x, taps), (x, taps)), _aggregate_backward)


def _padded(x: Float[Array, 'b h w *c']) -> Float[Array, 'b h2 w2 *c']:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), *[(0, 0)] * (x.ndim - 3)))


def _seen(padded: Float[Array, 'b h2 w2 *c'], tap: int) -> Float[Array, 'b h w *c']:
    """Returns what each pixel sees with one tap."""
    row, column = divmod(tap, SIDE)
    rows, columns = (side + 1 - SIDE for side in padded.shape[1:3])
    return padded[:, row : row + rows, column : column + columns].astype(jnp.float32)


class LargeSmall(nn.Module):
    """The large-small convolution: ``x + norm(aggregate(x, taps(see(x))))``.

    Attributes:
        large: side of the kernel that sees.
        groups: number of groups of channels, in each of which every channel has taps of its own.
        norm: factory of the batch normalizations.
        dtype: compute type.
    """

    large: int = 7
    groups: int = 8
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        width = x.shape[-1]
        if width % self.groups:
            raise ValueError(f'width {width} does not divide into {self.groups} groups: change one of them.')
        point = functools.partial(PointNorm, width // 2, self.norm, self.dtype)
        y = nn.relu(point(name='down')(x, train=train))
        y = DepthNorm(self.large, 1, self.norm, self.dtype, name='see')(y, train=train)
        y = nn.relu(point(name='mix')(y, train=train))
        y = aggregate(x, Taps(width // self.groups, self.dtype, name='taps')(y))
        return x + drop_path(self.norm(dtype=self.dtype, name='norm')(y, train=train), mask)
