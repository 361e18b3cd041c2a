"""Hierarchical residuals: what earlier levels of a pyramid have found is added to later ones, compressed.

Lopez and Triesch, 2025, "Hierarchical Residuals Exploit Brain-Inspired Compositionality" (HiResNet),
https://arxiv.org/abs/2502.16003. No code is published, and of the paper its abstract and introduction were at hand:
long-range residual connections between layers of different levels of the hierarchy, through light projections; those
into the output of a later level help most. Levels are the stem and the stages. The output of stage j becomes

    s_j = stage_j(s_{j-1}) + sum_{i < j-1} P_ij(s_i),

where P_ij is a 1x1 convolution with the stride that takes level i to the size of level j, and batch normalization; from
the level before, i = j - 1, the stage reads already. ``into='input'`` adds to what the stage reads instead.

Chosen here: no activation follows the projections, and the scales of their norms are initially 0, so that a network
starts as without them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions.conv_norm import PlainConv
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

OUTPUT, INPUT, BOTH = 'output', 'input', 'both'


class HierarchicalResidual(nn.Module):
    """``x + sum_i norm(conv(level_i))`` at one place of a pyramid, the input or the output of a stage.

    Attributes:
        place: OUTPUT or INPUT: where this one is.
        into: where there are any: one of these, or BOTH; elsewhere `x` is returned.
        norm: factory of the normalization.
        dtype: compute type.
    """

    place: str = OUTPUT
    into: str = OUTPUT
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        levels: Sequence[Float[Array, 'b _ _ _']],
        strides: Sequence[int],
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w c']:
        """Returns a map like `x`.

        Args:
            x: the map at this place.
            levels: maps of the earlier levels.
            strides: pixels of each level, along a side, for a pixel of `x`; sizes that do not divide are rounded up.
            train: whether batch statistics are those of the batch.

        Raises:
            ValueError: `into` is none of the three.
        """
        if self.into not in (OUTPUT, INPUT, BOTH):
            raise ValueError(f'HierarchicalResidual.into is {self.into!r}: use {OUTPUT!r}, {INPUT!r} or {BOTH!r}.')
        if self.into not in (self.place, BOTH):
            return x
        for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            y = PlainConv(x.shape[-1], 1, stride, 0, self.dtype, name=f'conv{index}')(level)
            norm = self.norm(scale_init=jax.nn.initializers.zeros, dtype=self.dtype, name=f'norm{index}')
            x = x + norm(y, train=train).astype(x.dtype)
        return x
