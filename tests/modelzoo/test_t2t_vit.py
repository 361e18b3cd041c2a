"""T2T-ViT: soft splits that are not laid down, attention by random features, fixed positions, and the sizes."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from longview import counting, modelzoo
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.vision import t2t_vit
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes

# Values, classifier, positions and random features included: computed by the reference.
COUNTS = {'t2t_vit_7': 4_310_222, 't2t_vit_12': 6.94e6, 't2t_vit_t_14': 21.54e6}


@pytest.mark.parametrize('name', deep_ones_heavy([*COUNTS]))
def test_parameters_are_those_of_the_reference(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count - COUNTS[name]) <= (0 if isinstance(COUNTS[name], int) else 5001)


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def laid_down(x: np.ndarray, window: t2t_vit.Window) -> np.ndarray:
    """Returns the windows, channel by channel, as torch's Unfold lays them down."""
    side, step, padding = window
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((length - side) // step + 1 for length in padded.shape[1:3])
    place = lambda i, j: padded[:, i * step : i * step + side, j * step : j * step + side].transpose(0, 3, 1, 2)
    parts = [[place(i, j).reshape(len(x), -1) for j in range(columns)] for i in range(rows)]
    return np.stack([np.stack(row, axis=1) for row in parts], axis=1)


@pytest.mark.parametrize('window, normed', [((7, 4, 2), True), ((3, 2, 1), True), ((3, 2, 1), False)])
def test_a_soft_split_is_a_matrix_on_windows_laid_end_to_end(window, normed):
    # Far from zero, so that what cancels would be seen to.
    x = normal(2, 9, 14, 3) + 3
    split = t2t_vit.SoftSplit(5, window, normed=normed)
    variables = filled(split, x)
    windows, params = jnp.asarray(laid_down(x, window)), variables['params']
    if normed:
        norm = {'scale': params['norm_scale'], 'bias': params['norm_bias']}
        windows = LayerNorm().apply({'params': norm}, windows)
    with jax.default_matmul_precision('highest'):
        wanted = windows @ params['kernel'] + params['bias'][None, None, None]
        ours = jit(split.apply)(variables, x)
    assert ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, atol=3e-5)


def test_windows_of_one_value_are_normalized_to_zero():
    x = jnp.full((1, 6, 6, 2), 2.5)
    split = t2t_vit.SoftSplit(3, (3, 1, 0))
    variables = {'params': filled(split, x)['params'] | {'norm_bias': jnp.zeros(18), 'bias': jnp.zeros(3)}}
    assert abs(jit(split.apply)(variables, x)).max() < 1e-3


def sizes(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> Iterator[int]:
    """Yields the number of values of each array in a program, the bodies of calls and loops included."""
    for equation in counting.bare(jaxpr).eqns:
        yield from (out.aval.size for out in equation.outvars)
        for inner in counting.inner(equation.params):
            yield from sizes(inner)


def test_no_array_holds_the_windows():
    """In training, too: the largest is the padded image."""
    split, x = t2t_vit.SoftSplit(4, (7, 4, 2)), jnp.zeros((1, 56, 56, 3))
    like = jax.eval_shape(split.init, jax.random.key(0), x)
    program = jax.make_jaxpr(jax.grad(lambda v, x: split.apply(v, x).sum(), argnums=(0, 1)))(like, x)
    assert max(sizes(program)) <= 60 * 60 * 3 < 14 * 14 * 147


def test_random_features_estimate_softmax_attention():
    q, k, v = (jnp.asarray(normal(1, 6, 8, seed=seed)) / 2 for seed in range(3))
    logits = np.exp(np.einsum('bnk,bmk->bnm', q, k))
    wanted = np.einsum('bnm,bmd->bnd', logits / logits.sum(-1, keepdims=True), v)

    def attended(kernel: jax.Array) -> jax.Array:
        features = lambda x: t2t_vit.RandomFeatures(kernel.shape[1]).apply({'params': {'kernel': kernel}}, x)
        return t2t_vit.linear_attention(features(q), features(k), v)

    def error(count: int) -> float:
        return float(abs(jit(attended)(jnp.asarray(normal(8, count, seed=5))) - wanted).mean())

    assert error(4096) < 0.02 < error(4)


def test_random_features_are_orthogonal_and_positions_are_sines():
    features = t2t_vit.RandomFeatures(4)
    kernel = jit(features.init)(jax.random.key(0), jnp.zeros((1, 2, 8)))['params']['kernel']
    np.testing.assert_allclose(kernel.T @ kernel, 4 * np.eye(4), atol=1e-5)
    table = jax.device_get(t2t_vit._sines(jax.random.key(0), (1, 5, 8)))[0]
    np.testing.assert_allclose(table[3, :4], [np.sin(3), np.cos(3), np.sin(0.3), np.cos(0.3)], atol=1e-6)
    np.testing.assert_array_equal(table[0], [0, 1] * 4)


def test_published_weights_are_scaled_by_the_whole_width():
    """As queries are by the root of the heads, which is 2 here."""
    wide, usual = (modelzoo.backbone('t2t_vit_t_test', wide_scale=wide, heads=4, depth=1) for wide in (True, False))
    x = jnp.asarray(normal(1, 8, 8, 3))
    variables = filled(usual, x)
    qkv = variables['params']['block00']['mixer']['qkv']['kernel']
    halved = jax.tree.map(lambda leaf: leaf.at[:, :8].divide(2) if leaf is qkv else leaf, variables)
    pooled = [jit(net.apply)(values, x)['pooled'] for net, values in ((wide, variables), (usual, halved))]
    np.testing.assert_allclose(*pooled, atol=1e-5)


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match='image 0x8 is smaller than a window: use larger images or smaller windows'):
        modelzoo.backbone('t2t_vit_test', windows=((3, 2, 0), (3, 2, 0))).grid(0, 8)
