"""Certified training: what the losses and the certificate promise, and how the method goes with others."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.ema import Ema
from longview.methods.robust import gloro
from longview.methods.robust.gloro import Gloro
from longview.methods.start import Start
from longview.modelzoo.heads import Linear
from longview.modelzoo.heads.unit import UnitLinear
from longview.modelzoo.vision.liresnet import LiResNet
from longview.runtime.checkpoint import Best
from longview.runtime.mesh import MeshConfig, make_mesh
from tests.methods.small import NET, RNG, SEEN, supervised, trained
from tests.methods.test_start import alone, of_a_run, same, save
from tests.modelzoo import tiny

SMALL = LiResNet(2, 8, stem_kernel=3, stem_stride=1, stem_padding=1, neck_width=8)
TASK = Gloro(SMALL, UnitLinear(10), radius=0.2, ramp=4.0)
STEP = jnp.int32(0)


def test_each_class_is_attacked_until_it_draws_level_and_no_less_than_a_hundredth():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 6)).astype(np.float32)
    label, columns = logits.argmax(1), rng.normal(size=(3, 6)).astype(np.float32)
    rows, label = np.arange(64), np.where(np.arange(64) % 4, label, 0)  # of a fourth another class may lead
    lead = logits[rows, label][:, None] - logits
    for reach in (1e-3, 0.4, 30.0):
        margin = reach * np.linalg.norm(columns[:, label].T[:, None] - columns.T[None], axis=-1)
        ours = [
            np.asarray(tiny.jit(function)(logits, label, columns, np.full(64, reach, np.float32)))
            for function in (gloro.emma, gloro.attacked)
        ]
        emma, most = ours[0], ours[1] - logits[rows, label][:, None]
        other = np.arange(6)[None] != label[:, None]
        level, behind, far = (
            other & (lead >= 0.01 * margin) & (lead <= margin),
            other & (lead < 0.01 * margin),
            other & (lead > margin),
        )
        np.testing.assert_allclose(emma[level], 0, atol=1e-5)
        np.testing.assert_allclose(emma[behind], (0.01 * margin - lead)[behind], rtol=1e-4, atol=1e-5)
        assert (emma[behind] > -1e-6).all()
        np.testing.assert_allclose(emma[far], most[far], rtol=1e-4, atol=1e-5)
        assert (emma[far] < 0).all() and (emma <= most + 1e-5).all()


def test_the_two_losses_are_equal_where_every_class_is_too_far_behind_to_draw_level():
    logits, label = 20 * jnp.eye(5), jnp.arange(5)
    columns, reach = jnp.eye(5), jnp.full(5, 0.5)
    both = lambda reach: [loss(logits, label, columns, reach) for loss in (gloro.emma_loss, gloro.margin_loss)]
    (emma, margin), (capped, uncapped) = jax.device_get(tiny.jit(lambda: (both(reach), both(100 * reach)))())
    np.testing.assert_allclose(emma, margin, rtol=1e-6)
    assert (capped < uncapped - 1).all()


def attacked(task, v, images, label, radius):
    """Returns what 50 steps of projected gradient ascent, within a radius of each image, make of images."""
    flat = lambda x: x.reshape(len(x), -1)
    lengths = lambda x: jnp.maximum(jnp.linalg.norm(flat(x), axis=1), 1e-12)[:, None, None, None]
    radius = radius[:, None, None, None]

    def ahead(x):
        logits = task.predict(v, {'image': x})['logits']
        mine = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
        return (jnp.max(logits - 1e9 * jax.nn.one_hot(label, 10), axis=1) - mine).sum()

    def step(_, x):
        slope = jax.grad(ahead)(x)
        away = x + radius / 10 * slope / lengths(slope) - images
        return images + away * jnp.minimum(1, radius / lengths(away))

    return jax.lax.fori_loop(0, 50, step, images)


@pytest.mark.heavy
def test_no_certified_image_changes_its_class_under_attack_and_others_do():
    task = dataclasses.replace(TASK, backbone=SMALL.clone(depth=1))
    images = jnp.tile(4 * SEEN['image'] - 1.5, (2, 1, 1, 1))

    @tiny.jit
    def run():
        v = task.init(RNG, SEEN)
        logits, bound = task.predict(v, {'image': images})['logits'], task.prepare(v, None)
        columns, label = unit(v.params['head']['kernel']), jnp.argmax(logits, axis=1)
        ahead, away = jnp.max(logits, axis=1, keepdims=True) - logits, gloro.distances(columns, label)
        radii = jnp.min(ahead / (bound * away), axis=1, where=away > 0, initial=1e9)
        radius = jnp.sort(radii)[12]
        sure = gloro.certified(logits, columns, jnp.full(32, radius) * bound)
        far = radius * jnp.repeat(jnp.array([1.0, 10.0]), 16)  # the second half goes ten times as far
        found = task.predict(v, {'image': attacked(task, v, images, label, far)})['logits']
        return sure, radii > radius, jnp.argmax(found, axis=1) != label

    sure, wanted, changed = jax.device_get(run())
    np.testing.assert_array_equal(sure, wanted)
    assert 16 <= sure.sum() < 32
    assert not changed[:16][sure[:16] == 1].any() and changed[16:].any()


def unit(kernel):
    return kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)


def test_the_radius_grows_by_epoch_and_the_figures_are_at_the_certificate_s():
    """And what a step leaves does not depend on how many microbatches it has."""
    task = dataclasses.replace(TASK, criterion=gloro.margin_loss)
    mask, epoch = jnp.arange(16) < 11, jnp.tile(jnp.array([0, 1, 4, 9]), 4)

    @tiny.jit
    def run():
        v = task.init(RNG, SEEN)
        bound = task.prepare(v, None)
        _, (state, metrics) = task.loss(v, {**SEEN, 'epoch': epoch}, RNG, STEP)
        _, (again, more) = task.loss(v._replace(state=state), {**SEEN, 'epoch': epoch}, RNG, STEP)
        sums = task.measure(v, {**SEEN, 'mask': mask}, bound, RNG)
        logits, columns = task.predict(v, SEEN)['logits'], unit(v.params['head']['kernel'])
        losses = gloro.margin_loss(logits, SEEN['label'], columns, jnp.full(16, 0.2) * bound)
        after = task.after(v._replace(state=state), None, STEP).state
        return (v.state, state, again, after), (metrics, more), task.score(v, SEEN), sums, losses

    (first, state, again, after), (metrics, more), scores, sums, losses = jax.device_get(run())
    np.testing.assert_allclose(metrics['radius'], 0.2 * np.mean([0.1, 0.1 + 1.4 / 4, 1.5, 1.5]), rtol=1e-5)
    same((state['iterates'], again['moved']), (first['iterates'], state['moved']))
    assert metrics['lipschitz'] == more['lipschitz'] and abs(state['moved']['stem'] - first['iterates']['stem']).max()
    same(after['iterates'], state['moved'])
    np.testing.assert_allclose(scores['loss'], losses, rtol=1e-4)
    np.testing.assert_array_equal(scores['vra'], scores['accuracy'] * scores['certified'])
    figures = task.figures(jax.tree.map(np.float64, sums), {})
    assert set(figures) == {'loss', 'accuracy', 'certified', 'vra'}
    np.testing.assert_allclose([figures[name] for name in scores], [scores[name][:11].mean() for name in scores], 1e-5)


@pytest.mark.heavy
def test_microbatches_devices_averages_and_remat_change_no_number():
    made = lambda net: Ema(dataclasses.replace(TASK, backbone=net, iterations=2), 0.9)
    plain = trained(made(SMALL), 2)[-1]
    with jax.set_mesh(make_mesh(MeshConfig(4, 2, 1), jax.devices()[:8])):
        spread = trained(made(SMALL.clone(remat=True)), 2, accumulate=2, mesh=(4, 2, 1))[-1]
    chex.assert_trees_all_close(jax.device_get(plain.variables), jax.device_get(spread.variables), rtol=1e-3, atol=1e-5)
    inner = jax.device_get(plain.variables.state['inner'])
    same(inner['iterates'], inner['moved'])


@pytest.mark.parametrize(
    'of', [lambda: TASK, pytest.param(lambda: supervised(SMALL), marks=pytest.mark.heavy)], ids=['own', 'other']
)
def test_it_starts_from_a_run_of_its_own_or_of_another_method(of, tmp_path):
    task = of()
    v = of_a_run(task)
    save(tmp_path, task, v)
    start = Start(TASK, Best(str(tmp_path)))
    same(tiny.jit(start.init)(jax.random.key(7), SEEN, start.given(SEEN)).params, alone(task, v)['params'])


@pytest.mark.parametrize(
    'make, error, words',
    [
        (lambda: Gloro(NET, UnitLinear(10)), TypeError, 'Gloro needs a Bounded .a bound of its Lipschitz constant.'),
        (lambda: Gloro(SMALL, Linear(10)), TypeError, 'Gloro has a Linear as its head, .* use modelzoo.heads.unit'),
        (lambda: Gloro(SMALL, UnitLinear(10), eval_iterations=0), ValueError, 'eval_iterations=0: use at least 1'),
        (lambda: Gloro(SMALL, UnitLinear(10), radius=0.0), ValueError, 'Gloro.radius is 0.0: it is a distance'),
        (
            lambda: jax.eval_shape(
                functools.partial(TASK.loss, rng=RNG, step=STEP),
                jax.eval_shape(TASK.init, RNG, SEEN),
                {**SEEN, 'target': jnp.zeros((16, 10))},
            ),
            ValueError,
            'Gloro learns from a class, and a batch transform made targets: leave out Mix',
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
