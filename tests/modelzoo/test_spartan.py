"""SpaRTAN: rotations of pairs of channels, what is added to a pixel, and the identity at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.vision import spartan
from tests.modelzoo.tiny import filled, jit, shapes


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_a_rotation_is_a_product_of_complex_numbers():
    x, rotation = normal(2, 3, 4, 6), normal(1, 1, 1, 3, 2)
    wanted = (x[..., 0::2] + 1j * x[..., 1::2]) * (rotation[..., 0] + 1j * rotation[..., 1])
    ours = jax.device_get(spartan.rotated(jnp.asarray(x), jnp.asarray(rotation)))
    np.testing.assert_allclose(ours[..., 0::2], wanted.real, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[..., 1::2], wanted.imag, rtol=1e-4, atol=1e-6)


@pytest.mark.heavy
def test_a_rotation_by_one_adds_the_product_of_the_largest_channel():
    """With identities around it the mixer is ``x * gelu(x) + x[k] * gelu(x[k])``, which its convolution would read."""
    x = jnp.asarray(normal(1, 2, 3, 8))
    mixer = spartan.ChannelMixer(2, depthwise=True)
    variables = filled(mixer, x)
    doubled = jnp.concatenate([jnp.eye(8), jnp.eye(8)], axis=1)
    for name in ('phase', 'value'):
        variables['params'][name] = {'kernel': doubled, 'bias': jnp.zeros(16)}
    variables['params']['direction'] = jnp.broadcast_to(jnp.asarray([1.0, 0.0]), (1, 1, 1, 8, 2))
    _, seen = mixer.apply(variables, x, capture_intermediates=True)
    squares = jax.device_get(x * jax.nn.gelu(x, approximate=False))
    largest = np.take_along_axis(squares, np.asarray(x).argmax(-1)[..., None], -1)
    wanted = np.concatenate([squares, squares], -1) + largest
    alone = spartan.Conv(16, groups=16)
    conv = alone.apply({'params': variables['params']['conv']['conv']}, jnp.asarray(wanted))
    ours = seen['intermediates']['conv']['conv']['__call__'][0]
    np.testing.assert_allclose(jax.device_get(ours), jax.device_get(conv), rtol=1e-4, atol=1e-5)


def test_a_dilated_kernel_leaves_pixels_out():
    x = np.zeros((1, 9, 9, 1), np.float32)
    x[0, 4, 4, 0] = 1
    conv = spartan.Conv(1, padding=2, dilation=2)
    kernel = normal(3, 3, 1, 1)
    y = jax.device_get(conv.apply({'params': {'kernel': jnp.asarray(kernel)}}, jnp.asarray(x)))
    wanted = np.zeros((9, 9), np.float32)
    wanted[2:7:2, 2:7:2] = kernel[::-1, ::-1, 0, 0]
    np.testing.assert_allclose(y[0, ..., 0], wanted, atol=1e-6)


@pytest.mark.heavy
def test_a_block_is_almost_the_identity_at_the_start():
    block = spartan.Block(2, dense=True)
    x = jnp.asarray(normal(1, 4, 4, 8))

    def first_and_unscaled(key):
        y, variables = block.init_with_output(key, x, None)
        for name in ('residual0', 'residual1'):
            variables['params'][name]['scale'] *= 0
        return y, block.apply(variables, x, None)

    first, unscaled = jax.device_get(jit(first_and_unscaled)(jax.random.key(0)))
    assert 0 < abs(first - x).max() < 1e-3
    np.testing.assert_array_equal(unscaled, x)


def test_parameters_are_those_of_the_reference():
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes('spartan_t').params)) == 3_820_296


def test_widths_that_8_does_not_divide_are_refused():
    backbone = modelzoo.backbone('spartan_test', widths=(12, 32))
    with pytest.raises(ValueError, match=r'SpaRTAN.widths is \(12, 32\): use multiples of 8'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
