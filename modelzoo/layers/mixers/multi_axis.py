"""MAXIM's mixing of pixels: gated MLPs within blocks and along a coarse grid, and two maps that gate each other so.

Tu et al., 2022, "MAXIM: Multi-Axis MLP for Image Processing", https://arxiv.org/abs/2201.02973; the gated MLP is from
Liu et al., 2021, "Pay Attention to MLPs", https://arxiv.org/abs/2105.08050. Reference:
https://github.com/google-research/maxim (Apache-2.0), commit 3c82651. Sides of maps are multiples of those of blocks.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.norm import LayerNorm

EPSILON = 1e-6  # of the norms
LECUN = jax.nn.initializers.lecun_normal()
NORMAL = jax.nn.initializers.normal(0.02)
ZEROS = jax.nn.initializers.zeros

# Of the pixels of a map (b, cells, pixels of a cell, c): which axis is mixed.
GRID, BLOCK = 1, 2


def cut(x: Float[Array, 'b h w c'], cell: tuple[int, int]) -> Float[Array, 'b n p c']:
    """Returns the cells of a map row by row, each as its pixels row by row."""
    batch, height, width, channels = x.shape
    rows, columns = height // cell[0], width // cell[1]
    x = x.reshape(batch, rows, cell[0], columns, cell[1], channels).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, cell[0] * cell[1], channels)


def join(x: Float[Array, 'b n p c'], cell: tuple[int, int], size: tuple[int, int]) -> Float[Array, 'b h w c']:
    """Undoes `cut` for maps of a size."""
    rows, columns = size[0] // cell[0], size[1] // cell[1]
    x = x.reshape(len(x), rows, columns, *cell, x.shape[-1]).swapaxes(2, 3)
    return x.reshape(len(x), *size, x.shape[-1])


def _cell(x: Float[Array, 'b h w c'], axis: int, side: int) -> tuple[int, int]:
    """Returns the size of a cell: of `side` pixels, or such that there are `side` of them along each side."""
    return (side, side) if axis == BLOCK else (x.shape[1] // side, x.shape[2] // side)


class Mix(nn.Module):
    """A matrix over the cells (`GRID`) or over the pixels of each cell (`BLOCK`), with a bias.

    Attributes:
        axis: which of the two.
        bias: initial value of the biases.
        dtype: compute type.
    """

    axis: int
    bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n p c']) -> Float[Array, 'b n p c']:
        """Keeps the shape."""
        size = x.shape[self.axis]
        kernel = self.param('kernel', NORMAL, (size, size)).astype(self.dtype)
        bias = self.param('bias', jax.nn.initializers.constant(self.bias), (size,)).astype(self.dtype)
        product = 'bnpc,nm->bmpc' if self.axis == GRID else 'bnpc,pq->bnqc'
        return jnp.einsum(product, x, kernel) + jnp.expand_dims(bias, (0, 3 - self.axis, 3))


class GatedMlp(nn.Module):
    """``x + out(u * (1 + mix(norm(v))))`` with ``[u | v] = gelu(up(norm(x)))``: gMLP along one axis.

    Attributes:
        axis: `GRID` or `BLOCK`.
        side: of a block in pixels, or cells along each side of the grid.
        dtype: compute type.
    """

    axis: int
    side: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape."""
        size, width, cell = x.shape[1:3], x.shape[-1], _cell(x, self.axis, self.side)
        x = cut(x, cell)
        y = norm(self.dtype, 'norm')(x)
        u, v = jnp.split(gelu_tanh(Dense(2 * width, True, NORMAL, self.dtype, name='up')(y)), 2, axis=-1)
        v = Mix(self.axis, dtype=self.dtype, name='mix')(norm(self.dtype, 'mix_norm')(v))
        y = Dense(width, True, NORMAL, self.dtype, name='out')(u * (v + 1))
        return join(x + y, cell, size)


