"""Which kernels are the first ones, and how they become pictures."""

import jax
import numpy as np
import pytest

from longview import modelzoo
from longview.analysis import filters
from longview.modelzoo.__main__ import example


def params(name: str) -> dict:
    """Zeros like the parameters of a network."""
    network = modelzoo.create_model(name)
    shapes = jax.eval_shape(network.init, jax.random.key(0), example(network.backbone, (32, 32)))['params']
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@pytest.mark.quick
@pytest.mark.parametrize(
    'name, path, shape',
    [
        ('vit_test', 'backbone/stem/kernel', (32, 4, 4, 3)),
        ('resnet_test', 'backbone/stem/conv/kernel', None),
        ('convnext_test', 'backbone/stem/patches/kernel', None),
        ('pvt_v2_test', 'backbone/embed0/kernel', None),
    ],
)
def test_the_first_filters_meet_the_pixels(name: str, path: str, shape: tuple | None) -> None:
    network = modelzoo.create_model(name)
    found, kernels = filters.first_filters(network, params(name))
    assert found == path and kernels.shape[-1] == 3 and kernels.shape[1] == kernels.shape[2]
    assert shape in (None, kernels.shape)


def test_filters_are_the_columns_of_the_kernel() -> None:
    tree = params('vit_test')
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 32)).astype(np.float32)
    tree['backbone']['stem']['kernel'] = kernel
    _, found = filters.first_filters(modelzoo.create_model('vit_test'), tree)
    np.testing.assert_array_equal(found[7], kernel[..., 7])


def test_grey_images_have_filters_too() -> None:
    # Of two kernels with one input channel the first one is no depthwise one, for it belongs to the embedding.
    tree = {'stem': {'kernel': np.zeros((2, 2, 1, 8))}, 'block00': {'conv': {'kernel': np.zeros((7, 7, 1, 8))}}}
    path, found = filters.first_filters(modelzoo.backbone('vit_test'), tree)
    assert path == 'stem/kernel' and found.shape == (8, 2, 2, 1)


def test_depthwise_kernels_are_found() -> None:
    found = filters.depthwise_filters(params('convnext_test'))
    first = 'backbone/stage0/block00/mixer/kernel'
    assert len(found) == 3 and next(iter(found)) == first and found[first].shape[1:] == (5, 5, 1)
    assert not filters.depthwise_filters(params('vit_test'))


@pytest.mark.quick
def test_zero_is_grey_and_the_largest_weight_is_black_or_white() -> None:
    kernel = np.array([[0.0, 2.0], [-1.0, -2.0], [0.0, 0.0]]).reshape(3, 1, 2, 1)
    np.testing.assert_array_equal(filters.tiles(kernel).reshape(3, 2), [[0.5, 1.0], [0.25, 0.0], [0.5, 0.5]])


@pytest.mark.quick
def test_a_network_of_words_has_none() -> None:
    with pytest.raises(ValueError, match='GLA has no convolution or patch embedding of one or three channels'):
        filters.first_filters(modelzoo.backbone('gla_test'), {'block00': {'kernel': np.zeros((3, 3))}})
