"""CoAtNet and its attention with biases per offset: what they are between, layouts, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention import relative
from longview.modelzoo.layers.attention.relative import RelativeAttention
from longview.modelzoo.layers.convolutions.mbconv import MobileConv
from tests.modelzoo.tiny import filled, jit


def weights_of(table: np.ndarray, made_for: tuple[int, int], grid: tuple[int, int], *, by_key: bool) -> np.ndarray:
    """Returns each pixel's attention to each of a grid, where only the table of offsets decides."""
    pixels = grid[0] * grid[1]
    mixer = RelativeAttention(made_for, head_width=pixels, heads_first=False, by_key=by_key)
    eye = np.eye(pixels, dtype=np.float32)
    qkv = {'kernel': jnp.concatenate([0 * eye, 0 * eye, eye], axis=1), 'bias': jnp.zeros(3 * pixels)}
    params = {'qkv': qkv, 'out': {'kernel': jnp.asarray(eye), 'bias': jnp.zeros(pixels)}}
    params['pos_embed'] = jnp.asarray(table[None] if by_key else table.reshape(-1, 1))
    x = jnp.asarray(eye).reshape(1, *grid, pixels)
    return np.asarray(jit(mixer.apply)({'params': params}, x)).reshape(pixels, pixels)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_biases_are_for_offsets_in_both_layouts():
    table = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    places = np.indices((2, 3)).reshape(2, -1)
    down, right = places[:, None] - places[:, :, None]  # from the query to the key
    by_key = weights_of(table, (2, 3), (2, 3), by_key=True)
    np.testing.assert_allclose(by_key, softmax(table[down + 1, right + 2]), atol=1e-5)
    swin = weights_of(table, (2, 3), (2, 3), by_key=False)
    np.testing.assert_allclose(swin, softmax(table[1 - down, 2 - right]), atol=1e-5)


def test_tables_are_resized_alike_in_the_network_and_from_a_file():
    table = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    wanted = weights_of(table, (3, 3), (2, 4), by_key=False)
    refitted = relative.refit(table.reshape(-1, 1), (2, 4)).reshape(3, 7)
    np.testing.assert_allclose(weights_of(refitted, (2, 4), (2, 4), by_key=False), wanted, atol=1e-5)
    np.testing.assert_allclose(relative.refit(table[None], (2, 4))[0], refitted, atol=1e-6)


def test_columns_by_head_are_the_same_attention_in_another_order():
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype(np.float32)
    mixer = RelativeAttention((2, 2), head_width=4)
    variables = jax.device_get(filled(mixer, x))
    # From (head, part, channel) to (part, head, channel).
    order = np.arange(24).reshape(2, 3, 4).swapaxes(0, 1).ravel()
    qkv = {name: leaf[..., order] for name, leaf in variables['params']['qkv'].items()}
    other = {'params': {**variables['params'], 'qkv': qkv}}
    wanted = jit(mixer.apply)(variables, x)
    np.testing.assert_allclose(jit(mixer.clone(heads_first=False).apply)(other, x), wanted, atol=1e-5)


def test_a_width_that_does_not_divide_into_heads_is_refused():
    mixer = RelativeAttention((2, 2))
    with pytest.raises(ValueError, match='width 48 does not divide into heads of 32'):
        jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 2, 2, 48)))


def test_timms_own_have_the_hidden_width_of_the_input():
    shape = lambda conv: jax.eval_shape(conv.init, jax.random.key(0), jnp.zeros((1, 4, 4, 8)), None)
    up = lambda conv: shape(conv)['params']['up']['kernel'].shape
    assert up(MobileConv(24, 2)) == (8, 96) and up(MobileConv(24, 2, of_output=False)) == (8, 32)
