"""Layers whose Lipschitz constants are known: the spectral norms of their linear maps, by power iteration.

Hu et al., 2023, "Unlocking Deterministic Robustness Certification on ImageNet", https://arxiv.org/abs/2301.12549.
Reference: https://github.com/klasleino/gloro (MIT) at f04fd23, snapshots/hu23_snapshot.zip, models/blocks.py and
models/layers, and the follow-up https://github.com/hukkai/liresnet (MIT) at 0c0611a, both read for facts.

The norm of a convolution is that of its map of whole images of one size, zero padding and strides included, so a layer
is asked about the image that it reads. Power iteration, ``x <- W^T W x / |W^T W x|``, comes close to a norm from below:
from the iterate of the step before a few steps of it are enough while weights change slowly, and hundreds make a bound
that holds to rounding. It is computed in float32 at the highest precision, whatever the layer's compute type.

Where we differ: the start of an iteration is an argument, and the new iterate is returned. The published code
overwrites the start in memory that the first convolution has saved for its gradient, which is then that of another
start; here the gradient is right.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import convolve, kernel_shape, out_size
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.drop import drop_path

Linear = Callable[[Array], Array]
# (linear map, start) -> (its norm, the new iterate): `spectral_norm` with its options.
Power = Callable[[Linear, Array], tuple[Float[Array, ''], Array]]


def min_max(x: Float[Array, '*n d']) -> Float[Array, '*n d']:
    """Returns the larger, then the smaller of each channel of the first half and its partner in the second.

    An activation that permutes: no distance becomes larger, and the norm of a gradient stays as it is (Anil et al.,
    2018, https://arxiv.org/abs/1811.05381, whose partners are neighbours).

    Raises:
        ValueError: the number of channels is odd.
    """
    if x.shape[-1] % 2:
        raise ValueError(f'min_max takes pairs of channels, and there are {x.shape[-1]}: use an even width.')
    one, other = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([jnp.maximum(one, other), jnp.minimum(one, other)], axis=-1)


def spectral_norm(
    linear: Linear, start: Float[Array, '*n'], *, iterations: int, through: bool = True
) -> tuple[Float[Array, ''], Float[Array, '*n']]:
    """Returns the norm of a linear map by power iteration, and the iterate, which has no gradient.

    Args:
        linear: the map, without a bias.
        start: the first vector, float32, in the shape of what the map takes.
        iterations: steps.
        through: whether the gradient flows through all of them, as in the paper's code; else it is that of ``|W x|``
            at a fixed x, as in the follow-up's. At a converged iterate the two are equal.
    """
    transposed = jax.linear_transpose(linear, start)

    @jax.checkpoint  # what a step computes is many times as large as its iterate
    def step(x: Array) -> Array:
        (x,) = transposed(linear(x))
        return x / jnp.maximum(_length(x), 1e-12)

    x = jax.lax.fori_loop(0, iterations, lambda _, x: step(x), start)
    fixed = jax.lax.stop_gradient(x)
    return _length(linear(x if through else fixed)), fixed


def _length(x: Array) -> Float[Array, '']:
    """Returns the L2 norm, whose gradient at 0 is 0."""
    square = jnp.sum(jnp.square(x))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def cholesky_orthogonal(matrices: Float[Array, '*n i j']) -> Float[Array, '*n i j']:
    """Returns matrices with nearly orthonormal rows: ``L^-1 X``, where L L^T = X X^T + e I.

    e is a thousandth of the mean of the diagonal of X X^T, and has no gradient; so the norms are below 1. From the
    follow-up: Hu et al., 2023, "A Recipe for Improved Certifiable Robustness", https://arxiv.org/abs/2310.02513.
    """
    gram = jnp.matmul(matrices, jnp.swapaxes(matrices, -1, -2), precision='highest')
    least = 1e-3 * jax.lax.stop_gradient(jnp.trace(gram, axis1=-2, axis2=-1) / gram.shape[-1])
    gram = gram + least[..., None, None] * jnp.broadcast_to(jnp.eye(gram.shape[-1]), gram.shape)
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(gram), matrices, lower=True)


def _orthogonal_columns(kernel: Float[Array, '*n c d']) -> Float[Array, '*n c d']:
    """Returns a kernel whose map from what one output pixel reads has nearly orthonormal rows."""
    return cholesky_orthogonal(kernel.reshape(-1, kernel.shape[-1]).T).T.reshape(kernel.shape)


class BoundedConv(nn.Module):
    """A convolution with a bias that says how long it can make an image.

    Attributes:
        features, kernel_size, stride, padding, dtype: see `layers.convolutions.conv.Conv`.
        orthogonal: whether the kernel that is used is that of `cholesky_orthogonal`. Where windows do not overlap, the
            norm is then about 1.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dtype: DTypeLike = jnp.float32
    orthogonal: bool = False

    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns the map."""
        kernel, bias = self._parameters(x.shape[-1])
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        return y + bias.astype(self.dtype)[None, None, None]

    def bound(self, start: Float[Array, '1 h w c'], power: Power) -> tuple[Float[Array, ''], Array]:
        """Returns the norm for images of the shape of `start`, and the new iterate."""
        kernel, _ = self._parameters(start.shape[-1])
        return power(functools.partial(_convolved, kernel=kernel, stride=self.stride, padding=self.padding), start)

    @nn.compact
    def _parameters(self, channels: int) -> tuple[Array, Array]:
        shape = kernel_shape(channels, self.features, self.kernel_size, groups=1)
        kernel = self.param('kernel', jax.nn.initializers.orthogonal(), shape)
        bias = self.param('bias', init.uniform_fan_in(shape[0] * shape[1] * shape[2]), (self.features,))
        return _orthogonal_columns(kernel) if self.orthogonal else kernel, bias


def _convolved(x: Array, *, kernel: Array, stride: int, padding: int) -> Array:
    """Returns the convolution as one product of windows and a matrix, at the highest precision.

    On one image, whose convolution and transposed convolution power iteration needs, that is several times as fast on a
    CPU as XLA's convolutions, and ten times where it is derived twice.
    """
    side, features = kernel.shape[0], kernel.shape[-1]
    rows, columns = (out_size(length, side, stride, padding) for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    steps = lambda first, count: slice(first, first + stride * (count - 1) + 1, stride)
    windows = [x[:, steps(i, rows), steps(j, columns)] for i in range(side) for j in range(side)]
    windows = jnp.concatenate(windows, axis=-1).reshape(x.shape[0] * rows * columns, -1)
    product = jnp.matmul(windows, kernel.reshape(-1, features), precision='highest')
    return product.reshape(x.shape[0], rows, columns, features)


class BoundedDense(nn.Module):
    """A matrix and a bias that say how long they can make a vector.

    Attributes:
        features: size of the result.
        dtype: compute type.
        orthogonal: see `BoundedConv`.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    orthogonal: bool = False

    def __call__(self, x: Float[Array, 'b c']) -> Float[Array, 'b d']:
        """Returns ``x @ kernel + bias``."""
        kernel, bias = self._parameters(x.shape[-1])
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)[None]

    def bound(self, start: Float[Array, '1 c'], power: Power) -> tuple[Float[Array, ''], Array]:
        """Returns the norm and the new iterate."""
        kernel, _ = self._parameters(start.shape[-1])
        return power(lambda x: jnp.matmul(x, kernel, precision='highest'), start)

    @nn.compact
    def _parameters(self, channels: int) -> tuple[Array, Array]:
        kernel = self.param('kernel', init.uniform_fan_in(channels), (channels, self.features))
        bias = self.param('bias', init.uniform_fan_in(channels), (self.features,))
        return _orthogonal_columns(kernel) if self.orthogonal else kernel, bias


