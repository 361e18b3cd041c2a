"""Dynamic token routing: gates forced open, closed and at the start; what a token that leaves does to others; costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo import features as ft
from longview.modelzoo.vision import dit_routing as dr
from tests.modelzoo import tiny

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 10, 14, 3)), jnp.float32)
SMALL = dr.RoutedTransformer((8, 16), (1, 2), (2, 1), 2, patch=2)


def _with_bias(variables, bias):
    """Returns variables whose gates have this logit everywhere."""

    def changed(path, leaf):
        names = [part.key for part in path]
        if names[-1] == 'gate_bias':
            return jnp.full_like(leaf, bias)
        return jnp.zeros_like(leaf) if names[-2:] == ['gate', 'kernel'] else leaf

    return jax.tree_util.tree_map_with_path(changed, variables)


def test_gates_forced_open_or_open_by_themselves_are_the_static_network_and_closed_ones_leave_tokens_alone():
    @tiny.jit
    def run(x):
        variables = tiny.filled(SMALL, x)
        apply = lambda model, bias: model.apply(_with_bias(variables, bias), x)
        return apply(SMALL.clone(forced=True), -3.0), apply(SMALL, 20.0), apply(SMALL, -3.0), variables

    forced, opened, closed, variables = jax.device_get(run(IMAGES))
    assert forced['cost'].tolist() == forced['hard_cost'].tolist() == [1, 1]
    for name, value in forced.items():
        np.testing.assert_allclose(opened[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not closed['gates'].any() and not closed['cost'].any() and not closed[ft.stage(1)].any()
    placed = np.asarray(dr._placed(jnp.asarray(closed[ft.STEM])))
    norm = variables['params']['norm0']
    centred = placed - placed.mean(-1, keepdims=True)
    alone = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm['scale'] + norm['bias']
    np.testing.assert_allclose(closed[ft.stage(0)], alone, rtol=1e-4, atol=1e-5)


def test_gates_begin_open_and_have_no_gradient_once_they_are_closed():
    logits = jnp.asarray([1.5, -0.5])
    np.testing.assert_allclose(dr.gate(logits), [np.tanh(1.5), 0], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: dr.gate(x).sum())(logits), [1 - np.tanh(1.5) ** 2, 0], rtol=1e-5)


def test_tokens_that_do_not_take_part_could_as_well_be_left_out():
    """Tokens gathered into a row, and a map of all of them with a mask."""
    block = dr.Block(2, 1, 2.0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 5, 8)), jnp.float32)
    taking = np.random.default_rng(2).random((1, 4, 5)) < 0.5

    @tiny.jit
    def run(x, gathered):
        variables = tiny.filled(block, x, jnp.ones((1, 4, 5), bool), None)
        whole = block.apply(variables, x, jnp.asarray(taking), None)
        return whole, block.apply(variables, gathered, jnp.ones(gathered.shape[:3], bool), None)

    whole, alone = jax.device_get(run(x, x[taking][None, None]))
    np.testing.assert_allclose(whole[taking], alone[0, 0], rtol=1e-4, atol=1e-5)


def test_squares_mean_the_tokens_that_take_part():
    x = np.random.default_rng(3).normal(size=(1, 3, 4, 2)).astype(np.float32)
    taking = np.asarray([[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]], bool)
    means, count = dr._square_means(jnp.asarray(x), jnp.asarray(taking), 2)
    np.testing.assert_array_equal(count, [[[3, 0], [2, 2]]])
    np.testing.assert_allclose(means[0, 0, 0], (x[0, 0, 0] + x[0, 1, 0] + x[0, 1, 1]) / 3, rtol=1e-5)
    assert not means[0, 0, 1].any()


def test_a_token_that_goes_down_leaves_its_scale():
    """2x2 of them become one, by the mean of their alphas."""
    node = dr.Node(dr.Block(1, 1, 1.0, parent=None), 6)
    x = jnp.asarray(np.random.default_rng(4).normal(size=(1, 4, 4, 4)), jnp.float32)
    tokens = dr._Tokens(x, jnp.ones((1, 4, 4), bool))

    @tiny.jit
    def run(tokens):
        variables = _with_bias(tiny.filled(node, tokens, None), jnp.asarray([-9.0, 9.0]))
        return node.apply(variables, tokens, None)

    staying, moved, alpha = jax.device_get(run(tokens))
    assert not staying.present.any() and not staying.x.any()
    assert moved.present.all() and moved.x.shape == (1, 2, 2, 6)
    np.testing.assert_allclose(alpha[..., 1], 1, rtol=1e-5)


def test_a_number_for_each_scale_is_wanted():
    with pytest.raises(ValueError, match='has 2 widths, 1 heads and 2 reductions: give one of each for every scale'):
        jax.eval_shape(SMALL.clone(heads=(1,)).init, jax.random.key(0), IMAGES)
