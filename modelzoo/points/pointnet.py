"""PointNet: the same layers on every point, and the maximum over the points.

Qi et al., 2017, "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
https://arxiv.org/abs/1612.00593. The maximum does not depend on the order of the points, and padding is left out of it.

Where we differ: the layers are normalized point by point, by layer normalization in place of the batch's, so that
padding cannot change a statistic; the two small networks that turn the points and their features (T-Nets) are left out.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.norms.norm import LayerNorm

POOLS = ('max', 'mean')


class PointNet(ft.Backbone):
    """``after(pool(each(point)))``; both are layers of a matrix, a norm and a rectifier.

    Attributes:
        each: widths of the layers on every point; () for none: then the points themselves are pooled.
        after: widths of the layers on what is pooled; () for none.
        pool: the 'max' or the 'mean' over the points.
        dtype: compute type; parameters are float32.
    """

    reads = (ft.POINTS, ft.valid(ft.POINTS))

    each: Sequence[int] = (64, 64, 64, 128, 1024)
    after: Sequence[int] = (512, 256)
    pool: str = 'max'
    dtype: DTypeLike = jnp.float32

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Each layer, from the points to ``pooled``."""
        names = [
            f'{part}{i}' for part, widths in (('each', self.each), ('after', self.after)) for i in range(len(widths))
        ]
        return tuple((f'{name}/kernel', f'{name}/bias', f'{name}_norm') for name in names)

    @nn.compact
    def __call__(self, points: Float[Array, 'b n c'], valid: Bool[Array, 'b n'], *, train: bool = False) -> ft.Features:
        """Returns ``tokens`` (B, N, D), of which those of padding mean nothing, and ``pooled``.

        Args:
            points: whatever is known of each point; that of padding does not matter.
            valid: False where there is padding. Without any point ``pooled`` is that of zeros.
            train: changes nothing.

        Raises:
            ValueError: there is no such `pool`.
        """
        del train
        if self.pool not in POOLS:
            raise ValueError(f'pool is {self.pool!r}: use one of {", ".join(POOLS)}.')
        tokens = self._layers('each', self.each, points)
        pooled = self._layers('after', self.after, self._pooled(tokens, valid[..., None]))
        return {ft.TOKENS: tokens, ft.POOLED: pooled.astype(jnp.float32)}

    def _layers(self, part: str, widths: Sequence[int], x: Float[Array, '*n c']) -> Float[Array, '*n d']:
        for i, width in enumerate(widths):
            x = Dense(width, dtype=self.dtype, name=f'{part}{i}')(x)
            x = nn.relu(LayerNorm(dtype=self.dtype, name=f'{part}{i}_norm')(x))
        return x

    def _pooled(self, tokens: Float[Array, 'b n d'], valid: Bool[Array, 'b n 1']) -> Float[Array, 'b d']:
        count = jnp.sum(valid, axis=1)
        if self.pool == 'mean':
            return jnp.sum(jnp.where(valid, tokens, 0), axis=1) / jnp.maximum(count, 1).astype(tokens.dtype)
        return jnp.where(count > 0, jnp.max(jnp.where(valid, tokens, -jnp.inf), axis=1), 0)
