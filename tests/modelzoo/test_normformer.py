"""NormFormer's parts in a ViT and in the sequence trunk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.normformer import ResScale
from longview.modelzoo.sequence.trunk import Trunk
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo.tiny import filled, jit

_MLP = functools.partial(Mlp, hidden_norm=LayerNorm)
_VIT = functools.partial(ViT, 8, 1, 2, patch=4, image_size=8)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)


def test_in_a_vit_every_part_learns_and_scales_start_at_one():
    mixer = functools.partial(Attention, head_scale='heads', out_norm=LayerNorm)
    model = _VIT(mixer=mixer, mlp=_MLP, residual=ResScale)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 12, 3)), jnp.float32)

    @jit
    def run(variables, key):
        loss = lambda variables: jnp.sum(model.apply(variables, x)['pooled'] * jnp.arange(8.0)[None])
        return jax.grad(loss)(variables)['params'], model.init(key, x)['params']

    learned, first = (
        traverse_util.flatten_dict(tree, sep='/') for tree in jax.device_get(run(filled(model, x), jax.random.key(0)))
    )
    ours = {
        'block00/mixer/head_scale': (2,),
        'block00/mixer/out_norm/scale': (8,),
        'block00/mlp/hidden_norm/scale': (32,),
        'block00/mlp_residual/scale': (8,),
    }
    assert all(abs(gradient).max() > 0 for gradient in learned.values())
    for path, shape in ours.items():
        np.testing.assert_array_equal(first[path], np.ones(shape))
    plain = jax.eval_shape(_VIT().init, jax.random.key(0), x)['params']
    more = set(first) - set(traverse_util.flatten_dict(plain, sep='/'))
    assert more == {*ours, 'block00/mixer/out_norm/bias', 'block00/mlp/hidden_norm/bias'}


@pytest.mark.parametrize('place', ['heads', 'out'])
def test_a_scale_multiplies_the_answer_of_its_head(place):
    plain, scaled = CausalAttention(2, use_bias=False), CausalAttention(2, use_bias=False, head_scale=place)
    params = filled(plain, X)['params']
    of = lambda scale: scaled.apply({'params': params | {'head_scale': scale}}, X)

    def both():
        first, second = (of(jnp.asarray(scale)) for scale in ([1.0, 0.0], [0.0, 1.0]))
        return plain.apply({'params': params}, X), first, second, of(jnp.asarray([2.0, -3.0]))

    whole, first, second, weighted = jax.device_get(jit(both)())
    np.testing.assert_allclose(first + second, whole, atol=1e-5)
    np.testing.assert_allclose(weighted, 2 * first - 3 * second, atol=1e-5)
    # Behind the last matrix a head's channels are its own.
    assert (abs(first[..., 4:]).max() == 0) == (place == 'out')


def test_a_sequence_read_in_two_parts_gives_what_the_whole_gives():
    mixer = functools.partial(CausalAttention, 2, 8, head_scale='heads', out_norm=LayerNorm)
    model = Trunk(8, 1, mixer, _MLP, residual=ResScale)
    variables = filled(model, X)

    def both():
        state = model.apply(variables, 2, method='init_state')
        state, _ = model.apply(variables, state, X[:, :3], method='extend')
        return model.apply(variables, X)['pooled'], model.apply(variables, state, X[:, 3:], method='extend')[1][
            'pooled'
        ]

    whole, parts = jax.device_get(jit(both)())
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.quick
def test_an_unknown_place_is_refused():
    with pytest.raises(ValueError, match="head_scale is 'values': use one of heads, out, or None"):
        jax.eval_shape(Attention(2, head_scale='values').init, jax.random.key(0), X)
