"""Swin Transformer V2: windows that are apart, biases by distance, and the block that starts as the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import modelzoo
from longview.modelzoo.layers.attention import window
from longview.modelzoo.layers.frame.block import PostNorm
from longview.modelzoo.layers.residuals.residual import Add
from longview.modelzoo.vision import swin_v2
from tests.modelzoo.tiny import filled, jit, shapes


@pytest.mark.parametrize(
    'name, millions',
    [
        ('swinv2_tiny_window8_256', 28.35),
        ('swinv2_tiny_window16_256', 28.35),
        ('swinv2_small_window8_256', 49.73),
        ('swinv2_base_window12to24_192to384', 87.92),
        ('swinv2_large_window12_192', 196.74),
    ],
)
def test_parameter_counts_are_timm_s(name, millions):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize('shifted, reached', [(False, (0, 4, 0, 4)), (True, (2, 6, 2, 6))])
def test_a_pixel_sees_its_window_and_no_other(shifted, reached):
    mixer = swin_v2.WindowAttention(2, 4, shifted)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    variables = filled(mixer, x)
    reach = abs(jit(jax.grad(lambda x: mixer.apply(variables, x)[0, 3, 3].sum()))(x))[0].sum(-1) > 0
    top, bottom, left, right = reached
    wanted = np.zeros((8, 8), bool)
    wanted[top:bottom, left:right] = True
    np.testing.assert_array_equal(reach, wanted)


def test_a_corner_that_the_shift_brings_together_stays_apart():
    mixer = swin_v2.WindowAttention(2, 4, True)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    variables = filled(mixer, x)
    reach = abs(jit(jax.grad(lambda x: mixer.apply(variables, x)[0, 0, 0].sum()))(x))[0].sum(-1)
    assert (reach[:2, :2] > 0).all() and reach.at[:2, :2].set(0).max() == 0


def test_offsets_are_logarithmic_and_end_at_the_window_they_were_made_for():
    own, other = swin_v2.log_offsets((8, 8), 0), swin_v2.log_offsets((16, 16), 8)
    assert own.shape == (15 * 15, 2) and other.shape == (31 * 31, 2)
    np.testing.assert_allclose(abs(own).max(), np.log2(9) / 3, rtol=1e-6)
    np.testing.assert_allclose(own[window.relative_index((8, 8))[8, 0]], [np.log2(8 / 7 + 1) / 3, 0], rtol=1e-6)
    middle = other.reshape(31, 31, 2)[15 - 7 : 15 + 8, 15 - 7 : 15 + 8]
    np.testing.assert_allclose(middle.reshape(-1, 2), own, rtol=1e-6)


def test_the_sharpness_of_a_head_ends_at_a_hundred():
    mixer = swin_v2.WindowAttention(1, 4, False)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    params = filled(mixer, x)['params']
    answer = jit(lambda value: mixer.apply({'params': params | {'logit_scale': jnp.full((1, 1, 1), value)}}, x))
    np.testing.assert_array_equal(answer(np.log(100)), answer(9.0))
    assert abs(answer(np.log(100)) - answer(4.0)).max() > 1e-3


def test_a_network_starts_as_its_patches_and_merges():
    backbone = modelzoo.find('swinv2_test')[1]
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    variables = jit(backbone.init)(jax.random.key(1), x)
    features = jit(backbone.apply)(variables, x)
    np.testing.assert_array_equal(features['stage0'], features['stem'])


def test_the_norms_of_a_block_stand_at_its_branches_ends():
    class Times(nn.Module):
        factor: float

        def __call__(self, x, *, train=False):
            return x * self.factor

    times = lambda factor: lambda name: Times(factor, name=name)
    plus = lambda name: lambda x: x + 1
    x = jnp.full((1, 2), 2.0)
    y = PostNorm(plus, times(3.0), times(5.0), Add).apply({}, x, None)
    np.testing.assert_array_equal(y, np.full((1, 2), (2 + 7) + (9 * 5 + 1)))
