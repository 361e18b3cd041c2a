"""The layer of depthwise convolution against XLA's, and the kernels that networks merge."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from longview.modelzoo.layers.convolutions import conv
from tests.modelzoo.tiny import jit


def test_the_layer_is_a_convolution_with_its_bias():
    layer = conv.DepthwiseConv((3, 5), use_bias=True, dilation=2, bias_init=jax.nn.initializers.normal())
    x = jax.random.normal(jax.random.key(0), (2, 9, 6, 4))
    variables = layer.init(jax.random.key(1), x)
    kernel, bias = variables['params']['kernel'], variables['params']['bias']
    wanted = (
        lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(2, 2), (4, 4)],
            rhs_dilation=(2, 2),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=4,
        )
        + bias[None, None, None]
    )
    np.testing.assert_allclose(jit(layer.apply)(variables, x), wanted, atol=1e-5)


def test_spread_puts_zeros_between_the_taps():
    kernel = jnp.arange(1.0, 5.0).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv.spread(kernel, 2)[:, :, 0, 0], [[1, 0, 2], [0, 0, 0], [3, 0, 4]])
    np.testing.assert_array_equal(conv.spread(kernel, 1), kernel)
