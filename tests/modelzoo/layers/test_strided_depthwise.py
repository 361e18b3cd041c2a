"""A strided depthwise convolution against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.convolutions.conv import convolve
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from tests.modelzoo.tiny import jit


@pytest.mark.parametrize(
    'size, side, stride, padding',
    [((6, 8), 3, 2, 1), ((7, 5), 3, 2, 'SAME'), ((9, 8), 5, 3, 0), ((6, 5), 3, 1, 'SAME')],
)
def test_it_is_a_convolution(size, side, stride, padding):
    layer = StridedDepthwise(side, stride, padding)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)

    @jit
    def run(x):
        found, variables = layer.init_with_output(jax.random.key(1), x)
        return found, convolve(x, variables['params']['kernel'], stride, padding)

    np.testing.assert_allclose(*run(x), atol=1e-5)
