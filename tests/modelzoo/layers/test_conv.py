"""Convolutions against numbers recorded from torch 2.13 (torch.nn.functional.conv2d), and the two depthwise forms."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from modelzoo.layers import conv


def wave(*shape: int, frequency: float) -> np.ndarray:
    return np.sin(np.arange(math.prod(shape), dtype=np.float32) * np.float32(frequency)).reshape(shape)


@pytest.mark.parametrize('kernel_size, stride, size, shape, first, squares', [
    (2, 1, (4, 5), (5, 6), [-0.38377, -0.10935, 0.53494, 1.12036, 1.56768, 0.94886], 250.078),
    (3, 2, (5, 6), (3, 3), [-1.08109, 2.83669, 5.42296, -3.16935, -7.57398, -5.84026], 502.6243),
    (9, 8, (16, 16), (2, 2), [-4.6428, 3.15155, 2.44465, -1.42294, -4.27811, 5.47778], 458.4828),
])
def test_conv_pads_as_torch(kernel_size, stride, size, shape, first, squares):
    x = jnp.moveaxis(jnp.asarray(wave(1, 2, *size, frequency=0.37)), 1, -1)
    kernel = np.transpose(wave(3, 2, kernel_size, kernel_size, frequency=0.53), (2, 3, 1, 0))
    params = {'kernel': jnp.asarray(kernel), 'bias': jnp.array([0.1, -0.2, 0.3], jnp.float32)}
    y = np.moveaxis(conv.Conv(3, kernel_size, stride, 1).apply({'params': params}, x), -1, 1)
    assert y.shape == (1, 3, *shape)
    assert shape == tuple(conv.out_size(side, kernel_size, stride, 1) for side in size)
    np.testing.assert_allclose(y.ravel()[:6], first, atol=2e-5)
    np.testing.assert_allclose((y**2).sum(), squares, rtol=1e-5)


def inputs(shape: tuple[int, ...], side: int, dtype: str = 'float32') -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = shape, (side, side, 1, shape[-1]), shape
    return [jax.random.normal(key, s).astype(dtype) for key, s in zip(keys, shapes)]


@functools.partial(jax.jit, static_argnums=0)
def both(function, x, kernel, g):
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(g)


@pytest.mark.parametrize('shape, side', [((3, 5, 4, 6), 3), ((2, 1, 1, 4), 3), ((2, 3, 7, 2), 5)])
def test_depthwise_is_a_convolution_forwards_and_backwards(shape, side):
    arrays = inputs(shape, side)
    ours, xla = both(conv.depthwise, *arrays), both(conv._conv, *arrays)
    chex.assert_trees_all_close(ours, xla, rtol=1e-5, atol=1e-5)


def test_depthwise_sums_the_weight_gradient_in_float32():
    arrays = inputs((8, 16, 16, 4), 3, 'bfloat16')
    wanted = both(conv._conv, *(array.astype('float32') for array in arrays))
    ours = both(conv.depthwise, *arrays)
    assert {array.dtype for array in ours} == {jnp.dtype('bfloat16')}
    np.testing.assert_allclose(ours[2].astype('float32'), wanted[2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('platform, convolutions', [('cpu', 0), ('tpu', 3), ('cuda', 3)])
def test_depthwise_chooses_its_form_when_lowered(platform, convolutions):
    traced = jax.jit(lambda *arrays: both(conv.depthwise, *arrays)).trace(*inputs((2, 4, 4, 8), 3))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('stablehlo.convolution') == convolutions


def test_depthwise_leaves_a_sharded_batch_where_it_is():
    sharding = NamedSharding(Mesh(jax.devices(), ('data',)), PartitionSpec('data'))
    x, kernel, g = inputs((16, 4, 4, 8), 3)
    x, g = jax.device_put((x, g), sharding)
    compiled = jax.jit(lambda *arrays: both(conv.depthwise, *arrays)).lower(x, kernel, g).compile()
    assert 'all-gather' not in compiled.as_text()
    chex.assert_trees_all_close(compiled(x, kernel, g), both(conv._conv, *inputs((16, 4, 4, 8), 3)), atol=1e-5)
