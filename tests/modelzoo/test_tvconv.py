"""Translation variant convolutions: what their kernels depend on, and what they are when all places have the same."""

import functools

import jax
import numpy as np
import pytest

from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo.layers.convolutions.tvconv import TVConv, vary
from longview.modelzoo.vision import tvconv
from longview.modelzoo.vision.inceptionnext import InceptionNeXt
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


@pytest.mark.parametrize('side, stride', [(3, 1), (5, 2)])
def test_equal_kernels_are_a_depthwise_convolution_and_others_are_the_sum_at_each_place(side: int, stride: int) -> None:
    x, taps = NORMAL(size=(2, 7, 5, 3)).astype(np.float32), side * side
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    same = NORMAL(size=(side, side, 1, 3)).astype(np.float32)
    other = NORMAL(size=(taps, rows, columns, 3)).astype(np.float32)
    everywhere = np.broadcast_to(same.reshape(taps, 1, 1, 3), other.shape)

    @tiny.jit
    def run(x, same, everywhere, other):
        plain = depthwise_conv(x, same, stride=stride, padding=side // 2)
        return plain, vary(x, everywhere, stride), vary(x, other, stride)

    plain, found, varied = jax.device_get(run(x, same, everywhere, other))
    np.testing.assert_allclose(found, plain, atol=1e-5)
    padded = np.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2, (0, 0)))
    for row, column in ((0, 0), (rows - 1, columns - 1), (1, 2)):
        window = padded[:, row * stride : row * stride + side, column * stride : column * stride + side]
        wanted = np.sum(window * other[:, row, column].reshape(side, side, 3), axis=(1, 2))
        np.testing.assert_allclose(varied[:, row, column], wanted, rtol=1e-4, atol=1e-5)


def test_kernels_are_no_function_of_the_image_and_are_made_once() -> None:
    x = NORMAL(size=(3, 4, 6, 2)).astype(np.float32)
    layer = TVConv(width=4, use_bias=True)
    variables = tiny.filled(layer, x)
    apply = lambda x: layer.apply(variables, x)
    zero, one, two, both = jax.device_get(tiny.jit(lambda x: [apply(y) for y in (0 * x, x, 2 * x, x[::-1])])(x))
    np.testing.assert_allclose(two - zero, 2 * (one - zero), atol=1e-5)
    np.testing.assert_allclose(both, one[::-1], atol=1e-6)
    assert np.abs(zero).max() > 1e-3 and np.abs(one - zero).max() > 1e-3
    # Kernels have no axis of the batch: all convolutions of the program are of one map.
    batches = [e.invars[0].aval.shape[0] for e in _convolutions(jax.make_jaxpr(apply)(x).jaxpr)]
    assert batches == [1] * 6


def _convolutions(jaxpr) -> list:
    found = []
    for equation in jaxpr.eqns:
        found += [equation] if equation.primitive.name == 'conv_general_dilated' else []
        for value in equation.params.values():
            inner = getattr(value, 'jaxpr', None)
            found += _convolutions(inner) if hasattr(inner, 'eqns') else []
    return found


def test_other_sizes_interpolate_the_kernels() -> None:
    layer = TVConv((4, 6), kernel_size=1, width=4)
    sizes = [np.ones((1, *size, 2), np.float32) for size in ((4, 6), (8, 12))]
    variables = tiny.filled(layer, sizes[0])
    # With one tap the output for ones is the kernels.
    small, large = jax.device_get(
        tiny.jit(lambda variables, sizes: [layer.apply(variables, x) for x in sizes])(variables, sizes)
    )
    rows = 0.75 * small[:, :-1] + 0.25 * small[:, 1:]
    wanted = 0.75 * rows[:, :, :-1] + 0.25 * rows[:, :, 1:]
    np.testing.assert_allclose(large[:, 1:-1:2, 1:-1:2], wanted, atol=1e-6)
    assert np.ptp(small) > 0.1


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match='TVConv.kernel_size is 4: use an odd number'):
        jax.eval_shape(TVConv(kernel_size=4).init, jax.random.key(0), np.zeros((1, 4, 4, 2), np.float32))


def test_blocks_of_other_families_take_the_layer() -> None:
    net = InceptionNeXt((8, 8), (1, 2), (2, 2), mixer=functools.partial(TVConv, width=4))
    variables = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 16, 32, 3), np.float32))
    assert variables['params']['stage1']['block01']['mixer']['affinity_map'].shape == (4, 2, 4)
    larger = jax.eval_shape(net.apply, variables, np.zeros((1, 32, 32, 3), np.float32))
    assert larger['map'].shape == (1, 4, 4, 8)


def test_a_network_with_plain_convolutions_has_as_many_features() -> None:
    varying = tvconv.VARIANTS['tvconv_mobilenet_test']
    shapes = {
        name: jax.eval_shape(net.init_with_output, jax.random.key(0), np.zeros((1, 10, 18, 3), np.float32))
        for name, net in (('varying', varying), ('plain', varying.clone(varying=None)))
    }
    assert shapes['varying'][0] == shapes['plain'][0]
    assert shapes['varying'][0]['stage0'].shape == (1, 5, 9, 4) and varying.strides == (2,)
    kernels = shapes['varying'][1]['params']['stage1']['block00']['depthwise']
    assert kernels['affinity_map'].shape == (4, 1, 2)
    assert set(shapes['plain'][1]['params']['stage1']['block00']['depthwise']) == {'kernel'}
