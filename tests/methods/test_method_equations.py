"""The equations of the methods' papers, recomputed."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods import average, forward
from longview.methods.distill.logits import divergence, reverse, told
from longview.methods.evaluate.knn import NearestNeighbours, vote
from longview.methods.optim.depth_mup import DepthMuP
from longview.methods.optim.restart import restarting
from longview.methods.optim.sam import Sam
from longview.methods.optim.sgd import sgd
from longview.methods.optim.tract import TrAct
from longview.methods.peft.low_rank import LowRank, lora, pissa
from longview.methods.prune.magnitude import Prune, smaller
from longview.methods.quant.fake import FakeQuant, quantize
from longview.methods.ssl import swav
from longview.methods.ssl.masked import normalized, patches_of
from longview.methods.ssl.parts import Projector
from longview.methods.ssl.rotation import RotNet, rotations
from longview.methods.ssl.simclr import nt_xent
from longview.methods.ssl.swav import SwAV, sinkhorn, swapped
from longview.methods.ssl.views import Crop, Jitter, Views
from longview.modelzoo.layers.residuals.residual import Add, Single
from longview.modelzoo.vision.vit import ViT
from longview.trees import by_path
from tests.methods.small import METHODS, NET, RNG, SEEN, batch_of, begun, supervised, trained
from tests.modelzoo import tiny

NORMAL = np.random.default_rng(0).normal


def test_pruning_removes_the_smallest_share_and_rewinds():
    kernels = {'a': np.arange(-4, 4, dtype=np.float32), 'b': np.float32([0.5, 9.0])}
    left = jax.device_get(
        tiny.jit(lambda *v: smaller(*v, 1 / 3))(kernels, {'a': np.arange(8) != 0, 'b': np.ones(2, bool)})
    )
    # Of 9 remaining weights 6 stay: 9, 3, 3, 2, 2 and both 1 (equal at the threshold), not 0.5, 0 and what was gone.
    assert left['a'].tolist() == [False, True, True, True, False, True, True, True]
    assert left['b'].tolist() == [False, True]
    task = Prune(supervised(NET), every=2, rounds=2, amount=0.2, rewind_to=1)
    states = jax.device_get([state for step, state in enumerate(trained(task, 5)) if step in (1, 2, 4, 5)])
    size = sum(mask.size for mask in states[0].variables.state['mask'].values())
    shares = [sum(m.sum() for m in s.variables.state['mask'].values()) / size for s in states]
    np.testing.assert_allclose(shares, [1, 0.8, 0.64, 0.64], atol=0.02)
    for state in states[1:3]:
        chex.assert_trees_all_equal(state.variables.params, states[0].variables.params)
    shown = by_path(jax.device_get(tiny.jit(task.view)(states[3].variables)).params)
    for path, kept in states[3].variables.state['mask'].items():
        np.testing.assert_array_equal(np.asarray(shown[path]) != 0, kept)


def test_the_tickets_control_starts_its_last_round_from_other_values():
    task = Prune(supervised(NET), every=2, rounds=2, rewind_to=0, control=True)
    first, *_, rewound, _, last = (state.variables for state in jax.device_get(trained(task, 4)))
    chex.assert_trees_all_equal(rewound.params, rewound.state['start'])
    chex.assert_trees_all_equal(last.params, last.state['other'])
    same = jax.tree.map(np.array_equal, last.params, first.params)
    assert {path.rpartition('/')[2] for path, held in by_path(same).items() if not held} >= {'kernel'}
    plain = Prune(supervised(NET), every=2, rounds=2, rewind_to=0)
    chex.assert_trees_all_equal(last.state['mask'], [*trained(plain, 4)][-1].variables.state['mask'])


def test_an_optimizer_restarts_with_every_round():
    schedule = lambda steps, per_epoch: optax.linear_schedule(1.0, 0.0, steps)
    tx = restarting(6, 1.0, lambda path: (0, 1), optimizer=functools.partial(sgd, schedule=schedule), every=3)
    params, updates = {'kernel': jnp.asarray(np.ones((2, 2), np.float32))}, []
    state, step = tx.transform.init(params), tiny.jit(lambda state: tx.transform.update(params, state, params))
    for _ in range(6):
        update, state = step(state)
        updates.append(float(np.asarray(update['kernel'])[0, 0]))
    assert updates[:3] == updates[3:] and len(set(updates)) == 3
    assert [float(tx.schedule(step)) for step in (0, 2, 3)] == pytest.approx([1, 1 / 3, 1])


def test_low_rank_starts():
    weight = jnp.asarray(NORMAL(size=(6, 5)), jnp.float32)
    (down, up, base), factors = tiny.jit(lambda w: (lora(w, 2, 3.0, RNG), pissa(w, 2, 3.0, RNG)))(weight)
    np.testing.assert_array_equal(base, weight)
    assert not np.any(up) and np.abs(down).max() <= 6**-0.5
    weight, (down, up, base) = jax.device_get((weight, factors))
    np.testing.assert_allclose(base + 3.0 * down @ up, weight, atol=1e-5)
    singular = np.linalg.svd(weight, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(3.0 * down @ up, compute_uv=False)[:2], singular[:2], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(base, compute_uv=False)[:3], singular[2:], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(down, axis=0), np.linalg.norm(up, axis=1), rtol=1e-5)


@functools.cache
def start_of_network():
    """Returns the first parameters of the network that the methods have."""
    return begun(supervised(NET)).params


@pytest.mark.parametrize('start', [lora, pissa])
def test_low_rank_shows_the_same_network_at_first_and_moves_it_within_its_rank(start):
    task = LowRank(supervised(NET), rank=1, alpha=2.0, start=start)
    first, _, last = trained(task, 2)
    view = tiny.jit(lambda v: task.view(v).params)
    shown, moved, plain = map(
        by_path, jax.device_get((*map(view, (first.variables, last.variables)), start_of_network()))
    )
    chex.assert_trees_all_close(shown, plain, atol=1e-5)
    change = np.asarray(moved['backbone/stem/kernel'] - shown['backbone/stem/kernel']).reshape(-1, 8)
    assert 0 < np.linalg.matrix_rank(change, tol=1e-6) <= 2
    assert np.abs(moved['head/kernel'] - shown['head/kernel']).max() > 0
    np.testing.assert_array_equal(moved['backbone/norm/scale'], shown['backbone/norm/scale'])
    assert set(by_path(first.variables.params)) == {
        'backbone/stem/kernel/down',
        'backbone/stem/kernel/up',
        'head/kernel',
        'head/bias',
    }


class Divided(Single):
    """``s + y / sqrt(blocks)``."""

    def write(self, s, y):
        return s + y / self.blocks**0.5


def test_depth_mup_divides_the_branches():
    plain, divided = (ViT(8, 2, 1, patch=4, image_size=8, residual=residual) for residual in (Add, Divided))
    task = DepthMuP(supervised(plain), depth=2)
    v = begun(task)
    network = lambda module, v: module.apply({'params': v.params['backbone']}, SEEN['image'])['tokens']
    found, whole, expected = tiny.jit(lambda v: (network(plain, task.view(v)), network(plain, v), network(divided, v)))(
        v
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(whole - expected).max() > 1e-4


@pytest.mark.quick
def test_quantised_weights_are_integers_times_a_scale_with_straight_gradients():
    weight = NORMAL(size=(3, 4, 2)).astype(np.float32)
    weight[..., 1] = 0
    task = FakeQuant(supervised(NET), bits=3)

    @tiny.jit
    def run(weight):
        v = task.init(RNG, SEEN)
        view = task.view(v).params
        through = lambda kernel: jnp.sum(task.view(v._replace(params={'kernel': kernel})).params['kernel'] ** 2)
        of_weight = quantize(weight, 8), quantize(weight, 3), jax.grad(through)(weight)
        return of_weight, (by_path(view), task.integers(v.params), v.params['head']['bias'])

    ((values, scale), few, gradient), (shown, integers, bias) = jax.device_get(run(weight))
    assert np.abs(values[..., 0]).max() == 127 and not values[..., 1].any()
    np.testing.assert_allclose(values * scale, weight, atol=scale.max() / 2 + 1e-7)
    np.testing.assert_allclose(scale[0, 0, 0], np.abs(weight).max() / 127, rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * few[0] * few[1], atol=1e-6)
    assert integers.keys() == {'backbone/stem/kernel', 'head/kernel'}
    for path, (values, scale) in integers.items():
        np.testing.assert_allclose(shown[path], values * scale, atol=1e-7)
    np.testing.assert_array_equal(shown['head/bias'], bias)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.quick
def test_distillation_is_the_equation():
    logits, taught, answers = NORMAL(size=(3, 5)), NORMAL(size=(2, 3, 5)), NORMAL(size=(4, 2))
    target, own = softmax(taught / 2).mean(0), softmax(logits / 2)
    expected = 4 * (target * np.log(target / own)).sum(-1)
    of_all = lambda logits, taught, answers: (divergence(logits, taught, 2.0), told(answers))
    found, loss = tiny.jit(of_all)(*map(np.float32, (logits, taught, answers)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    likely = 1 / (1 + np.exp(-answers))
    wanted = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    bce = -(wanted * np.log(likely) + (1 - wanted) * np.log(1 - likely)).mean()
    np.testing.assert_allclose(loss, bce, rtol=1e-5)
    assert jax.grad(lambda x: 3 * reverse(x))(1.0) == -3


@pytest.mark.quick
def test_contrast_is_the_equation():
    first, second = NORMAL(size=(2, 3, 4)).astype(np.float32)
    z = np.concatenate([first, second])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    s, losses = z @ z.T / 0.5, []
    for i in range(6):
        others = [k for k in range(6) if k != i]
        losses.append(-np.log(np.exp(s[i, (i + 3) % 6]) / np.exp(s[i, others]).sum()))
    found, _ = tiny.jit(lambda a, b: nt_xent(a, b, 0.5))(first, second)
    np.testing.assert_allclose(found, np.reshape(losses, (2, 3)).mean(0), rtol=1e-5)


def test_codes_are_balanced_and_predicted_by_the_other_views():
    scores = NORMAL(size=(8, 4)).astype(np.float32)
    views = [scores, scores + 1, scores[::-1]]
    codes = np.asarray(sinkhorn(jnp.asarray(scores), 0.5, 100))  # a hundred steps take long to compile as one program
    found = tiny.jit(lambda *given: swapped(*given, 0.2))(views, [codes, codes[::-1]])
    np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(codes.sum(0), 2, rtol=1e-4)
    # Any balanced code is diag(u) exp(scores / epsilon) diag(v).
    rest = np.log(codes) - scores / 0.5
    np.testing.assert_allclose(rest - rest[:1] - rest[:, :1] + rest[0, 0], 0, atol=1e-4)
    logs = [np.log(softmax(view / 0.2)) for view in views]
    expected = sum(-(c * logs[j]).sum(1) for c, j in [(codes, 1), (codes, 2), (codes[::-1], 0), (codes[::-1], 2)]) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_gradient_passes_through_a_code(monkeypatch):
    """Codes are targets: with codes that are constants whatever they are made of, the gradient is the same."""
    task = SwAV(NET, Projector((8, 4)), prototypes=5)
    v = begun(task)

    def gradients():
        loss = lambda params: task.loss(v._replace(params=params), SEEN, RNG, jnp.int32(0))[0]
        return jax.device_get(tiny.jit(jax.grad(loss))(v.params))

    found = gradients()
    monkeypatch.setattr(swav, 'sinkhorn', lambda *given: jax.lax.stop_gradient(sinkhorn(*given)))
    chex.assert_trees_all_close(found, gradients(), rtol=1e-5, atol=1e-7)


def test_the_queue_fills_and_prototypes_thaw_with_length_one():
    first, _, second = jax.device_get(trained(METHODS['swav'](NET), 2))
    kernel = second.variables.params['prototypes']['kernel']
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    assert np.abs(kernel - first.variables.params['prototypes']['kernel']).max() > 1e-5
    assert int(second.variables.state['queued']) == 24 and np.abs(second.variables.state['queue']).min(axis=2).all()


def test_rotations_are_quarter_turns():
    image = NORMAL(size=(2, 3, 3, 1)).astype(np.float32)
    turned = np.asarray(tiny.jit(rotations)(image)).reshape(4, 2, 3, 3)
    for turns, example in itertools.product(range(4), range(2)):
        np.testing.assert_array_equal(turned[turns, example], np.rot90(image[example, :, :, 0], turns))


def test_patches_are_normalized_by_their_own_figures():
    image = NORMAL(size=(1, 4, 6, 2)).astype(np.float32)
    run = tiny.jit(lambda image: (patches_of(image, (2, 3)), normalized(patches_of(image, (2, 3)))))
    found, scaled = jax.device_get(run(image))
    row = found[0, 4]
    np.testing.assert_array_equal(row, image[0, 2:4, 2:4].reshape(-1))
    np.testing.assert_allclose(scaled[0, 4], (row - row.mean()) / np.sqrt(row.var(ddof=1) + 1e-6), rtol=1e-4)


def test_sam_is_the_gradient_of_the_worst_place_nearby():
    task, inner = Sam(supervised(NET), 0.3), supervised(NET)

    @tiny.jit
    def run():
        v = inner.init(RNG, SEEN)
        of = lambda t, params: jax.grad(lambda p: t.loss(v._replace(params=p), SEEN, RNG, jnp.int32(0))[0])(params)
        grads = of(inner, v.params)
        worst = jax.tree.map(lambda p, g: p + 0.3 * g / optax.tree.norm(grads), v.params, grads)
        return of(task, v.params), of(inner, worst), grads

    found, wanted, plain = jax.device_get(run())
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(found['head']['kernel'] - plain['head']['kernel']).max() > 1e-4


def test_tract_solves_for_the_windows_of_the_image():
    task = TrAct(supervised(NET), shrinkage=0.1)
    batch = {**SEEN, 'image': jnp.asarray(NORMAL(size=(16, 8, 8, 2)), jnp.float32)}

    @tiny.jit
    def run():
        v = task.init(RNG, batch)
        of = lambda t: jax.grad(lambda p: t.loss(v._replace(params=p), batch, RNG, jnp.int32(0))[0])(v.params)
        return of(task.inner), of(task), patches_of(batch['image'], (4, 4))

    plain, ours, windows = jax.device_get(run())
    windows = windows.reshape(-1, 8)
    matrix = windows.T @ windows / len(windows) + 0.1 * np.eye(8)
    expected = np.linalg.solve(matrix, plain['backbone']['stem']['kernel'].reshape(8, 8))
    np.testing.assert_allclose(ours['backbone']['stem']['kernel'].reshape(8, 8), expected, rtol=1e-3, atol=1e-6)
    chex.assert_trees_all_close(ours['head'], plain['head'], rtol=1e-5)


def test_soups_and_vectors():
    trees = [{'a': {'kernel': jnp.full(2, x)}, 'bias': jnp.full(1, -x)} for x in (1.0, 3.0, 8.0)]
    assert average.uniform_soup(trees)['a']['kernel'].tolist() == [4, 4]
    soup, chosen = average.greedy_soup(trees, lambda tree: -abs(float(tree['bias'][0]) + 2.5))
    assert chosen == [1, 0] and soup['bias'].tolist() == [-2]
    vectors = [average.task_vector(trees[0], tree) for tree in trees[1:]]
    found = average.add_vectors(trees[0], vectors, [0.5, {'a/kernel': -1.0}], '.*kernel')
    assert found['a']['kernel'].tolist() == [1 + 1 - 7] * 2 and found['bias'] is trees[0]['bias']


@pytest.mark.quick
def test_neighbours_vote_by_likeness():
    bank, label = np.float32([[1.0, 0], [0, 1.0], [0.6, 0.8], [1.0, 0]]), np.int32([2, 1, 1, -1])
    of = functools.partial(vote, neighbours=3, temperature=0.5, num_classes=3)
    votes = jax.device_get(tiny.jit(of)(np.float32([[1.0, 0]]), bank, label))
    np.testing.assert_allclose(votes[0], [0, np.exp(-2) + np.exp(-0.8), 1], rtol=1e-5)
    task = NearestNeighbours(supervised(NET), 10, bank=24, neighbours=1)
    v = trained(task, 2)[-1].variables
    assert v.state['label'].tolist() == [*SEEN['label'], *SEEN['label'][:8]]
    # With the newest features and nothing trained in between, each image would be its own nearest neighbour.

    @tiny.jit
    def again(v):
        _, (state, _) = task.loss(v, SEEN, RNG, jnp.int32(0))
        return task.score(v._replace(state={**state, 'inner': v.state['inner']}), SEEN)['knn_accuracy']

    assert np.all(again(v))


def test_a_probe_sends_no_gradient_to_the_features():
    task = METHODS['probe'](NET)

    @tiny.jit
    def run():
        v = task.init(RNG, SEEN)
        of = lambda t, v: jax.grad(lambda p: t.loss(v._replace(params=p), SEEN, RNG, jnp.int32(0))[0])(v.params)
        return of(task, v), of(task.inner, v._replace(params=v.params['inner'], state=v.state['inner']))

    ours, inner = jax.device_get(run())
    chex.assert_trees_all_close(ours['inner'], inner, rtol=1e-5, atol=1e-7)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(ours['probe']))


def test_a_probe_reads_features_of_any_scale(monkeypatch):
    task, predict = METHODS['probe'](NET), RotNet.predict
    v = begun(task)

    @tiny.jit
    def losses(v, scale, shift):
        shown = lambda self, v, batch: {'pooled': scale * predict(self, v, batch)['pooled'] + shift}
        with monkeypatch.context() as patch:
            patch.setattr(RotNet, 'predict', shown)
            _, (state, metrics) = task.loss(v, SEEN, RNG, jnp.int32(0))
        return metrics['probe_loss'], state['probe']['batch_stats']['norm']

    (loss, seen), (far, moved) = jax.device_get([losses(v, 100.0, 0.0), losses(v, 1000.0, 50.0)])
    assert abs(loss - far) < 1e-3
    np.testing.assert_allclose(moved['mean'], 10 * seen['mean'] + 5.0, rtol=1e-4, atol=1e-2)
    assert not set(seen) - {'mean', 'var'}
    assert 'norm' not in v.params['probe']  # neither scale nor bias


def test_a_projector_is_matrix_norm_rectifier_matrix():
    pooled = np.random.default_rng(0).normal(2.0, 3.0, (16, 5)).astype(np.float32)
    head = Projector((7, 3))

    @tiny.jit
    def run(pooled):
        given = {'pooled': pooled}
        params, state = forward.init(head, RNG, given)
        return params, *forward.learn(head, params, state, given, rng=RNG, row=jnp.arange(16))

    params, found, moved = jax.device_get(run(pooled))
    layer = lambda name, x: x @ np.asarray(params[name]['kernel'], np.float64) + np.asarray(params[name]['bias'])
    wide = layer('layer0', pooled)
    wide = np.maximum((wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), 0)
    np.testing.assert_allclose(found, layer('layer1', wide), rtol=1e-4, atol=1e-5)
    assert np.abs(moved['batch_stats']['norm1']['mean']).max() > 0


def test_views_differ_and_keep_to_their_image():
    views = Views(
        [
            [Crop((8, 8), (1.0, 1.0), (1.0, 1.0))],
            [Crop((4, 6), (0.3, 0.6))],
            [Jitter(0.5, 1.0)],
            [Jitter(0.5, 1.0)],
            [Crop((8, 8), (0.3, 0.6))],
        ]
    )
    ramp = np.broadcast_to(32 * np.arange(8, dtype=np.uint8)[None, None, :, None], (16, 8, 8, 1))
    apply, ramps = tiny.jit(lambda batch: views(batch, RNG)), {**batch_of(), 'image': jnp.asarray(ramp)}
    batch = jax.device_get(apply(ramps))
    np.testing.assert_allclose(batch['view0'], ramp, atol=1e-2)
    assert batch['view1'].shape == (16, 4, 6, 1) and batch['view2'].dtype == jnp.float32
    assert np.abs(batch['view2'] - batch['view3']).max() > 1
    turned = apply({name: value[::-1] for name, value in ramps.items()})
    np.testing.assert_allclose(turned['view2'], batch['view2'][::-1], atol=1e-3)
    cut = batch['view4'] / 32
    slopes = np.diff(cut[:, 4, 2:6, 0], axis=1)
    assert (slopes > 0).all() and np.allclose(slopes, slopes[:, :1], atol=1e-3) and (slopes < 1).all()
