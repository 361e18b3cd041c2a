"""Weighted convolution: a kernel times a density that depends on the distance from its middle.

Cammarasana and Patane, 2025, "Optimal Weighted Convolution for Classification and Denosing",
https://arxiv.org/abs/2505.24558, and "Optimal Density Functions for Weighted Convolution in Learning Models",
https://arxiv.org/abs/2505.24527; reference https://github.com/cammarasana123/weightedConvolution2.0 (GPL-3.0: facts and
numbers only, no code was read across), commit 7ee7e21.

    y = x * (kernel . density),   density[i, j] = a_i a_j,   a = (d_1, ..., d_n, 1, d_n, ..., d_1)

The coefficients d, from the rim inwards, are one choice for all layers of a network, or learned by each layer. They are
not normalised, so with coefficients of 1 it is a plain convolution, and a trained layer is one of the kernel times the
density. Sides of kernels are odd and all equal, as in the reference.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions import places
from longview.modelzoo.layers.convolutions.conv import kernel_shape
from longview.modelzoo.layers.frame import init

# The reference's examples for images, by the side of the kernel.
DENSITIES = {1: (), 3: (0.7,), 5: (0.2, 0.8), 7: (0.25, 0.15, 0.55)}

# A layer's published names and ours; see weights.py. The reference keeps the density itself as two constants.
NAMES = (('weight', 'kernel'), ('bias', 'bias'), ('den', 'density'), ('alfa', ''), ('Phi', ''))


class WeightedConv(nn.Module):
    """A convolution in one, two or three dimensions with the arguments of `conv.Conv`, and a density.

    Attributes:
        features, stride, padding, dtype, groups, use_bias, kernel_init, bias_init: as those of `conv.Conv`; kernels
            start by He's rule with the fan-out and biases as 0, as in the reference.
        kernel_size: odd side of the kernel, the same along every axis.
        density: the coefficients from the rim inwards, without the middle; by default those of `DENSITIES`.
        learned: whether they are only how the layer's own coefficients start.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: places.Paddings = 0
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = False
    kernel_init: init.Initializer = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    bias_init: init.Initializer = jax.nn.initializers.zeros
    density: Sequence[float] | None = None
    learned: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b *places c']) -> Float[Array, 'b *out d']:
        """Returns as many places as a plain convolution has.

        Raises:
            ValueError: the groups do not divide the channels, the kernel has no middle, or its coefficients are not
                as many as it needs.
        """
        axes, first = x.ndim - 2, self._coefficients()
        *_, channels, features = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        shape = (*places.sides(self.kernel_size, axes), channels, features)
        kernel = self.param('kernel', self.kernel_init, shape)
        start = jnp.asarray(first, jnp.float32)
        coefficients = self.param('density', lambda key: start) if self.learned and first else start
        kernel = kernel * density(coefficients, axes)[..., None, None]
        y = places.convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if not self.use_bias:
            return y
        bias = self.param('bias', self.bias_init, (self.features,))
        return y + places.per_channel(bias.astype(self.dtype), y)

    def _coefficients(self) -> tuple[float, ...]:
        if self.kernel_size % 2 == 0:
            raise ValueError(f'a weighted kernel of side {self.kernel_size} has no middle: make the side odd.')
        if self.density is None and self.kernel_size not in DENSITIES:
            raise ValueError(
                f'there is no published density for kernels of side {self.kernel_size}, but for {[*DENSITIES]}: '
                'give `density`.'
            )
        found = DENSITIES[self.kernel_size] if self.density is None else tuple(self.density)
        if len(found) != self.kernel_size // 2:
            raise ValueError(
                f'a kernel of side {self.kernel_size} has {self.kernel_size // 2} coefficients from the rim to beside '
                f'the middle, and the density has {len(found)}: give as many.'
            )
        return found


def density(coefficients: Float[Array, ' n'], axes: int) -> Float[Array, '*sides']:
    """Returns the density of a kernel over so many axes, 1 in its middle, from the coefficients of an axis."""
    along = jnp.concatenate([coefficients, jnp.ones(1, coefficients.dtype), coefficients[::-1]])
    return math.prod(along.reshape([-1 if axis == own else 1 for axis in range(axes)]) for own in range(axes))
