"""Convolutions with PyTorch's padding and initial values.

`nn.Conv(padding='SAME')` pads unevenly at stride 2 and torch does not; here padding is a number of pixels on each
side. Depthwise convolution has its own function: XLA's on a CPU is tens of times slower than need be, and its
weight gradient worse, so there it is a sum of shifted images, or for more than 7x7 taps a product of spectra; elsewhere
it is XLA's convolution. Measured on one core, float32, 3x3 (ms): forward 0.2 against 5.2 at 128x5x5x64 and 1.8 against
60 at 8x56x56x96; the weight gradient 0.6 and 6.4. 13x13 at 8x14x14x384: forward 13 by spectra, 155 by shifts.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from modelzoo.layers import init

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_SHIFTS = 49  # more taps than these go by spectra


class Conv(nn.Module):
    """A 2-D convolution, square kernel and stride.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel.
        stride: step of the output grid.
        padding: zeros on each side, or 'SAME' for TensorFlow's, which is uneven where the stride is not 1.
        dtype: compute type.
        groups: channels are split into so many parts that do not see each other.
        use_bias: whether there is a bias.
        kernel_init: initial values of the kernel; by default torch's.
        bias_init: initial values of the bias; by default torch's.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int | str = 0
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = True
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``out_size(h) x out_size(w)`` pixels; with 'SAME', h / stride rounded up.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        fan_in = math.prod(shape[:-1])
        kernel = self.param('kernel', self.kernel_init or init.uniform_fan_in(fan_in), shape)
        x = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if not self.use_bias:
            return x
        bias = self.param('bias', self.bias_init or init.uniform_fan_in(fan_in), (self.features,))
        return x + bias.astype(self.dtype)[None, None, None]


def kernel_shape(channels: int, features: int, kernel_size: int, groups: int) -> tuple[int, int, int, int]:
    """Returns the shape of a kernel from `channels` to `features`.

    Raises:
        ValueError: the groups do not divide both.
    """
    if channels % groups or features % groups:
        raise ValueError(f'{channels} input and {features} output channels do not divide into {groups} groups: '
                         'change the width or the groups.')
    return kernel_size, kernel_size, channels // groups, features


