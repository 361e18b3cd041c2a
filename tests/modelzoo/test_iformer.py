"""iFormer: what each share of the channels sees, the mixer without and with nothing but attention, and the sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.vision import iformer
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Trainable values, classifier included: computed by the reference.
COUNTS = {'iformer_small': 19_866_344, 'iformer_base': 47.866e6, 'iformer_large': 86.637e6}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_parameters_are_those_of_the_reference(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count - COUNTS[name]) <= (0 if isinstance(COUNTS[name], int) else 501)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def without_fuse(variables: dict) -> dict:
    """Returns a mixer's variables with which ``fuse`` adds nothing."""
    params = variables['params']
    return {'params': params | {'fuse': jax.tree.map(jnp.zeros_like, params['fuse'])}}


def test_where_all_heads_attend_the_mixer_is_multi_head_attention():
    x = jnp.asarray(normal(2, 3, 5, 8))
    mixer = iformer.InceptionMixer(heads=2, attending=2)
    variables = without_fuse(filled(mixer, x))
    params = {name: variables['params'][name] for name in ('qkv', 'out')}
    tokens = attention.Attention(2).apply({'params': params}, x.reshape(2, 15, 8))
    y = jit(mixer.apply)(variables, x)
    np.testing.assert_allclose(y, tokens.reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('attending, near', [(0, True), (1, False)])
def test_without_attention_a_mixer_sees_5x5_pixels(attending, near):
    x = jnp.asarray(normal(1, 7, 9, 8))
    mixer = iformer.InceptionMixer(4, attending, halved=True)
    variables = filled(mixer, x)
    changed = jit(lambda x: mixer.apply(variables, x.at[0, 3, 4].add(5.0)) - mixer.apply(variables, x))(x)
    seen = abs(jax.device_get(changed)[0]).max(-1) > 1e-6
    inside = np.zeros((7, 9), bool)
    inside[1:6, 2:7] = True
    assert seen[inside].any() and seen[~inside].any() != near


def test_low_frequencies_are_means_of_2x2_pixels_also_at_odd_sides():
    """What all four pixels of a square average to is all that attention sees of them."""
    x, signs = jnp.asarray(normal(1, 5, 6, 4)), np.array([[1, -1], [-1, 1]], np.float32)
    board = np.tile(signs, (3, 3))[:4, :6, None]
    mixer = iformer.InceptionMixer(2, 2, halved=True)
    variables = without_fuse(filled(mixer, x))
    y, same = jit(lambda x: (mixer.apply(variables, x), mixer.apply(variables, x.at[0, :4].add(board))))(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(same, y, atol=1e-4)
    np.testing.assert_array_equal(y[:, 0:4:2], y[:, 1:4:2])


def test_the_share_that_attends_grows_with_depth():
    backbone = modelzoo.find('iformer_small')[1]
    heads = [[block.args[1].args[1] for block in backbone._blocks(stage)] for stage in range(4)]
    assert heads == [[1] * 3, [3] * 3, [7] * 4 + [9] * 5, [11] * 3]


def test_a_table_of_another_size_is_loaded_as_the_network_resizes_it():
    backbone = modelzoo.backbone('iformer_test', image_size=(20, 36))
    table = normal(1, 2, 2, 16)
    loaded = iformer.RESIZE['IFormer'](backbone, 'backbone/embed1/pos_embed', table)
    np.testing.assert_allclose(loaded, iformer._resized(jnp.asarray(table), (3, 5)), atol=1e-6)


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'stem_stride': 3}, 'stem_stride is 3: use 4 as published, or 2 or 1 for small images'),
        (
            {'heads': (8, 4)},
            '1 of 8 heads leave 7 of 8 channels to convolution and pooling: they must be an even number',
        ),
    ],
)
def test_mistakes_end_in_one_sentence(fields, words):
    backbone = modelzoo.backbone('iformer_test', **fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
