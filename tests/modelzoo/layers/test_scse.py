"""Maps rescaled by channel and by pixel: the definitions written out, limits, and who takes the part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.heads.segment import MlpDecoder
from longview.modelzoo.layers.convolutions.scse import ChannelSqueeze, ConcurrentSqueeze, SpatialSqueeze
from longview.modelzoo.vision.resnet import Basic, ResNet
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


def test_both_gates_are_what_they_are_said_to_be_and_merge_as_asked() -> None:
    x = NORMAL(size=(2, 3, 4, 6)).astype(np.float32)
    layers = {merge: ConcurrentSqueeze(merge) for merge in ('max', 'add', 'multiply')}
    variables = tiny.filled(layers['max'], x)
    found = jax.device_get(
        tiny.jit(lambda variables, x: {merge: layer.apply(variables, x) for merge, layer in layers.items()})(
            variables, x
        )
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables['params'])
    dense = lambda x, part: x @ part['kernel'] + part['bias']
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    hidden = np.maximum(dense(x.mean(axis=(1, 2)), params['channel']['down']), 0)
    assert hidden.shape == (2, 3)
    by_channel = x * sigmoid(dense(hidden, params['channel']['up']))[:, None, None]
    by_pixel = x * sigmoid(dense(x, params['spatial']['gate']))
    np.testing.assert_allclose(found['max'], np.maximum(by_channel, by_pixel), atol=1e-5)
    np.testing.assert_allclose(found['add'], by_channel + by_pixel, atol=1e-5)
    np.testing.assert_allclose(found['multiply'], by_channel * by_pixel, atol=1e-5)


def test_a_pixel_s_gate_knows_no_other_pixel_and_closed_gates_leave_nothing() -> None:
    x = NORMAL(size=(1, 3, 4, 6)).astype(np.float32)
    other = x + NORMAL(size=x.shape).astype(np.float32) * (np.arange(4) > 1)[None, None, :, None]
    layers = {'channel': ChannelSqueeze(), 'spatial': SpatialSqueeze(), 'both': ConcurrentSqueeze()}
    variables = {name: tiny.filled(layer, x) for name, layer in layers.items()}

    def shut(tree):
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf - 200.0 * ('bias' in str(path[-1])), tree)

    @tiny.jit
    def run(variables, x, other):
        apply = lambda name, variables, x: layers[name].apply(variables, x)
        seen = {name: (apply(name, variables[name], x), apply(name, variables[name], other)) for name in layers}
        return seen, {name: apply(name, shut(variables[name]), jnp.abs(x)) for name in layers}

    seen, closed = jax.device_get(run(variables, x, other))
    one, two = seen['spatial']
    np.testing.assert_allclose(one[:, :, :2], two[:, :, :2], atol=1e-6)
    one, two = seen['channel']
    assert np.abs(one - two)[:, :, :2].max() > 1e-3
    assert all(np.abs(value).max() < 1e-3 for value in closed.values())


def test_residual_blocks_and_the_decoder_take_it_and_a_wrong_merge_is_refused() -> None:
    x = np.zeros((1, 6, 8, 3), np.float32)
    attention = functools.partial(ConcurrentSqueeze, merge='max')
    block = functools.partial(Basic, attention=attention)
    net = ResNet((1, 1), (8, 8), block, stem_width=8, stem_stride=1)
    head = MlpDecoder(5, 8, attention=attention)
    features, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert set(variables['params']['stage0']['block00']['attention']) == {'channel', 'spatial'}
    logits, variables = jax.eval_shape(head.init_with_output, jax.random.key(0), features)
    assert logits.shape == (1, 6, 8, 5) and set(variables['params']['attention']) == {'channel', 'spatial'}
    with pytest.raises(ValueError, match="merge is 'mean': use one of max, add, multiply"):
        jax.eval_shape(ConcurrentSqueeze('mean').init, jax.random.key(0), x)
