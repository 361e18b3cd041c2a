"""Resizing of position tables against torch 2.13's ``interpolate(mode='bicubic', align_corners=False)``."""

import jax.numpy as jnp
import numpy as np
import pytest

from modelzoo.layers import posemb

# Of sin(1.7 i), i counting the source's points row by row.
RECORDED = {
    ((3, 4), (5, 3)): [0.125591, 0.567423, -0.870028, 0.300927, 0.381822, -0.801862, 0.56381, 0.070178, -0.655881,
                       0.747168, -0.251365, -0.417386, 0.840621, -0.447157, -0.253967],
    ((4, 4), (2, 7)): [0.141407, 0.543369, 0.955568, 0.341275, -0.537965, -0.777578, -0.85195, 1.048761, 0.739072,
                       0.206136, -0.629624, -0.976578, -0.306973, 0.262131],
    ((2, 2), (3, 3)): [-0.076423, 0.590148, 1.256718, -0.14172, -0.047423, 0.046874, -0.207017, -0.684993, -1.162968],
}


def table(source: tuple[int, int], channels: int = 1) -> jnp.ndarray:
    points = jnp.sin(jnp.arange(source[0] * source[1]) * 1.7)
    return points[None, :, None] * (1 + jnp.arange(channels)[None, None])


@pytest.mark.parametrize('source, target', RECORDED)
def test_resize_is_torch_s(source, target):
    resized = posemb.resize(table(source, 2), source, target)
    wanted = np.array(RECORDED[source, target])
    np.testing.assert_allclose(resized[0, :, 0], wanted, atol=2e-6)
    np.testing.assert_allclose(resized[0, :, 1], 2 * wanted, atol=4e-6)


def test_the_same_grid_is_left_alone():
    original = table((3, 4))
    assert posemb.resize(original, (3, 4), (3, 4)) is original


def test_weights_of_a_point_sum_to_one():
    np.testing.assert_allclose(posemb.cubic_matrix(14, 9).sum(1), 1, atol=1e-12)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match='a table of 12 positions is not a grid of 4x4'):
        posemb.resize(table((3, 4)), (4, 4), (8, 8))
