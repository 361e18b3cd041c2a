"""Maxima of 3x3 tokens in the place of attention.

Han et al., 2022, "Learning Features with Parameter-Free Layers", https://arxiv.org/abs/2202.02777. Reference:
https://github.com/naver-ai/PfLayer (Apache-2.0), vit_pf.py and pit_pf.py; the activation stands before the maxima and
behind them, as there. Where we differ: the map need not be square.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.pool import max_pool


class MaxMixer(nn.Module):
    """``out(gelu(max3x3(gelu(up(x)))))``: mixes the tokens of a map without parameters.

    Attributes:
        grid: rows and columns of the map.
        ratio: hidden width over width.
        dtype: compute type.
        kernel_init: initial values of both matrices; by default torch's.
    """

    grid: tuple[int, int]
    ratio: int = 3
    dtype: DTypeLike = jnp.float32
    kernel_init: init.Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens, row by row.

        Raises:
            ValueError: there are other tokens than those of the map.
        """
        del train
        if x.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f'MaxMixer gets {x.shape[1]} tokens for a map of {self.grid[0]}x{self.grid[1]}: leave out the learned '
                'tokens (tokens=0).'
            )
        y = gelu(self._dense(x, self.ratio * x.shape[-1], 'qkv'))
        y = max_pool(y.reshape(x.shape[0], *self.grid, -1), 3, 1, 1).reshape(y.shape)
        return self._dense(gelu(y), x.shape[-1], 'out')

    def _dense(self, x: Array, features: int, name: str) -> Array:
        kernel_init = self.kernel_init or init.uniform_fan_in(x.shape[-1])
        return Dense(features, True, kernel_init, self.dtype, name=name)(x)
