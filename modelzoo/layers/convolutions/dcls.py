"""Dilated convolution with learnable spacings: a large kernel of few weights, each at a position that is learned.

Khalfaoui-Hassani et al., 2021, "Dilated convolution with learnable spacings", https://arxiv.org/abs/2112.03740, and
2023, "Dilated Convolution with Learnable Spacings: beyond bilinear interpolation", https://arxiv.org/abs/2306.00817;
reference https://github.com/K-H-Ismail/Dilated-Convolution-with-Learnable-Spacings-PyTorch (MIT), commit 83de562.

A weight at a position between pixels is spread over the pixels around it, so the position has a gradient:

    kernel[i, j] = sum_k weight[k] s(i - p_k) s(j - q_k) / norm_k

`INTERPOLATIONS` are the published ones: 'v0' and 'v1' are bilinear, the latter divided by its sum; 'max' has a triangle
and 'gauss' a bell whose widths are learned, both divided by their sums. A position counts from the middle of the
kernel. As in the published code the first of a kernel's positions is along its first axis for 'v0', and along its last
axis for the others. In training, positions (and widths) want five times the rate and no decay, and they are kept inside
the kernel: methods/spacings.py.

All spreads are products of one along each axis, and so are their sums. The weights of a kernel are added one after the
other, so the array of places by weights that the reference makes is never made. We differ where a kernel is not square:
the reference then takes the middle of another axis for all but 'v0', and of a cube's three axes 'v0' takes the last two
in turn.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions import places
from longview.modelzoo.layers.frame import init

# A layer's published names and ours; see weights.py.
NAMES = (('weight', 'kernel'), ('bias', 'bias'), ('P', 'positions'), ('SIG', 'widths'))

_STEP = jax.nn.initializers.normal(0.5)
_TINY = 1e-7


def _hat(distance: Array, width: Array | float) -> Array:
    return nn.relu(width - jnp.abs(distance))


def _bilinear(distance: Array, width: Array | None) -> Array:
    """The hat of width 1; on a pixel its gradient is that towards the next one, as that of rounded positions is."""
    del width
    hat = jnp.where(distance > 0, 1 - distance, 1 + distance)
    return jnp.where((distance > -1) & (distance <= 1), hat, 0.0)


# Each with the spread along one axis and the first value of its width; None has no widths. As published, those of 'max'
# start at 0, where their absolute value has no slope, and so stay there: it starts and remains 'v1'.
INTERPOLATIONS: dict[str, tuple[Callable[[Array, Array | None], Array], float | None]] = {
    'v0': (_bilinear, None),
    'v1': (lambda distance, width: _hat(distance, 1.0), None),
    'max': (lambda distance, width: _hat(distance, 1.0 + jnp.abs(width)), 0.0),
    'gauss': (lambda distance, width: jnp.exp(-0.5 * jnp.square(distance / (0.27 + jnp.abs(width)))), 0.23),
}


class Dcls(nn.Module):
    """A convolution in one, two or three dimensions whose kernels have few weights at learned positions.

    It takes the arguments of `conv.Conv`, so it stands wherever a network takes its convolutions by a field.

    Attributes:
        features, stride, padding, dtype, groups, use_bias, kernel_init, bias_init: as those of `conv.Conv`; the first
            values are those of a kernel of `count` places.
        kernel_size: side of the kernel that is replaced, or its sides.
        dilated_size: side of the area in which the weights are, or its sides; by default `kernel_size`. A larger one
            needs more padding, which is added, so the size of the output stays.
        count: weights of a kernel; by default as many as `kernel_size` has places.
        interpolation: a name of `INTERPOLATIONS`.
    """

    features: int
    kernel_size: int | tuple[int, ...]
    stride: int = 1
    padding: places.Paddings = 0
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = True
    kernel_init: init.Initializer | None = None
    bias_init: init.Initializer | None = None
    dilated_size: int | tuple[int, ...] | None = None
    count: int | None = None
    interpolation: str = 'v0'

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b *places c'], positions: Float[Array, 'axes d c2 k'] | None = None
    ) -> Float[Array, 'b *out d']:
        """Convolves with the kernel that the weights make.

        Args:
            x: an array of one, two or three axes of places.
            positions: those of another parameter, from `positions_of`, which several layers share; None for own ones.

        Returns:
            As many places as a convolution with a kernel of `kernel_size` has.

        Raises:
            ValueError: the groups do not divide the channels, an unknown interpolation, or sizes that do not fit.
        """
        axes, channels = x.ndim - 2, x.shape[-1]
        count, sizes = self._count(axes), places.sides(self.dilated_size or self.kernel_size, axes)
        shape = (count, self._channels(channels), self.features)
        fan_in = count * shape[1]
        weights = self.param('kernel', self.kernel_init or init.uniform_fan_in(fan_in), shape)
        positions = self.positions_of(self, channels, axes) if positions is None else positions
        first_width = self._spread[1]
        constant = None if first_width is None else jax.nn.initializers.constant(first_width)
        widths = None if constant is None else self.param('widths', constant, positions.shape)
        kernel = construct(weights, positions, widths, sizes, self.interpolation).astype(self.dtype)
        y = places.convolve(x.astype(self.dtype), kernel, self.stride, self._padding(axes))
        if not self.use_bias:
            return y
        bias = self.param('bias', self.bias_init or init.uniform_fan_in(fan_in), (self.features,))
        return y + places.per_channel(bias.astype(self.dtype), y)

    @nn.nowrap
    def positions_of(self, owner: nn.Module, channels: int, axes: int) -> Float[Array, 'axes d c2 k']:
        """Returns the parameter `positions` of `owner`, this layer or one that hands it to several like this one.

        They start as the published ones: normal around the middle with a deviation of 0.5, none outside of the kernel.
        """
        sizes = places.sides(self.dilated_size or self.kernel_size, axes)
        limits = [sizes[axis] // 2 for axis in _order(self.interpolation, axes)]
        bound = np.asarray(limits, np.float32).reshape(axes, 1, 1, 1)
        inside = lambda key, shape: jnp.clip(_STEP(key, shape, jnp.float32), -bound, bound)
        return owner.param('positions', inside, (axes, self.features, self._channels(channels), self._count(axes)))

    @property
    def _spread(self) -> tuple[Callable[[Array, Array | None], Array], float | None]:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f'Dcls.interpolation is {self.interpolation!r}, and there are {", ".join(INTERPOLATIONS)}: take one.'
            )
        return INTERPOLATIONS[self.interpolation]

    def _count(self, axes: int) -> int:
        count = math.prod(places.sides(self.kernel_size, axes)) if self.count is None else self.count
        if count < 1:
            raise ValueError(f'Dcls.count is {count}: a kernel has at least 1 weight.')
        return count

    def _channels(self, channels: int) -> int:
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f'{channels} input and {self.features} output channels do not divide into {self.groups} groups: '
                'change the width or the groups.'
            )
        return channels // self.groups

    def _padding(self, axes: int) -> str | tuple[tuple[int, int], ...]:
        """Returns the padding of each axis, with what the kernel is larger by."""
        if isinstance(self.padding, str):
            return self.padding
        given = ((self.padding,) * 2,) * axes if isinstance(self.padding, int) else self.padding
        old, new = (places.sides(size, axes) for size in (self.kernel_size, self.dilated_size or self.kernel_size))
        if any((large - small) % 2 for small, large in zip(old, new)):
            raise ValueError(
                f'a kernel of {new} in the place of one of {old} has no middle in common with it: let both be odd.'
            )
        more = [(large - small) // 2 for small, large in zip(old, new)]
        return tuple((before + extra, after + extra) for (before, after), extra in zip(given, more, strict=True))


def construct(
    weights: Float[Array, 'k c d'],
    positions: Float[Array, 'axes d c k'],
    widths: Float[Array, 'axes d c k'] | None,
    sizes: Sequence[int],
    interpolation: str,
) -> Float[Array, '*sizes c d']:
    """Returns the kernels that weights at positions make, in float32.

    Args:
        weights: of each pair of channels.
        positions: in pixels from the middle of the kernel, in the published order of the axes (see above).
        widths: where the interpolation has some.
        sizes: sides of the kernel.
        interpolation: a name of `INTERPOLATIONS`.
    """
    spread, _ = INTERPOLATIONS[interpolation]
    axes = len(sizes)

    # Made anew in the backward pass, so that nothing as large as the kernel is kept of a weight.
    @jax.checkpoint
    def share(weight: Array, position: Array, width: Array | None) -> Array:
        parts = []  # of each axis (side, c, d)
        for axis, side in zip(_order(interpolation, axes), sizes):
            index = jnp.arange(side, dtype=jnp.float32)[:, None, None]
            distance = index - (position[axis] + side // 2)[None]
            parts.append(spread(distance, None if width is None else width[axis][None]))
        if interpolation != 'v0':
            weight = weight / (math.prod(part.sum(0) for part in parts) + _TINY)
        alone = [jnp.expand_dims(part, [m for m in range(axes) if m != n]) for n, part in enumerate(parts)]
        return math.prod(alone, start=jnp.expand_dims(weight, [*range(axes)]))

    def add(kernel: Array, one: tuple[Array, Array, Array | None]) -> tuple[Array, None]:
        return kernel + share(*one), None

    turned = [None if array is None else array.transpose(3, 0, 2, 1) for array in (positions, widths)]
    return lax.scan(add, jnp.zeros((*sizes, *weights.shape[1:]), jnp.float32), (weights, *turned))[0]


def _order(interpolation: str, axes: int) -> Sequence[int]:
    """Returns which of the positions is along each axis of the kernel, and which axis each is along."""
    return range(axes) if interpolation == 'v0' else range(axes)[::-1]
