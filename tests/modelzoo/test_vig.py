"""ViG itself: sizes, initial values and the quirks its docstring names."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from longview import modelzoo
from longview.modelzoo.vision import vig
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh, replicated
from tests.modelzoo.tiny import filled, jit, shapes

# Standard deviations of values drawn by torch 2.13 with the reference's calls, in the order in which it makes them.
INITIAL = {
    'vig_tiny': {
        'backbone/stem/conv0/kernel': 0.0370,
        'backbone/stem/conv0/bias': 0.0370,
        'backbone/stem/conv1/kernel': 0.01964,
        'backbone/stem/conv1/bias': 0.01964,
        'backbone/pos_embed': 0.0200,
        '.*/conv/kernel': 0.00600,
        '.*/qkv/kernel': 0.01042,
        '.*/gate_down/kernel': 0.01733,
        '.*/gate_up/kernel': 0.01733,
        '.*/mix/kernel': 0.01276,
        '.*/out/kernel': 0.01276,
        '.*/mlp/(up|down)/kernel': 0.0200,
        'head/kernel': 0.0200,
    },
    'vig_h_tiny': {
        'backbone/stem/conv0/kernel': 0.1111,
        'backbone/stem/conv0/bias': 0.1111,
        'backbone/stem/conv1/kernel': 0.02778,
        'backbone/stem/conv1/bias': 0.02778,
        'backbone/down0/conv/kernel': 0.01964,
        'backbone/down0/conv/bias': 0.01964,
        'backbone/stage0/.*/conv/kernel': 0.00846,
        'backbone/stage1/.*/conv/kernel': 0.00600,
        '.*/(qkv|gate_down|gate_up|mix|out|up|down)/kernel': 0.0200,
        'head/kernel': 0.0200,
    },
}
SHORTENED = {'vig_tiny': {'depth': 1}, 'vig_h_tiny': {'depths': (1, 1)}}


@pytest.mark.parametrize(
    'name, count',
    [
        ('vig_tiny', 5_834_536),
        ('vig_small', 22_615_144),
        ('vig_base', 89_022_184),
        ('vig_h_tiny', 28_600_680),
        ('vig_h_small', 50_051_688),
        ('vig_h_base', 88_904_360),
    ],
)
def test_parameter_counts_are_the_paper_s(name, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params)) == count
    assert abs(count / 1e6 - vig.PUBLISHED[name].params) < 0.5


@pytest.mark.parametrize('name', INITIAL)
def test_initial_values_are_the_reference_s(name):
    model = modelzoo.create_model(name, **SHORTENED[name])
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
    seen = set()
    for path, values in traverse_util.flatten_dict(params, sep='/').items():
        values = np.asarray(values, np.float64)
        if path.endswith('/scale'):
            assert (values == 1).all(), path
            continue
        pattern = next((pattern for pattern in INITIAL[name] if re.fullmatch(pattern, path)), None)
        if pattern is None:
            assert path.endswith('/bias') and (values == 0).all(), path
            continue
        seen.add(pattern)
        std = INITIAL[name][pattern]
        assert abs(values.std() / std - 1) < 0.02 + 2 / values.size**0.5, (path, values.std())
        assert abs(values.mean()) < 4 * std / values.size**0.5, path
    assert seen == set(INITIAL[name])


def mixer_output(eval_scale: float, train: bool) -> jax.Array:
    """Returns a mixer's answer to a faint input, where the norm's epsilon is felt."""
    mixer = vig.BiGLA(heads=2, eval_scale=eval_scale)
    x = 0.05 * jax.random.normal(jax.random.key(0), (1, 3, 3, 8))
    return jit(functools.partial(mixer.apply, train=train))(filled(mixer, x), x)


def test_only_plain_vig_halves_the_scan_twice_outside_training():
    np.testing.assert_array_equal(mixer_output(1.0, train=False), mixer_output(1.0, train=True))
    np.testing.assert_array_equal(mixer_output(0.5, train=True), mixer_output(1.0, train=True))
    assert abs(mixer_output(0.5, train=False) - mixer_output(1.0, train=False)).max() > 1e-5
    scales = {name: backbone.mixer.keywords.get('eval_scale', 1.0) for name, backbone in vig.VARIANTS.items()}
    assert all(scale == (1.0 if '_h_' in name else 0.5) for name, scale in scales.items())


def test_gates_stay_float32_in_bfloat16(monkeypatch):
    seen = {}

    def spy(q, k, v, g_forward, g_backward):
        seen.update(q=q.dtype, k=k.dtype, v=v.dtype, g_forward=g_forward.dtype, g_backward=g_backward.dtype)
        return v

    monkeypatch.setattr(vig, 'bidirectional_gla', spy)
    mixer = vig.BiGLA(heads=2, dtype=jnp.bfloat16)
    jax.eval_shape(mixer.init, jax.random.key(0), jnp.ones((1, 2, 2, 8)))
    assert seen == {
        'q': jnp.bfloat16,
        'k': jnp.bfloat16,
        'v': jnp.bfloat16,
        'g_forward': jnp.float32,
        'g_backward': jnp.float32,
    }


def test_a_token_sees_both_ends_of_the_image():
    model = modelzoo.create_model('vig_test', 3, depth=1)
    image = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    variables = filled(model, image)
    middle = lambda image: model.apply(variables, image)['map'][0, 4, 4].sum()
    reach = abs(jit(jax.grad(middle))(image))[0, :, :, 0]
    assert reach[0, 0] > 0 and reach[-1, -1] > 0


def test_a_width_that_does_not_divide_into_heads_is_refused():
    backbone = modelzoo.backbone('vig_test', heads=3)
    with pytest.raises(ValueError, match='width 32 and its 16 keys do not divide into 3 heads'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_subset_of_tokens_is_refused():
    encode = functools.partial(modelzoo.backbone('vig_test').init, grid=None, method='encode')
    with pytest.raises(ValueError, match='cannot encode a subset of them: replace tokens'):
        jax.eval_shape(encode, jax.random.key(0), jnp.zeros((1, 5, 32)))


def test_published_tiny_has_activations_that_the_larger_have_not():
    tiny, small = vig.VARIANTS['vig_tiny'].mixer(heads=1), vig.VARIANTS['vig_small'].mixer(heads=1)
    assert tiny.conv_activation is tiny.out_activation is nn.silu
    assert small.conv_activation is small.out_activation is vig.identity


def test_over_the_mesh_of_a_run_a_tpu_takes_the_kernel():
    """train.py's axes are automatic: XLA splits all else, the kernel is run on each device's images."""
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    on = lambda tree, where: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
    model, x = modelzoo.create_model('vig_test'), jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
    params = on(jax.eval_shape(model.init, jax.random.key(0), x), replicated(mesh))
    step = jax.jit(jax.grad(lambda params, x: jnp.sum(model.apply(params, x)['logits'])))
    text = step.trace(params, on(x, batch_sharding(mesh))).lower(lowering_platforms=('tpu',)).as_text()
    assert 'tpu_custom_call' in text
