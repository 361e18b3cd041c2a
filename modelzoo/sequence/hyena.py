"""Hyena: a language model of long convolutions and gates.

Poli et al., 2023, "Hyena Hierarchy: Towards Larger Convolutional Language Models", https://arxiv.org/abs/2302.10866.
Reference: https://github.com/HazyResearch/safari (Apache-2.0), commit 02220c6, src/models/sequence/long_conv_lm.py
and configs/experiment/pile/hyena.yaml; read for facts, no code was taken. The operator is in layers/mixers/hyena.py.

The network around the operator is GPT-2's: norms before the branches, the tanh approximation of GELU, tied word
embeddings, and matrices that start with standard deviation 0.02, the last one of each branch with 0.02 over the root of
the number of branches. Where we differ: there is no dropout.
"""

import functools
import math
from typing import Any

import jax
from flax import linen as nn

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers import hyena as layer
from longview.modelzoo.sequence.trunk import Trunk

_INIT = jax.nn.initializers.normal(0.02)
_MLP = functools.partial(Mlp, ratio=2, activation=functools.partial(nn.gelu, approximate=True))


class Hyena(Trunk):
    """`Trunk` with Hyena's operator and the reference's names."""


def _language_model(width: int, depth: int, vocabulary: int, **operator: Any) -> Hyena:
    """Returns a model of `depth` blocks; `operator` are fields of the operator."""
    start = {'kernel_init': _INIT, 'out_init': jax.nn.initializers.normal(0.02 / math.sqrt(2 * depth))}
    mixer = functools.partial(layer.Hyena, filter_init=_INIT, **start, **operator)
    return Hyena(width, depth, mixer, functools.partial(_MLP, **start), vocabulary=vocabulary, tied=True)


# The reference's configuration for the Pile; the vocabulary is GPT-2's, rounded up to a multiple of 8.
VARIANTS = {
    'hyena_153m': _language_model(864, 18, 50264, places=2048, features=33, frequency=14.0),
    'hyena_test': _language_model(8, 1, 32, places=64, order=3, hidden=4),
}
PUBLISHED = {'hyena_153m': ft.Published('https://arxiv.org/abs/2302.10866', (1, 2048), params=153)}


# Published names of a language model's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
NAMES = {
    'Hyena': (
        ('backbone.embeddings.word_embeddings.weight', 'backbone/stem/table'),
        *(('backbone.layers.{i}.mixer.' + there, 'backbone/block{i:02d}/mixer/' + here) for there, here in layer.NAMES),
        *(
            (f'backbone.layers.{{i}}.norm{n}.{a}', f'backbone/block{{i:02d}}/{here}_norm/{b}')
            for n, here in ((1, 'mixer'), (2, 'mlp'))
            for a, b in _NORM
        ),
        *(
            (f'backbone.layers.{{i}}.mlp.fc{n}.{a}', f'backbone/block{{i:02d}}/mlp/{here}/{b}')
            for n, here in ((1, 'up'), (2, 'down'))
            for a, b in _AFFINE
        ),
        *((f'backbone.ln_f.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('lm_head.weight', 'head/kernel'),
    ),
}
