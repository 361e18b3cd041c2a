"""HorNet's filter between the Fourier transform of an image and its inverse, against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from longview.modelzoo.vision import hornet


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('height, width', [(6, 8), (5, 7), (1, 2), (3, 1)])
def test_a_filter_multiplies_the_spectrum(height, width):
    x, kernel = noise(2, height, width, 3), noise(width // 2 + 1, 2, height, 3)
    y = hornet.GlobalFilter((height, width)).apply({'params': {'kernel': jnp.asarray(kernel)}}, jnp.asarray(x))
    numbers = np.moveaxis(kernel[:, 0] + 1j * kernel[:, 1], 0, 1)
    wanted = np.fft.irfft2(np.fft.rfft2(x, axes=(1, 2)) * numbers[None], (height, width), axes=(1, 2))
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_filters_are_resized_with_their_corners_on_corners():
    np.testing.assert_allclose(hornet.aligned_matrix(3, 5) @ [1.0, 2.0, 4.0], [1, 1.5, 2, 3, 4])
    np.testing.assert_allclose(hornet.aligned_matrix(4, 1) @ [7.0, 1.0, 1.0, 1.0], [7])
    kernel = noise(4, 2, 3, 2)
    larger = np.asarray(hornet.resize(jnp.asarray(kernel), (7, 5)))
    np.testing.assert_allclose(larger[::2, :, ::2], kernel, atol=1e-6)
    np.testing.assert_allclose(larger[1], (larger[0] + larger[2]) / 2, atol=1e-6)
    params = {'params': {'kernel': jnp.asarray(kernel)}}
    assert hornet.GlobalFilter((3, 6)).apply(params, jnp.asarray(noise(1, 9, 4, 2))).shape == (1, 9, 4, 2)


def test_a_sharded_batch_stays_where_it_is():
    sharding = NamedSharding(Mesh(jax.devices(), ('data',)), PartitionSpec('data'))
    x, kernel = jnp.asarray(noise(8, 4, 4, 2)), jnp.asarray(noise(3, 2, 4, 2))
    both = lambda x, kernel: jax.vjp(
        lambda *a: hornet.GlobalFilter((4, 4)).apply({'params': {'kernel': a[1]}}, a[0]), x, kernel
    )[1](x)
    compiled = jax.jit(both).lower(jax.device_put(x, sharding), kernel).compile()
    assert 'all-gather' not in compiled.as_text()