def convolve(x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j c2 d'], stride: int = 1, padding: int | str = 0
             ) -> Float[Array, 'b h2 w2 d']:
    """Returns a correlation; the groups are the channels over those that the kernel has."""
    sides = padding if isinstance(padding, str) else [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=_LAYOUT,
                                    feature_group_count=x.shape[-1] // kernel.shape[2])


def out_size(size: int, kernel_size: int, stride: int, padding: int) -> int:
    """Returns the output pixels along one side, by torch's rule."""
    return (size + 2 * padding - kernel_size) // stride + 1


class DepthwiseConv(nn.Module):
    """One odd kernel a channel, stride 1, zero padding that keeps the size.

    Attributes:
        kernel_size: side of the kernel, or (height, width).
        kernel_init: initial values; by default torch's.
        dtype: compute type.
        use_bias: whether there is a bias.
        bias_init: its initial values; by default torch's.
        dilation: pixels from tap to tap.
    """

    kernel_size: int | tuple[int, int]
    kernel_init: init.Initializer | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = False
    bias_init: init.Initializer | None = None
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Convolves each channel with its kernel."""
        size, channels = self.kernel_size, x.shape[-1]
        rows, columns = (size, size) if isinstance(size, int) else size
        torch_s = init.uniform_fan_in(rows * columns)
        kernel = self.param('kernel', self.kernel_init or torch_s, (rows, columns, 1, channels))
        y = depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.dilation)
        if not self.use_bias:
            return y
        bias = self.param('bias', self.bias_init or torch_s, (channels,))
        return y + bias.astype(self.dtype)[None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j 1 c'], dilation: int = 1
              ) -> Float[Array, 'b h w c']:
    """Depthwise 2-D correlation, stride 1, zero padding that keeps the size; odd kernels.

    Reverse mode only. The form is chosen when the program is lowered for its platform. None touches the batch axis but
    elementwise, so a sharded batch stays put, save on CPU devices under large kernels: XLA gathers what it transforms.

    Args:
        x: images.
        kernel: one a channel.
        dilation: pixels from tap to tap.
    """
    return _chosen(x, kernel, dilation)


# Inlined, jit only keeps what was traced: deep networks call this with the same shapes many times.
@functools.partial(jax.jit, static_argnums=2, inline=True)
def _chosen(x: Array, kernel: Array, dilation: int) -> Array:
    cpu, default = (functools.partial(form, dilation=dilation) for form in (_cpu_form(kernel), _conv))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _cpu_form(kernel: Array) -> Callable[..., Array]:
    return _shift if kernel.shape[0] * kernel.shape[1] <= _SHIFTS else _spectral


def _conv(x: Array, kernel: Array, dilation: int = 1) -> Array:
    padding = [(side // 2 * dilation,) * 2 for side in kernel.shape[:2]]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, rhs_dilation=(dilation, dilation),
                                    dimension_numbers=_LAYOUT, feature_group_count=x.shape[-1])


def _shift(x: Array, kernel: Array, dilation: int) -> Array:
    rows, columns, _, channels = kernel.shape
    (height, width), padded = x.shape[1:3], _pad(x, kernel, dilation)
    taps = kernel.reshape(rows, columns, 1, 1, 1, channels)
    return sum(padded[:, i * dilation:i * dilation + height, j * dilation:j * dilation + width] * taps[i, j]
               for i in range(rows) for j in range(columns))


def _spectral(x: Array, kernel: Array, dilation: int) -> Array:
    """A product of spectra as long as the padded image, so that nothing wraps into what is kept."""
    kernel = jnp.squeeze(spread(kernel, dilation), 2).astype(jnp.float32)
    padded = _pad(x, kernel, 1).astype(jnp.float32)
    sizes = [-(-side // 4) * 4 for side in padded.shape[1:3]]
    spectrum = jnp.fft.rfft2(padded, sizes, (1, 2)) * jnp.conj(jnp.fft.rfft2(kernel, sizes, (0, 1)))[None]
    return jnp.fft.irfft2(spectrum, sizes, (1, 2))[:, :x.shape[1], :x.shape[2]].astype(x.dtype)


def spread(kernel: Float[Array, 'i j c d'], dilation: int) -> Float[Array, 'i2 j2 c d']:
    """Returns the kernel without dilation that does the same: zeros between its taps."""
    return lax.pad(kernel, jnp.zeros((), kernel.dtype), [(0, 0, dilation - 1)] * 2 + [(0, 0, 0)] * 2)


def _pad(x: Array, kernel: Array, dilation: int) -> Array:
    rows, columns = (side // 2 * dilation for side in kernel.shape[:2])
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return _chosen_gradients(*saved, g, dilation)


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _chosen_gradients(x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    by_shifts = _cpu_form(kernel) is _shift
    cpu, default = (functools.partial(form, dilation=dilation) for form in (
        _shift_gradients if by_shifts else functools.partial(_gradients, _spectral),
        functools.partial(_gradients, _conv)))
    return lax.platform_dependent(x, kernel, g, cpu=cpu, default=default)


def _gradients(form: Callable[..., Array], x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    return jax.vjp(functools.partial(form, dilation=dilation), x, kernel)[1](g)


def _shift_gradients(x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    """Row by row, so that the sums over a row's pixels, XLA's slow kind, happen once at the end."""
    rows, columns, _, channels = kernel.shape
    width, padded = x.shape[2], _pad(x, kernel, dilation)
    span = (rows - 1) * dilation + 1

    def add_row(sums: list[Array], row: Array) -> tuple[list[Array], None]:
        window = lax.dynamic_slice_in_dim(padded, row, span, axis=1).astype(jnp.float32)
        line = lax.dynamic_index_in_dim(g, row, axis=1, keepdims=False).astype(jnp.float32)
        products = (window[:, i * dilation, j * dilation:j * dilation + width] * line
                    for i in range(rows) for j in range(columns))
        return [total + product for total, product in zip(sums, products)], None

    zeros = [jnp.zeros((x.shape[0], width, channels), jnp.float32)] * (rows * columns)
    sums, _ = lax.scan(add_row, zeros, jnp.arange(x.shape[1]))
    d_kernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape)
    return _shift(g, kernel[::-1, ::-1], dilation), d_kernel.astype(kernel.dtype)


depthwise.defvjp(_forward, _backward)
