"""Stochastic depth: what the masks are, and that they do not depend on how a batch is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.modelzoo.layers.frame.drop import drop_path, path_masks


class Trunk(nn.Module):
    """Returns its masks; for use at any depth in a tree of modules."""

    rate: float

    def __call__(self, batch: int, *, train: bool):
        return path_masks(self, self.rate, 4, batch, train=train)


class Network(nn.Module):
    rate: float

    def setup(self):
        self.backbone = Trunk(self.rate)

    def __call__(self, batch: int, *, train: bool):
        return self.backbone(batch, train=train)


def draw(rate: float, rows: np.ndarray | None = None, batch: int = 4000, module: type = Trunk) -> np.ndarray:
    variables = {} if rows is None else {'example': {'row': jnp.asarray(rows)}}
    masks = module(rate).apply(variables, batch, train=True, rngs={'drop_path': jax.random.key(3)})
    return np.asarray(masks)


@pytest.mark.quick
def test_rates_rise_linearly_and_survivors_make_up_for_the_rest():
    masks = draw(0.3)
    assert masks.shape == (4, 2, 4000)
    for block, rate in enumerate([0, 0.1, 0.2, 0.3]):
        values = np.unique(masks[block])
        np.testing.assert_allclose(values[values > 0], 1 / (1 - rate), rtol=1e-6)
        np.testing.assert_allclose((masks[block] == 0).mean(1), rate, atol=0.03)
    np.testing.assert_allclose(masks.mean((1, 2)), 1, atol=0.03)
    assert abs(np.corrcoef(masks[3, 0], masks[3, 1])[0, 1]) < 0.05


@pytest.mark.parametrize('module', [Trunk, Network])
def test_masks_belong_to_rows_not_to_places(module):
    whole = draw(0.5, batch=12, module=module)
    rows = np.random.default_rng(0).permutation(12)
    parts = [draw(0.5, part, batch=4, module=module) for part in rows.reshape(3, 4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), whole[..., rows])


def test_nothing_is_drawn_without_need():
    assert Trunk(0.0).apply({}, 5, train=True) is None
    assert Trunk(0.5).apply({}, 5, train=False) is None


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_a_rate_that_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match='at least 0 and below 1'):
        draw(rate)


def test_a_mask_multiplies_whole_examples():
    y = jnp.ones((2, 3, 4), jnp.bfloat16)
    dropped = drop_path(y, jnp.array([0.0, 1.25]))
    assert dropped.dtype == y.dtype
    np.testing.assert_array_equal(dropped[0], 0)
    np.testing.assert_array_equal(dropped[1], 1.25)
    assert drop_path(y, None) is y
