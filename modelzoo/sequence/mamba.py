"""Mamba: a language model of selective state spaces, whose blocks have no feed-forward layer.

Gu & Dao, 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752.
References: https://github.com/state-spaces/mamba (Apache-2.0), commit e9594ce, mamba_ssm/models/mixer_seq_simple.py,
and Hugging Face's transformers (Apache-2.0), release 5.23, MambaForCausalLM. `NAMES` maps the parameter names of the
latter; those of the original files (``backbone.embedding``, and the same table as ``lm_head``) can be read too.

Where we differ: the last matrix of the mixer is initialized like torch's linear layers, without the division by the
root of the depth.
"""

import functools
from typing import Any

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import variants
from longview.modelzoo.layers.mixers import mamba as layer
from longview.modelzoo.layers.norms.norm import RMSNorm
from longview.modelzoo.sequence.trunk import Trunk

_NORM = functools.partial(RMSNorm, epsilon=1e-5)


class Mamba(Trunk):
    """`Trunk` with Mamba's mixer and published names."""


# Table 12 of the paper; the vocabulary is GPT-NeoX's, rounded up to a multiple of 8.
_LM = functools.partial(Mamba, mixer=layer.Mamba, norm=_NORM, last_norm=_NORM, vocabulary=50280, tied=True)
VARIANTS = {
    'mamba_130m': _LM(768, 24),
    'mamba_370m': _LM(1024, 48),
    'mamba_790m': _LM(1536, 48),
    'mamba_1_4b': _LM(2048, 48),
    'mamba_2_8b': _LM(2560, 64),
    'mamba_test': Mamba(
        16, 2, functools.partial(layer.Mamba, states=4), norm=_NORM, last_norm=_NORM, vocabulary=32, tied=True
    ),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2312.00752', (1, 2048))
PUBLISHED = {
    'mamba_130m': _PAPER(params=130),
    'mamba_370m': _PAPER(params=370),
    'mamba_790m': _PAPER(params=790),
    'mamba_1_4b': _PAPER(params=1400),
    'mamba_2_8b': _PAPER(params=2800),
}


def mamba(variant: str = 'mamba_130m', *, states: int | None = None, **fields: Any) -> Mamba:
    """Returns a variant with some fields changed; for the fields see `Trunk`.

    Args:
        variant: one of `VARIANTS`.
        states: number of states per channel.
        **fields: see `layers.frame.variants.changed`.

    Raises:
        ValueError: there is no such variant or field.
    """
    mixer = {} if states is None else {'mixer': {'states': states}}
    return variants.variant(VARIANTS, variant, mixer | fields)


# Published names of a language model's parameters, and ours; see weights.py.
NAMES = {
    'Mamba': (
        ('backbone.embeddings.weight', 'backbone/stem/table'),
        ('backbone.embedding.weight', 'backbone/stem/table'),
        ('backbone.layers.{i}.norm.weight', 'backbone/block{i:02d}/mixer_norm/scale'),
        *(('backbone.layers.{i}.mixer.' + there, 'backbone/block{i:02d}/mixer/' + here) for there, here in layer.NAMES),
        ('backbone.norm_f.weight', 'backbone/norm/scale'),
        ('lm_head.weight', 'head/kernel'),
    ),
}
