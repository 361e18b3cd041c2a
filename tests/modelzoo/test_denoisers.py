"""Denoisers: what the U-Net makes of time and class, its attention recomputed, and what is refused."""

import jax
import numpy as np
import pytest

from longview.modelzoo import features as ft
from longview.modelzoo.denoisers.edm import Attention, UNet, waves
from longview.modelzoo.pixels import Pixels
from tests.modelzoo import tiny

RNG = jax.random.key(0)
DRAWS = np.random.default_rng(0)
NET = UNet(8, (1,), 1, (), classes=3, embedding_multiple=1, dropout=0.5)
IMAGES, TIMES = DRAWS.normal(size=(4, 4, 8, 2)).astype(np.float32), np.float32([0, 0.5, 2, 2])
NOBODY = np.full(4, -1, np.int32)


def filled(net, *columns):
    """Variables without zeros: at first the last layer is 0, and so is the whole answer."""
    shapes = jax.eval_shape(net.init, RNG, *columns)
    leaves, tree = jax.tree.flatten(shapes)
    draws = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [draws.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves])


def test_an_answer_depends_on_time_and_class_and_no_class_is_a_class_of_its_own():
    v, label = filled(NET, IMAGES, TIMES, NOBODY), np.int32([0, 1, 2, 2])

    answer = tiny.jit(NET.apply)

    @tiny.jit
    def dropped(v, row, *columns):
        variables = {**v, 'example': {'row': row}}
        return NET.apply(variables, *columns, train=True, rngs={'drop_path': RNG})

    calls = [(TIMES,), (TIMES, NOBODY), (TIMES, label), (TIMES[::-1], label)]
    free, nobody, asked, later = (np.asarray(answer(v, IMAGES, *columns)) for columns in calls)
    rows = np.arange(4), np.asarray([0, 1, 5, 6])
    one, other = (np.asarray(dropped(v, row, IMAGES, TIMES, label)) for row in rows)
    first = tiny.jit(lambda *columns: NET.init(RNG, *columns)['params']['paint'])(IMAGES, TIMES, label)
    assert free.shape == IMAGES.shape and not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(first)))
    np.testing.assert_array_equal(free, nobody)
    by_example = lambda a, b: np.abs(a - b).max(axis=(1, 2, 3)) > 1e-4
    assert by_example(free, asked).all() and by_example(asked, later).all()
    assert by_example(one, asked).all()
    assert by_example(one, other).tolist() == [False, False, True, True]


def test_attention_has_its_channels_in_the_published_order():
    layer, x = Attention(2), DRAWS.normal(size=(1, 2, 3, 8)).astype(np.float32)
    params = filled(layer, x)['params']
    found = tiny.jit(layer.apply)({'params': params}, x)
    pixels = x.reshape(6, 2, 4)  # groups of the norm
    pixels = (pixels - pixels.mean(axis=(0, 2), keepdims=True)) / np.sqrt(pixels.var(axis=(0, 2), keepdims=True) + 1e-5)
    pixels = pixels.reshape(6, 8) * params['norm']['scale'] + params['norm']['bias']
    qkv = (pixels @ params['qkv']['kernel'] + params['qkv']['bias']).reshape(6, 2, 4, 3)
    heads = []
    for head in (0, 1):
        q, k, v = (qkv[:, head, :, part] for part in range(3))
        weights = np.exp(q @ k.T / 2)
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
    wanted = np.concatenate(heads, axis=1) @ params['out']['kernel'] + params['out']['bias']
    np.testing.assert_allclose(np.asarray(found).reshape(6, 8), x.reshape(6, 8) + wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('width, levels, count', [(8, (1,), 4), (8, (0, 1), 7), (4, (0, 1), 0)])
def test_attention_stands_where_it_is_asked_for_and_heads_are_wide_enough(width, levels, count):
    """Of the lowest map the first block on the way up has attention in any case."""
    net = UNet(width, (1, 1), 1, levels, embedding_multiple=1, head_width=8)
    params = jax.eval_shape(net.init, RNG, IMAGES, TIMES)['params']
    assert sum('attention' in block for block in params.values()) == count


def test_waves_are_cosines_and_sines_of_falling_frequencies():
    found = np.asarray(tiny.jit(lambda t: waves(t, 4))(TIMES))
    np.testing.assert_allclose(found[2], [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02)], rtol=1e-5)


def test_images_that_cannot_be_halved_and_other_networks_are_refused():
    with pytest.raises(ValueError, match='images of 6 x 8 pixels cannot be halved 2 times'):
        jax.eval_shape(UNet(8, (1, 1, 1), 1).init, RNG, np.zeros((1, 6, 8, 1), np.float32), np.zeros(1, np.float32))
    with pytest.raises(TypeError, match=r'Diffusion needs a Denoiser \(an image from a noisy image.*, and Pixels has'):
        ft.require(Pixels(), ft.Denoiser, 'Diffusion')
    with pytest.raises(TypeError, match='abstract'):
        ft.Denoiser()
