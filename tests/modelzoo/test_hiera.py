"""Hiera: the order of its tokens, pooling as a maximum over one axis, units that do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.frame.pool import max_pool
from longview.modelzoo.vision import hiera
from tests.modelzoo.tiny import filled, jit


def test_units_hold_the_finest_offsets_first_and_become_the_map_again():
    rows, columns = np.indices((8, 4))
    places = jnp.asarray(np.stack([rows, columns], axis=-1)[None], jnp.float32)
    found = np.asarray(hiera.in_units(places, 2))
    assert found.shape == (1, 2, 16, 2)
    # Of the unit of the upper left: the pixels of even rows and columns first, and of these the upper left one.
    assert found[0, 0, :5].tolist() == [[0, 0], [0, 2], [2, 0], [2, 2], [0, 1]] and found[0, 1, 0].tolist() == [4, 0]
    np.testing.assert_array_equal(hiera.as_map(jnp.asarray(found), (2, 1)), places)


def test_pooling_units_is_pooling_the_map():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 8, 3)).astype(np.float32))
    pooled = hiera.pool(hiera.in_units(x, 3))
    np.testing.assert_array_equal(hiera.as_map(pooled, (2, 1)), max_pool(x, 2, 2, 0))
    np.testing.assert_array_equal(pooled, hiera.in_units(max_pool(x, 2, 2, 0), 2))


@pytest.mark.parametrize('within', [True, False])
def test_units_see_themselves_or_all_tokens(within):
    mixer = hiera.UnitAttention(8, 2, pools=True, within=within)
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 8)).astype(np.float32)
    variables = filled(mixer, x)
    other = x.copy()
    other[0, 2] += 1
    run = jit(mixer.apply)
    one, two = (np.asarray(run(variables, value)) for value in (x, other))
    assert one.shape == (1, 3, 1, 8)
    assert (one[:, :2] == two[:, :2]).all() == within and (one[:, 2] != two[:, 2]).any()


def test_stages_attend_one_block_late():
    backbone = hiera.VARIANTS['hiera_base_224']
    made = lambda stage, index: backbone._block(stage, index)().mixer(8)
    assert [made(*place).within for place in ((1, 2), (2, 0), (2, 1), (3, 0))] == [True, True, False, False]
    assert made(3, 0).heads == 8 and backbone.channels == (96, 192, 384, 768)


def test_the_vector_is_the_norm_of_the_mean():
    backbone = hiera.VARIANTS['hiera_test']
    x = np.random.default_rng(0).normal(size=(2, 16, 8, 3)).astype(np.float32)
    variables = jax.device_get(filled(backbone, x))
    features = jax.device_get(jit(backbone.apply)(variables, x))
    last = features['stage1'].mean((1, 2))
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    norm = variables['params']['norm']
    np.testing.assert_allclose(features['pooled'], normed * norm['scale'][None] + norm['bias'][None], atol=1e-5)


def test_an_image_that_does_not_divide_and_a_stride_that_there_is_not():
    backbone = hiera.VARIANTS['hiera_tiny_224']
    with pytest.raises(ValueError, match='image 48x64 does not divide into mask units of 32x32 pixels: use e.g. 32x64'):
        backbone.grid(48, 64)
    with pytest.raises(ValueError, match='stem_stride is 3: use 4 as published, or 2 or 1'):
        jax.eval_shape(backbone.clone(stem_stride=3).init, jax.random.key(0), jnp.ones((1, 48, 48, 3)))
