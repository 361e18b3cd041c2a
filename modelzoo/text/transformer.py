"""A transformer on words that encodes a text: to both sides, or only to the words before.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, with the norms before the branches. `causal` with the last word
pooled is the text encoder of Radford et al., 2021, "Learning Transferable Visual Models From Natural Language
Supervision" (CLIP), https://arxiv.org/abs/2103.00020, whose texts end with an end-of-text word; to both sides with a
mean it is the usual encoder of sentences.

`CLIP` is that of CLIP, whose GELU is the sigmoid approximation; modelzoo/clip.py has its sizes and its weights. Where
we differ: all matrices start with deviation 0.02, where CLIP's depend on width and depth.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.masked import MaskedAttention
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, quick_gelu
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add, along
from longview.modelzoo.sequence.trunk import WordEmbedding

POOLS = ('last', 'mean')


class Transformer(ft.TextBackbone):
    """The network.

    Attributes:
        vocabulary: number of words.
        width: channels.
        depth: number of blocks.
        heads: heads of each block.
        places: number of learned positions, the longest text.
        causal: whether a word sees itself and those before it alone.
        pool: what ``pooled`` is: the 'last' word that is no padding, or the 'mean' of those that are none.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks run; see layers/frame/trunk.py.
    """

    vocabulary: int
    width: int = 512
    depth: int = 12
    heads: int = 8
    places: int = 77
    causal: bool = False
    pool: str = 'last'
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The embedding, each block, the last norm."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)), ('norm',))

    @nn.compact
    def __call__(self, words: Int[Array, 'b t'], valid: Bool[Array, 'b t'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``tokens`` and ``pooled``.

        Args:
            words: numbers in the vocabulary; those of padding do not matter.
            valid: False where there is padding. Of a text without any word ``pooled`` means nothing, but is finite.
            train: whether stochastic depth is active.

        Raises:
            ValueError: a text is longer than the number of positions, or there is no such `pool`.
        """
        if self.pool not in POOLS:
            raise ValueError(f'pool is {self.pool!r}: use one of {", ".join(POOLS)}.')
        embedded = WordEmbedding(self.vocabulary, self.width, self.places, self.dtype, name='stem')(words)
        masks = path_masks(self, self.drop_path, self.depth, words.shape[0], train=train)
        block = functools.partial(
            PreNorm,
            norm=functools.partial(self.norm, dtype=self.dtype),
            mixer=functools.partial(MaskedAttention, self._seen(valid), self.heads, dtype=self.dtype),
            mlp=functools.partial(self.mlp, dtype=self.dtype),
        )
        blocks = [
            block(residual=residual, name=name)
            for name, residual in zip(trunk.names(self.depth), along(self.residual, self.depth))
        ]
        join = self.residual(name='join')
        s = trunk.run(self, blocks, join.open(embedded), masks, train=train, remat=self.remat, scan=self.scan)
        tokens = self.norm(dtype=self.dtype, name='norm')(join.close(s))
        return {ft.STEM: embedded, ft.TOKENS: tokens, ft.POOLED: self._pooled(tokens.astype(jnp.float32), valid)}

    def _seen(self, valid: Bool[Array, 'b t']) -> Bool[Array, 'b t t']:
        """Returns which words each word sees."""
        seen = jnp.broadcast_to(valid[:, None], (*valid.shape, valid.shape[1]))
        return jnp.tril(seen) if self.causal else seen

    def _pooled(self, tokens: Float[Array, 'b t d'], valid: Bool[Array, 'b t']) -> Float[Array, 'b d']:
        if self.pool == 'mean':
            total = jnp.sum(jnp.where(valid[..., None], tokens, 0.0), axis=1)
            return total / jnp.maximum(jnp.sum(valid, axis=1), 1)[:, None]
        last = jnp.max(jnp.where(valid, jnp.arange(valid.shape[1])[None], 0), axis=1)
        return jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]


# The text tower of CLIP; width and heads are those of table 20 of its paper.
CLIP = functools.partial(
    Transformer, vocabulary=49_408, places=77, causal=True, mlp=functools.partial(Mlp, activation=quick_gelu)
)
CLIP_TEST = CLIP(vocabulary=12, width=16, depth=1, heads=2, places=6)
