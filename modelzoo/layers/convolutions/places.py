"""Convolutions over one, two or three axes of places: series, images, volumes."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo.layers.convolutions import conv

# As `conv.Conv` takes it, for as many axes as there are.
Paddings = int | str | tuple[tuple[int, int], ...]


def sides(size: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Returns the sides of a kernel over so many axes, of which one side is given, or all.

    Raises:
        ValueError: there are as many sides as other axes have, or one is below 1.
    """
    found = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(found) != axes or min(found) < 1:
        raise ValueError(f'a kernel of {size} is for {axes} axes: give a side of at least 1, or one for each axis.')
    return found


def convolve(
    x: Float[Array, 'b *places c'], kernel: Float[Array, '*sides c2 d'], stride: int = 1, padding: Paddings = 0
) -> Float[Array, 'b *out d']:
    """Returns the convolution (a correlation); the number of groups is the channels of `x` over those of `kernel`."""
    axes = x.ndim - 2
    if axes == 2:
        return (depthwise_conv if kernel.shape[-2] == 1 else conv.convolve)(x, kernel, stride=stride, padding=padding)
    places = 'ZYX'[-axes:]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * axes,
        ((padding, padding),) * axes if isinstance(padding, int) else padding,
        dimension_numbers=(f'N{places}C', f'{places}IO', f'N{places}C'),
        feature_group_count=x.shape[-1] // kernel.shape[-2],
    )


def per_channel(values: Float[Array, ' d'], like: Float[Array, 'b *out d']) -> Float[Array, '*ones d']:
    """Returns values of channels with the axes of `like`, to be broadcast to it."""
    return jnp.reshape(values, (1,) * (like.ndim - 1) + (-1,))
