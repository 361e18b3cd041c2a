"""Convolutions against numbers recorded from torch 2.13 (torch.nn.functional.conv2d)."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.convolutions import conv


def wave(*shape: int, frequency: float) -> np.ndarray:
    return np.sin(np.arange(math.prod(shape), dtype=np.float32) * np.float32(frequency)).reshape(shape)


@pytest.mark.parametrize(
    'kernel_size, stride, size, shape, first, squares',
    [
        (2, 1, (4, 5), (5, 6), [-0.38377, -0.10935, 0.53494, 1.12036, 1.56768, 0.94886], 250.078),
        (3, 2, (5, 6), (3, 3), [-1.08109, 2.83669, 5.42296, -3.16935, -7.57398, -5.84026], 502.6243),
        (9, 8, (16, 16), (2, 2), [-4.6428, 3.15155, 2.44465, -1.42294, -4.27811, 5.47778], 458.4828),
    ],
)
def test_conv_pads_as_torch(kernel_size, stride, size, shape, first, squares):
    x = jnp.moveaxis(jnp.asarray(wave(1, 2, *size, frequency=0.37)), 1, -1)
    kernel = np.transpose(wave(3, 2, kernel_size, kernel_size, frequency=0.53), (2, 3, 1, 0))
    params = {'kernel': jnp.asarray(kernel), 'bias': jnp.array([0.1, -0.2, 0.3], jnp.float32)}
    y = np.moveaxis(conv.Conv(3, kernel_size, stride, 1).apply({'params': params}, x), -1, 1)
    assert y.shape == (1, 3, *shape)
    assert shape == tuple(conv.out_size(side, kernel_size, stride, 1) for side in size)
    np.testing.assert_allclose(y.ravel()[:6], first, atol=2e-5)
    np.testing.assert_allclose((y**2).sum(), squares, rtol=1e-5)


@pytest.mark.parametrize('size', [(1, 7), (5, 3)])
def test_a_rectangular_kernel_is_a_square_one_with_zeros_around_it(size):
    x = jnp.asarray(wave(2, 6, 9, 3, frequency=0.37))
    kernel = wave(*size, 3, 4, frequency=0.53)
    side = max(size)
    around = [((side - length) // 2,) * 2 for length in size]
    ours, square = (
        conv.Conv(4, shape, padding=conv.keeping(shape), use_bias=False).apply(
            {'params': {'kernel': jnp.asarray(kernel)}}, x
        )
        for shape, kernel in ((size, kernel), (side, np.pad(kernel, (*around, (0, 0), (0, 0)))))
    )
    assert ours.shape == (2, 6, 9, 4)
    np.testing.assert_allclose(ours, square, atol=2e-5)
