"""SHViT: which channels attend, how blocks start, the published sizes, and the network without batch norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.vision import shvit
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Trainable values, classifier included: computed by the reference, and for the deployed form by timm's `fuse`.
COUNTS = {'shvit_s1': 6_330_808, 'shvit_s1_deploy': 6_308_660, 'shvit_s4_deploy': 16_546_248}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_parameters_are_those_of_the_reference(name):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) == COUNTS[name]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.heavy
def test_the_deployed_network_equals_the_trained_one():
    trained, deployed = (modelzoo.create_model(name, 7) for name in ('shvit_test', 'shvit_deploy_test'))
    x = normal(2, 28, 36, 3)
    variables = filled(trained, x)
    merged = shvit.deploy(variables)
    like = jax.eval_shape(deployed.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, like)
    with jax.default_matmul_precision('highest'):
        wanted, ours = jax.device_get((jit(trained.apply)(variables, x), jit(deployed.apply)(merged, x)))
    assert abs(ours['logits'] - wanted['logits']).max() <= 1e-4 * wanted['logits'].std()


def test_one_head_sees_the_first_channels_alone():
    mixer, x, seen = shvit.SingleHead(4, 2), jnp.asarray(normal(2, 3, 5, 6)), []
    variables = filled(mixer, x)

    def answers(x, other):
        with attention.watching(seen.append):
            return mixer.apply(variables, x), seen[-1], mixer.apply(variables, other), seen[-1]

    # Other channels at one pixel reach no pixel but that one.
    y, weights, changed, same = jax.device_get(jax.jit(answers)(x, x.at[:, 1, 2, 4:].add(1.0)))
    assert weights.shape == (2, 1, 15, 15)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(weights, same)
    moved = abs(changed - y).max((0, 3)) > 1e-4
    assert moved[1, 2] and moved.sum() == 1


def test_a_block_starts_as_the_identity_and_those_between_stages_do_not():
    x = jnp.asarray(normal(2, 3, 4, 8))
    mixer = lambda **parts: shvit.SingleHead(4, **parts)
    block = shvit.Block(mixer, jax.nn.initializers.zeros)
    y, _ = jit(block.init_with_output)(jax.random.key(0), x, None)
    np.testing.assert_array_equal(y, x)
    y, _ = jit(shvit.Block().init_with_output)(jax.random.key(0), x, None)
    assert abs(y - x).max() > 0.1


@pytest.mark.parametrize(
    'fields, words',
    [
        ({'stem_stride': 3}, 'stem_stride is 3 and the first width 8: use 16 as published, or 8, 4, 2 or 1'),
        ({'attending': (0, 20)}, '20 of 16 channels cannot attend: change attending or widths'),
    ],
)
def test_mistakes_end_in_one_sentence(fields, words):
    backbone = modelzoo.backbone('shvit_test', **fields)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
