"""MAXIM: what a pixel's answer depends on, the upsampling, images of any size and every stage, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.modelzoo.layers.mixers import multi_axis
from longview.modelzoo.restorers.maxim import MAXIM
from tests.modelzoo import tiny

SMALL = MAXIM(width=4, depth=2, groups=1, bottoms=1, scales=2, sides=(4, 2), stages=2)


def test_cells_are_cut_and_joined():
    x = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
    cells = multi_axis.cut(jnp.asarray(x), (4, 3))
    assert cells.shape == (2, 8, 12, 3)
    np.testing.assert_array_equal(cells[1, 5], x[1, 4:8, 3:6].reshape(12, 3))
    np.testing.assert_array_equal(multi_axis.join(cells, (4, 3), (8, 12)), x)


@pytest.mark.parametrize('axis', [multi_axis.GRID, multi_axis.BLOCK])
def test_a_pixel_sees_its_block_or_the_same_place_in_every_cell_of_the_grid(axis):
    """Of 8 x 12 pixels: blocks of 4 x 4, or a grid of 4 x 4 cells, each of 2 x 3 pixels."""
    layer = multi_axis.GatedMlp(axis, 4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 12, 6)), jnp.float32)

    @tiny.jit
    def slope(x):
        variables = tiny.filled(layer, x)
        return jax.grad(lambda x: layer.apply(variables, x)[0, 5, 7].sum())(x)

    seen = np.abs(jax.device_get(slope(x)))[0].sum(-1) > 1e-8
    rows, columns = np.indices(seen.shape)
    if axis == multi_axis.BLOCK:
        wanted = (rows // 4 == 1) & (columns // 4 == 1)
    else:
        wanted = (rows % 2 == 1) & (columns % 3 == 1)
    np.testing.assert_array_equal(seen, wanted)


def test_doubling_is_flax_s_transposed_convolution():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 4)), jnp.float32)
    ours, theirs = multi_axis.Doubled(5), nn.ConvTranspose(5, (2, 2), (2, 2))
    variables = tiny.filled(ours, x)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-6)


@pytest.mark.heavy
def test_every_stage_gives_images_of_every_scale():
    found = jax.eval_shape(SMALL.init_with_output, jax.random.key(0), jnp.zeros((1, 10, 13, 3)))[0]
    assert [image.shape[1:3] for image in found] == [(5, 7), (10, 13)] * 2


def test_images_of_any_size_are_filled_up_and_cut():
    """As an image that is filled up by hand is answered."""
    model = SMALL.clone(stages=1, groups=0, bottoms=0)
    x = np.random.default_rng(0).random((1, 10, 13, 3)).astype(np.float32)
    # Both sides become 16: 6 rows, of which 2 before since the smaller image halves it, and 3 columns after.
    by_hand = np.pad(x, ((0, 0), (2, 4), (0, 3), (0, 0)), 'reflect')

    @tiny.jit
    def run(x, by_hand):
        variables = tiny.filled(model, x)
        return model.apply(variables, x), model.apply(variables, by_hand)

    found, wanted = jax.device_get(run(jnp.asarray(x), jnp.asarray(by_hand)))
    np.testing.assert_allclose(found[-1], wanted[-1][:, 2:12, :13], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[-2], wanted[-2][:, 1:6, :7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('fields', 'wanted'),
    [
        ({'sides': (4,)}, 'MAXIM.sides has 1 numbers; wanted one a level, depth=2.'),
        ({'scales': 3}, 'MAXIM.scales is 3; wanted 1 to depth=2.'),
    ],
)
def test_what_does_not_fit_is_refused(fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        jax.eval_shape(SMALL.clone(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
