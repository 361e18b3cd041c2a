"""Receptive fields of convolutions, which are known."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from longview import modelzoo
from longview.analysis.receptive_field import Field, area, receptive_field
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.patch import Patches


class Chain(nn.Module):
    """Convolutions after each other, as a map or as pixels in a row."""

    parts: tuple[nn.Module, ...]
    flat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> ft.Features:
        for part in self.parts:
            x = part(x)
        return {'tokens': x.reshape(len(x), -1, x.shape[-1])} if self.flat else {'map': x, 'pooled': x.mean((1, 2))}


KERNEL = np.arange(-4, 5, dtype=np.float32).reshape(3, 3, 1, 1)
CONV = Conv(1, 3, 1, 1)
IMAGES = jnp.ones((2, 9, 9, 1))


def variables(*kernels: np.ndarray) -> dict:
    return {'params': {f'parts_{n}': {'kernel': k, 'bias': np.zeros(k.shape[-1])} for n, k in enumerate(kernels)}}


@pytest.mark.quick
@pytest.mark.parametrize('flat', [False, True])
def test_one_convolution_has_its_kernel(flat: bool) -> None:
    found = receptive_field(Chain((CONV,), flat), variables(KERNEL), IMAGES)
    assert found.feature == ('tokens' if flat else 'map') and found.centre == (4, 4)
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = 2 * np.abs(KERNEL[..., 0, 0])  # over two images
    np.testing.assert_allclose(found.scores, expected)


def test_published_scores_are_the_positive_ones() -> None:
    net = Chain((CONV,))
    up, down = (receptive_field(net, variables(s * np.abs(KERNEL)), IMAGES, positive=True).scores for s in (1, -1))
    assert up.sum() == 2 * np.abs(KERNEL).sum() and not down.any()  # the output of the second one is negative


@pytest.mark.quick
def test_two_convolutions_reach_further() -> None:
    ones = np.ones((3, 3, 1, 1), np.float32)
    found = receptive_field(Chain((CONV, CONV.clone())), variables(ones, ones), IMAGES)
    row = np.array([1, 2, 3, 2, 1])
    np.testing.assert_allclose(found.scores[2:7, 2:7], 2 * np.outer(row, row))
    assert found.scores.sum() == 2 * 81
    # 9, 49 and 81 of 81 are in squares of side 1, 3 and 5.
    assert [area(found, share) for share in (0.1, 0.11, 0.12, 0.6, 0.61, 1)] == [
        1 / 81, 1 / 81, 9 / 81, 9 / 81, 25 / 81, 25 / 81
    ]  # fmt: skip


def test_patches_lie_where_they_are() -> None:
    kernel = np.ones((4, 4, 1, 2), np.float32)
    found = receptive_field(Chain((Patches(2, 4),)), variables(kernel), jnp.ones((1, 8, 12, 1)))
    scores = np.zeros((8, 12), bool)
    scores[4:8, 4:8] = True  # the patch (1, 1) of 2 x 3
    assert found.centre == (6, 6)
    # Both channels have the same kernel, so that their signs either add up or cancel.
    assert set(np.unique(found.scores[scores])) <= {0.0, 2.0} and not found.scores[~scores].any()


def test_squares_end_with_the_image() -> None:
    scores = np.zeros((4, 6))
    scores[0, 0], scores[2, 3] = 1, 1
    assert area(Field('map', scores, (2, 3)), 0.5) == 1 / 24
    assert area(Field('map', scores, (2, 3)), 1.0) == 4 * 6 / 24  # reach 3: rows -1 to 5, columns 0 to 6


@pytest.mark.quick
def test_mistakes_are_said_in_words() -> None:
    net, v = Chain((CONV,)), variables(KERNEL)
    with pytest.raises(ValueError, match="gives no 'stage3', but map, pooled"):
        receptive_field(net, v, IMAGES, feature='stage3')
    with pytest.raises(ValueError, match=r'pooled has the shape \(2, 1\) and is no map'):
        receptive_field(net, v, IMAGES, feature='pooled')
    with pytest.raises(TypeError, match='GLA reads words, and a receptive field is of pixels'):
        receptive_field(modelzoo.backbone('gla_test'), {}, jnp.ones((1, 3), int))
    with pytest.raises(ValueError, match='share of the scores is 0: it must be above 0'):
        area(Field('map', np.ones((2, 2)), (1, 1)), 0)
    with pytest.raises(ValueError, match='no pixel contributes to the middle of map'):
        area(Field('map', np.zeros((2, 2)), (1, 1)), 0.5)
