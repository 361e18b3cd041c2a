"""SkipNet's gates against their equations, what they do to blocks, and its sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import features as ft
from longview.modelzoo import weights
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.vision import skipnet
from tests.modelzoo.tiny import filled, jit, shapes

TINY = skipnet.VARIANTS['skipnet_test']


def image(batch: int = 4, side: int = 8) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(batch, side, side, 3)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_decisions_are_the_equations():
    logit, draw = jnp.array([-2.0, 0.0, 0.5, 3.0]), lambda: jnp.array([0.1, 0.6, 0.6, 0.99])
    slope = sigmoid(logit) * (1 - sigmoid(logit))
    for decide, train, wanted, gradient in (
        (skipnet.hard, True, [0, 0, 1, 1], slope),
        (skipnet.hard, False, [0, 0, 1, 1], slope),
        (skipnet.soft, True, sigmoid(logit), slope),
        (skipnet.soft, False, [0, 0, 1, 1], slope),
        (skipnet.sampled, True, [1, 0, 1, 0], 0 * slope),
        (skipnet.sampled, False, [0, 0, 1, 1], slope),
    ):
        found, pull = jax.vjp(functools.partial(decide, draw=draw, train=train), logit)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        np.testing.assert_allclose(pull(jnp.ones(4))[0], gradient, atol=1e-6)


def test_recurrent_gates_are_torch_s_lstm():
    control, rng = skipnet.Recurrent(3), np.random.default_rng(0)
    y, output, cell = (jnp.asarray(rng.normal(size=(2, size)), jnp.float32) for size in (5, 3, 3))
    wanted = jax.eval_shape(control.init, jax.random.key(0), control.init_state(2), y)['params']
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), wanted)
    (found_output, found_cell), logit = jax.device_get(jit(control.apply)({'params': params}, (output, cell), y))
    matrix = lambda name, x: np.asarray(x) @ params[name]['kernel'] + params[name]['bias']
    i, f, g, o = np.split(matrix('input', y) + matrix('hidden', output), 4, axis=1)
    wanted_cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    wanted_output = sigmoid(o) * np.tanh(wanted_cell)
    np.testing.assert_allclose(found_cell, wanted_cell, atol=1e-5)
    np.testing.assert_allclose(found_output, wanted_output, atol=1e-5)
    np.testing.assert_allclose(logit, matrix('linear', wanted_output)[:, 0], atol=1e-5)
    assert [leaf.shape for leaf in control.init_state(2)] == [(2, 3)] * 2 and not any(
        map(np.any, control.init_state(2))
    )


def test_a_gate_weighs_the_block_and_its_shortcut():
    block, x = skipnet.Block(8, 2), jnp.asarray(image())
    variables = jit(block.init)(jax.random.key(0), x, jnp.ones(4), None)
    run = jit(lambda g: block.apply(variables, x, g, None))
    closed, opened, some = (np.asarray(run(jnp.array(g))) for g in ([0.0] * 4, [1.0] * 4, [0.25, 0.0, 1.0, 0.5]))
    weight = np.array([0.25, 0, 1, 0.5])[:, None, None, None]
    np.testing.assert_allclose(some, weight * opened + (1 - weight) * closed, atol=1e-6)
    kernel = variables['params']['shortcut']['conv']['kernel'][0, 0]
    np.testing.assert_allclose(closed, x[:, ::2, ::2] @ kernel / np.sqrt(1 + 1e-5), atol=1e-5)
    assert opened.min() == 0 and closed.min() < 0


def test_what_is_drawn_goes_by_the_example_s_row():
    network = TINY.clone(
        depths=(2,), widths=(8,), decide=skipnet.sampled, gate=skipnet.MeanGate, control=skipnet.Recurrent
    )
    x, rows = image(32), np.arange(32)
    variables = filled(network, x)
    run = jit(
        lambda rows, x: network.apply(
            {**variables, 'example': {'row': rows}},
            x,
            train=True,
            rngs={'drop_path': jax.random.key(2)},
            mutable=['batch_stats'],
        )[0][ft.GATES]
    )
    first, turned, other = (
        jax.device_get(run(rows, x)) for rows, x in ((rows, x), (rows[::-1], x[::-1]), (rows[::-1], x))
    )
    assert set(np.unique(first)) == {0, 1} and first.shape == (32, 1)
    np.testing.assert_array_equal(first, turned[::-1])
    assert 0.2 < np.mean(first != other) < 0.8


@pytest.mark.parametrize(
    'variant, depth, millions',
    [('skipnet_ffgate2_110', 3, 0.42), ('skipnet_rnn_38', 1, None)],
)
def test_sizes_and_what_is_returned(variant, depth, millions):
    """The first was counted in the reference's own code."""
    model = Classifier(modelzoo.backbone(variant, depths=[depth] * 3), Linear(10))
    features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image(2))
    size = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    assert millions is None or round(size / 1e6, 2) == millions
    assert features[ft.GATES].shape == features[ft.GATE_LOGITS].shape == (2, 3 * depth - 1)


@pytest.mark.parametrize('name, millions', [('skipnet_ffgate1_74', 2.32)])
def test_a_whole_network_has_the_size_of_the_reference_s(name, millions):
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) / 1e6, 2) == millions


def test_published_files_may_have_the_projections_twice():
    model = Classifier(TINY, Linear(3))
    variables = filled(model, image())
    published = weights.to_published(skipnet.NAMES['SkipNet'], weights.merge(variables))
    twice = {name.replace('_ds0.', '_layer0.downsample.'): array for name, array in published.items()}
    loaded = weights.load(model, variables, published | twice)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert 'group2_ds0.1.running_var' in published and 'group2_layer0.downsample.0.weight' in twice


@pytest.mark.parametrize(
    'changes, side, words',
    [
        ({'depths': (1,), 'widths': (8,)}, 8, r'never skips its first block, and depths are \(1,\): use 2 or more'),
        ({}, 2, 'pools 2x2 pixels and got a map of 1x1: use a larger image'),
    ],
)
def test_what_cannot_work_is_refused_in_words(changes, side, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(TINY.clone(**changes).init, jax.random.key(0), image(1, side))
