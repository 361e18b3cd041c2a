"""The parts of convolutional families: groups, standardized kernels, pooling, squeezing, stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.modelzoo.layers.convolutions import conv
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, Stem
from longview.modelzoo.layers.convolutions.efficient_attention import EfficientAttention
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import pool, pyramid, variants
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import GroupNorm
from longview.modelzoo.layers.norms.weight_standardization import ScaledConv, StandardizedConv, standardize
from tests.modelzoo.tiny import jit


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.quick
def test_groups_do_not_see_each_other():
    layer = conv.Conv(6, 3, padding=1, groups=2, use_bias=False)
    x, variables = jnp.asarray(noise(1, 5, 5, 4)), {'params': {'kernel': jnp.asarray(noise(3, 3, 2, 6))}}
    assert jax.tree.map(jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, variables
    )

    @jit
    def run(variables, x):
        kernel = variables['params']['kernel']
        halves = [
            conv.convolve(x[..., part], kernel[..., out], 1, 1)
            for part, out in ((slice(0, 2), slice(0, 3)), (slice(2, 4), slice(3, 6)))
        ]
        return layer.apply(variables, x), jnp.concatenate(halves, -1)

    np.testing.assert_allclose(*run(variables, x), atol=1e-5)
    with pytest.raises(ValueError, match='4 input and 6 output channels do not divide into 4 groups'):
        jax.eval_shape(layer.clone(groups=4).init, jax.random.key(0), x)


def test_same_padding_is_tensorflow_s_uneven_one():
    x, kernel = jnp.asarray(noise(1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    y = jax.device_get(conv.Conv(1, 3, 2, 'SAME', use_bias=False).apply({'params': {'kernel': kernel}}, x))
    x = np.asarray(x)
    np.testing.assert_allclose(y[0, 0, 0, 0], x[0, :3, :3].sum(), rtol=1e-5)
    np.testing.assert_allclose(y[0, 1, 1, 0], x[0, 2:, 2:].sum(), rtol=1e-5)


def test_group_norm_follows_its_formula():
    x = 50 + noise(2, 3, 4, 6)
    params = {'scale': noise(6, seed=1), 'bias': noise(6, seed=2)}
    y = jit(functools.partial(GroupNorm(2).apply, train=True))({'params': params}, x)
    groups = x.astype(np.float64).reshape(2, 12, 2, 3)
    groups = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, groups.reshape(x.shape) * params['scale'] + params['bias'], atol=1e-4)
    with pytest.raises(ValueError, match='6 channels do not divide into 4 groups'):
        GroupNorm(4).init(jax.random.key(0), jnp.asarray(x))


def test_standardized_kernels_have_no_mean_and_unit_variance():
    kernel = np.asarray(jit(lambda kernel: standardize(kernel, 1e-8))(3 + 0.2 * noise(3, 3, 4, 5)))
    np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(kernel.std((0, 1, 2)), 1, rtol=1e-4)


@pytest.mark.parametrize(
    'layer', [StandardizedConv(5, 3), ScaledConv(5, 3), ScaledConv(5, 3, padding='SAME', groups=2)]
)
def test_standardized_convolutions_forget_the_scale_of_their_kernel(layer):
    x = jnp.asarray(noise(1, 4, 4, 2))
    layer = layer.clone(features=6)

    @jit
    def run():
        params = layer.init(jax.random.key(0), x)['params']
        scaled = params | {'kernel': 7 * params['kernel'] + 1}
        return layer.apply({'params': params}, x), layer.apply({'params': scaled}, x)

    y, of_scaled = run()
    assert y.shape == (1, 4, 4, 6)
    np.testing.assert_allclose(of_scaled, y, rtol=1e-2, atol=2e-3)


def test_scaled_convolutions_keep_the_variance():
    x = jnp.asarray(noise(8, 16, 16, 32))
    layer = ScaledConv(64, 1, gamma=2.0)

    @jit
    def run():
        y, variables = layer.init_with_output(jax.random.key(0), x)
        params = variables['params'] | {'scale': 0.5 * variables['params']['scale'], 'bias': jnp.ones(64)}
        return y, layer.apply({'params': params}, x)

    y, changed = jax.device_get(run())
    assert abs(y.std() - 2) < 0.1
    np.testing.assert_allclose(changed, 0.5 * y + 1, atol=1e-4)


def test_padding_never_wins_a_maximum_but_counts_in_a_mean():
    x = -1 - noise(1, 4, 5, 2) ** 2
    largest, mean = jax.device_get(jit(lambda x: [of(x, 3, 2, 1) for of in (pool.max_pool, pool.avg_pool)])(x))
    assert largest.max() < 0
    np.testing.assert_allclose(largest[0, 1, 1], x[0, 1:4, 1:4].max((0, 1)))
    np.testing.assert_allclose(mean[0, 0, 0], x[0, :2, :2].sum((0, 1)) / 9, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_halving_averages_what_is_there_at_the_odd_end(dtype):
    x = jnp.asarray(noise(1, 5, 4, 2)).astype(dtype)
    y = jit(pool.halve)(x)
    assert y.shape == (1, 3, 2, 2) and y.dtype == dtype
    bar = {'rtol': 1e-5} if dtype == 'float32' else {'rtol': 2e-2, 'atol': 1e-2}
    x, y = (np.asarray(array).astype(np.float32) for array in (x, y))
    np.testing.assert_allclose(y[0, 0, 1], x[0, :2, 2:].mean((0, 1)), **bar)
    np.testing.assert_allclose(y[0, 2, 1], x[0, 4, 2:].mean(0), **bar)


def test_squeeze_excite_follows_its_formula_and_rounds_its_width():
    x, layer = noise(2, 3, 3, 24), SqueezeExcite(ratio=0.5)
    found, variables = jax.device_get(jit(layer.init_with_output)(jax.random.key(0), x))
    params = variables['params']
    assert params['down']['kernel'].shape == (24, 16)  # 12 lies halfway between two multiples of 8
    hidden = np.maximum(x.mean((1, 2)) @ params['down']['kernel'], 0)
    gate = 1 / (1 + np.exp(-hidden @ params['up']['kernel']))
    np.testing.assert_allclose(found, x * gate[:, None, None], atol=1e-5)
    narrow = jax.eval_shape(SqueezeExcite(ratio=0.01).init, jax.random.key(0), x)['params']
    assert narrow['down']['kernel'].shape == (24, 8)


@pytest.mark.parametrize('stride, size, shape', [(4, (20, 12), (5, 3)), (1, (5, 3), (5, 3)), (4, (7, 8), (2, 2))])
def test_stem_rounds_up(stride, size, shape):
    x = jnp.zeros((2, *size, 3))
    y, _ = jax.eval_shape(Stem(8, stride).init_with_output, jax.random.key(0), x)
    assert y.shape == (2, *shape, 8)
    with pytest.raises(ValueError, match='stem_stride is 2: use 4 for images of ImageNet size or 1'):
        jax.eval_shape(Stem(8, 2).init, jax.random.key(0), x)


class Mixed(nn.Module):
    """Two stages of blocks with batch statistics."""

    remat: bool

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        block = functools.partial(Block, norm=BatchNorm)
        stages = [pyramid.with_stride(block, 4, 2, 1), pyramid.with_stride(block, 6, 1, 2)]
        return pyramid.run(self, x, stages, drop_path=0.0, remat=self.remat, train=train)


class Block(nn.Module):
    features: int
    stride: int
    norm: type

    @nn.compact
    def __call__(self, x, mask, *, train: bool = False):
        return nn.relu(ConvNorm(self.features, 3, self.stride, self.norm, name='conv')(x, train=train))


@pytest.mark.quick
def test_remat_keeps_statistics_gradients_and_names():
    x = jnp.asarray(noise(3, 4, 4, 2))

    def answer(params, stats, model):
        maps, updates = model.apply({'params': params, **stats}, x, train=True, mutable=['batch_stats'])
        return sum(jnp.sum(jnp.sin(value)) for value in maps), updates

    variables = jit(Mixed(False).init)(jax.random.key(0), x)
    params, stats = variables['params'], {'batch_stats': variables['batch_stats']}
    both = lambda params, stats: [
        jax.grad(answer, has_aux=True)(params, stats, Mixed(remat)) for remat in (False, True)
    ]
    plain, remat = jax.device_get(jit(both)(params, stats))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), remat, plain)
    assert abs(plain[1]['batch_stats']['stage1']['block00']['conv']['norm']['mean']).max() > 0
    text = str(jax.make_jaxpr(functools.partial(answer, model=Mixed(True)))(params, stats))
    assert text.count('remat2') + text.count('checkpoint') >= 3
    assert pyramid.layers((2, 1), ['norm']) == (
        ('stem',),
        ('stage0/block00',),
        ('stage0/block01',),
        ('stage1/block00',),
        ('norm',),
    )


@pytest.mark.parametrize('channels, size', [(16, 3), (256, 5)])
def test_efficient_attention_reads_the_means_of_neighbors(channels, size):
    x = noise(2, 3, 5, channels)
    attention = EfficientAttention()
    params = {'params': {'kernel': noise(size, 1, 1, seed=1)}}
    mean = x.mean((1, 2))
    gate = np.stack([np.convolve(row, params['params']['kernel'][::-1, 0, 0], 'same') for row in mean])
    want = x / (1 + np.exp(-gate))[:, None, None]
    np.testing.assert_allclose(jit(attention.apply)(params, x), want, rtol=1e-5)


def test_a_family_changes_one_of_its_own_variants_and_names_the_nearest():
    table = {'small': nn.Dense(3)}
    assert variants.variant(table, 'small', {'features': 4}) == nn.Dense(4)
    with pytest.raises(ValueError, match="there is no variant 'smal'; did you mean 'small'"):
        variants.variant(table, 'smal', {})
