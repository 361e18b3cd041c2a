"""Heads of semantic segmentation: features -> logits (B, h, w, K) of each pixel, at the stride of the finest map read.

Like all heads they hold no running statistics, so their norms are of each pixel or example by itself.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.dense.fpn import bilinear
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.norm import LayerNorm


class PixelLinear(nn.Module):
    """A linear classifier of each pixel of ``map``, as a linear probe of dense features has it.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int

    needs = ft.Backbone

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b h w k']:
        """Returns logits in float32.

        Raises:
            ValueError: there is no ``map``.
        """
        if ft.MAP not in features:
            raise ValueError(
                f'PixelLinear reads {ft.MAP!r}, and the backbone has {", ".join(sorted(features))}: take one that '
                'keeps its tokens as an image.'
            )
        return Dense(self.num_classes, name='classes')(features[ft.MAP].astype(jnp.float32))


class MlpDecoder(nn.Module):
    """The all-MLP decoder of SegFormer: every stage to one width and to the finest stage's size, joined, and fused.

    Xie et al., 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    https://arxiv.org/abs/2105.15203, section 3.2, equation (4)::

        F_i = resized(Linear(C_i, C)(stage_i));  F = relu(norm(Linear(4 C, C)(joined F_i)));  logits = Linear(C, K)(F)

    Where we differ: the norm is a `LayerNorm` of each pixel, theirs is over the batch; their dropout of 0.1 before the
    last layer is left out; the number of stages is the backbone's.

    Attributes:
        num_classes: number of logits K.
        width: C; the paper has 256 for its two smallest networks and 768 for the others.
        stages: which stages are read, from fine to coarse; None for all.
        dtype: compute type; logits are float32.
        attention: factory of a part that rescales the fused map, such as `scse.ConcurrentSqueeze`; None for none.
    """

    num_classes: int
    width: int = 256
    stages: Sequence[int] | None = None
    dtype: DTypeLike = jnp.float32
    attention: Callable[..., nn.Module] | None = None

    needs = ft.PyramidBackbone

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b h w k']:
        """Returns logits in float32.

        Raises:
            ValueError: there is no such stage.
        """
        maps = stages_of(features, self.stages, type(self).__name__)
        size = maps[0].shape[1:3]
        one = lambda index, x: Dense(self.width, dtype=self.dtype, name=f'project{index}')(x)
        joined = jnp.concatenate([bilinear(one(index, x), size) for index, x in enumerate(maps)], axis=-1)
        fused = Dense(self.width, use_bias=False, dtype=self.dtype, name='fuse')(joined)
        fused = nn.relu(LayerNorm(dtype=self.dtype, name='norm')(fused))
        if self.attention is not None:
            fused = self.attention(dtype=self.dtype, name='attention')(fused)
        return Dense(self.num_classes, name='classes')(fused.astype(jnp.float32))


def stages_of(features: ft.Features, chosen: Sequence[int] | None, who: str) -> list[Float[Array, 'b _ _ _']]:
    """Returns the maps of the chosen stages of a pyramid, all by default.

    Raises:
        ValueError: there is no such stage; `who` asks for it.
    """
    count = 0
    while ft.stage(count) in features:
        count += 1
    chosen = tuple(range(count) if chosen is None else chosen)
    if not chosen or not all(0 <= index < count for index in chosen):
        raise ValueError(f'{who} reads the stages {chosen}, and the backbone has {count} of them: choose among these.')
    return [features[ft.stage(index)] for index in chosen]
