"""The small layers, each against its formula or numbers recorded from torch 2.13."""

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import SwiGLU
from longview.modelzoo.layers.frame.patch import ConvStem, stem_grid
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from longview.modelzoo.layers.residuals.residual import Add
from tests.modelzoo.tiny import jit


def test_layer_norm_has_torch_s_epsilon():
    x = np.sin(np.arange(12, dtype=np.float32) * np.float32(0.37)).reshape(2, 6) * 0.01
    recorded = [
        -1.34991,
        -0.59674,
        0.05449,
        0.51564,
        0.7243,
        0.65222,
        1.23867,
        0.81636,
        0.28414,
        -0.28595,
        -0.81677,
        -1.23645,
    ]
    np.testing.assert_allclose(
        LayerNorm().init_with_output(jax.random.key(0), jnp.asarray(x))[0].ravel(), recorded, atol=2e-5
    )


def test_layer_norm_does_not_cancel_far_from_zero():
    x = 1000 + np.linspace(-1, 1, 8, dtype=np.float32)[None]
    y = LayerNorm().apply({'params': {'scale': jnp.ones(8), 'bias': jnp.zeros(8)}}, jnp.asarray(x))
    wanted = (x - x.mean()) / np.sqrt(np.linspace(-1, 1, 8).var() + 1e-5)
    np.testing.assert_allclose(y, wanted, rtol=1e-3)


def test_rms_norm_follows_its_formula_and_shares_its_scale_among_heads():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32) * 1e-3
    scale = jnp.array([1, 2, 0.5, -1])
    y = RMSNorm(dtype='bfloat16').apply({'params': {'scale': scale}}, jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(scale)
    np.testing.assert_allclose(y.astype(np.float32), wanted, rtol=1e-2)


def test_dense_is_a_matrix_on_the_last_axis():
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)

    @jit
    def run(x):
        y, variables = Dense(6).init_with_output(jax.random.key(0), x)
        params = variables['params'] | {'bias': jnp.asarray(bias)}
        return y, Dense(6).apply({'params': params}, x), params['kernel']

    y, shifted, kernel = jax.device_get(run(x))
    np.testing.assert_allclose(y, np.einsum('bhwc,cd->bhwd', x, kernel), atol=1e-6)
    np.testing.assert_allclose(shifted - y, np.broadcast_to(bias, y.shape), atol=1e-6)
    assert list(jax.eval_shape(Dense(6, use_bias=False).init, jax.random.key(0), x)['params']) == ['kernel']


@pytest.mark.parametrize(
    'width, multiple_of, hidden',
    [(192, 256, 512), (384, 256, 1024), (768, 256, 2048), (96, 32, 256), (768, 32, 2048), (128, 32, 352)],
)
def test_swiglu_has_the_published_hidden_widths(width, multiple_of, hidden):
    assert SwiGLU(multiple_of=multiple_of).hidden(width) == hidden


