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

from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

SIDE = 3  # of the small kernel


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
        taps, channels = SIDE**2, x.shape[-1]
        torch_s = init.uniform_fan_in(channels)

        def turned(name: str, initial: init.Initializer, *leading: int) -> Array:
            value = self.param(name, initial, (*leading, self.kernels * taps))
            return value.reshape(*leading, self.kernels, taps).swapaxes(-1, -2)

        kernel = turned('kernel', torch_s, channels).reshape(channels, -1).astype(self.dtype)
        y = x.reshape(-1, channels).astype(self.dtype) @ kernel
        y = y.reshape(*x.shape[:3], taps, self.kernels).astype(jnp.float32)
        y = y + turned('bias', torch_s)[None, None, None]
        centered = y - jnp.mean(y, axis=(1, 2, 3), keepdims=True)
        y = centered * jax.lax.rsqrt(jnp.mean(jnp.square(centered), axis=(1, 2, 3), keepdims=True) + 1e-5)
        y = y * turned('norm_scale', jax.nn.initializers.ones)[None, None, None]
        return (y + turned('norm_bias', jax.nn.initializers.zeros)[None, None, None]).astype(self.dtype)


def aggregate(x: Float[Array, 'b h w c'], taps: Float[Array, 'b h w k n']) -> Float[Array, 'b h w c']:
    """Returns the weighted sum of the 3x3 pixels around each, zeros outside of the map; summed in float32.

    Args:
        x: the map; channels c, c + N, c + 2 N, ... share the kernel c.
        taps: the kernels of each pixel, K = 9 row by row.

    Raises:
        ValueError: N does not divide the channels.
    """
    (batch, height, width, channels), kernels = x.shape, taps.shape[-1]
    if channels % kernels:
        raise ValueError(f'{channels} channels cannot share {kernels} kernels: change one to divide the other.')
    grouped = x.reshape(batch, height, width, channels // kernels, kernels)
    padded = jnp.pad(grouped, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))

    def term(row: int, column: int) -> Array:
        seen = padded[:, row : row + height, column : column + width]
        return seen.astype(jnp.float32) * taps[:, :, :, row * SIDE + column, None].astype(jnp.float32)

    y = sum(term(row, column) for row in range(SIDE) for column in range(SIDE))
    return y.reshape(x.shape).astype(x.dtype)


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
