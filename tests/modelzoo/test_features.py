"""The contract's own code: capabilities asked for in words, and depths of parameters."""

import jax.numpy as jnp
import pytest
from flax import linen as nn

from longview.modelzoo import features as ft


class Plain(ft.Backbone):
    """No capability, three depths."""

    @property
    def layers(self):
        return (('stem', 'pos_embed'), ('stage0/block00', 'down0'), ('norm',))

    def __call__(self, x, *, train=False):
        return {ft.POOLED: x}


class Steps(ft.SequenceBackbone):
    layers = ()

    def __call__(self, x, *, train=False):
        return {}

    def init_state(self, batch):
        return jnp.zeros(batch)

    def step(self, state, x):
        return state, {}


@pytest.mark.parametrize(
    'path, depth',
    [
        ('backbone/stem/conv0/kernel', 0),
        ('backbone/pos_embed', 0),
        ('pos_embed', 2),
        ('stage0/block00/mixer/norm/scale', 2),
        ('probe/stage0/kernel', 2),
        ('inner/backbone/stage0/block00/mixer/norm/scale', 1),
        ('backbone/down0/norm/scale', 1),
        ('backbone/norm/scale', 2),
        ('head/kernel', 2),
    ],
)
def test_depth_of_a_parameter(path, depth):
    assert Plain().layer_of(path) == depth
    assert Plain().num_layers == 3


def test_a_capability_that_is_there_is_granted():
    ft.require(Steps(), ft.SequenceBackbone, 'Decoding')


@pytest.mark.parametrize(
    'backbone, capability, message',
    [
        (
            Plain(),
            ft.TokenBackbone,
            r'Masking needs a TokenBackbone \(embed, positions and encode\), and Plain has neither',
        ),
        (
            Steps(),
            ft.PyramidBackbone,
            r'PyramidBackbone \(stages .*\), and Steps has init_state and step: choose another',
        ),
        (nn.Dense(3), ft.TokenBackbone, 'Dense has neither'),
    ],
)
def test_a_capability_that_is_missing_is_refused_in_words(backbone, capability, message):
    with pytest.raises(TypeError, match=message):
        ft.require(backbone, capability, 'Masking')


@pytest.mark.parametrize('kind', [ft.Backbone, ft.TokenBackbone, ft.PyramidBackbone, ft.SequenceBackbone])
def test_capabilities_are_abstract(kind):
    with pytest.raises(TypeError, match='abstract'):
        kind()
