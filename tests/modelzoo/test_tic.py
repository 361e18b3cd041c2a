"""MSA-Conv: attention in windows against all pairs, what shifts and pooled maps add, memory, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention import attention, msa_conv
from longview.modelzoo.layers.attention.msa_conv import MSAConv, WindowAttention
from tests.modelzoo.tiny import filled, jit


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def places(x: np.ndarray, window: tuple[int, int], dilation: int, circular: bool) -> np.ndarray:
    """Returns each place of each window, one by one: (p, b, h, w, g, k)."""
    height, width = x.shape[1:3]
    found = np.zeros((window[0] * window[1], *x.shape), x.dtype)
    for place, row, column in np.ndindex(len(found), height, width):
        i = row + (place // window[1] - window[0] // 2) * dilation
        j = column + (place % window[1] - window[1] // 2) * dilation
        if circular or (0 <= i < height and 0 <= j < width):
            found[place, :, row, column] = x[:, i % height, j % width]
    return found


@pytest.mark.parametrize('circular', [False, True])
def test_one_softmax_over_the_windows_of_two_maps_and_its_gradient(circular):
    q, k, v, k2, v2 = (normal(seed, 2, 4, 5, 2, 3) for seed in range(5))
    window, cotangent = (3, 1), normal(5, 2, 4, 5, 2, 3)
    keys, values = (
        np.concatenate([places(near, window, 1, circular), places(far, window, 2, circular)])
        for near, far in ((k, k2), (v, v2))
    )

    def ours(q, v, v2):
        maps = [(jnp.asarray(k), v, 1), (jnp.asarray(k2), v2, 2)]
        shown = msa_conv.weights(q, maps, window, circular=circular)
        y = msa_conv.attend(q, maps, window, circular=circular)
        return jnp.sum(y * cotangent), (y, shown)

    def plain(q, v):
        w = jax.nn.softmax(jnp.sum(q[None] * keys, -1) / 3**0.5, axis=0)
        y = jnp.sum(w[..., None] * v, axis=0)
        return jnp.sum(y * cotangent), (y, w)

    program = jit(
        lambda: (
            jax.grad(ours, (0, 1, 2), has_aux=True)(*map(jnp.asarray, (q, v, v2))),
            jax.grad(plain, (0, 1), has_aux=True)(*map(jnp.asarray, (q, values))),
        )
    )
    ((dq, dv, dv2), (y, shown)), ((dq_wanted, dvalues), (y_wanted, w)) = jax.device_get(program())
    np.testing.assert_allclose(y, y_wanted, atol=1e-5)
    np.testing.assert_allclose(shown, w.reshape(6, 2, 20, 2).transpose(1, 3, 2, 0), atol=1e-6)
    np.testing.assert_allclose(dq, dq_wanted, atol=1e-5)
    # A value's gradient is the sum of those of the places that hold it: the adjoint of `places`.
    one = normal(6, *v.shape)
    for gradient, part, dilation in ((dv, dvalues[:3], 1), (dv2, dvalues[3:], 2)):
        wanted = np.sum(part * places(one, window, dilation, circular))
        np.testing.assert_allclose(np.sum(gradient * one), wanted, atol=1e-4)


def test_a_window_over_the_whole_of_a_cyclic_map_is_global_attention():
    layer, x = WindowAttention(2, 5, circular=True), jnp.asarray(normal(0, 1, 5, 5, 6))
    variables = filled(layer, x)

    def both(variables):
        dense = variables['params']['qkv']
        qkv = x.reshape(1, 25, 6) @ dense['kernel'] + dense['bias'][None, None]
        q, k, v = (attention.split_heads(part, 2) for part in jnp.split(qkv, 3, axis=-1))
        return layer.apply(variables, x), attention.merge_heads(attention.attend(q, k, v)).reshape(x.shape)

    ours, wanted = jax.device_get(jit(both)(variables))
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_a_window_of_one_pixel_adds_its_value():
    layer, x = MSAConv(4, 1, padding=0, groups=4, heads=2), jnp.asarray(normal(0, 1, 2, 3, 4))
    params = jax.device_get(filled(layer, x))['params']
    params['conv']['kernel'] = np.ones_like(params['conv']['kernel'])
    dense = params['attention']['qkv']
    value = np.asarray(x) @ dense['kernel'][:, 8:] + dense['bias'][8:]
    np.testing.assert_allclose(jit(layer.apply)({'params': params}, x), np.maximum(x + value, 0), atol=1e-5)


@pytest.mark.parametrize('shifted, pooled, reach', [(False, False, 2), (True, False, 4), (False, True, 5)])
def test_how_far_a_pixel_is_seen(shifted, pooled, reach):
    """A window of 3 dilated by 2 sees 2 pixels away, rolled by that 4; blocks of 2x2 two blocks away, 4 or 5."""
    layer = WindowAttention(5, 3, dilation=2, shifted=shifted, pooled=pooled)
    x = jnp.asarray(normal(0, 1, 14, 14, 10))
    variables = filled(layer, x)
    other = x.at[0, 6, 6].add(1.0)
    changes = jit(lambda variables: layer.apply(variables, other) - layer.apply(variables, x))(variables)
    rows, columns = np.nonzero(np.abs(np.asarray(changes[0])).max(-1) > 1e-6)
    assert max(abs(rows - 6).max(), abs(columns - 6).max()) == reach


def test_a_cyclic_map_that_moves_by_whole_blocks_moves_its_answer():
    layer, x = WindowAttention(5, 3, shifted=True, pooled=True, circular=True), normal(0, 1, 8, 6, 10)
    variables = filled(layer, jnp.asarray(x))
    run = jit(layer.apply)
    moved = run(variables, jnp.asarray(np.roll(x, (2, 4), (1, 2))))
    np.testing.assert_allclose(moved, np.roll(run(variables, jnp.asarray(x)), (2, 4), (1, 2)), atol=1e-5)


def test_a_training_step_keeps_neither_weights_nor_copies_of_the_map():
    arrays = [jax.ShapeDtypeStruct((2, 28, 28, 3, 8), jnp.float32)] * 4

    def step(q, k, v, dy):
        y, back = jax.vjp(functools.partial(_alone, window=(7, 7)), q, k, v)
        return y, back(dy)

    found = jit(step).lower(*arrays).compile().memory_analysis()
    assert found.temp_size_in_bytes < 3 * (found.argument_size_in_bytes + found.output_size_in_bytes)


def _alone(q, k, v, window):
    return msa_conv.attend(q, [(k, v, 1)], window)


@pytest.mark.parametrize(
    'layer, message',
    [
        (WindowAttention(1, (3, 4)), 'a window of 3x4 has no pixel in its middle: use odd sides'),
        (WindowAttention(3, 3), 'width 8 does not divide into 3 heads: change width or heads'),
        (WindowAttention(4, 3, shifted=True), '4 heads cannot look into 5 directions: use more heads'),
    ],
)
def test_what_does_not_fit_is_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 4, 4, 8)))
