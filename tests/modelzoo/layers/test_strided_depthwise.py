"""Both forms of a strided depthwise convolution, against XLA's, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modelzoo.layers.conv import convolve
from modelzoo.layers.strided_depthwise import StridedDepthwise, strided_depthwise
from tests.modelzoo.tiny import jit

CASES = [((6, 8), 3, 2, 1), ((7, 5), 3, 2, 1), ((6, 8), 3, 2, 'SAME'), ((7, 9), 3, 2, 'SAME'), ((9, 8), 5, 3, 'SAME'),
         ((9, 8), 5, 3, 0), ((6, 5), 3, 1, 'SAME'), ((6, 5), 3, 1, 0)]


@pytest.mark.parametrize('size, side, stride, padding', CASES)
def test_it_is_a_convolution(size, side, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (side, side, 1, 3))
    weigh = lambda y: jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    ours = jit(jax.value_and_grad(lambda x, kernel: weigh(strided_depthwise(x, kernel, stride, padding)), (0, 1)))
    wanted = jit(jax.value_and_grad(lambda x, kernel: weigh(convolve(x, kernel, stride, padding)), (0, 1)))
    for one, other in zip(jax.tree.leaves(ours(x, kernel)), jax.tree.leaves(wanted(x, kernel)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_elsewhere_than_on_a_cpu_it_is_xla_s_convolution():
    layer = StridedDepthwise(3, 2, 1)
    x = jnp.zeros((1, 8, 8, 4))
    variables = layer.init(jax.random.key(0), x)
    text = {platform: jax.jit(layer.apply).trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
            for platform in ('cpu', 'tpu')}
    assert 'stablehlo.convolution' in text['tpu'] and 'stablehlo.convolution' not in text['cpu']
