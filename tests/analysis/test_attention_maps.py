"""Attention maps against softmax in NumPy, and windows put into their places."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.analysis import attention_maps as maps
from longview.modelzoo.__main__ import example
from longview.modelzoo.layers.attention.attention import Attention, shown, watching
from longview.modelzoo.layers.attention.masked import MaskedAttention
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.vision.swin_v2 import WindowAttention
from tests.modelzoo import tiny

HEADS, WIDTH = 2, 6
X = np.random.default_rng(0).standard_normal((3, 5, WIDTH)).astype(np.float32)


def plain(params: dict, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Softmax over the tokens that each token sees, in float64."""
    q, k, _ = np.split(x.astype(np.float64) @ params['qkv']['kernel'] + params['qkv']['bias'], 3, axis=-1)
    q, k = (part.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2) for part in (q, k))
    scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH / HEADS)) * seen
    return scores / scores.sum(-1, keepdims=True)


SEEN = np.random.default_rng(1).random((3, 5, 5)) < 0.5
SEEN |= np.eye(5, dtype=bool)[None]


@pytest.mark.quick
@pytest.mark.parametrize(
    'layer, seen',
    [
        (Attention(HEADS), np.ones((5, 5))),
        (CausalAttention(heads=HEADS), np.tril(np.ones((5, 5)))),
        (MaskedAttention(jnp.asarray(SEEN), HEADS), SEEN[:, None]),
    ],
    ids=['all', 'causal', 'masked'],
)
def test_weights_are_the_softmax(layer: nn.Module, seen: np.ndarray) -> None:
    variables = {'params': tiny.filled(layer, jnp.asarray(X))['params']}
    found = maps.attention_maps(layer, variables, jnp.asarray(X))
    assert list(found) == ['']
    np.testing.assert_allclose(found[''], plain(jax.device_get(variables['params']), X, seen), atol=1e-6)


@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize('size', [(8, 8), (6, 10)], ids=str)
def test_windows_lie_in_their_places(shifted: bool, size: tuple[int, int]) -> None:
    """What the layer answers is its weights, put into their places, times the values: the second size is padded."""
    layer = WindowAttention(HEADS, 4, shifted)
    x = np.random.default_rng(2).standard_normal((2, *size, WIDTH)).astype(np.float32)
    variables = tiny.filled(layer, jnp.asarray(x))
    params = jax.device_get(variables['params'])
    weights = maps.attention_maps(layer, variables, jnp.asarray(x))['']
    pixels = size[0] * size[1]
    assert weights.shape == (2, HEADS, pixels, pixels)
    value = lambda x: x @ params['qkv']['kernel'][:, 2 * WIDTH :] + params['v_bias']
    heads = lambda v: v.reshape(2, pixels, HEADS, -1).swapaxes(1, 2)
    # Pixels of padding are zeros before the values are made of them; they have what a row lacks to 1.
    lacking = 1 - weights.sum(-1, keepdims=True)
    mixed = weights @ heads(value(x)) + lacking * heads(np.broadcast_to(value(0 * x), x.shape))[:, :, :1]
    mixed = mixed.swapaxes(1, 2).reshape(x.shape) @ params['out']['kernel'] + params['out']['bias']
    np.testing.assert_allclose(mixed, jax.device_get(layer.apply(variables, jnp.asarray(x))), atol=1e-5)
    # Where windows are shifted, padding lies in a region of its own, which nothing looks into.
    assert (lacking > 1e-3).any() == (size == (6, 10) and not shifted)


