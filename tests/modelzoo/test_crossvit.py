"""CrossViT: what passes between its branches, the images they see, and sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.vision import crossvit
from tests.modelzoo.tiny import filled, jit, shapes


@pytest.mark.parametrize('name', ['crossvit_9_240', 'crossvit_9_dagger_240'])
def test_parameter_counts_are_published(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - crossvit.PUBLISHED[name].params) < 0.06


def test_only_the_class_token_passes_between_branches():
    """Without blocks patches stay as they are, and a token learns of the other branch's patches alone."""
    group = crossvit.Group((), (lambda name: crossvit.Fusion(2, name=name),) * 2, (0, 0))
    rng = np.random.default_rng(0)
    fine, coarse = (jnp.asarray(rng.normal(size=(1, 5, width)), jnp.float32) for width in (8, 16))
    variables = filled(group, (fine, coarse), None)
    run = jit(lambda fine, coarse: group.apply(variables, (fine, coarse), None))
    # Of each token and each patch: which tokens change with it.
    cases = [
        (fine.at[:, 3].multiply(-1.0), coarse),
        (fine, coarse.at[:, 3].multiply(-1.0)),
        (fine.at[:, 0].multiply(-1.0), coarse),
    ]
    first, *rest = jax.device_get([run(fine, coarse), *(run(*case) for case in cases)])
    for branch, before in enumerate((fine, coarse)):
        np.testing.assert_array_equal(first[branch][:, 1:], before[:, 1:])
    changed = [[bool(np.abs(new[b][:, 0] - first[b][:, 0]).max() > 1e-6) for b in range(2)] for new in rest]
    assert changed == [[False, True], [True, False], [True, False]]


def test_branches_see_patches_of_the_nearest_size():
    network = crossvit.VARIANTS['crossvit_9_240']
    assert network.grids(240, 240) == [(20, 20), (14, 14)]
    assert network.grids(240, 408) == [(20, 34), (14, 24)]
    assert crossvit.VARIANTS['crossvit_15_dagger_408'].grids(408, 408) == [(34, 34), (24, 24)]
    assert network.grids(224, 8) == [(19, 1), (13, 1)]


def test_resizing_keeps_what_is_constant_along_an_axis():
    image = np.random.default_rng(0).normal(size=(1, 30, 1, 2)).astype(np.float32) + np.zeros((1, 1, 6, 1), np.float32)
    wide = np.asarray(jit(lambda x: crossvit.resized(x, (30, 4)))(image))
    np.testing.assert_allclose(wide, image[:, :, :4], rtol=1e-5)


def test_the_head_is_the_mean_of_two():
    head, pooled = crossvit.BranchHeads(3), jnp.asarray(np.random.default_rng(0).normal(size=(2, 12)), jnp.float32)
    variables = jax.device_get(filled(head, {'pooled': pooled}))
    first, second = (variables['params'][name] for name in ('branch0', 'branch1'))
    wanted = pooled[:, :4] @ first['kernel'] + pooled[:, 4:] @ second['kernel'] + (first['bias'] + second['bias'])[None]
    np.testing.assert_allclose(head.apply(variables, {'pooled': pooled}), wanted / 2, rtol=1e-5)
    with pytest.raises(ValueError, match='10 channels do not divide into shares of'):
        jax.eval_shape(head.init, jax.random.key(0), {'pooled': pooled[:, :10]})


def test_there_are_convolutions_for_two_patch_sizes():
    with pytest.raises(ValueError, match='a patch of 8 has no convolutions'):
        jax.eval_shape(crossvit.ConvPatches(8, 8).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
