"""GLA: a language model of gated linear attention.

Yang et al., 2023, "Gated Linear Attention Transformers with Hardware-Efficient Training",
https://arxiv.org/abs/2312.06635. Reference: https://github.com/fla-org/flash-linear-attention (MIT), commit bc3b101,
fla/layers/gla.py and fla/models/gla, read for facts; parameter names are those of its models on the Hugging Face hub.

The epsilon of norms is 1e-6 in the reference's models and 1e-5 in its layer alone. Where we differ: decays, states and
the output norm are float32 whatever the compute type; gates other than swish and feature maps of queries and keys are
left out.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.gla import gla as attend
from longview.kernels.gla import gla_step
from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import GatedMlp
from longview.modelzoo.layers.mixers.mamba import CausalConv
from longview.modelzoo.layers.mixers.mixer import Mixer
from longview.modelzoo.layers.norms.norm import RMSNorm
from longview.modelzoo.sequence.trunk import Trunk

_NORMAL = jax.nn.initializers.normal(0.02)


class State(NamedTuple):
    """The state matrix of each head, and the last inputs of the short convolutions over q, k and v."""

    memory: Float[Array, 'b h k v']
    inputs: tuple[Float[Array, 'b n c'], ...]


class GatedLinearAttention(Mixer):
    """``out(norm(attention) * silu(gate(x)))`` with a norm over each head.

    Attributes:
        heads: number of query heads.
        shared_by: number of query heads that share one head of keys, values and decays.
        key_ratio, value_ratio: channels of all keys and of all values over the width.
        rank: rank of the projection to the decays.
        normalizer: log decays are log sigmoids divided by this.
        least: lower bound of the log decays; None for none.
        taps: taps of the short convolutions over queries, keys and values; None for no convolutions.
        output_gate: whether the output is gated.
        epsilon: epsilon of the norm.
        dtype: compute type.
    """

    heads: int = 4
    shared_by: int = 1
    key_ratio: float = 0.5
    value_ratio: float = 1.0
    rank: int = 16
    normalizer: float = 16.0
    least: float | None = None
    taps: int | None = None
    output_gate: bool = True
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first token.

        Raises:
            ValueError: the heads do not divide the channels.
        """
        keys, values = self._channels(width)
        memory = jnp.zeros((batch, self.heads, keys // self.heads, values // self.heads))
        if self.taps is None:
            return State(memory, ())
        inputs = (keys, keys // self.shared_by, values // self.shared_by)
        return State(memory, tuple(jnp.zeros((batch, self.taps - 1, c), self.dtype) for c in inputs))

    def _sequence_state(self, x: Float[Array, 'b t d']) -> State:
        return self.init_state(*x.shape[::2])

    def _channels(self, width: int) -> tuple[int, int]:
        """Returns the total number of key channels and of value channels."""
        keys, values = int(width * self.key_ratio), int(width * self.value_ratio)
        if keys % self.heads or values % self.heads or self.heads % self.shared_by:
            raise ValueError(
                f'{self.heads} heads, shared by {self.shared_by}, do not divide {keys} channels of keys '
                f'and {values} of values: change width, heads or shared_by.'
            )
        return keys, values

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: State) -> tuple[Float[Array, 'b t d'], State]:
        keys, values = self._channels(x.shape[-1])
        sizes = {'q': keys, 'k': keys // self.shared_by, 'v': values // self.shared_by}
        found = {name: self._linear(size, name)(x) for name, size in sizes.items()}
        inputs = []
        if self.taps is not None:
            for name, before in zip(sizes, state.inputs):
                y, last = CausalConv(self.taps, self.dtype, use_bias=False, name=f'{name}_conv')(found[name], before)
                found[name] = nn.silu(y)
                inputs.append(last)
        q, k, v = (self._heads(found[name], name) for name in sizes)
        o, memory = _read(q, k, v, self._heads(self._decays(x, sizes['k']), 'k'), state.memory)
        o = RMSNorm(self.epsilon, name='norm')(o).reshape(*o.shape[:2], values)
        if self.output_gate:
            o = o * nn.silu(self._linear(values, 'gate')(x).astype(jnp.float32))
        return self._linear(x.shape[-1], 'out')(o), State(memory, tuple(inputs))

    def _decays(self, x: Float[Array, 'b t d'], channels: int) -> Float[Array, 'b t k']:
        low = self._linear(self.rank, 'decay_down')(x)
        g = jax.nn.log_sigmoid(Dense(channels, True, _NORMAL, name='decay_up')(low)) / self.normalizer
        return g if self.least is None else jnp.maximum(g, self.least)

    def _heads(self, x: Float[Array, 'b t c'], name: str) -> Float[Array, 'b t h k']:
        """Splits the channels into heads; a shared head is repeated for each query head that reads it."""
        groups = 1 if name == 'q' else self.shared_by
        return jnp.repeat(x.reshape(*x.shape[:2], self.heads // groups, -1), groups, axis=2)

    def _linear(self, features: int, name: str) -> Dense:
        return Dense(features, False, _NORMAL, self.dtype, name=name)


def _read(q: Array, k: Array, v: Array, g: Array, memory: Array) -> tuple[Array, Array]:
    """Returns the outputs from the state `memory`, and the next state; a single token takes one recurrent step."""
    if q.shape[1] > 1:
        return attend(q, k, v, g, initial_state=memory)
    o, memory = gla_step(*(x[:, 0] for x in (q, k, v, g)), memory)
    return o[:, None], memory


class GLA(Trunk):
    """`Trunk` with gated linear attention and published names."""


_NORM = functools.partial(RMSNorm, epsilon=1e-6)
_MIXER = functools.partial(GatedLinearAttention, epsilon=1e-6)
_MLP = functools.partial(GatedMlp, multiple_of=256)
_LM = functools.partial(GLA, mlp=_MLP, norm=_NORM, last_norm=_NORM)
# Section 5 of the paper: 1,024 channels (340 M) and 2,048 channels (1.3 B), each with 24 blocks of 4 heads.
VARIANTS = {
    'gla_340m': _LM(1024, 24, _MIXER, vocabulary=32000),
    'gla_1_3b': _LM(2048, 24, _MIXER, vocabulary=32000),
    'gla_test': _LM(
        16, 2, functools.partial(_MIXER, heads=2, rank=4), mlp=functools.partial(GatedMlp, multiple_of=8), vocabulary=32
    ),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2312.06635', (1, 2048))
PUBLISHED = {'gla_340m': _PAPER(params=340), 'gla_1_3b': _PAPER(params=1300)}


# Published names of the parameters of a mixer and of a language model, and ours; see weights.py.
MIXER_NAMES = (
    *((f'{name}_proj.weight', f'{name}/kernel') for name in 'qkv'),
    *((f'{name}_conv1d.weight', f'{name}_conv/kernel') for name in 'qkv'),
    ('gk_proj.0.weight', 'decay_down/kernel'),
    ('gk_proj.1.weight', 'decay_up/kernel'),
    ('gk_proj.1.bias', 'decay_up/bias'),
    ('g_proj.weight', 'gate/kernel'),
    ('o_proj.weight', 'out/kernel'),
    ('g_norm_swish_gate.weight', 'norm/scale'),
    ('g_norm.weight', 'norm/scale'),
)
NAMES = {
    'GLA': (
        ('model.embeddings.weight', 'backbone/stem/table'),
        ('model.layers.{i}.attn_norm.weight', 'backbone/block{i:02d}/mixer_norm/scale'),
        *(('model.layers.{i}.attn.' + there, 'backbone/block{i:02d}/mixer/' + here) for there, here in MIXER_NAMES),
        ('model.layers.{i}.mlp_norm.weight', 'backbone/block{i:02d}/mlp_norm/scale'),
        *(
            (f'model.layers.{{i}}.mlp.{name}_proj.weight', f'backbone/block{{i:02d}}/mlp/{name}/kernel')
            for name in ('gate', 'up', 'down')
        ),
        ('model.norm.weight', 'backbone/norm/scale'),
        ('lm_head.weight', 'head/kernel'),
    ),
}