def test_swiglu_puts_the_gate_first():
    up = np.array([[1.0, 2.0]], np.float32)  # gate x, value 2 x
    layer = SwiGLU(ratio=1, multiple_of=1)
    x = jnp.array([[3.0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SwiGLU, 'hidden', lambda self, width: 1)
        y = layer.apply({'params': {'up': {'kernel': up}, 'down': {'kernel': np.ones((1, 1), np.float32)}}}, x)
    np.testing.assert_allclose(y, 3 / (1 + np.exp(-3)) * 6, rtol=1e-6)


@pytest.mark.parametrize(
    'initializer, shape, std, bound',
    [
        (init.xavier_uniform(2**-2.5), (192, 384), None, 2**-2.5 * (6 / 576) ** 0.5),
        (init.xavier_uniform(2**-2.5), (3, 3, 1, 3000), None, 2**-2.5 * (6 / (9 + 27000)) ** 0.5),
        (init.uniform_fan_in(3 * 81), (9, 9, 3, 200), None, 243**-0.5),
        (init.trunc_normal(0.02), (300, 300), 0.02, 0.12),
        (init.trunc_normal(1.0, -1, 1), (300, 300), 0.5396, 1.0),
    ],
)
def test_initial_values_have_torch_s_moments_and_bounds(initializer, shape, std, bound):
    values = np.asarray(jit(lambda key: initializer(key, shape))(jax.random.key(0)), np.float64)
    std = bound / 3**0.5 if std is None else std
    assert abs(values).max() <= bound
    assert abs(values.mean()) < 5 * std / values.size**0.5
    assert abs(values.std() / std - 1) < 0.02


@pytest.mark.parametrize(
    'size, patch, grid',
    [
        ((224, 224), 16, (14, 14)),
        ((256, 192), 16, (16, 12)),
        ((32, 32), 4, (8, 8)),
        ((28, 28), 4, (7, 7)),
        ((28, 28), 2, (15, 15)),
        ((8, 8), 2, (5, 5)),
        ((8, 8), 4, (2, 2)),
    ],
)
def test_stem_grid_is_what_the_stem_makes(size, patch, grid):
    stem = ConvStem(8, patch, nn.silu)
    shape = jax.eval_shape(stem.init_with_output, jax.random.key(0), jnp.zeros((1, *size, 1)))[0].shape
    assert stem_grid(*size, patch) == grid == shape[1:3]


@pytest.mark.parametrize(
    'size, patch, message',
    [
        ((100, 90), 16, r'^image 100x90 does not divide by patch 16: use e\.g\. 96x80\.$'),
        ((8, 32), 16, r'use e\.g\. 16x32'),
        ((9, 9), 3, 'patch 3 is not even'),
    ],
)
def test_stem_grid_refuses_in_words(size, patch, message):
    with pytest.raises(ValueError, match=message):
        stem_grid(*size, patch)


def test_adding_is_a_residual_without_parameters():
    x, y = jnp.arange(3.0)[None], jnp.ones((1, 3))
    join = Add()
    stream = join.write(join.open(x), y)
    np.testing.assert_array_equal(join.close(stream), x + y)
    np.testing.assert_array_equal(join.read(stream), x + y)


class Counting(nn.Module):
    """A block that keeps a running statistic, if it counts."""

    counts: bool = True

    @nn.compact
    def __call__(self, s, mask, *, train=False):
        s = s * self.param('scale', nn.initializers.constant(2.0), ())
        if not self.counts:
            return s
        calls = self.variable('batch_stats', 'calls', lambda: jnp.zeros(()))
        calls.value += jnp.sum(s)
        return s + calls.value


class Trunk(nn.Module):
    counts: tuple[bool, ...] = (True, True, True)
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, s):
        blocks = [Counting(counts, name=name) for counts, name in zip(self.counts, trunk.names(3))]
        return trunk.run(self, blocks, s, None, train=True, remat=self.remat, scan=self.scan)


@pytest.mark.parametrize('how', [{'remat': True}, {'scan': True}, {'remat': True, 'scan': True}])
def test_statistics_that_blocks_keep_are_the_same_however_a_trunk_runs(how):
    x = jnp.ones(2)
    variables = Trunk().init(jax.random.key(0), x)

    def answer(trunk):
        value = lambda params: trunk.apply({**variables, 'params': params}, x, mutable=['batch_stats'])
        (y, kept), pull = jax.vjp(value, variables['params'])
        return y, kept, pull((jnp.ones(2), jax.tree.map(jnp.zeros_like, kept)))

    plain = answer(Trunk())
    assert len({float(block['calls']) for block in plain[1]['batch_stats'].values()}) == 3
    chex.assert_trees_all_equal(answer(Trunk(**how)), plain)
    # Statistics that may not change are read and left alone.
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        Trunk(**how).apply(variables, x)


def test_a_trunk_refuses_to_scan_blocks_that_differ():
    trunk = Trunk((False, True, True), scan=True)
    variables = Trunk((False, True, True)).init(jax.random.key(0), jnp.ones(3))
    with pytest.raises(NotImplementedError, match='blocks with different variables cannot run with scan'):
        trunk.apply(variables, jnp.ones(3), mutable=['batch_stats'])
