"""Every method on a tiny backbone of each kind, what it refuses, and how methods nest."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview.methods import average
from longview.methods.distill.logits import Distill
from longview.methods.ema import Ema
from longview.methods.evaluate.few_shot import FewShot
from longview.methods.evaluate.knn import NearestNeighbours
from longview.methods.evaluate.linear_probe import LinearProbe
from longview.methods.optim.depth_mup import DepthMuP
from longview.methods.optim.restart import restarting
from longview.methods.optim.sam import Sam
from longview.methods.optim.sgd import sgd
from longview.methods.optim.tract import TrAct
from longview.methods.peft.low_rank import LowRank
from longview.methods.prune.magnitude import Prune
from longview.methods.prune.trained_rank import TrainedRank
from longview.methods.quant.fake import FakeQuant
from longview.methods.ssl.parts import Projector
from longview.methods.ssl.rotation import RotNet
from longview.methods.ssl.simclr import SimClr
from longview.methods.ssl.swav import SwAV
from longview.methods.task import init_state, make_step
from longview.modelzoo.heads import Classifier, Linear
from longview.trees import by_path
from tests.methods.small import (
    BACKBONES,
    METHODS,
    NET,
    RNG,
    SEEN,
    Dropping,
    Pyramid,
    batch_of,
    classifier,
    supervised,
    trained,
    transform,
)
from tests.modelzoo import tiny

REFUSED = {
    ('mae', 'pyramid'): 'needs a TokenBackbone',
    ('early_exit', 'tokens'): 'needs a PyramidBackbone',
    **{('gloro', kind): 'needs a Bounded' for kind in BACKBONES},  # tests/methods/test_gloro.py trains it
}
# What an update does not reach in its first step, by design.
STILL = {'lora': 'down', 'swav': 'prototypes'}

# One of each kind of method: `pytest -m quick`.
FIRST = [(method, 'pyramid') for method in ('simclr', 'distill', 'lora', 'ema', 'probe')]


def marks(method, kind):
    if kind == 'tokens' and method != 'mae':
        return pytest.mark.heavy  # attention takes long to compile: by default it is in the table once
    return pytest.mark.quick if (method, kind) in FIRST else ()


CELLS = [pytest.param(method, kind, marks=marks(method, kind)) for method in METHODS for kind in BACKBONES]


@pytest.mark.parametrize('method, kind', CELLS)
def test_every_method_trains_every_backbone_or_says_why_not(method, kind):
    if (method, kind) in REFUSED:
        with pytest.raises(TypeError, match=REFUSED[method, kind]):
            METHODS[method](BACKBONES[kind])
        return
    task = METHODS[method](BACKBONES[kind])
    tx, step = optax.sgd(0.05), make_step(task, optax.sgd(0.05), transform=transform)

    @tiny.jit
    def run():
        first = init_state(task, tx, RNG, batch_of(), transform)
        last, _ = step(first, batch_of(), RNG)
        return first, last, task.score(last.variables, SEEN)

    first, last, scores = run()
    assert int(last.bad_step) == -1
    before, after = by_path(first.variables.params), by_path(last.variables.params)
    still = [path for path in before if np.array_equal(before[path], after[path])]
    assert all(STILL.get(method, 'nothing') in path for path in still), still
    assert all(value.shape == (16,) and np.isfinite(value).all() for value in scores.values())
    assert 'loss' in last.meters and 'pooled' in jax.eval_shape(task.predict, last.variables, SEEN)
    depths = {task.depth_of(path) for path in before}
    assert len(depths) > 1 and all(0 <= depth < count for depth, count in depths)


def test_a_decoder_learns_at_the_rate_of_the_last_layers():
    task = LinearProbe(METHODS['mae'](BACKBONES['tokens']), Linear(10))
    paths = by_path(shapes(task).params)
    depths = {path: task.depth_of(path) for path in paths}
    assert depths['inner/backbone/block00/mlp/up/kernel'] == (1, 3)
    assert (
        depths['inner/block00/mlp/up/kernel'] == depths['inner/embed/kernel'] == depths['probe/head/kernel'] == (2, 3)
    )
    assert {depth for path, depth in depths.items() if '/backbone/' not in path} == {(2, 3)}


WRAPPERS = {
    'prune': lambda t: Prune(t, every=2, rounds=1, amount=0.5),
    'trained_rank': lambda t: TrainedRank(t, every=2, energy=0.8),
    'lora': lambda t: LowRank(t, rank=1, trained=''),
    'quant': FakeQuant,
    'sam': Sam,
    'ema': lambda t: Ema(t, 0.9),
    'knn': lambda t: NearestNeighbours(t, num_classes=10, bank=24, neighbours=3),
}
# What must not be: see the next tests; and factors of low rank are no kernels.
PAIRS = [
    pair
    for pair in itertools.permutations(WRAPPERS, 2)
    if pair
    not in {
        ('quant', 'prune'),
        ('lora', 'prune'),
        ('prune', 'lora'),
        ('quant', 'lora'),
        ('quant', 'trained_rank'),
        ('lora', 'trained_rank'),
        ('prune', 'trained_rank'),
        ('trained_rank', 'lora'),
    }
]
LIGHT = ('quant', 'knn')  # the others are for `pytest -m heavy`: two long compilations each


@pytest.mark.parametrize(
    'outer, inner',
    [pytest.param(*pair, marks=[] if pair == LIGHT else [pytest.mark.heavy]) for pair in PAIRS],
)
def test_methods_nest_in_microbatches_on_a_mesh_and_with_remat_as_on_one_device(outer, inner):
    made = lambda net: WRAPPERS[outer](WRAPPERS[inner](METHODS['distill'](net)))
    alone = trained(made(NET), 2, accumulate=2)[-1]
    spread = trained(made(Pyramid(remat=True)), 2, accumulate=2, mesh=(2, 2, 1))[-1]
    chex.assert_trees_all_close(jax.device_get(alone.variables), jax.device_get(spread.variables), rtol=1e-3, atol=1e-5)


def test_averages_are_seen_where_a_method_predicts_in_microbatches():
    """In these the state also holds the moments of what is normalized, which have no averages."""
    task, tx = WRAPPERS['knn'](WRAPPERS['ema'](supervised(NET))), optax.sgd(0.1)
    state = jax.eval_shape(lambda: init_state(task, tx, RNG, batch_of(), transform))
    step = make_step(task, tx, transform=transform, accumulate=2)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(step, state, batch_of(), RNG)[0], state)


def test_the_network_above_is_rematerialised():
    loss = lambda net: lambda v: METHODS['distill'](net).loss(v, SEEN, RNG, jnp.int32(0))[0]
    first = shapes(METHODS['distill'](NET))
    texts = [str(jax.make_jaxpr(loss(Pyramid(remat=remat)))(first)) for remat in (False, True)]
    again = ['remat' in text or 'checkpoint' in text for text in texts]  # the name differs between versions
    assert again == [False, True]


def test_microbatches_change_no_number_where_the_loss_is_a_mean():
    task = Prune(Ema(LinearProbe(RotNet(Dropping(), Linear(4)), Linear(10), normalize=False), 0.9), every=2, amount=0.5)
    start, *_, whole = trained(task, 3)
    parts = trained(task, 3, accumulate=4)[-1]
    before, after = (state.variables.params['probe']['head']['kernel'] for state in (start, whole))
    assert np.abs(before - after).max() > 0
    chex.assert_trees_all_close(whole.variables, parts.variables, rtol=1e-4, atol=1e-6)


def shapes(task, batch=SEEN):
    return jax.eval_shape(task.init, RNG, batch)


def scored(task):
    return jax.eval_shape(task.score, shapes(task), SEEN)


@pytest.mark.parametrize(
    'task, words',
    [
        (FakeQuant(Prune(supervised(NET), every=1)), 'FakeQuant shows Prune a changed backbone/stem/kernel'),
        (Prune(TrainedRank(supervised(NET)), every=1), 'Prune shows TrainedRank a changed backbone/stem/kernel'),
        (LowRank(SwAV(NET, Projector((4,)), 5), 1, trained=''), 'LowRank shows SwAV a changed prototypes/kernel'),
    ],
)
def test_a_weight_cannot_be_set_through_a_view(task, words):
    v = shapes(task)
    with pytest.raises(NotImplementedError, match=words):
        jax.eval_shape(lambda v: task.after(v, None, jnp.int32(0)), v)


@pytest.mark.parametrize(
    'make, error, words',
    [
        (
            lambda: shapes(Prune(supervised(NET), every=2, pattern='.*kernels')),
            ValueError,
            "Prune: '.*kernels' matches no parameter; the first is 'backbone/norm/bias'",
        ),
        (lambda: shapes(FakeQuant(supervised(NET), pattern='stem')), ValueError, 'matches no parameter'),
        (lambda: shapes(LowRank(supervised(NET), 1, pattern='head/kernel')), ValueError, 'leaves nothing'),
        (lambda: shapes(LowRank(supervised(NET), 9)), ValueError, 'which has no rank 9'),
        (lambda: Prune(supervised(NET), every=2, amount=1.0), ValueError, 'above 0 and below 1'),
        (lambda: Prune(supervised(NET), every=2, scope='all'), ValueError, 'use one of layer, global'),
        (lambda: Prune(supervised(NET), every=2, rewind_to=2), ValueError, 'a step of the first round'),
        (lambda: Prune(supervised(NET), every=2, rewind_to=None, control=True), ValueError, 'the control of a rewind'),
        (lambda: TrainedRank(supervised(NET), every=0), ValueError, 'at least 1'),
        (lambda: TrainedRank(supervised(NET), energy=1.0), ValueError, 'above 0 and below 1'),
        (lambda: TrainedRank(supervised(NET), scheme='both'), ValueError, 'use one of channel, spatial'),
        (lambda: shapes(TrainedRank(supervised(NET), scheme='spatial')), ValueError, 'head/kernel has shape'),
        (lambda: shapes(TrainedRank(supervised(NET), pattern='.*scale')), ValueError, 'which does not decompose'),
        (lambda: FakeQuant(supervised(NET), bits=9), ValueError, 'of 2 to 8 bits'),
        (lambda: Distill(classifier(NET), []), ValueError, 'no teachers'),
        (
            lambda: shapes(Distill(classifier(NET), [Classifier(NET, Linear(3))])),
            ValueError,
            'the student has 10 classes and its teachers have 3',
        ),
        (lambda: shapes(SimClr(NET, Projector()), batch_of()), ValueError, 'SimClr needs view0 in the batch'),
        (lambda: SwAV(NET, Projector(), views=1), ValueError, 'use at least 2'),
        (lambda: shapes(RotNet(NET, Linear(4)), {'image': jnp.zeros((1, 8, 6, 1))}), ValueError, 'got 8x6'),
        (lambda: scored(RotNet(NET, Linear(3))), ValueError, 'to 4'),
        (lambda: Sam(supervised(NET), 0.0), ValueError, 'must be above 0'),
        (lambda: shapes(DepthMuP(supervised(NET), 2)), ValueError, 'DepthMuP: .* matches no parameter'),
        (lambda: DepthMuP(supervised(NET), 0), ValueError, 'numbers of blocks, at least 1'),
        (lambda: shapes(TrAct(supervised(NET), kernel='head/kernel')), ValueError, 'that reads the image'),
        (lambda: NearestNeighbours(supervised(NET), 10, bank=3), ValueError, '20 neighbours'),
        (lambda: FewShot(supervised(NET), 10, bank=99), ValueError, '25 examples of 10 classes'),
        (lambda: FewShot(supervised(NET), 10, bank=99, shots=()), ValueError, 'at least 1 each'),
        (lambda: FewShot(supervised(NET), 10, bank=99, shots=(1,), strengths=(0.0,)), ValueError, 'above 0'),
        (lambda: restarting(5, 1.0, lambda path: (0, 1), optimizer=sgd, every=6), ValueError, 'rounds of 6 steps'),
        (lambda: average.uniform_soup([]), ValueError, 'got none'),
        (lambda: average.task_vector({'a': np.ones(2)}, {'a': np.ones(3)}), ValueError, r'a is \(2,\) in the first'),
        (lambda: average.add_vectors({'a': 1}, [], [1.0]), ValueError, '0 task vectors have 1 scales'),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()
