"""Mamba: a language model of selective state spaces, whose blocks have no feed-forward layer.

Gu & Dao, 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752.
References: https://github.com/state-spaces/mamba (Apache-2.0), commit e9594ce, mamba_ssm/models/mixer_seq_simple.py,
and Hugging Face's transformers (Apache-2.0), release 5.23, MambaForCausalLM. `NAMES` maps the parameter names of the
latter; those of the original files (``backbone.embedding``, and the same table as ``lm_head``) can be read too.

As in the first of them, the last matrix of each mixer starts as torch starts it, divided by the root of the depth.
"""

import functools
from typing import Any

import jax

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import variants
from longview.modelzoo.layers.mixers import mamba as layer
from longview.modelzoo.layers.norms.norm import RMSNorm
from longview.modelzoo.sequence.trunk import Trunk

_NORM = functools.partial(RMSNorm, epsilon=1e-5)


class Mamba(Trunk):
    """`Trunk` with Mamba's mixer and published names."""


def _language_model(width: int, depth: int, vocabulary: int = 50280, **mixer: Any) -> Mamba:
    """Returns a model of `depth` mixers, whose fields `mixer` gives."""
    # Uniform with bound 1 / sqrt(fan_in * depth).
    out_init = jax.nn.initializers.variance_scaling(1 / (3 * depth), 'fan_in', 'uniform')
    part = functools.partial(layer.Mamba, out_init=out_init, **mixer)
    return Mamba(width, depth, part, norm=_NORM, last_norm=_NORM, vocabulary=vocabulary, tied=True)


# Table 12 of the paper; the vocabulary is GPT-NeoX's, rounded up to a multiple of 8.
VARIANTS = {
    'mamba_130m': _language_model(768, 24),
    'mamba_370m': _language_model(1024, 48),
    'mamba_790m': _language_model(1536, 48),
    'mamba_1_4b': _language_model(2048, 48),
    'mamba_2_8b': _language_model(2560, 64),
    'mamba_test': _language_model(16, 2, 32, states=4),
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
