"""Zoology's language models: a small network with the mixers that the paper compares on synthetic recall.

Arora et al., 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models",
https://arxiv.org/abs/2312.04927. Reference: https://github.com/HazyResearch/zoology (Apache-2.0), commit d88d6f5,
zoology/model.py and zoology/mixers; read for facts, no code was taken. Mixers of other papers are beside this file and
in layers/mixers.

In the runs of the paper there is no feed-forward layer, but its norm remains: the second branch of a block is a norm
alone (`mlp=False`). Only attention has positions; in later runs of the reference it alternates with short convolutions
instead (`attention_conv`), as Based's attention always does there. Where we differ: there is no dropout (0.1 on
embeddings and attention weights in the reference), and Mamba starts as its own paper has it, not with the standard
deviation 0.02 and the biases 0 of all other matrices.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from longview.modelzoo import features as ft
from longview.modelzoo import weights
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers import causal_attention, hyena, mamba
from longview.modelzoo.layers.mixers.mixer import Identity
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from longview.modelzoo.sequence.trunk import Parts, Trunk
from longview.modelzoo.sequence.zoology import base_conv, based, h3, rwkv4

_NORMAL = jax.nn.initializers.normal(0.02)


class Attention(Trunk):
    """`Trunk` with attention and positions."""


class AttentionConv(Trunk):
    """`Trunk` with short convolutions and attention in turn, without positions."""


class Based(Trunk):
    """`Trunk` with Based's linear attention."""


class BasedConv(Trunk):
    """`Trunk` with short convolutions and Based's linear attention in turn."""


class BaseConv(Trunk):
    """`Trunk` with short and long gated convolutions in turn."""


class Hyena(Trunk):
    """`Trunk` with Hyena's operator."""


class H3(Trunk):
    """`Trunk` with H3's state spaces."""


class Mamba(Trunk):
    """`Trunk` with Mamba's mixer, whose blocks have no second branch."""


class RWKV4(Trunk):
    """`Trunk` with RWKV-4's mixers."""


KINDS = {
    'attention': Attention,
    'attention_conv': AttentionConv,
    'based': Based,
    'based_conv': BasedConv,
    'baseconv': BaseConv,
    'hyena': Hyena,
    'h3': H3,
    'mamba': Mamba,
    'rwkv4': RWKV4,
}


def zoology(
    mixer: str = 'attention',
    *,
    width: int = 128,
    depth: int = 2,
    vocabulary: int = 8192,
    places: int = 64,
    mlp: bool = False,
    options: Mapping[str, Any] | None = None,
    drop_path: float = 0.0,
    dtype: DTypeLike = 'float32',
    remat: bool = False,
    scan: bool = False,
) -> Trunk:
    """Returns the network with a mixer.

    Args:
        mixer: a key of `KINDS`.
        width, depth, vocabulary, drop_path, dtype, remat, scan: see `Trunk`.
        places: length of the longest sequence: number of positions, taps of long kernels, size of the cache.
        mlp: whether blocks have a feed-forward layer, with 4 times the width.
        options: fields of the mixer to change, such as ``{'heads': 2}``.

    Raises:
        ValueError: there is no such mixer.
    """
    if mixer not in KINDS:
        raise ValueError(f'there is no mixer {mixer!r}: use one of {", ".join(KINDS)}.')
    mixers, second = _parts(mixer, depth, places, dict(options or {}))
    norm = functools.partial(LayerNorm, epsilon=1e-5)
    second = second if mlp else Identity
    return KINDS[mixer](
        width,
        depth,
        mixers,
        None if mixer == 'mamba' else second,
        functools.partial(RMSNorm, epsilon=1e-5) if mixer == 'mamba' else norm,
        norm,
        vocabulary=vocabulary,
        places=places if mixer == 'attention' else 0,
        tied=True,
        drop_path=drop_path,
        dtype=jnp.dtype(dtype),
        remat=remat,
        scan=scan,
    )


