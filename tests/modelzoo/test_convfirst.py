"""ConvFirst: a fused block is its layers, also in a network; what cannot be fused is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.vision.convfirst import ConvFirst, ConvFirstNet, MBConv
from tests.modelzoo import tiny


def test_a_fused_network_answers_as_layer_by_layer_and_trains_the_same():
    """Odd sides; of two stages the second has a block that keeps its shape. Parameters are the same."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 37, 26, 3)), jnp.float32)
    plain, fused = (modelzoo.create_model('convfirst_test', 7, fused=one) for one in (False, True))
    variables = tiny.filled(plain, x)
    assert jax.tree.map(jnp.shape, jax.eval_shape(fused.init, jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, variables
    )

    def run(variables, x):
        apply = lambda model, **how: model.apply(variables, x, **how)['logits']
        train = lambda model: model.apply(variables, x, train=True, mutable=['batch_stats'])[0]['logits']
        return [(apply(model), train(model)) for model in (plain, fused)]

    layers, whole = jax.device_get(tiny.jit(run)(variables, x))
    np.testing.assert_allclose(whole[0], layers[0], atol=1e-5 * np.std(layers[0]))
    np.testing.assert_array_equal(whole[1], layers[1])
    assert np.abs(layers[0] - layers[1]).max() > 1e-3 * np.std(layers[0])


def test_which_blocks_are_fused():
    """Those that keep stride and width, in evaluation."""
    x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)

    def has_op(block, train=False):
        variables = jax.eval_shape(block.init, jax.random.key(0), x)
        apply = lambda variables, x: block.apply(variables, x, train=train, mutable=['batch_stats'])
        return 'fused_block' in str(jax.make_jaxpr(apply)(variables, x))

    assert has_op(ConvFirst(16, fused=True))
    assert not has_op(ConvFirst(16, fused=True), train=True)
    assert not any(has_op(block) for block in (ConvFirst(16), ConvFirst(24, fused=True), ConvFirst(16, 2, fused=True)))


def test_the_convolution_costs_a_quarter_where_it_comes_first():
    """Taps of both blocks at the same width."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 16), jnp.float32)
    first, mobile = (
        jax.eval_shape(kind(16).init, jax.random.key(0), x)['params']['conv']['conv']['kernel']
        for kind in (ConvFirst, MBConv)
    )
    assert first.shape == (3, 3, 8, 16) and mobile.shape == (3, 3, 8, 64)


@pytest.mark.parametrize(
    'module, message',
    [
        (ConvFirst(12), 'group_width is 8 and does not divide the 12 channels'),
        (MBConv(12, ratio=1), 'group_width is 8 and does not divide the 12 channels'),
        (ConvFirst(12, norm=LayerNorm, fused=True, group_width=4), 'the norm is LayerNorm, which cannot be folded'),
        (ConvFirstNet((12,), (1,), stem_stride=2), 'stem_stride is 2: use 4, or 1'),
        (ConvFirstNet((16,), (1,), functools.partial(MBConv), fused=True), 'MBConv has no fused form'),
    ],
)
def test_what_does_not_fit_is_refused_in_words(module, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 12), jnp.float32))