class LinearResidual(nn.Module):
    """``min_max(x + conv(x) + bias)``: a residual block that is one linear map, identity and 3x3 convolution in one.

    So its bound is the norm of that map, which is below 1 + the convolution's own, what a residual branch with an
    activation inside is bounded by. The kernel is multiplied by a scale for each output channel and by
    ``blocks ** -0.5``; it starts normal with a deviation of 1 / (9 channels).

    Attributes:
        blocks: number of blocks of the network.
        dtype: compute type.
    """

    blocks: int
    dtype: DTypeLike = jnp.float32

    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        del train
        kernel, bias = self._parameters(x.shape[-1])
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), padding=1)
        return min_max(x + drop_path(y, mask) + bias.astype(self.dtype)[None, None, None])

    @nn.nowrap
    def iterates(self, shape: tuple[int, ...]) -> Any:
        """Returns the shapes of what `bound` starts from, for maps of a shape (..., 1, H, W, C)."""
        return shape

    def bound(self, start: Float[Array, '1 h w c'], power: Power) -> tuple[Float[Array, ''], Array]:
        """Returns the norm for maps of the shape of `start`, and the new iterate."""
        kernel, _ = self._parameters(start.shape[-1])
        return power(lambda x: x + _convolved(x, kernel=kernel, stride=1, padding=1), start)

    @nn.compact
    def _parameters(self, channels: int) -> tuple[Array, Array]:
        kernel = self.param('kernel', jax.nn.initializers.normal(1 / (9 * channels)), (3, 3, channels, channels))
        scale = self.param('scale', jax.nn.initializers.ones, (channels,))
        bias = self.param('bias', jax.nn.initializers.zeros, (channels,))
        return kernel * scale[None, None, None] * self.blocks**-0.5, bias


class BasicResidual(nn.Module):
    """``min_max(x + scale conv(min_max(conv(x))))``: the usual residual block, to compare with.

    Its bound is 1 + |scale| times the norms of both convolutions. The scale starts at 0.

    Attributes:
        blocks: number of blocks of the network; of no effect.
        dtype: compute type.
    """

    blocks: int
    dtype: DTypeLike = jnp.float32

    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        del train
        conv1, conv2, scale = self._parts(x.shape[-1])
        y = conv2(min_max(conv1(x))) * scale.astype(self.dtype)[None, None, None]
        return min_max(x + drop_path(y, mask))

    @nn.nowrap
    def iterates(self, shape: tuple[int, ...]) -> Any:
        """Returns the shapes of what `bound` starts from, for maps of a shape (..., 1, H, W, C)."""
        return {'conv1': shape, 'conv2': shape}

    def bound(self, start: dict[str, Array], power: Power) -> tuple[Float[Array, ''], dict[str, Array]]:
        """Returns the bound for maps of the shape of the starts, and the new iterates."""
        conv1, conv2, scale = self._parts(start['conv1'].shape[-1])
        one, first = conv1.bound(start['conv1'], power)
        other, second = conv2.bound(start['conv2'], power)
        return 1 + jnp.abs(scale[0]) * one * other, {'conv1': first, 'conv2': second}

    @nn.compact
    def _parts(self, channels: int) -> tuple[BoundedConv, BoundedConv, Array]:
        conv = functools.partial(BoundedConv, channels, 3, padding=1, dtype=self.dtype)
        return conv(name='conv1'), conv(name='conv2'), self.param('branch_scale', jax.nn.initializers.zeros, (1,))