def _parts(name: str, depth: int, places: int, options: dict[str, Any]) -> tuple[Parts, Parts]:
    """Returns the factories of the mixers and of the feed-forward layers."""
    out = {'out_init': jax.nn.initializers.normal(0.02 / math.sqrt(2 * depth))}
    both = {'kernel_init': _NORMAL, **out}
    long = functools.partial(base_conv.BaseConv, taps=None, places=places)
    mlp = functools.partial(Mlp, **both)
    attention = functools.partial(causal_attention.CausalAttention, places=places, **both)
    mixers = {
        'attention': attention,
        'attention_conv': (base_conv.BaseConv, attention),
        'based': based.Based,
        'based_conv': (base_conv.BaseConv, based.Based),
        'baseconv': (base_conv.BaseConv, long),
        'hyena': functools.partial(hyena.Hyena, places=places, first_gate_first=True, filter_init=_NORMAL, **both),
        'h3': functools.partial(h3.H3, states=places),
        'mamba': mamba.Mamba,
        'rwkv4': tuple(
            functools.partial(rwkv4.TimeMix, block / max(depth - 1, 1), 1 - block / depth) for block in range(depth)
        ),
    }[name]
    if name == 'rwkv4':
        mlp = tuple(functools.partial(rwkv4.ChannelMix, 1 - block / depth) for block in range(depth))
    if options:
        mixers = (
            tuple(functools.partial(part, **options) for part in mixers)
            if isinstance(mixers, tuple)
            else (functools.partial(mixers, **options))
        )
    return mixers, mlp


VARIANTS = {
    **{f'zoology_{name}': zoology(name) for name in KINDS},
    **{
        f'zoology_{name}_test': zoology(name, width=8, depth=depth, vocabulary=32, mlp=True, options=options)
        for name, depth, options in (
            ('attention', 1, {'heads': 2}),
            ('based', 1, {'features': 2, 'heads': 2}),
            ('baseconv', 2, {}),
            ('h3', 1, {'states': 4}),
            ('rwkv4', 1, {}),
        )
    },
}
PUBLISHED: dict[str, ft.Published] = {}

# Published names of a network's parameters, and ours; see weights.py.
_PAIR = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'))


def _names(mixer: weights.Names, second: weights.Names, place: str = 'sequence_mixer') -> weights.Names:
    layer, block = 'backbone.layers.{i}', 'backbone/block{i:02d}'
    return (
        ('backbone.embeddings.word_embeddings.weight', 'backbone/stem/table'),
        ('backbone.embeddings.position_embeddings.weight', 'backbone/stem/pos_embed'),
        *((f'{layer}.{place}.{there}', f'{block}/mixer/{here}') for there, here in mixer),
        *((f'{layer}.state_mixer.{there}', f'{block}/mlp/{here}') for there, here in second),
        (f'{layer}.norm.weight', f'{block}/mixer_norm/scale')
        if place == 'mixer'
        else (f'{layer}.norm1.weight', f'{block}/mixer_norm/scale'),
        (f'{layer}.norm1.bias', f'{block}/mixer_norm/bias'),
        *((f'{layer}.norm2.{a}', f'{block}/mlp_norm/{b}') for a, b in _NORM),
        *((f'backbone.ln_f.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('lm_head.weight', 'head/kernel'),
    )


_MLP = tuple((f'fc{n}.{a}', f'{here}/{b}') for n, here in ((1, 'up'), (2, 'down')) for a, b in _PAIR)
NAMES = {
    'Attention': _names(causal_attention.NAMES, _MLP),
    'AttentionConv': _names((*causal_attention.NAMES, *base_conv.NAMES), _MLP, 'sequence_mixer.mixer'),
    'Based': _names(based.NAMES, _MLP),
    'BasedConv': _names((*based.NAMES, *base_conv.NAMES), _MLP, 'sequence_mixer.mixer'),
    'BaseConv': _names(base_conv.NAMES, _MLP),
    'Hyena': _names(hyena.NAMES, _MLP),
    'H3': _names(h3.NAMES, _MLP),
    'Mamba': _names(mamba.NAMES, (), 'mixer'),
    'RWKV4': _names(rwkv4.NAMES, rwkv4.CHANNEL_NAMES),
}
