"""Resizing of position tables against torch 2.13's ``interpolate(align_corners=False)``."""

import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention import posemb

# Of sin(1.7 i), i counting the source's points row by row. Cubic is mode='bicubic', smooth the same with
# antialias=True, linear mode='bilinear'.
RECORDED = {
    ('cubic', (3, 4), (5, 3)): [
        0.125591,
        0.567423,
        -0.870028,
        0.300927,
        0.381822,
        -0.801862,
        0.56381,
        0.070178,
        -0.655881,
        0.747168,
        -0.251365,
        -0.417386,
        0.840621,
        -0.447157,
        -0.253967,
    ],
    ('cubic', (4, 4), (2, 7)): [
        0.141407,
        0.543369,
        0.955568,
        0.341275,
        -0.537965,
        -0.777578,
        -0.85195,
        1.048761,
        0.739072,
        0.206136,
        -0.629624,
        -0.976578,
        -0.306973,
        0.262131,
    ],
    ('cubic', (2, 2), (3, 3)): [
        -0.076423,
        0.590148,
        1.256718,
        -0.14172,
        -0.047423,
        0.046874,
        -0.207017,
        -0.684993,
        -1.162968,
    ],
    ('smooth', (3, 4), (5, 3)): [
        0.290873,
        0.454445,
        -0.839624,
        0.4277,
        0.314201,
        -0.807103,
        0.655055,
        0.057143,
        -0.724056,
        0.778981,
        -0.208937,
        -0.526686,
        0.835219,
        -0.356211,
        -0.405088,
    ],
    ('smooth', (4, 4), (2, 7)): [
        0.246382,
        0.520758,
        0.889123,
        0.227843,
        -0.570051,
        -0.725373,
        -0.757003,
        0.969061,
        0.738102,
        0.258978,
        -0.493732,
        -0.950402,
        -0.294705,
        0.137444,
    ],
    ('smooth', (6, 5), (3, 2)): [0.049912, 0.013842, 0.021558, -0.034102, -0.075214, 0.026181],
    ('linear', (3, 4), (5, 3)): [
        0.165277,
        0.368062,
        -0.814103,
        0.317103,
        0.24056,
        -0.741166,
        0.544842,
        0.049306,
        -0.63176,
        0.687192,
        -0.149675,
        -0.423343,
        0.782092,
        -0.282328,
        -0.284399,
    ],
    ('linear', (6, 5), (3, 2)): [0.209232, 0.086362, 0.19856, -0.338683, -0.318505, 0.100024],
}
MATRICES = {'cubic': posemb.cubic_matrix, 'smooth': posemb.smooth_cubic_matrix, 'linear': posemb.linear_matrix}


def table(source: tuple[int, int], channels: int = 1) -> jnp.ndarray:
    points = jnp.sin(jnp.arange(source[0] * source[1]) * 1.7)
    return points[None, :, None] * (1 + jnp.arange(channels)[None, None])


@pytest.mark.parametrize('kind, source, target', RECORDED)
def test_resize_is_torch_s(kind, source, target):
    resized = posemb.resize(table(source, 2), source, target, matrix=MATRICES[kind])
    wanted = np.array(RECORDED[kind, source, target])
    np.testing.assert_allclose(resized[0, :, 0], wanted, atol=2e-6)
    np.testing.assert_allclose(resized[0, :, 1], 2 * wanted, atol=4e-6)


def test_the_same_grid_is_left_alone():
    original = table((3, 4))
    assert posemb.resize(original, (3, 4), (3, 4)) is original


@pytest.mark.parametrize('matrix', MATRICES.values())
def test_weights_of_a_point_sum_to_one(matrix):
    np.testing.assert_allclose(matrix(14, 9).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize('matrix', MATRICES.values())
def test_a_published_table_is_resized_as_in_the_network_but_for_its_learned_tokens(matrix):
    published = np.concatenate([np.full((1, 2, 3), 7, np.float32), np.asarray(table((4, 4), 3))], axis=1)
    refitted = posemb.refit(published, (6, 2), before=2, matrix=matrix)
    np.testing.assert_array_equal(refitted[:, :2], published[:, :2])
    wanted = posemb.resize(jnp.asarray(published[:, 2:]), (4, 4), (6, 2), matrix=matrix)
    np.testing.assert_allclose(refitted[:, 2:], wanted, atol=1e-5)
    np.testing.assert_array_equal(posemb.refit(published, (4, 4), before=2, matrix=matrix), published)


def test_a_published_table_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match='a table of 13 positions, 1 of them for learned tokens, is not that of a sq'):
        posemb.refit(np.zeros((1, 13, 2), np.float32), (4, 4), before=1)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match='a table of 12 positions is not a grid of 4x4'):
        posemb.resize(table((3, 4)), (4, 4), (8, 8))
