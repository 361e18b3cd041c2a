"""The forms of depthwise convolution, each against XLA's: bands, dilation, large kernels."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from modelzoo.layers import conv


def both(function, x, kernel, g):
    y, pull = jax.vjp(function, x, kernel)
    return y, *pull(g)


def arrays(shape: tuple[int, ...], sides: tuple[int, int]) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, s) for key, s in zip(keys, (shape, (*sides, 1, shape[-1]), shape))]


@pytest.mark.parametrize('shape, sides, dilation', [
    ((2, 7, 4, 3), (1, 11), 1), ((2, 4, 7, 3), (9, 1), 1), ((2, 9, 6, 2), (3, 5), 2), ((1, 3, 4, 2), (3, 3), 5),
    ((2, 6, 5, 3), (13, 13), 1), ((2, 5, 8, 2), (9, 7), 2)])
def test_forms_agree_forwards_and_backwards(shape, sides, dilation):
    inputs = arrays(shape, sides)
    ours = both(lambda x, kernel: conv.depthwise(x, kernel, dilation), *inputs)
    wanted = both(lambda x, kernel: conv._conv(x, kernel, dilation), *inputs)
    chex.assert_trees_all_close(ours, wanted, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize('side, transforms', [(7, 0), (9, 3)])
def test_large_kernels_go_by_spectra_on_a_cpu_and_only_there(side, transforms):
    traced = jax.jit(conv.depthwise).trace(*arrays((1, 4, 4, 2), (side, side))[:2])
    cpu, tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ('cpu', 'tpu'))
    assert cpu.count('stablehlo.fft') == transforms and 'stablehlo.convolution' not in cpu
    assert tpu.count('stablehlo.convolution') == 1 and 'stablehlo.fft' not in tpu


def test_half_precision_goes_through_spectra_in_float32():
    inputs = arrays((2, 6, 6, 4), (9, 9))
    halves = [array.astype(jnp.bfloat16) for array in inputs]
    ours = both(conv.depthwise, *halves)
    wanted = both(conv._conv, *(array.astype(jnp.float32) for array in halves))
    assert {array.dtype for array in ours} == {jnp.dtype('bfloat16')}
    chex.assert_trees_all_close([array.astype(jnp.float32) for array in ours], list(wanted), rtol=2e-2, atol=5e-2)


def test_spread_puts_zeros_between_the_taps():
    kernel = jnp.arange(1.0, 5.0).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv.spread(kernel, 2)[:, :, 0, 0], [[1, 0, 2], [0, 0, 0], [3, 0, 4]])
    np.testing.assert_array_equal(conv.spread(kernel, 1), kernel)
