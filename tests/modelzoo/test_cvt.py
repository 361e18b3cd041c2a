"""CvT: sizes, the token that passes by the convolutions, and the code's own scale and activation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.frame.mlp import quick_gelu
from longview.modelzoo.vision import cvt
from tests.modelzoo.tiny import filled, jit, shapes


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('name, millions', [('cvt_13', 20.00), ('cvt_21', 31.62), ('cvt_w24', 277.20)])
def test_parameter_counts(name, millions):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert round(count / 1e6, 2) == millions
    assert abs(count / 1e6 - cvt.PUBLISHED[name].params) < 0.5


def test_a_learned_token_meets_no_convolution():
    project = cvt.ConvProjection(8, 2, cvt.BatchNorm, jax.nn.initializers.normal(), jnp.float32)
    image, before = noise(2, 4, 6, 8), np.ones((2, 1, 8), np.float32)
    tokens, variables = jax.device_get(jit(project.init_with_output)(jax.random.key(1), image, before))
    assert tokens.shape == (2, 1 + 2 * 3, 8)
    wanted = variables['params']['project']['kernel'].sum(0)
    np.testing.assert_allclose(tokens[:, 0], np.tile(wanted, (2, 1)), atol=1e-6)


def test_logits_are_divided_by_the_root_of_the_whole_width(monkeypatch):
    seen = []
    attend = attention.attend
    monkeypatch.setattr(attention, 'attend', lambda q, k, v, scale: seen.append((scale, k.shape)) or attend(q, k, v))
    mixer = cvt.ConvAttention(heads=2, grid=(4, 4))
    jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 17, 16)))
    assert seen == [(0.25, (1, 2, 1 + 2 * 2, 8))]


def test_only_the_last_stage_is_skipped():
    backbone = modelzoo.find('cvt_test')[1].clone(drop_path=0.5)
    x = jnp.asarray(noise(8, 16, 16, 3))
    variables = filled(backbone, x)

    def stages(rng):
        return backbone.apply(variables, x, train=True, mutable=['batch_stats'], rngs={'drop_path': rng})[0]

    one, other = jax.device_get([*map(jit(stages), jax.random.split(jax.random.key(1)))])
    np.testing.assert_array_equal(one['stage0'], other['stage0'])
    assert abs(one['stage1'] - other['stage1']).max() > 1e-3


def test_quick_gelu():
    x = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * np.asarray(x))), rtol=1e-6)
