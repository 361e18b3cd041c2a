"""NiNformer's gate: its equation, what it refuses, its dropout, and a ViT that takes it as its mixer."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.mixers.mixer_gate import FeedForward, MixerGate
from longview.modelzoo.vision import ninformer, vit
from tests.modelzoo.tiny import filled, jit, shapes

X = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)


def zeroed(variables: dict, *layers: str) -> dict:
    """Returns the variables with zeros in the second matrices of these layers."""
    params = variables['params']
    zero = lambda layer: {**params[layer], 'down': jax.tree.map(jnp.zeros_like, params[layer]['down'])}
    return {'params': {**params, **{layer: zero(layer) for layer in layers}}}


def test_gate_multiplies_a_linear_map_and_without_token_mixing_sees_one_token():
    gate = MixerGate()
    variables = filled(gate, X)
    both, tokens = zeroed(variables, 'token_mix', 'channel_mix'), zeroed(variables, 'token_mix')
    other = X.copy()
    other[:, 0] *= -1

    @jit
    def run(x, other):
        kernel, bias = (variables['params']['proj'][name] for name in ('kernel', 'bias'))
        return {
            'linear': (gate.apply(both, x), (x @ kernel + bias[None, None]) * x),
            'apart': (gate.apply(tokens, x)[:, 1:], gate.apply(tokens, other)[:, 1:]),
            'mixed': (gate.apply(variables, x)[:, 1:], gate.apply(variables, other)[:, 1:]),
        }

    found = jax.device_get(run(X, other))
    chex.assert_trees_all_close(*found['linear'], atol=1e-5)
    chex.assert_trees_all_close(*found['apart'], atol=1e-6)
    assert (abs(found['mixed'][0] - found['mixed'][1]).max((0, 2)) > 1e-3).all()  # every other token


def test_weights_for_another_number_of_tokens_are_refused():
    gate = MixerGate()
    with pytest.raises(ValueError, match='the weights mix 6 tokens and the input has 5: use the image size'):
        jax.eval_shape(gate.apply, filled(gate, X), jnp.asarray(X[:, :5]))
    with pytest.raises(ValueError, match='NiNformer has a weight for each pair of patches'):
        encode = functools.partial(modelzoo.backbone('ninformer_test').init, method='encode', grid=None)
        jax.eval_shape(encode, jax.random.key(0), jnp.asarray(X))


def test_dropout_drops_half_of_what_it_should_and_depends_on_the_row_alone():
    network = ninformer.NiNformer(16, 2, dropout=0.5, scan=True)
    images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = filled(network, images)
    rows = np.arange(4)

    @jit
    def run(rows, images):
        train = lambda rows, images: network.apply(
            {**variables, 'example': {'row': rows}}, images, train=True, rngs={'drop_path': jax.random.key(3)}
        )['pooled']
        return train(rows, images), network.apply(variables, images)['pooled']

    trained, plain = jax.device_get(run(rows, images))
    turned, _ = jax.device_get(run(rows[::-1], images[::-1]))
    chex.assert_trees_all_close(trained, turned[::-1], atol=1e-5)
    assert (abs(trained - plain).max(1) > 1e-2).all()


def test_a_feed_forward_layer_drops_half_of_its_output():
    layer, x = FeedForward(8, 0.5), np.ones((64, 6, 8), np.float32)
    y = jax.device_get(jit(layer.apply)(filled(layer, x), x, jax.random.split(jax.random.key(0), (2, 64))))
    assert 0.45 < (y == 0).mean() < 0.55


def test_dropout_without_keys_is_refused():
    network = vit.vit('vit_test', mixer=functools.partial(MixerGate, ratio=1.0, rate=0.5))
    x = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    with pytest.raises(ValueError, match='MixerGate.rate is 0.5 and the network gives it no keys for dropout'):
        jax.eval_shape(functools.partial(network.apply, train=True), variables, x)


def test_a_vit_takes_it_as_its_mixer():
    network = vit.vit('vit_test', mixer=functools.partial(MixerGate, ratio=1.0))
    found = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    mixer = found['params']['block00']['mixer']
    assert mixer['token_mix']['up']['kernel'].shape == (17, 32)  # 16 patches and the class token
    assert mixer['channel_mix']['up']['kernel'].shape == (32, 32)


def test_the_published_network_has_its_parameters():
    # A block is 2 (256 x 512 + 512 x 256 + 768) + 2 x 64 x 512 + 576 + 256 x 257 + 3 x 512.
    block = 2 * (2 * 256 * 512 + 768) + 2 * 64 * 512 + 576 + 256 * 257 + 3 * 512
    wanted = 48 * 256 + 256 + 4 * block + 2570
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes('ninformer_256_4_cifar').params)) == wanted