class MultiAxis(nn.Module):
    """``x + out([grid(u) | block(v)])`` with ``[u | v] = gelu(up(norm(x)))``: one half globally, one locally.

    Attributes:
        side: see `GatedMlp`.
        dtype: compute type.
    """

    side: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape."""
        width = x.shape[-1]
        y = Dense(2 * width, True, NORMAL, self.dtype, name='up')(norm(self.dtype, 'norm')(x))
        u, v = jnp.split(gelu_tanh(y), 2, axis=-1)
        u = GatedMlp(GRID, self.side, self.dtype, name='grid')(u)
        v = GatedMlp(BLOCK, self.side, self.dtype, name='block')(v)
        return x + Dense(width, True, NORMAL, self.dtype, name='out')(jnp.concatenate([u, v], axis=-1))


class Gates(nn.Module):
    """What a cross-gating block multiplies its other signal with: both mixes of halves, joined by a matrix.

    Attributes:
        side: see `GatedMlp`.
        dtype: compute type.
    """

    side: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Keeps the shape."""
        size, width = x.shape[1:3], x.shape[-1]
        y = Dense(2 * width, True, LECUN, self.dtype, name='up')(norm(self.dtype, 'norm')(x))
        halves = []
        for name, axis, half in zip(('grid', 'block'), (GRID, BLOCK), jnp.split(gelu_tanh(y), 2, axis=-1)):
            cell = _cell(half, axis, self.side)
            halves.append(join(Mix(axis, 1.0, self.dtype, name=name)(cut(half, cell)), cell, size))
        return Dense(width, True, LECUN, self.dtype, name='out')(jnp.concatenate(halves, axis=-1))


class CrossGating(nn.Module):
    """Two signals gate each other: ``y' = y + out(y * gates(x))`` and ``x' = x + y' + out(x * gates(y))``.

    Attributes:
        features: channels of both results.
        side: see `GatedMlp`.
        doubled: whether the second signal has half the height and the width.
        dtype: compute type.
    """

    features: int
    side: int
    doubled: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], y: Float[Array, 'b h2 w2 c2']
    ) -> tuple[Float[Array, 'b h w d'], Float[Array, 'b h w d']]:
        """Returns (x', y')."""
        if self.doubled:
            y = Doubled(self.features, self.dtype, name='doubled')(y)
        x = Conv(self.features, 1, dtype=self.dtype, kernel_init=LECUN, bias_init=ZEROS, name='in_x')(x)
        y = Conv(self.features, 1, dtype=self.dtype, kernel_init=LECUN, bias_init=ZEROS, name='in_y')(y)
        dense = lambda name: Dense(self.features, True, LECUN, self.dtype, name=name)
        gated_x = gelu_tanh(dense('up_x')(norm(self.dtype, 'norm_x')(x)))
        gates_x = Gates(self.side, self.dtype, name='gates_x')(gated_x)
        gated_y = gelu_tanh(dense('up_y')(norm(self.dtype, 'norm_y')(y)))
        gates_y = Gates(self.side, self.dtype, name='gates_y')(gated_y)
        y = y + dense('out_y')(gated_y * gates_x)
        return x + y + dense('out_x')(gated_x * gates_y), y


class Doubled(nn.Module):
    """The transposed 2x2 convolution of stride 2: each pixel becomes 2x2 of them.

    Attributes:
        features: output channels.
        dtype: compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of twice the height and the width."""
        batch, height, width, channels = x.shape
        kernel = self.param('kernel', LECUN, (2, 2, channels, self.features)).astype(self.dtype)
        bias = self.param('bias', ZEROS, (self.features,)).astype(self.dtype)
        # The convolution that runs over the input with zeros between its pixels meets the taps in reverse.
        y = jnp.einsum('bhwc,ijcd->bhiwjd', x, kernel[::-1, ::-1])
        return y.reshape(batch, 2 * height, 2 * width, self.features) + bias[None, None, None]


def gelu_tanh(x: Array) -> Array:
    """GELU by its approximation with a hyperbolic tangent."""
    return nn.gelu(x, approximate=True)


def norm(dtype: DTypeLike, name: str) -> LayerNorm:
    """Returns the norm of all these layers."""
    return LayerNorm(EPSILON, dtype, name=name)
