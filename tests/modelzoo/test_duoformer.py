"""DuoFormer: which pixels make a region's tokens, what patch attention reads, and trunks that are not its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.vision import duoformer
from longview.modelzoo.vision.convnext import ConvNeXt
from longview.modelzoo.vision.duoformer import DuoFormer, Former
from tests.modelzoo.tiny import filled, jit


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_four_pixels_of_a_region_are_ordered_by_columns_and_sixteen_by_rows():
    for side, wanted in ((2, [0, 8, 1, 9]), (4, [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)])):
        image = jnp.arange(8 * 8.0).reshape(1, 8, 8, 1)
        regions = np.asarray(jit(duoformer.by_region, static_argnums=1)(image, side))
        assert regions.shape == (1, 8 // side, 8 // side, side**2, 1)
        np.testing.assert_array_equal(regions[0, 0, 0, :, 0], wanted)
        np.testing.assert_array_equal(regions[0, 0, 1, :, 0], np.add(wanted, side))


@pytest.fixture(scope='module')
def tokens() -> jax.Array:
    return jnp.asarray(normal(0, 2, 2, 3, 5, 8))


def test_regions_whose_blocks_do_nothing_attend_by_their_first_token(tokens):
    former = Former(1, 2, (2, 3), residual=functools.partial(LayerScale, initial=0.0))
    params = filled(former, tokens)['params']
    for name in ('mixer_residual', 'mlp_residual'):
        params['scale00'][name]['scale'] = jnp.zeros(8)
    first = tokens[:, :, :, 0].reshape(2, 6, 8) + params['scale_pos_embed'][0, :, :1]
    read = jnp.concatenate([jnp.broadcast_to(params['cls_token'], (2, 1, 8)), first], axis=1) + params['pos_embed']
    attend = lambda: Attention(2).apply({'params': params['patch00']}, read)
    ours, wanted = jit(lambda: (former.apply({'params': params}, tokens), attend()))()
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_scales_mix_within_a_region_and_regions_by_patch_attention_alone(tokens):
    former = Former(1, 2, (2, 3))
    params = filled(former, tokens)['params']
    patch = params['patch00']['qkv']
    apart = params | {'patch00': params['patch00'] | {'qkv': patch | {'kernel': patch['kernel'].at[:, 16:].set(0)}}}
    last = tokens.at[0, 1, 2, 4].multiply(-1)  # the last token of the last region
    run = lambda params, x: former.apply({'params': params}, x)
    change = jit(lambda params: abs(run(params, last) - run(params, tokens)).max(-1))
    whole, alone = jax.device_get((change(params), change(apart)))
    assert (whole[0] > 1e-3).all() and not whole[1].any() and (alone < 1e-6).all()


def test_published_layers_of_patch_attention_read_the_first_one(tokens):
    """So that between the first and the last has no gradient, which it has where each reads the one before."""

    def moved(chained: bool) -> jax.Array:
        former = Former(3, 2, (2, 3), chained=chained)
        variables = filled(former, tokens)
        loss = lambda params: jnp.sum(former.apply({'params': params}, tokens) ** 2)
        gradients = jax.grad(loss)(variables['params'])
        return jnp.stack([abs(gradients[f'patch{index:02d}']['out']['kernel']).max() for index in range(3)])

    published, scratch = jax.device_get(jit(lambda: (moved(False), moved(True)))())
    assert published[1] == 0 and published[[0, 2]].all() and scratch.all()


def test_any_pyramid_is_a_trunk():
    trunk = functools.partial(ConvNeXt, depths=(1, 1), widths=(8, 16))
    network = DuoFormer(trunk, 12, 1, 2, grid=(2, 2))
    features, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
    assert (network.strides, network.channels) == ((4, 8), (8, 16))
    assert features[ft.MAP].shape == (1, 2, 3, 12) and features[ft.stage(0)].shape == (1, 4, 6, 8)
    assert variables['params']['former']['scale_pos_embed'].shape == (1, 1, 6, 12)


def test_more_scales_than_stages_are_refused():
    network = duoformer.VARIANTS['duoformer_test'].clone(scales=4)
    with pytest.raises(ValueError, match='scales is 4 and the trunk has 3 stages: use 1 to that'):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
