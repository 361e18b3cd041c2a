"""TransNeXt: one softmax over neighbours and a pooled map, offsets for maps of any size, and how a network starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers import token_grid
from longview.modelzoo.vision import transnext
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes


@pytest.mark.parametrize('name', deep_ones_heavy(transnext.PUBLISHED))
def test_parameter_counts_are_published(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - transnext.PUBLISHED[name].params) < 0.06


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_odds_are_those_of_one_softmax():
    near, far = normal(0, 2, 1, 3, 9), normal(1, 2, 1, 3, 4)
    near[:, :, 0, :5] = -np.inf
    one, other, total = jax.device_get(jit(transnext.odds)(near, far))
    both = np.exp(np.concatenate([near, far], axis=-1))
    wanted = both / both.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.concatenate([one, other], axis=-1) / total, wanted, atol=1e-6)


def test_offsets_are_logarithmic_and_from_the_middle_of_the_pooled_parts():
    apart = transnext.offsets(8, 4, 15)  # 14 steps are 8 units
    middles = np.arange(4) * 2 + 0.5
    units = (np.arange(8)[:, None] - middles[None]) * 8 / 14
    np.testing.assert_allclose(apart, np.sign(units) * np.log2(np.abs(units) + 1) / np.log2(8))
    assert transnext.offsets(8, 8, 8)[7, 0] == pytest.approx(np.log2(9) / 3)


def test_a_bias_is_that_of_its_offset():
    module = transnext.OffsetBias(2, (4, 6), hidden=5)
    variables = jax.device_get(module.init(jax.random.key(0), (4, 6), (2, 3)))
    biases = np.asarray(jit(lambda variables: module.apply(variables, (4, 6), (2, 3)))(variables))
    rows, columns = transnext.offsets(4, 2, 4), transnext.offsets(6, 3, 6)
    up, down = (variables['params'][name] for name in ('up', 'down'))
    for query, key in ((0, 0), (9, 4), (23, 2)):
        offset = np.array([rows[query // 6, key // 3], columns[query % 6, key % 3]])
        wanted = np.maximum(offset @ up['kernel'] + up['bias'], 0) @ down['kernel'] + down['bias']
        np.testing.assert_allclose(biases[:, query, key], wanted, atol=1e-5)


def test_a_query_sees_its_neighbours_and_the_pooled_map():
    """With the taps alone and no weight of the softmax, an output is a sum over 3x3 pixels: a convolution."""
    mixer, x = transnext.AggregatedAttention(2, (4, 6), 2), jnp.asarray(normal(0, 1, 4, 6, 8))
    params = jax.device_get(filled(mixer, x))['params']
    params['taps']['kernel'] = np.zeros_like(params['taps']['kernel'])
    plain = params | {'taps': params['taps'] | {'pos_embed': np.zeros((2, 9), np.float32)}}
    run = jit(lambda params: mixer.apply({'params': params}, x))
    change = np.asarray(run(params)) - np.asarray(run(plain))
    kernel, bias = params['kv']['kernel'][:, 8:], params['kv']['bias'][None, None, None, 8:]
    views = np.asarray(token_grid.unfold(x @ kernel + bias)).reshape(1, 4, 6, 9, 2, 4)
    taps = params['taps']['pos_embed']
    wanted = np.einsum('bhwngk,gn->bhwgk', views, taps).reshape(1, 4, 6, 8) @ params['out']['kernel']
    np.testing.assert_allclose(change, wanted, atol=1e-4 * np.abs(wanted).max())


def test_logits_start_with_a_scale_of_the_logarithm_of_the_number_of_keys():
    module, q = transnext.Queries(), jnp.asarray(normal(0, 1, 2, 3, 4))
    variables = module.init(jax.random.key(0), q, np.ones(3, np.float32))
    variables = {'params': variables['params'] | {'kernel': jnp.zeros((4, 2))}}
    scaled = np.asarray(module.apply(variables, q, np.log([6.0, 8, 13]).astype(np.float32)))
    wanted = np.asarray(q) * (np.log([6, 8, 13]) / 0.24)[None, None, :, None]
    np.testing.assert_allclose(scaled, wanted, rtol=1e-5)
