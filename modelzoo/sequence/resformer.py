"""ResFormer and SVFormer: Llama with value residual connections from the first block to every later attention.

Zhou et al., 2024, "Value Residual Learning For Alleviating Attention Concentration In Transformers",
https://arxiv.org/abs/2410.17897. Reference: https://github.com/Zcchill/Value-Residual-Learning (MIT) at 95652f6,
src/modeling/modeling_llama_resformer.py and modeling_llama_svformer.py, read for facts; `NAMES` maps their parameter
names, which are Llama's (Touvron et al., 2023, https://arxiv.org/abs/2302.13971). Positions are rotary embeddings
(Su et al., 2021, https://arxiv.org/abs/2104.09864) that pair the first half of the channels of a head with the second.

The values are shared by the residual connection, see layers/residuals/value_residual.py; they are taken after the value
projection. The epsilon of norms is 1e-5 in the published scripts and 1e-6 by default. Where we differ: keys and values
have as many heads as queries.
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
        base: base of the rotary frequencies.
        kernel_init, out_init: initial values of the first three matrices and of the last one.
    """

    places: int = 2048
    base: float = 10_000.0
    kernel_init: init.Initializer = _NORMAL
    out_init: init.Initializer = _NORMAL

    @nn.compact
    def with_values(
        self, x: Float[Array, 'b t d'], mix: ValueMix | None, state: State | None = None
    ) -> tuple[Float[Array, 'b t d'], State | None, Float[Array, 'b t d']]:
        """Returns the outputs, the state after them and the values used; see `CachedAttention.with_values`."""
        dense = lambda name, initial: Dense(x.shape[-1], False, initial, self.dtype, name=name)
        first = 0 if state is None else state.count
        q, k = (rotate(split_heads(dense(name, self.kernel_init)(x), self.heads), first, self.base) for name in 'qk')
        own = [dense('v', self.kernel_init)(x)] if mix is None or mix.has_own else []
        values = own[0] if mix is None else mix.values(*own)
        y, state = self._attend(q, k, split_heads(values, self.heads), state)
        return dense('out', self.out_init)(y), state, values


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
    variant: str = 'resformer_82m', *, heads: int | None = None, places: int = 2048, **fields: Any
) -> ResFormer:
    """Returns a variant with some fields changed; for the fields see `Trunk`.

    Args:
        variant: one of `VARIANTS`.
        heads: number of heads.
        places: room in the cache for decoding; takes effect together with `heads`.
        **fields: see `layers.frame.variants.changed`; with `residual.Add` as `residual` it is Llama.

    Raises:
        ValueError: there is no such variant or field.
    """
    mixer = {} if heads is None else {'mixer': functools.partial(RotaryAttention, heads, places)}
    return variants.variant(VARIANTS, variant, mixer | fields)


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
