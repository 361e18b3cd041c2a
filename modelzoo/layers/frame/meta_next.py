"""MetaNeXt: ConvNeXt's block with exchangeable parts, its stages, and its stem and downsampling.

Liu et al., 2022, https://arxiv.org/abs/2201.03545; the name is that of Yu et al., 2023,
https://arxiv.org/abs/2303.16900.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import in_turn
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.patch import Patches


class MetaNeXt(nn.Module):
    """``s += mlp(norm(mixer(s)))``: one residual branch.

    Attributes:
        mixer, norm, mlp, residual: factories of the parts.
    """

    mixer: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    residual: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, s: Array, mask: Float[Array, '1 b'] | None, *, train: bool = False) -> Array:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        join = self.residual(name='residual')
        y = self.mixer(name='mixer')(join.read(s))
        y = self.mlp(name='mlp')(self.norm(name='norm')(y, train=train))
        return join.write(s, drop_path(y, None if mask is None else mask[0]))


class PatchStem(nn.Module):
    """Patches, then a norm.

    Attributes:
        features: output channels.
        patch: side of the patches.
        norm: factory of the norm.
        dtype: compute type.
    """

    features: int
    patch: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / patch by w / patch pixels, rounded up."""
        return self.norm(dtype=self.dtype, name='norm')(squares(self.features, self.patch, self.dtype)(x), train=train)


class PatchDown(nn.Module):
    """A norm, then 2x2 patches.

    Attributes:
        features, norm, dtype: as `PatchStem`'s.
    """

    features: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up."""
        return squares(self.features, 2, self.dtype)(self.norm(dtype=self.dtype, name='norm')(x, train=train))


def squares(features: int, side: int, dtype: DTypeLike) -> Patches:
    """Returns a patch embedding with the initial values of these networks: normal (0.02), biases 0."""
    return Patches(features, side, init.trunc_normal(0.02), jax.nn.initializers.zeros, dtype, name='patches')


class Stage(nn.Module):
    """The blocks of one resolution, which may differ and may hold batch statistics; for equal ones see `trunk.Stage`.

    Attributes:
        blocks: a factory for each block.
        residual: factory of the connection that opens and closes the stream.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    residual: Callable[..., nn.Module]
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the stage, of the same shape; `masks` are those of its blocks."""
        join = self.residual(name='residual')
        blocks = [block(name=name) for block, name in zip(self.blocks, trunk.names(len(self.blocks)))]
        return join.close(in_turn(blocks, join.open(x), masks, train=train, remat=self.remat))


def layers(depths: Sequence[int], last: Sequence[str] = ('norm',)) -> tuple[tuple[str, ...], ...]:
    """Returns the parameter paths by depth: ``stem``, each block, the `last`; ``down0``, ... join the block before."""
    blocks = trunk.stage_paths(depths, [f'down{index}' for index in range(len(depths) - 1)])
    return (('stem',), *map(tuple, blocks), tuple(last))
