"""GLNet: how pixels are clustered into slots and read them, and limit cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.heads.token_labels import TokenLabels
from longview.modelzoo.vision import glnet
from tests.modelzoo.tiny import filled, jit


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    odds = np.exp(x - x.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit(x) @ unit(y).T


def passing(width: int) -> dict:
    """Parameters with which slots attend equally to all and nothing is convolved."""
    unit, none = np.eye(width, dtype=np.float32), np.zeros((width, width), np.float32)
    linear = lambda kernel: {'kernel': jnp.asarray(kernel), 'bias': jnp.zeros(kernel.shape[-1])}
    point = linear(none[None, None])
    return {
        'slots': {'qkv': linear(np.concatenate([none, none, unit], axis=1)), 'out': linear(unit)},
        'near_in': point,
        'near_conv': linear(np.zeros((5, 5, 1, width), np.float32)),
        'near_out': point,
    }


def test_a_sharp_factor_gives_each_pixel_its_cluster_and_slots_their_means():
    x, before = normal(0, 1, 4, 6, 4), normal(1, 1, 4, 6, 4)
    params = passing(4) | {'slot_scale': jnp.asarray(50.0)}
    mixed = jax.device_get(jit(glnet.GLMix(2, 4).apply)({'params': params}, x, before))[0]
    first = before[0].reshape(2, 2, 2, 3, 4).mean((1, 3)).reshape(4, 4)
    pixels = x[0].reshape(24, 4)
    slots = softmax(50 * cosines(first, pixels)) @ pixels
    # Slots attend equally to all: each pixel reads their mean, whatever its shares in them.
    np.testing.assert_allclose(mixed, np.broadcast_to(slots.mean(0), (4, 6, 4)), atol=1e-5)


def test_one_slot_is_the_mean_of_pixels_by_their_cosines_and_all_read_it():
    x, before = normal(0, 1, 3, 5, 4), normal(1, 1, 3, 5, 4)
    params = passing(4) | {'slot_scale': jnp.asarray(1.5)}
    mixed = jax.device_get(jit(glnet.GLMix(1, 1).apply)({'params': params}, x, before))[0]
    pixels = x[0].reshape(15, 4)
    slot = softmax(1.5 * cosines(before[0].mean((0, 1))[None], pixels)) @ pixels
    np.testing.assert_allclose(mixed, np.broadcast_to(slot[0], (3, 5, 4)), atol=1e-5)


def test_pixels_in_another_order_are_mixed_alike_by_learned_slots():
    x, order = normal(0, 1, 4, 4, 8), np.random.default_rng(2).permutation(16)
    mixer = glnet.GLMix(2, 4, learned=True)
    params = jax.device_get(filled(mixer, x, x))['params'] | {
        name: layer for name, layer in passing(8).items() if name.startswith('near')
    }
    run = lambda x: np.asarray(jit(mixer.apply)({'params': params}, x, x)).reshape(16, 8)
    turned = x.reshape(1, 16, 8)[:, order].reshape(x.shape)
    np.testing.assert_allclose(run(turned), run(x)[order], atol=1e-5)


def test_zeros_have_a_gradient():
    variables = {'params': passing(4) | {'slot_scale': jnp.asarray(1.0)}}
    loss = lambda x: jnp.sum(glnet.GLMix(1, 4).apply(variables, x, x) ** 2)
    assert np.isfinite(jit(jax.grad(loss))(jnp.zeros((1, 4, 4, 4)))).all()


def test_what_cannot_be_is_refused():
    x = jnp.zeros((1, 16, 16, 3))
    build = lambda **fields: jax.eval_shape(modelzoo.backbone('glnet_test', **fields).init, jax.random.key(0), x)
    with pytest.raises(ValueError, match='slots is 6, .* give a square'):
        build(mixer=functools.partial(glnet.GLMix, slots=6))
    with pytest.raises(ValueError, match="stage 1 mixes 'all': it must be one of slots, both, pixels"):
        build(mixing=('slots', 'all'))
    with pytest.raises(ValueError, match='width 8 does not divide into heads of 3'):
        build(head_width=3)
    with pytest.raises(ValueError, match='stem_stride is 3'):
        build(stem_stride=3)


def test_the_head_of_token_labels_adds_half_of_the_greatest_pixel():
    features = {'pooled': normal(0, 2, 4), 'map': normal(1, 2, 3, 3, 4)}
    head = TokenLabels(5)
    params = jax.device_get(filled(head, features))['params']
    linear = lambda x, name: x @ params[name]['kernel'] + params[name]['bias']
    wanted = linear(features['pooled'], 'labels') + 0.5 * linear(features['map'], 'pixels').max((1, 2))
    np.testing.assert_allclose(jit(head.apply)({'params': params}, features), wanted, atol=1e-5)
