"""Strip self-attention: its limit is plain attention; what it costs; odd sides and mistakes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import counting, modelzoo
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.attention.reduced import ReducedAttention, squares
from longview.modelzoo.vision.s2aformer import S2AFormer
from tests.modelzoo.tiny import filled, jit

X = np.random.default_rng(0).normal(size=(2, 4, 5, 8)).astype(np.float32)


def test_full_keys_without_reduction_are_plain_attention():
    strip, plain = ReducedAttention(2, key_width=4), Attention(2)
    variables = filled(strip, X)
    params = variables['params']
    qkv = {name: jnp.concatenate([params['q'][name], params['kv'][name]], axis=-1) for name in ('kernel', 'bias')}
    tokens = jnp.asarray(X.reshape(2, 20, 8))

    @jit
    def run(x, tokens):
        return strip.apply(variables, x), plain.apply({'params': {'qkv': qkv, 'out': params['out']}}, tokens)

    found, wanted = jax.device_get(run(X, tokens))
    chex.assert_trees_all_close(found.reshape(wanted.shape), wanted, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, variables, filled(ReducedAttention(2), X))  # the default is as wide


def test_one_channel_a_head_is_its_equation_and_weights_sum_to_one():
    strip = ReducedAttention(2, squares(2), key_width=1)
    variables = filled(strip, X)
    params = variables['params']
    ones = {**params['kv'], 'kernel': params['kv']['kernel'].at[:, 2:].set(0), 'bias': jnp.ones(10)}
    out = {'kernel': jnp.eye(8), 'bias': jnp.zeros(8)}

    @jit
    def run(x):
        values = {'params': {**params, 'kv': ones, 'out': out}}
        return strip.apply(variables, x), strip.apply(values, x), squares(2)().apply({'params': params['memory']}, x)

    found, constant, memory = jax.device_get(run(X))
    np.testing.assert_allclose(constant, 1, atol=1e-5)
    dense = lambda layer, x: x @ np.asarray(params[layer]['kernel']) + np.asarray(params[layer]['bias'])
    q, kv = dense('q', X.reshape(2, 20, 8)), dense('kv', memory.reshape(2, 6, 8))
    heads = []
    for head in range(2):
        logits = q[:, :, None, head] * kv[:, None, :, head]
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ kv[:, :, 2 + 4 * head : 6 + 4 * head])
    np.testing.assert_allclose(found.reshape(2, 20, 8), dense('out', np.concatenate(heads, -1)), atol=1e-5)


def test_multiply_adds_by_formula():
    width, heads, pixels, side = 16, 2, 64, 2
    memory = pixels // side**2
    x = jax.ShapeDtypeStruct((1, 8, 8, width), jnp.float32)

    def macs(key_width):
        layer = ReducedAttention(heads, squares(side), key_width=key_width)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        return counting.multiply_adds(layer.apply, variables, x)

    for key_width in (1, 4, None):
        keys = width if key_width is None else heads * key_width
        matrices = pixels * width * (keys + width) + memory * width * (keys + width) + pixels * width * width
        assert macs(key_width) == matrices + pixels * memory * (keys + width)


def test_odd_sides_and_mistakes():
    network = modelzoo.backbone('s2a_test')
    found = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((1, 37, 22, 3)))[0]
    assert [found[key].shape for key in ('stem', 'stage0', 'stage1')] == [(1, 19, 11, 8), (1, 10, 6, 8), (1, 5, 3, 16)]
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    for wrong, said in (
        ({'stem_stride': 3}, 'stem_stride is 3: use 4 as published'),
        ({'key_width': 0}, 'key_width is 0: use at least 1'),
    ):
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(functools.partial(S2AFormer(**wrong).init), jax.random.key(0), image)
