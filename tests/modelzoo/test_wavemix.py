"""WaveMix: its transform against matrices, its transposed convolution against a gradient, its sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from longview.modelzoo.vision import wavemix
from tests.modelzoo.tiny import filled, jit, shapes

# Parameters with the classifier, as the reference has them.
COUNTS = {'wavemix_192_16_level3': 27_857_608}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name', COUNTS)
def test_parameters_are_those_of_the_reference(name):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) == COUNTS[name]


def test_the_transform_is_orthogonal_and_its_bands_are_in_the_published_order():
    x = normal(1, 4, 6, 2)
    low, highs = jax.device_get(wavemix.haar(jnp.asarray(x)))
    np.testing.assert_allclose((low**2).sum() + (highs**2).sum(), (x**2).sum(), rtol=1e-5)
    # A row that alternates is a difference between columns, the second of three; of the second channel here.
    stripes = np.zeros((1, 4, 6, 2), np.float32)
    stripes[:, :, ::2, 1] = 1.0
    low, highs = jax.device_get(wavemix.haar(jnp.asarray(stripes)))
    assert (highs[..., 4] == 1).all() and not np.delete(highs, 4, axis=-1).any() and (low[..., 1] == 1).all()


def test_an_odd_side_is_filled_up_with_a_zero():
    x = normal(1, 3, 5, 1)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    for ours, wanted in zip(wavemix.haar(jnp.asarray(x)), wavemix.haar(jnp.asarray(padded))):
        np.testing.assert_array_equal(*jax.device_get((ours, wanted)))


def test_upsampling_is_the_gradient_of_a_convolution():
    x = jnp.asarray(normal(2, 3, 4, 5))
    module = wavemix.Upsample(6)
    variables = filled(module, x)
    conv = functools.partial(
        lax.conv_general_dilated,
        rhs=variables['params']['kernel'],
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    transposed = lambda x: jax.linear_transpose(conv, jax.ShapeDtypeStruct((2, 6, 8, 6), 'float32'))(x)[0]
    ours, wanted = jax.device_get(jit(lambda x: (module.apply(variables, x), transposed(x)))(x))
    np.testing.assert_allclose(ours, wanted + np.asarray(variables['params']['bias']), rtol=1e-4, atol=1e-5)


def test_a_block_is_the_identity_without_its_last_scale():
    x = jnp.asarray(normal(1, 5, 7, 8))  # odd sides at both levels
    block = wavemix.Block(levels=2)
    variables = filled(block, x, (None, None))
    norm = variables['params']['level0']['norm']
    variables['params']['level0']['norm'] = jax.tree.map(jnp.zeros_like, norm)
    run = jit(lambda variables, x: block.apply(variables, x, (None, None)))
    np.testing.assert_array_equal(*jax.device_get((run(variables, x), x)))


def test_widths_and_strides_that_do_not_fit_are_refused():
    x = jnp.zeros((1, 8, 8, 3))
    for fields, words in (({'width': 18}, 'WaveMix.width is 18'), ({'stem_stride': 2}, 'stem_stride is 2')):
        with pytest.raises(ValueError, match=words):
            network = wavemix.WaveMix(**({'width': 16, 'depth': 1, 'strided': True} | fields))
            jax.eval_shape(network.init, jax.random.key(0), x)
