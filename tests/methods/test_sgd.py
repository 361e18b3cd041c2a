"""SGD and its staircase, against torch's formula step by step, and clipping by unit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods.optim.parts import clip_adaptively
from longview.methods.optim.sgd import sgd, staircase
from tests.modelzoo import tiny

PARAMS = {'hidden': {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.ones(2)}, 'head': {'kernel': jnp.ones((2, 2))}}
GRADS = [
    jax.tree.map(lambda p, s=seed: jnp.float32(np.cos(s + np.arange(p.size)).reshape(p.shape)), PARAMS)
    for seed in range(4)
]


def build(**options):
    schedule = lambda steps, per_epoch: optax.constant_schedule(0.1)
    return sgd(20, 10, lambda path: (0 if 'hidden' in path else 1, 2), schedule=schedule, **options).transform


def after(tx, grads=GRADS):
    @tiny.jit
    def run():
        params, state = PARAMS, tx.init(PARAMS)
        for gradient in grads:
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return jax.device_get(run())


@pytest.mark.parametrize('nesterov', [False, True])
def test_steps_are_torch_s(nesterov):
    decay = {'kernel': 0.01, 'bias': 0.0}
    ours = after(build(weight_decay=0.01, nesterov=nesterov))
    for path in (('hidden', 'kernel'), ('hidden', 'bias'), ('head', 'kernel')):
        value, buffer = np.asarray(PARAMS[path[0]][path[1]], np.float64), 0.0
        for gradient in GRADS:
            g = np.asarray(gradient[path[0]][path[1]]) + decay[path[1]] * value
            buffer = 0.9 * buffer + g
            value = value - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
        np.testing.assert_allclose(ours[path[0]][path[1]], value, rtol=1e-5)


def test_rules_choose_by_path():
    zeros = [jax.tree.map(jnp.zeros_like, PARAMS)]
    everything = after(build(weight_decay=0.5, decay_rules=(('.*', 1.0),)), zeros)
    np.testing.assert_allclose(everything['hidden']['bias'], 1 - 0.1 * 0.5, rtol=1e-6)
    frozen = after(build(rate_rules=(('hidden', 0.0),), layer_decay=0.5))
    np.testing.assert_array_equal(frozen['hidden']['kernel'], PARAMS['hidden']['kernel'])
    assert abs(frozen['head']['kernel'] - PARAMS['head']['kernel']).max() > 0.01
    slow = after(build(layer_decay=0.5, weight_decay=0.0), GRADS[:1])
    np.testing.assert_allclose(slow['hidden']['kernel'] - 2, -0.05 * GRADS[0]['hidden']['kernel'], rtol=1e-4)
    with pytest.raises(ValueError, match="decay_rules: 'nothing' matches no parameter"):
        build(decay_rules=(('nothing', 1.0),)).init(PARAMS)


def test_a_long_gradient_is_scaled_down_as_a_whole():
    step = jax.tree.map(np.subtract, after(build(clip_norm=1e-3, weight_decay=0.0), GRADS[:1]), PARAMS)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(step)))
    np.testing.assert_allclose(norm, 0.1 * 1e-3, rtol=1e-2)


def test_units_are_clipped_by_their_weights_and_the_head_is_spared():
    kernel = np.stack([np.full((3, 3, 2), 1.0), np.full((3, 3, 2), 1e-9)], -1)
    conv = {'kernel': kernel, 'bias': np.ones(2), 'scale': np.ones(())}
    params = jax.tree.map(np.float32, {'conv': conv, 'head': {'kernel': np.ones((2, 2))}})
    grads = jax.tree.map(lambda p: np.full(p.shape, 5.0, np.float32), params)
    tx = clip_adaptively(0.01, 'head/')
    update = tiny.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])
    clipped = jax.device_get(update(grads, params))
    norms = np.sqrt((clipped['conv']['kernel'] ** 2).sum((0, 1, 2)))
    np.testing.assert_allclose(norms, [0.01 * 18**0.5, 0.01 * 1e-3], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(clipped['conv']['bias']), 0.01 * 2**0.5, rtol=1e-4)
    np.testing.assert_allclose(clipped['conv']['scale'], 0.01, rtol=1e-4)
    np.testing.assert_array_equal(clipped['head']['kernel'], grads['head']['kernel'])
    everything = clip_adaptively(0.01, None)
    update = tiny.jit(lambda grads, params: everything.update(grads, everything.init(params), params)[0])
    clipped = jax.device_get(update(grads, params))
    np.testing.assert_allclose(np.linalg.norm(clipped['head']['kernel'], axis=0), [0.01 * 2**0.5] * 2, rtol=1e-4)
    with pytest.raises(ValueError, match="adaptive_clip_spare: 'fc/' matches no parameter"):
        clip_adaptively(0.01, 'fc/').init(params)


def test_the_staircase_follows_epochs_after_its_warmup():
    rate = staircase(100, 10, peak=0.4, boundaries=(3.0, 6.0, 90.0), factor=0.5, warmup_epochs=1.0, start=0.0)
    wanted = {0: 0.0, 5: 0.2, 10: 0.4, 29: 0.4, 30: 0.2, 59: 0.2, 60: 0.1, 99: 0.1}
    np.testing.assert_allclose([rate(step) for step in wanted], list(wanted.values()), rtol=1e-6, atol=1e-8)
    plain = staircase(100, 10, peak=1.0, boundaries=(3.0,))
    np.testing.assert_allclose([plain(29), plain(30)], [1.0, 0.1], rtol=1e-6)


@pytest.mark.parametrize('boundaries, warmup', [((6.0, 3.0), 0.0), ((3.0,), 5.0)])
def test_stairs_that_do_not_rise_are_refused(boundaries, warmup):
    with pytest.raises(ValueError, match='they must rise'):
        staircase(100, 10, peak=1.0, boundaries=boundaries, warmup_epochs=warmup)
