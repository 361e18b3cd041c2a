"""Based's linear attention: softmax with the second-order Taylor approximation of the exponential.

Arora et al., 2024, "Simple linear attention language models balance the recall-throughput tradeoff",
https://arxiv.org/abs/2402.18668; in the comparison of https://arxiv.org/abs/2312.04927. Reference:
https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5, zoology/mixers/based.py; read for facts, no code
was taken. A whole sequence is computed in the quadratic form, with ``1 + s + s^2 / 2`` in place of ``exp(s)``. Decoding
uses the recurrent form over feature maps whose inner product is that polynomial (kernels.gla without decay).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.gla import gla
from longview.modelzoo.layers.attention.attention import merge_heads, split_heads
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.mixer import Mixer

_LEAST = 1e-12


class State(NamedTuple):
    """For each feature of the keys the sum of the values, and of ones."""

    memory: Float[Array, 'b h f v']


class Based(Mixer):
    """``out(sum_i f(q k_i) v_i / sum_i f(q k_i))`` over the elements i so far, with ``f(s) = 1 + s + s^2 / 2``.

    Attributes:
        heads: number of heads; divides the width.
        features: channels of the queries and keys of each head.
        kernel_init, out_init: initial values of the first matrices and of the last one.
        dtype: compute type of the matrices; the attention is float32.
    """

    heads: int = 1
    features: int = 8
    kernel_init: init.Initializer = jax.nn.initializers.normal(0.02)
    out_init: init.Initializer = jax.nn.initializers.normal(0.02)
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        features = 1 + self.features + self.features**2
        return State(jnp.zeros((batch, self.heads, features, width // self.heads + 1)))

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State | None) -> tuple[Float[Array, 'b t d'], State | None]:
        width, sizes = x.shape[-1], {'q': self.heads * self.features, 'k': self.heads * self.features}
        q, k, v = (
            Dense(size, False, self.kernel_init, self.dtype, name=name)(x).astype(jnp.float32)
            for name, size in (sizes | {'v': width}).items()
        )
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        if state is None:
            found = _attend(q, k, v)
        else:
            found, memory = _go_on(q, k, v, state.memory)
            state = State(memory)
        return Dense(width, False, self.out_init, self.dtype, name='out')(merge_heads(found)), state


def _attend(
    q: Float[Array, 'b h t f'], k: Float[Array, 'b h t f'], v: Float[Array, 'b h t v']
) -> Float[Array, 'b h t v']:
    s = q @ jnp.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5
    weights = jnp.tril(1 + s + s * s / 2)
    return weights @ v / (jnp.sum(weights, axis=-1, keepdims=True) + _LEAST)


def _go_on(
    q: Float[Array, 'b h t f'], k: Float[Array, 'b h t f'], v: Float[Array, 'b h t v'], memory: Float[Array, 'b h m w']
) -> tuple[Float[Array, 'b h t v'], Float[Array, 'b h m w']]:
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    q, k, v = (jnp.swapaxes(part, 1, 2) for part in (taylor(q), taylor(k), v))
    found, memory = gla(q, k, v, jnp.zeros(q.shape[:-1]), scale=1.0, initial_state=memory)
    found = jnp.swapaxes(found, 1, 2)
    return found[..., :-1] / (found[..., -1:] + _LEAST), memory


def taylor(x: Float[Array, 'b h t f']) -> Float[Array, 'b h t m']:
    """Returns the feature map whose inner product is ``1 + s + s^2 / 2`` for ``s = q k / sqrt(F)``."""
    root = x.shape[-1] ** 0.25
    square = (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], -1) / (2**0.5 * root**2)
    return jnp.concatenate([jnp.ones_like(x[..., :1]), x / root, square], axis=-1)


# Published names of the mixer's parameters, and ours; see weights.py.
NAMES = (*((f'proj_{name}.weight', f'{name}/kernel') for name in 'qkv'), ('proj_o.weight', 'out/kernel'))
