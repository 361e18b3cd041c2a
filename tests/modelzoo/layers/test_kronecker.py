"""Kronecker attention against its definition, written out, and what it does not attend to."""

import functools

import jax
import numpy as np
import pytest

from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.attention.kronecker import KroneckerAttention, OnGrid
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


@pytest.mark.parametrize('sides', [(3, 5), (2, 3, 4), (6,)])
def test_the_three_forms_are_what_they_are_said_to_be(sides: tuple[int, ...]) -> None:
    x = NORMAL(size=(2, *sides, 4)).astype(np.float32)
    layers = {form: KroneckerAttention(2, form, scale=0.7) for form in ('qkv', 'kv', 'full')}
    variables = tiny.filled(layers['qkv'], x)
    qkv, out = (variables['params'][name] for name in ('qkv', 'out'))
    kernel = np.asarray(qkv['kernel'])
    parts = {'params': {'q': {'kernel': kernel[:, :4]}, 'kv': {'kernel': kernel[:, 4:]}, 'out': out}}

    @tiny.jit
    def run(variables, parts, x):
        return {form: layer.apply(parts if form == 'kv' else variables, x) for form, layer in layers.items()}

    found = jax.device_get(run(variables, parts, x))
    axes = range(1, x.ndim - 1)
    over = [x.mean(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    tokens, places = np.concatenate(over, axis=1), x.reshape(2, -1, 4)

    def attended(queries, keys):
        q, k, v = (
            (t @ part).reshape(2, -1, 2, 2)
            for t, part in zip((queries, keys, keys), np.split(kernel.astype(np.float64), 3, axis=1))
        )
        products = np.exp(0.7 * np.einsum('bnhk,bmhk->bhnm', q, k))
        y = np.einsum('bhnm,bmhk->bnhk', products / products.sum(-1, keepdims=True), v).reshape(2, -1, 4)
        return y @ np.asarray(out['kernel']) + np.asarray(out['bias'])

    mixed, wanted = attended(tokens, tokens), 0
    for axis, part in enumerate(np.split(mixed, np.cumsum(sides)[:-1], axis=1)):
        wanted = wanted + np.expand_dims(part, [other + 1 for other in range(len(sides)) if other != axis])
    np.testing.assert_allclose(found['qkv'], wanted, atol=1e-5)
    np.testing.assert_allclose(found['kv'], attended(places, tokens).reshape(x.shape), atol=1e-5)
    np.testing.assert_allclose(found['full'], attended(places, places).reshape(x.shape), atol=1e-5)


def test_weights_are_of_means_and_rows_are_in_no_order() -> None:
    seen, x = [], NORMAL(size=(1, 6, 4, 4)).astype(np.float32)
    layer = KroneckerAttention(2, skip=True)
    variables = tiny.filled(layer, x)
    with attention.watching(lambda weights: seen.append(weights.shape)):
        jax.eval_shape(layer.apply, variables, x)
        for form in ('kv', 'full'):
            jax.eval_shape(KroneckerAttention(2, form).init, jax.random.key(0), x)
    assert seen == [(1, 2, 10, 10), (1, 2, 24, 10), (1, 2, 24, 24)]
    run = tiny.jit(layer.apply)
    plain, turned, other = jax.device_get([run(variables, y) for y in (x, x[:, ::-1], x + NORMAL(size=x.shape))])
    np.testing.assert_allclose(turned, plain[:, ::-1], atol=1e-5)
    assert np.abs(other - plain).max() > 0.1


def test_a_vision_transformer_takes_it_on_its_grid() -> None:
    net = functools.partial(
        ViT, 8, 1, 2, patch=2, image_size=(4, 8), prefix=(), pool='mean', mixer=functools.partial(OnGrid, rows=2)
    )
    found = jax.eval_shape(net().init_with_output, jax.random.key(0), np.zeros((1, 4, 8, 3), np.float32))
    assert found[0]['map'].shape == (1, 2, 4, 8)
    assert set(found[1]['params']['block00']['mixer']['part']) == {'qkv', 'out'}
    token = net(prefix=('cls_token',), mixer=OnGrid)
    with pytest.raises(ValueError, match=r'9 tokens are not a map of 2 rows: leave out'):
        jax.eval_shape(net(prefix=('cls_token',)).init, jax.random.key(0), np.zeros((1, 4, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r'5 tokens are not a square map'):
        jax.eval_shape(token.init, jax.random.key(0), np.zeros((1, 4, 4, 3), np.float32))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'k': use one of qkv, kv, full"):
        jax.eval_shape(KroneckerAttention(2, 'k').init, jax.random.key(0), np.zeros((1, 2, 2, 4), np.float32))
