"""The Poincaré ball: laws of its sum, maps that undo each other, distances; and what layers of it keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers import poincare
from longview.modelzoo.vision import poincare_resnet
from tests.modelzoo.tiny import filled, jit

C = 0.7


def points(seed: int, *shape: int, reach: float = 0.8) -> jax.Array:
    """Returns points up to `reach` of the ball's radius."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    x *= reach * rng.uniform(size=(*shape[:-1], 1)) / np.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.asarray(x * C**-0.5, jnp.float32)


def test_laws_of_the_mobius_sum():
    @jit
    def sides(x, y, z):
        add = functools.partial(poincare.add, c=C)
        return (
            (add(-x, x), jnp.zeros_like(x)),
            (add(-x, add(x, y)), y),
            (add(x, add(y, z)), add(add(x, y), poincare.gyrate(x, y, z, C))),
            (add(x, y), poincare.gyrate(x, y, add(y, x), C)),
            (poincare.gyrate(x, y, z, C), add(-add(x, y), add(x, add(y, z)))),
            (poincare.length(poincare.gyrate(x, y, z, C)), poincare.length(z)),
        )

    for left, right in jax.device_get(sides(*(points(seed, 20, 4, reach=0.6) for seed in range(3)))):
        np.testing.assert_allclose(left, right, atol=3e-5)
    x, y = points(0, 1, 4), points(1, 1, 4)
    left, right = jax.device_get(jit(lambda x, y: (poincare.add(x, y, C), poincare.add(y, x, C)))(x, y))
    assert abs(left - right).max() > 0.01


def test_maps_undo_each_other_and_measure_distances():
    @jit
    def run(x, y, z):
        tangents = poincare.aim(x, y, C)
        moved = poincare.transport(x, z, tangents, C)
        metric = lambda x, v: (poincare.conformal(x, C) * poincare.length(v))[..., 0]
        return {
            'there': poincare.shoot(x, tangents, C),
            'origin': poincare.from_origin(poincare.to_origin(y, C), C),
            'lengths': [metric(x, tangents), metric(z, moved), poincare.distance(x, y, C)],
            'far': poincare.distance(jnp.zeros_like(y), y, C),
        }

    x, y, z = (points(seed, 20, 4) for seed in range(3))
    found = jax.device_get(run(x, y, z))
    np.testing.assert_allclose(found['there'], y, atol=2e-5)
    np.testing.assert_allclose(found['origin'], y, atol=2e-6)
    for length in found['lengths'][:2]:
        np.testing.assert_allclose(length, found['lengths'][2], rtol=1e-4)
    # By the hyperbolic cosine, another closed form.
    size = (np.asarray(y, np.float64) ** 2).sum(-1)
    np.testing.assert_allclose(found['far'], np.arccosh(1 + 2 * C * size / (1 - C * size)) * C**-0.5, rtol=1e-4)


def test_the_midpoint_of_two_points_is_as_far_from_both_and_moves_with_them():
    x, y, shift = points(0, 1, 4), points(1, 1, 4), points(2, 1, 4)

    @jit
    def run(x, y, shift):
        both = jnp.concatenate([x, y])
        middle = poincare.midpoint(both, C)[None]
        ends = poincare.distance(jnp.repeat(middle, 2, 0), both, C)
        moved = poincare.midpoint(poincare.add(jnp.repeat(shift, 2, 0), both, C), C)
        return ends, poincare.distance(x, y, C), moved, poincare.add(shift, middle, C)[0]

    ends, apart, moved, wanted = jax.device_get(run(x, y, shift))
    np.testing.assert_allclose(ends, apart[0] / 2 * np.ones(2), rtol=1e-4)
    np.testing.assert_allclose(moved, wanted, atol=1e-5)


@pytest.mark.parametrize('near', [1.0, 1e-3])
def test_a_span_of_vectors_has_their_sums_and_distances(near):
    z, y, shift = points(0, 1, 4), points(1, 1, 4), points(2, 6, 4)

    def chain(x, y, z):
        moved = poincare.transport(y, z, poincare.aim(y, x, C), C)
        return poincare.to_origin(poincare.shoot(z, 0.3 * moved, C), C), poincare.distance(x, y, C)

    @jit
    def run(y, z, shift):
        x = y + near * shift
        repeated = (jnp.broadcast_to(vector, x.shape) for vector in (y, z))
        apart, first, second = poincare.span(x - y, y, z)
        ours, lengths = chain(first + apart, first, second)
        return (ours.value(), lengths), chain(x, *repeated)

    (ours, lengths), (wanted, far) = jax.device_get(run(y, z, shift))
    np.testing.assert_allclose(ours, wanted, atol=2e-6)
    np.testing.assert_allclose(lengths, far, rtol=1e-5 / near)