@pytest.mark.parametrize(
    'name, layers',
    [
        ('vit_test', 2),
        ('convit_test', 3),
        ('cvt_test', 3),
        ('pvt_v2_test', 3),
        ('moat_test', 1),
        ('swinv2_test', 3),
        ('resformer_test', 2),
    ],
)
def test_rows_are_shares_in_every_family(name: str, layers: int) -> None:
    network = modelzoo.backbone(name)
    shape = example(network, (8, 4) if 'former' in name else (32, 32), 1)
    draws = np.random.default_rng(0).standard_normal(shape.shape)
    x = jnp.asarray(abs(draws) if shape.dtype == np.int32 else draws, shape.dtype)
    found = maps.attention_maps(network, tiny.jit(network.init)(jax.random.key(0), x), x)
    assert len(found) >= layers
    for path, weights in found.items():
        assert 'block' in path and weights.ndim == 4 and weights.min() >= 0
        total = weights.sum(-1)
        # The maps of this Swin V2 do not divide into windows.
        np.testing.assert_allclose(total.max() if name == 'swinv2_test' else total, 1, atol=1e-5)


def test_scanned_blocks_show_their_weights_too() -> None:
    images = jnp.ones((1, 16, 16, 3))
    network = modelzoo.backbone('vit_test')
    variables = tiny.jit(network.init)(jax.random.key(0), images)
    alone, scanned = (maps.attention_maps(net, variables, images) for net in (network, network.clone(scan=True)))
    assert list(alone) == list(scanned) == ['block00/mixer', 'block01/mixer']
    for path in alone:
        np.testing.assert_array_equal(alone[path], scanned[path])


@pytest.mark.quick
def test_nobody_watches_by_default() -> None:
    seen = []
    weights = jnp.ones((1, 2, 3, 3))
    with watching(seen.append):
        shown(weights)
        with watching(lambda weights: None):
            shown(weights)
    assert shown(weights) is weights and len(seen) == 1


@pytest.mark.quick
def test_rollout_is_the_product_of_layers() -> None:
    first = np.array([[[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # (1, 2 heads, 2, 2)
    second = np.array([[[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    # Means over heads, halved with the identity: [[1, 0], [1/4, 3/4]] and [[1/2, 1/2], [0, 1]].
    np.testing.assert_allclose(maps.rollout([first, second])[0], [[0.625, 0.375], [0.25, 0.75]])
    with pytest.raises(ValueError, match='there is 2x2, 3x3: take layers of one size'):
        maps.rollout([first, np.ones((1, 1, 3, 3))])
    with pytest.raises(ValueError, match='there is 2x3'):
        maps.rollout([np.ones((1, 1, 2, 3))])
    with pytest.raises(ValueError, match='there is no layer'):
        maps.rollout([])


@pytest.mark.quick
def test_a_query_looks_over_the_picture() -> None:
    weights = np.arange(2.0 * 7 * 7).reshape(2, 7, 7)  # a class token and 2 x 3 patches
    np.testing.assert_array_equal(maps.over_picture(weights, (8, 12))[1], np.arange(50, 56).reshape(2, 3))
    np.testing.assert_array_equal(maps.over_picture(weights, (8, 12), query=2)[0], np.arange(15, 21).reshape(2, 3))
    # Without learned tokens the middle looks: row 1 of 2, column 1 of 3.
    np.testing.assert_array_equal(maps.over_picture(weights[:, 1:, 1:], (8, 12))[0], weights[0, 5, 1:].reshape(2, 3))
    # Keys of a reduced map.
    assert maps.over_picture(np.ones((1, 64, 16)), (32, 32)).shape == (1, 4, 4)
    with pytest.raises(ValueError, match='5 tokens are no map of a picture of 8x4096'):
        maps.over_picture(np.ones((1, 5, 5)), (8, 4096))
    with pytest.raises(ValueError, match='there is no token 7 among 7'):
        maps.over_picture(weights, (8, 12), query=7)


@pytest.mark.quick
def test_a_network_without_softmax_is_refused() -> None:
    network = modelzoo.backbone('resnet_test')
    images = jnp.ones((1, 32, 32, 3))
    variables = tiny.jit(network.init)(jax.random.key(0), images)
    with pytest.raises(ValueError, match='no layer of ResNet is attention by softmax'):
        maps.attention_maps(network, variables, images)
