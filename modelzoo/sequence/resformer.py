"""ResFormer and SVFormer: Llama with value residual connections from the first block to every later attention.

Zhou et al., 2024, "Value Residual Learning For Alleviating Attention Concentration In Transformers",
https://arxiv.org/abs/2410.17897. Reference: https://github.com/Zcchill/Value-Residual-Learning (MIT) at 95652f6,
src/modeling/modeling_llama_resformer.py and modeling_llama_svformer.py, read for facts; `NAMES` maps their parameter
names, which are Llama's (Touvron et al., 2023, https://arxiv.org/abs/2302.13971). Positions are rotary embeddings
(Su et al., 2021, https://arxiv.org/abs/2104.09864) that pair the first half of the channels of a head with the second.

The values are shared by the residual connection, see layers/residuals/value_residual.py; they are taken after the value
projection. The epsilon of norms is 1e-5 in the published scripts and 1e-6 by default.
"""

import functools
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.attention import split_heads
from longview.modelzoo.layers.attention.rotary import rotate
from longview.modelzoo.layers.frame import init, variants
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import GatedMlp
from longview.modelzoo.layers.mixers.causal_attention import CachedAttention, State
from longview.modelzoo.layers.norms.norm import RMSNorm
from longview.modelzoo.layers.residuals.value_residual import SharedValue, ValueMix, ValueResidual
from longview.modelzoo.sequence.trunk import Trunk

_NORMAL = jax.nn.initializers.normal(0.02)


class RotaryAttention(CachedAttention):
    """``out(softmax(q k^T / sqrt(K)) v)`` with a causal mask and rotary position embeddings, without biases.

    Attributes:
        heads, places, dtype: see `layers.mixers.causal_attention.CachedAttention`.
        kv_heads: heads of keys and values, each for as many neighbouring heads of queries; None for one each.
        base: base of the rotary frequencies.
        kernel_init, out_init: initial values of the first three matrices and of the last one.
    """

    places: int = 2048
    base: float = 10_000.0
    kernel_init: init.Initializer = _NORMAL
    out_init: init.Initializer = _NORMAL
    kv_heads: int | None = None

    def init_state(self, batch: int, width: int) -> State:
        """Returns the state before the first element."""
        return self._empty(batch, self.kv_heads or self.heads, width // self.heads)

    @nn.compact
    def with_values(
        self, x: Float[Array, 'b t d'], mix: ValueMix | None, state: State | None = None
    ) -> tuple[Float[Array, 'b t d'], State | None, Float[Array, 'b t v']]:
        """Returns the outputs, the state after them and the values used; see `CachedAttention.with_values`.

        Raises:
            ValueError: `kv_heads` does not divide the heads.
        """
        width, kv_heads = x.shape[-1], self.kv_heads or self.heads
        if self.heads % kv_heads:
            raise ValueError(
                f'{self.heads} heads do not share {kv_heads} heads of keys and values: change one of the two.'
            )
        narrow = width * kv_heads // self.heads
        dense = lambda name, features: Dense(features, False, self.kernel_init, self.dtype, name=name)(x)
        first = 0 if state is None else state.count
        q, k = split_heads(dense('q', width), self.heads), split_heads(dense('k', narrow), kv_heads)
        own = [dense('v', narrow)] if mix is None or mix.has_own else []
        values = own[0] if mix is None else mix.values(*own)[..., :narrow]
        q, k = (rotate(part, first, self.base) for part in (q, k))
        y, state = self._attend(q, k, split_heads(values, kv_heads), state)
        return Dense(width, False, self.out_init, self.dtype, name='out')(y), state, values


class ResFormer(Trunk):
    """`Trunk` with rotary attention and published names, with any residual connection."""


_NORM = functools.partial(RMSNorm, epsilon=1e-5)
_LM = functools.partial(
    ResFormer,
    512,
    8,
    functools.partial(RotaryAttention, 8),
    functools.partial(GatedMlp, 3.5),
    _NORM,
    _NORM,
    vocabulary=50277,
)
_SMALL_NORM = functools.partial(RMSNorm, epsilon=1e-6)
_SMALL = functools.partial(
    ResFormer,
    16,
    2,
    functools.partial(RotaryAttention, 2, 16),
    functools.partial(GatedMlp, 2),
    _SMALL_NORM,
    _SMALL_NORM,
    vocabulary=32,
)
# The 82 M parameters of the published scripts (scripts/run_llama_*_82M.sh).
VARIANTS = {
    'resformer_82m': _LM(residual=ValueResidual),
    'svformer_82m': _LM(residual=SharedValue),
    'svformer_test': _SMALL(residual=SharedValue),
    'resformer_test': _SMALL(residual=ValueResidual),
}

PUBLISHED = {'resformer_82m': ft.Published('https://arxiv.org/abs/2410.17897', (1, 2048), params=82)}


def resformer(
    variant: str = 'resformer_82m',
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    ratio: float | None = None,
    places: int = 2048,
    **fields: Any,
) -> ResFormer:
    """Returns a variant with some fields changed; for the fields see `Trunk`.

    Args:
        variant: one of `VARIANTS`.
        heads: number of heads.
        kv_heads: number of heads of keys and values, by default as many (``num_key_value_heads`` there).
        ratio: hidden width of the feed-forward layers over the width (``intermediate_size`` there).
        places: room in the cache for decoding; takes effect together with `heads`.
        **fields: see `layers.frame.variants.changed`; with `residual.Add` as `residual` it is Llama.

    Raises:
        ValueError: there is no such variant or field.
    """
    made = variants.variant(VARIANTS, variant, {})
    mixer = made.mixer if heads is None else functools.partial(RotaryAttention, heads, places)
    mixer = mixer if kv_heads is None else functools.partial(mixer, kv_heads=kv_heads)
    mlp = made.mlp if ratio is None else functools.partial(GatedMlp, ratio)
    return variants.variant(VARIANTS, variant, {'mixer': mixer, 'mlp': mlp} | fields)


# Published names of a language model's parameters, and ours; see weights.py.
_THERE, _HERE = 'model.layers.{i}.', 'backbone/block{i:02d}/'
NAMES = {
    'ResFormer': (
        ('model.embed_tokens.weight', 'backbone/stem/table'),
        *(
            (f'{_THERE}self_attn.{name[0]}_proj.weight', f'{_HERE}mixer/{name}/kernel')
            for name in ('q', 'k', 'v', 'out')
        ),
        *((f'{_THERE}mlp.{name}_proj.weight', f'{_HERE}mlp/{name}/kernel') for name in ('gate', 'up', 'down')),
        (_THERE + 'input_layernorm.weight', _HERE + 'mixer_norm/scale'),
        (_THERE + 'post_attention_layernorm.weight', _HERE + 'mlp_norm/scale'),
        ('model.norm.weight', 'backbone/norm/scale'),
        ('lm_head.weight', 'head/kernel'),
    ),
}