def test_outputs_are_distances_to_hyperplanes():
    x, z = np.asarray(points(0, 6, 4)), np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    sizes, squares = np.linalg.norm(z, axis=0), (x**2).sum(-1, keepdims=True)
    run = lambda *arrays: poincare.fully_connected(*arrays, C).value()
    y = jax.device_get(jit(run)(x @ z, squares, sizes, np.zeros(3)))
    # Signed distances of points to hyperplanes through the origin have a closed form.
    signed = lambda x, unit: np.arcsinh(2 * C**0.5 * (x @ unit) / (1 - C * (x**2).sum(-1, keepdims=True))) * C**-0.5
    np.testing.assert_allclose(signed(y, np.eye(3)), 2 * sizes * signed(x, z / sizes), rtol=2e-3)


def test_a_convolution_is_a_linear_layer_of_each_window():
    x = 0.3 * np.random.default_rng(0).normal(size=(1, 4, 5, 3)).astype(np.float32)
    conv = poincare_resnet.PoincareConv(5, stride=2)
    params = jax.device_get(filled(conv, x))['params']
    answer = jax.device_get(jit(conv.apply)({'params': params}, x))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) * poincare_resnet._beta(27) / poincare_resnet._beta(3)
    windows = [padded[0, i : i + 3, j : j + 3] for i in (0, 2) for j in (0, 2, 4)]
    pooled = np.stack([window.transpose(2, 0, 1).ravel() for window in windows])
    wanted = jit(poincare_resnet.PoincareLinear(5).apply)({'params': params}, {'pooled': pooled})
    np.testing.assert_allclose(answer.reshape(6, 5), wanted, atol=1e-5)


def test_normalization_moves_the_midpoint_and_sets_the_mean_squared_distance():
    x = points(0, 2, 4, 4, 3, reach=0.5)
    norm = poincare_resnet.PoincareNorm(C)
    bias = jnp.asarray([0.2, -0.1, 0.3])
    variables = {
        'params': {'bias': bias, 'scale': jnp.asarray(0.04)},
        'batch_stats': {'mean': jnp.zeros(3), 'var': jnp.asarray(1.0)},
    }

    @jit
    def run(x):
        y, updates = norm.apply(variables, x, train=True, mutable=['batch_stats'])
        y, center = poincare.from_origin(y, C), poincare.from_origin(bias, C)
        spread = jnp.mean(poincare.distance(y, jnp.broadcast_to(center, y.shape), C) ** 2)
        return poincare.midpoint(y, C), center, spread, updates['batch_stats']

    middle, center, spread, statistics = jax.device_get(run(x))
    # Scaled distances move a midpoint, but hardly.
    np.testing.assert_allclose(middle, center, atol=0.02)
    np.testing.assert_allclose(spread, 0.04, rtol=1e-3)
    assert abs(statistics['mean']).max() > 1e-3 and 0.9 < statistics['var'] < 1


def test_a_small_ball_is_flat():
    # With a curvature near 0 a convolution is a Euclidean one by twice its weights, half of the identity first.
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    conv = poincare_resnet.PoincareConv(1, c=1e-6, kernel_size=1)
    y, _ = jit(conv.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(y[..., 0], x[..., 0], rtol=1e-3)
    with pytest.raises(ValueError, match='c is 0: a ball has curvature -c'):
        jax.eval_shape(modelzoo.backbone('poincare_resnet_test', c=0).init, jax.random.key(0), x)


def test_points_at_the_rim_and_at_the_origin_have_gradients():
    x = np.stack([np.zeros(3), [30.0, 0, 0], [0, -80.0, 0]]).astype(np.float32)

    @jit
    @jax.grad
    def gradient(x):
        y = poincare.from_origin(x, C)
        return jnp.sum(poincare.distance(y, y[::-1], C) + poincare.to_origin(y, C)[:, 0])

    assert np.isfinite(gradient(x)).all()
