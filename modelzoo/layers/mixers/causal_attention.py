"""Causal self-attention with a cache of keys and values for decoding.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; in the form of language models since GPT-2. Positions are left
to the embedding. The cache has a fixed number of places, so its size does not grow.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from longview.modelzoo.layers.attention.attention import (
    attend,
    inner_width,
    leave,
    merge_heads,
    normed,
    split_heads,
)
from longview.modelzoo.layers.attention.rotary import rotate
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.mixer import Mixer
from longview.modelzoo.layers.residuals.value_residual import ValueMix


class State(NamedTuple):
    """The cache: keys and values of the elements read so far, and their number."""

    keys: Float[Array, 'b h n k']
    values: Float[Array, 'b h n k']
    count: Int[Array, '']


class CachedAttention(Mixer):
    """Attention of each element to itself and to the elements before it, with a cache.

    A final class implements `with_values`, which computes queries, keys and values.

    Attributes:
        heads: number of heads; divides the width.
        places: number of elements that the cache has room for.
        dtype: compute type; the softmax is float32.
    """

    heads: int = 1
    places: int = 1024
    dtype: DTypeLike = jnp.float32

    @property
    def longest(self) -> int | None:
        """The number of elements that can be read step by step; a sequence read in parallel may have any length."""
        return self.places

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        return self._empty(batch, self.heads, width // self.heads)

    def _empty(self, batch: int, heads: int, head_width: int) -> State:
        empty = jnp.zeros((batch, heads, self.places, head_width), self.dtype)
        return State(empty, empty, jnp.zeros((), jnp.int32))

    @abc.abstractmethod
    def with_values(
        self, x: Float[Array, 'b t d'], mix: ValueMix | None, state: State | None = None
    ) -> tuple[Float[Array, 'b t d'], State | None, Float[Array, 'b t v']]:
        """Returns the outputs, the state after them and the values used.

        Args:
            x: the elements.
            mix: how the first block's values and this block's own are combined; None for its own alone.
            state: of the elements read before; None for a whole sequence.
        """

    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        return self.with_values(x, None, state)[:2]

    def _attend(
        self, q: Float[Array, 'b h t k'], k: Float[Array, 'b g t k'], v: Float[Array, 'b g t k'], state: State | None
    ) -> tuple[Float[Array, 'b t d'], State | None]:
        """Returns the attention output with its heads concatenated, and the next state."""
        if state is None:
            return merge_heads(attend(q, k, v, causal=True)), None
        first, length = state.count, q.shape[2]
        k = lax.dynamic_update_slice_in_dim(state.keys, k, first, axis=2)
        v = lax.dynamic_update_slice_in_dim(state.values, v, first, axis=2)
        seen = jnp.arange(k.shape[2])[None] <= first + jnp.arange(length)[:, None]
        return merge_heads(attend(q, k, v, mask=seen[None, None])), State(k, v, first + length)


class CausalAttention(CachedAttention):
    """``out(softmax(q k^T / sqrt(K)) v)`` with ``[q | k | v] = qkv(x)`` and a causal mask.

    Attributes:
        heads, places, dtype: see `CachedAttention`.
        use_bias: whether the matrices have biases.
        kernel_init, out_init: initial values of the first and of the last matrix.
        head_width: channels of a head, if they are others than the width divided by the heads.
        kv_heads: heads of keys and values, each for as many neighbouring heads of queries; None for one each.
        head_scale, out_norm: see `layers.attention.attention.leave`.
        qkv_norm: factory of the norms of queries, keys and values over the channels of a head; None for none.
        rotary: base of rotary position embeddings, see layers/attention/rotary.py; None for none.
    """

    use_bias: bool = True
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    out_init: init.Initializer = init.trunc_normal(0.02)
    head_width: int | None = None
    kv_heads: int | None = None
    head_scale: str | None = None
    out_norm: Callable[..., nn.Module] | None = None
    qkv_norm: Callable[..., nn.Module] | None = None
    rotary: float | None = None

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        return self._empty(batch, self._kv_heads, self.head_width or width // self.heads)

    @nn.compact
    def with_values(
        self, x: Float[Array, 'b t d'], mix: ValueMix | None, state: State | None = None
    ) -> tuple[Float[Array, 'b t d'], State | None, Float[Array, 'b t v']]:
        """Returns the outputs, the state after them and the values used.

        Args:
            x: the elements.
            mix: how the first block's values and this block's own are combined; None for its own alone.
            state: of the elements read before; None for a whole sequence.

        Raises:
            ValueError: `kv_heads` does not divide the heads.
        """
        width, kv_heads = x.shape[-1], self._kv_heads
        inner = inner_width(width, self.heads, self.head_width)
        own = mix is None or mix.has_own
        sizes = [inner, *[inner * kv_heads // self.heads] * (2 if own else 1)]
        qkv = Dense(sum(sizes), self.use_bias, self.kernel_init, self.dtype, name='qkv')(x)
        q, k, *rest = jnp.split(qkv, np.cumsum(sizes)[:-1], axis=-1)
        values = rest[0] if mix is None else mix.values(*rest)[..., : sizes[1]]
        heads = (split_heads(part, n) for part, n in zip((q, k, values), (self.heads, kv_heads, kv_heads)))
        q, k, v = normed(self, *heads)
        if self.rotary is not None:
            first = 0 if state is None else state.count
            q, k = (rotate(part, first, self.rotary) for part in (q, k))
        y, state = self._attend(q, k, v, state)
        out = Dense(width, self.use_bias, self.out_init, self.dtype, name='out')
        return leave(self, y, out), state, values

    @property
    def _kv_heads(self) -> int:
        found = self.kv_heads or self.heads
        if self.heads % found:
            raise ValueError(
                f'{self.heads} heads do not share {found} heads of keys and values: change one of the two.'
            )
        return found


# Parameter names of zoology's attention, and ours; see weights.py.
NAMES = (
    ('Wqkv.weight', 'qkv/kernel'),
    ('Wqkv.bias', 'qkv/bias'),
    ('out_proj.weight', 'out/kernel'),
    ('out_proj.bias', 'out/bias'),
)
