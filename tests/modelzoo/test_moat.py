"""MOAT: sizes, tables for other images, and rates of stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.vision import moat
from tests.modelzoo.tiny import filled, jit, shapes


@pytest.mark.parametrize('name', moat.PUBLISHED)
def test_parameter_counts_are_published(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - moat.PUBLISHED[name].params) < 0.06


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def weights_of(table: np.ndarray, made_for: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Returns each pixel's attention to each of a grid, where only the table of offsets decides."""
    pixels = grid[0] * grid[1]
    mixer = moat.RelativeAttention(made_for, head_width=pixels)
    linear = lambda kernel: {'kernel': kernel, 'bias': jnp.zeros(pixels)}
    params = {name: linear(jnp.zeros((pixels, pixels))) for name in 'qk'}
    params |= {name: linear(jnp.eye(pixels)) for name in ('v', 'out')} | {'pos_embed': jnp.asarray(table)[None]}
    x = jnp.eye(pixels).reshape(1, *grid, pixels)
    return np.asarray(jit(mixer.apply)({'params': params}, x)).reshape(pixels, pixels)


def offsets(grid: tuple[int, int]) -> np.ndarray:
    """Returns how far down and right each key is from each query."""
    places = np.indices(grid).reshape(2, -1)
    return places[:, None] - places[:, :, None]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_biases_are_for_offsets_from_the_query_to_the_key():
    table = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    down, right = offsets((2, 3))
    np.testing.assert_allclose(weights_of(table, (2, 3), (2, 3)), softmax(table[down + 1, right + 2]), atol=1e-5)


def test_other_sizes_get_the_table_resized_linearly():
    plane = (np.arange(5)[:, None] + np.arange(5)[None] / 5).astype(np.float32)
    down, right = offsets((4, 2))
    wanted = np.clip((down + 3.5) * 5 / 7 - 0.5, 0, 4) + np.clip((right + 1.5) * 5 / 3 - 0.5, 0, 4) / 5
    np.testing.assert_allclose(weights_of(plane, (3, 3), (4, 2)), softmax(wanted), atol=1e-5)


def test_windows_are_maps_of_their_own():
    mixer, x = moat.RelativeAttention((3, 2), head_width=4, side=(3, 2)), noise(2, 6, 2, 8)
    variables = filled(mixer, x)
    whole = jit(moat.RelativeAttention((3, 2), head_width=4).apply)
    found = jit(mixer.apply)(variables, x)
    for rows in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(found[:, rows], whole(variables, x[:, rows]), atol=1e-5)
    with pytest.raises(ValueError, match='a map of 5x2 does not divide into windows of 3x2: take images whose maps do'):
        jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 5, 2, 8)))


def test_the_last_block_of_a_stage_may_attend_to_the_whole_map():
    backbone = modelzoo.backbone('moat_0', windows=[None, None, 14, [7, 14]], whole_last=True)
    sides = [[backbone._mixer(stage, last=last)().side for last in (False, True)] for stage in (2, 3)]
    assert sides == [[(14, 14), None], [(7, 14), None]] and backbone._mixer(0, last=False) is None
    whole, windows = (
        jax.eval_shape(modelzoo.backbone('moat_test', **fields).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
        for fields in ({}, {'windows': (None, 2)})
    )
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, windows)


def test_block_i_of_n_has_i_nths_of_the_rate(monkeypatch):
    seen = []
    monkeypatch.setattr(moat, 'path_masks', lambda module, rate, depth, batch, *, train: seen.append((rate, depth)))
    backbone = modelzoo.find('moat_test')[1].clone(drop_path=0.3)
    jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert seen == [(pytest.approx(0.2), 3)]


def test_the_vector_is_the_norm_of_the_mean():
    backbone = modelzoo.find('moat_test')[1]
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
    variables = jax.device_get(filled(backbone, x))
    features = jax.device_get(jit(backbone.apply)(variables, x))
    last = features['stage1'].mean((1, 2))
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-5)
    norm = variables['params']['norm']
    np.testing.assert_allclose(features['pooled'], normed * norm['scale'][None] + norm['bias'][None], atol=1e-5)
    assert features['stage0'].shape == (2, 5, 4, 16) and features['map'].shape == (2, 3, 2, 32)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    mixer = moat.RelativeAttention((2, 2))
    with pytest.raises(ValueError, match='width 48 does not divide into heads of 32'):
        jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 2, 2, 48)))
