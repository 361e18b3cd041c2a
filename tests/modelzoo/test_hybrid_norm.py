"""HybridNorm's blocks and attention, in a ViT and in the sequence trunk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.attention.rotary import rotate
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.mixers.hybrid_norm import HybridBlock, HybridNorm
from longview.modelzoo.layers.mixers.mixer import Block
from longview.modelzoo.layers.norms.norm import RMSNorm
from longview.modelzoo.layers.residuals.residual import Add
from longview.modelzoo.sequence.trunk import Trunk
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo.tiny import filled, jit

_GROUPED = functools.partial(CausalAttention, 4, 8, use_bias=False, kv_heads=2, qkv_norm=RMSNorm, rotary=1e4)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 16)), jnp.float32)


def test_both_blocks_are_the_published_equations():
    parts = (RMSNorm, _GROUPED, Mlp, Add)
    block, other = HybridNorm(*parts), HybridBlock(*parts)
    variables = filled(block, X, None)
    of = lambda part, name, x: part.apply({'params': variables['params'][name]}, x)

    def run():
        s = of(RMSNorm(), 'mlp_norm', X + of(_GROUPED(), 'mixer', X))
        return block.apply(variables, X, None), other.apply(variables, X, None), s + of(Mlp(), 'mlp', s)

    found, of_sequences, wanted = jax.device_get(jit(run)())
    assert set(variables['params']) == {'mixer', 'mlp', 'mlp_norm'}
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(of_sequences, wanted, atol=1e-5)


def test_the_size_of_queries_keys_and_values_does_not_matter():
    mixer = Attention(2, qkv_bias=False, qkv_norm=functools.partial(RMSNorm, epsilon=0.0))
    params = filled(mixer, X)['params']
    larger = params | {'qkv': {'kernel': params['qkv']['kernel'] * 7}}
    wanted, found = jax.device_get(jit(lambda: [mixer.apply({'params': p}, X) for p in (params, larger)])())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_heads_that_share_keys_and_values_are_heads_with_the_same_ones():
    grouped, whole = (CausalAttention(4, use_bias=False, kv_heads=heads) for heads in (2, None))
    params = filled(grouped, X)['params']
    q, *kv = jnp.split(params['qkv']['kernel'], [16, 24], axis=1)
    kv = [jnp.repeat(part.reshape(16, 2, 4), 2, axis=1).reshape(16, 16) for part in kv]
    repeated = params | {'qkv': {'kernel': jnp.concatenate([q, *kv], axis=1)}}
    run = lambda: (grouped.apply({'params': params}, X), whole.apply({'params': repeated}, X))
    found, wanted = jax.device_get(jit(run)())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.quick
def test_rotary_products_depend_on_distances_alone():
    q, k = (jnp.broadcast_to(X[:1, None, row : row + 1], (1, 1, 3, 16)) for row in (0, 1))
    products = [rotate(q, first, 100.0)[0, 0] @ rotate(k, first, 100.0)[0, 0].T for first in (0, 5)]
    np.testing.assert_allclose(products[0], products[1], atol=1e-4)
    np.testing.assert_allclose(products[0][0, 0], products[0][2, 2], atol=1e-4)
    assert abs(products[0][0, 0] - products[0][0, 2]) > 1e-2


@pytest.mark.parametrize('first_block', [None, pytest.param(Block, marks=pytest.mark.heavy)])
def test_a_language_model_reads_in_two_parts_as_in_one(first_block):
    model = Trunk(
        16, 2, _GROUPED, Mlp, RMSNorm, RMSNorm, block=HybridBlock, first_block=first_block, scan=not first_block
    )
    variables = filled(model, X)

    def run():
        state = model.apply(variables, 2, method='init_state')
        state, _ = model.apply(variables, state, X[:, :3], method='extend')
        return model.apply(variables, X)['pooled'], model.apply(variables, state, X[:, 3:], method='extend')[1][
            'pooled'
        ]

    whole, parts = jax.device_get(jit(run)())
    assert ('mixer_norm' in variables['params']['block00']) == (first_block is not None)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.quick
def test_the_first_block_may_be_an_ordinary_one():
    hybrid = ViT(8, 2, 2, patch=4, image_size=8, block=HybridNorm, first_block=PreNorm)
    x = jnp.zeros((2, 8, 12, 3))
    found = jax.eval_shape(hybrid.init, jax.random.key(0), x)['params']
    assert 'mixer_norm' in found['block00'] and 'mixer_norm' not in found['block01']
    with pytest.raises(ValueError, match='a first block of another form cannot run with scan'):
        jax.eval_shape(hybrid.clone(scan=True).init, jax.random.key(0), x)


@pytest.mark.quick
def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match='4 heads do not share 3 heads of keys and values'):
        jax.eval_shape(CausalAttention(4, kv_heads=3).init, jax.random.key(0), X)
