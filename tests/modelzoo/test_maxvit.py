"""MaxViT: what a pixel learns of others, windows and grids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention.relative import RelativeAttention
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.vision import maxvit
from tests.modelzoo.tiny import filled, jit


def test_windows_are_near_and_grids_far():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    assert maxvit.windows(x, (2, 3))[..., 0].tolist()[1] == [[3, 4, 5], [9, 10, 11]]
    assert maxvit.grids(x, (2, 3))[..., 0].tolist()[1] == [[1, 3, 5], [13, 15, 17]]


@pytest.mark.parametrize('split, join', [(maxvit.windows, maxvit.unwindow), (maxvit.grids, maxvit.ungrid)])
def test_a_map_is_put_together_as_it_was_cut(split, join):
    x = jnp.arange(144.0).reshape(2, 4, 9, 2)
    np.testing.assert_array_equal(join(split(x, (2, 3)), (4, 9)), x)


def test_windows_and_grids_together_reach_every_pixel():
    mixer = functools.partial(RelativeAttention, (2, 2), head_width=4)
    axis = functools.partial(maxvit.Axis, (2, 2), norm=LayerNorm, mixer=mixer, mlp=Mlp)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 8)), jnp.float32)
    other = x.at[0, 1, 2].multiply(-1.0)

    def reached(spread: bool, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = axis(spread=spread)
        run = jit(functools.partial(part.apply, filled(part, x, None)))
        before, after = jax.device_get((run(before, None), run(after, None)))
        return before, after, np.abs(before - after).max(-1)[0] > 1e-6

    *both, near = reached(False, x, other)
    assert np.argwhere(near).tolist() == [[row, column] for row in (0, 1) for column in (2, 3)]
    assert reached(True, *both)[2].all()
    assert np.argwhere(reached(True, x, other)[2]).tolist() == [[row, column] for row in (1, 3) for column in (0, 2)]


def test_windows_grow_with_the_image():
    network = maxvit.VARIANTS['maxvit_tiny_tf_224']
    assert network.cut(224, 224) == (7, 7) and network.cut(384, 512) == (12, 16)
    with pytest.raises(ValueError, match='image 230x64 does not divide by 32'):
        network.cut(230, 64)
