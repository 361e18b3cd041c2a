"""Translation variant convolution (TVConv): a depthwise convolution with kernels of its own at each place of the map.

Chen et al., 2022, "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing",
https://arxiv.org/abs/2203.10489, CVPR 2022. The kernels are no function of the image: a small network makes them of
learned affinity maps, once for a whole batch, and after training they could be stored. For what is at the same place in
all images, such as faces that are aligned. Reference: https://github.com/JierunChen/TVConv (MIT),
face_recognition/model/atoms/TVConv.py.

Details of the published code kept here: each layer of that network is a 3x3 convolution without bias, a layer norm over
the whole map with a scale and a bias for each of its values, and a ReLU; affinity maps start at 1. So what belongs to a
place is stored as it is there, channels first: (channels, height, width). Where we differ: for a map of another size
the kernels are interpolated, linearly; the reference has no other size.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv import Conv, out_size
from longview.modelzoo.layers.frame import init


class TVConv(nn.Module):
    """``y[i, j, c] = sum_t kernels[t, i, j, c] x[i + t_i, j + t_j, c]`` with kernels of learned maps.

    Attributes:
        size: rows and columns of the affinity maps, which are those of the output; None for the output of the first
            image that the layer sees, with which it is initialised.
        kernel_size: odd side of the kernels.
        stride: step of the output grid.
        maps: number of affinity maps.
        width: channels of the network that makes the kernels.
        depth: its layers between the first and the last.
        use_bias: whether a network of its own makes a bias for each place and channel.
        kernel_init: initial values of the kernels of these networks.
        dtype: compute type; norms are float32.
    """

    size: tuple[int, int] | None = None
    kernel_size: int = 3
    stride: int = 1
    maps: int = 4
    width: int = 16
    depth: int = 1
    use_bias: bool = False
    kernel_init: init.Initializer = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 c']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: an even kernel.
        """
        del train
        if self.kernel_size % 2 == 0:
            raise ValueError(f'TVConv.kernel_size is {self.kernel_size}: use an odd number, so that it has a middle.')
        sides = tuple(out_size(side, self.kernel_size, self.stride, self.kernel_size // 2) for side in x.shape[1:3])
        affinity = self.param('affinity_map', jax.nn.initializers.ones, (self.maps, *self._size(sides)))
        affinity = jnp.moveaxis(affinity, 0, -1)[None]
        made = functools.partial(_Generator, self.width, self.depth, self.kernel_init, self.dtype)
        taps, channels = self.kernel_size**2, x.shape[-1]
        kernels = made(channels * taps, name='kernels')(affinity, sides).reshape(*sides, channels, taps)
        y = vary(x.astype(self.dtype), jnp.moveaxis(kernels, -1, 0), self.stride)
        return y + made(channels, name='biases')(affinity, sides) if self.use_bias else y

    def _size(self, sides: tuple[int, int]) -> tuple[int, int]:
        if self.size is None and self.has_variable('params', 'affinity_map'):
            return self.get_variable('params', 'affinity_map').shape[1:]
        return sides if self.size is None else tuple(self.size)


class _Generator(nn.Module):
    """The network from affinity maps to kernels or biases."""

    width: int
    depth: int
    kernel_init: init.Initializer
    dtype: DTypeLike
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, '1 h w m'], sides: tuple[int, int]) -> Float[Array, '1 h2 w2 n']:
        conv = functools.partial(
            Conv, kernel_size=3, padding=1, dtype=self.dtype, use_bias=False, kernel_init=self.kernel_init
        )
        for index in range(self.depth + 1):
            x = nn.relu(_MapNorm(self.dtype, name=f'norm{index}')(conv(self.width, name=f'conv{index}')(x)))
        x = conv(self.features, name='last')(x)
        return x if x.shape[1:3] == sides else jax.image.resize(x, (1, *sides, self.features), 'linear')


class _MapNorm(nn.Module):
    """Layer normalization over all of a map, with a scale and a bias for each value."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, '1 h w c']) -> Float[Array, '1 h w c']:
        shape = (x.shape[-1], *x.shape[1:3])
        scale = self.param('scale_map', jax.nn.initializers.ones, shape)
        bias = self.param('bias_map', jax.nn.initializers.zeros, shape)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x)
        x = x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-5)
        return (x * jnp.moveaxis(scale, 0, -1)[None] + jnp.moveaxis(bias, 0, -1)[None]).astype(self.dtype)


def vary(x: Float[Array, 'b h w c'], kernels: Float[Array, 't h2 w2 c'], stride: int = 1) -> Float[Array, 'b h2 w2 c']:
    """Returns the depthwise convolution with a kernel for each place and channel, zeros around the map.

    Args:
        x: the map.
        kernels: by tap, row by row, of odd square kernels; each has the size of the output.
        stride: step of the output grid.
    """
    return sum(kernel[None] * view for kernel, view in zip(kernels, _views(x, kernels.shape, stride)))


def _views(x: Array, shape: tuple[int, ...], stride: int) -> list[Array]:
    """Returns the pixels that each tap reads."""
    side = round(shape[0] ** 0.5)
    padded = jnp.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2, (0, 0)))
    height, width = ((length - 1) * stride + 1 for length in shape[1:3])
    return [
        padded[:, row : row + height : stride, column : column + width : stride]
        for row in range(side)
        for column in range(side)
    ]


def names(there: str, here: str, depth: int, scale: str = 'weight') -> list[tuple[str, str]]:
    """Returns the published names of a layer's parameters at these places, and ours.

    Args:
        there, here: what comes before them, with a dot and a slash at the end.
        depth: as in `TVConv`.
        scale: what a norm's scale is called there.
    """
    networks = (('weight_layers', 'kernels'), ('bias_layers', 'biases'))
    return [
        (f'{there}posi_map', f'{here}affinity_map'),
        *((f'{there}{a}.{i}.0.weight', f'{here}{b}/conv{i}/kernel') for a, b in networks for i in range(depth + 1)),
        *((f'{there}{a}.{i}.1.{scale}', f'{here}{b}/norm{i}/scale_map') for a, b in networks for i in range(depth + 1)),
        *((f'{there}{a}.{i}.1.bias', f'{here}{b}/norm{i}/bias_map') for a, b in networks for i in range(depth + 1)),
        *((f'{there}{a}.{depth + 1}.weight', f'{here}{b}/last/kernel') for a, b in networks),
    ]


NAMES = tuple(names('', '', 1))
