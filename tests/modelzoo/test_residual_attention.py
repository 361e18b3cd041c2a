"""Residual Attention Network: sizes, what its masks do at their ends, interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo.vision import residual_attention
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Parameters of the authors' networks for Caffe, counted in their files; layers of the trunk, which name them.
COUNTS = {'residual_attention_56': 31_810_728, 'residual_attention_92': 52_466_344}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_sizes_are_the_authors(name):
    flat = traverse_util.flatten_dict(shapes(name).params, sep='/')
    assert sum(leaf.size for leaf in flat.values()) == COUNTS[name]
    kernels = [path for path in flat if path.endswith('/kernel') and '/mask/' not in path and '/shortcut/' not in path]
    assert len(kernels) == int(name.rpartition('_')[2])


def with_mask(variables: dict, value: int) -> dict:
    """Returns the variables of a module whose mask is 0 or 1 everywhere."""
    mask = variables['params']['mask']
    norm = mask['conv1']['norm'] | {'scale': jnp.zeros(16), 'bias': jnp.ones(16)}
    kernel = jnp.full((1, 1, 16, 16), 100.0 * (2 * value - 1))
    mask = mask | {'conv1': mask['conv1'] | {'norm': norm}, 'conv2': {'kernel': kernel}}
    return variables | {'params': variables['params'] | {'mask': mask}}


@pytest.mark.heavy
@pytest.mark.parametrize('adds', [False, True])
def test_a_residual_mask_of_zeros_and_a_naive_one_of_ones_change_nothing(adds):
    module = residual_attention.AttentionModule(16, 2, adds=adds)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10, 16)), jnp.float32)
    variables = filled(module, x, None)
    run = lambda attention, variables: module.clone(attention=attention).apply(variables, x, None)
    answers = jit(
        lambda: (
            run('none', variables),
            run('residual', with_mask(variables, 0)),
            run('naive', with_mask(variables, 1)),
            run('residual', variables),
        )
    )
    plain, residual, naive, masked = jax.device_get(answers())
    np.testing.assert_allclose(residual, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(naive, plain, rtol=1e-5, atol=1e-5)
    assert abs(masked - plain).max() > 0.1


@pytest.mark.parametrize('size', [(3, 4), (7, 5), (1, 9)])
def test_interpolation_keeps_corners_and_straight_lines(size):
    """A map that is linear in its places, corners at 0 and 1, is so at any size."""
    plane = lambda rows, columns: np.linspace(0, 1, rows)[:, None] + 2 * np.linspace(0, 1, columns)[None]
    source = jnp.asarray(plane(3, 4)[None, :, :, None], jnp.float32)
    found = residual_attention.interpolated(source, size)
    np.testing.assert_allclose(found[0, :, :, 0], plane(*size), atol=1e-6)


def test_another_kind_of_attention_is_refused():
    backbone = modelzoo.backbone('residual_attention_test', attention='soft')
    with pytest.raises(ValueError, match=r"attention is 'soft': use one of 'residual', 'naive', 'none'\."):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
