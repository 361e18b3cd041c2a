"""The search for operations: what learns from which half, which networks are found, and that a stage trains them."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from longview import modelzoo, train
from longview.configs import base
from longview.methods.nas.mixed import Search, ops_of, parameter_free, places, right_by, with_ops
from longview.methods.supervised import Supervised
from longview.methods.task import Network
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.layers.convolutions.mixed import Mixed
from longview.modelzoo.layers.convolutions.spatial import Convolved, MaxPool
from longview.modelzoo.vision.resnet import Bottleneck
from longview.runtime.checkpoint import Best
from longview.trees import by_path
from tests import runs, toys
from tests.methods.small import RNG
from tests.modelzoo import tiny

MIXED = functools.partial(Bottleneck, spatial=functools.partial(Mixed, ops=(Convolved, MaxPool)))
NET = modelzoo.backbone('resnet50', block=MIXED, depths=(1, 1), widths=(16, 32), stem_width=4, stem_stride=1)
DRAW = np.random.default_rng(0)
BATCH = {
    'image': DRAW.normal(size=(8, 6, 6, 1)).astype(np.float32),
    'label': DRAW.integers(0, 3, 8, dtype=np.int32),
    'row': np.arange(8, dtype=np.int32),
    'source': np.repeat(np.int32([0, 1]), 4),
}
BATCH = {name: jnp.asarray(column) for name, column in BATCH.items()}
STEP = jnp.int32(0)


def test_weights_learn_from_the_first_half_and_alpha_from_the_second():
    inner = Supervised(NET.clone(depths=(1,), widths=(16,)), Linear(3))
    task = Search(inner)

    def gradients():
        v = task.init(RNG, BATCH)

        def grad(task, batch):
            of = lambda params: task.loss(v._replace(params=params), batch, RNG, STEP)
            return jax.value_and_grad(of, has_aux=True)(v.params)

        halves = [{k: x[half] for k, x in BATCH.items()} for half in (slice(4), slice(4, None))]
        return grad(task, BATCH), [grad(inner, half) for half in halves]

    ((loss, (state, metrics)), ours), halves = jax.device_get(tiny.jit(gradients)())
    each, halves = zip(*halves)
    ours, first, second = map(by_path, (ours, *halves))
    assert sum(path.endswith('alpha') for path in ours) == 1
    for path, leaf in ours.items():
        wanted, other = (second, first) if path.endswith('alpha') else (first, second)
        np.testing.assert_allclose(leaf, wanted[path], rtol=1e-4, atol=1e-6)
        assert np.abs(wanted[path] - other[path]).max() > 1e-6 or not wanted[path].any()
    np.testing.assert_allclose(loss, each[0][0] + each[1][0], rtol=1e-5)
    np.testing.assert_allclose(metrics['held_loss'], each[1][0], rtol=1e-5)
    np.testing.assert_allclose(metrics['certainty'], 0.5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, each[0][1][0])


@pytest.mark.parametrize(
    'net, batch, words',
    [
        (NET, {k: x for k, x in BATCH.items() if k != 'source'}, 'Search wants batches of two halves, and these have'),
        (modelzoo.backbone('vit_max_test', patch=2, image_size=6), BATCH, 'Search: .* matches no parameter'),
        (NET, {k: x[:5] for k, x in BATCH.items()}, 'Search halves its batches, and 5 examples are odd'),
    ],
)
def test_batches_and_networks_that_do_not_fit_are_refused(net, batch, words):
    task = Search(Supervised(net, Linear(3)))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: task.loss(task.init(RNG, batch), batch, RNG, STEP))


def test_a_backbone_without_mixtures_is_refused():
    for name in ('resnet_test', 'vit_test'):
        with pytest.raises(ValueError, match='has no block whose spatial operation is a Mixed: search in a ResNet'):
            ops_of(modelzoo.backbone(name))


def test_what_is_drawn_is_judged_by_its_own_answers():
    model = Classifier(NET, Linear(3))
    x = BATCH['image']
    variables = tiny.filled(model, x)
    drawn = np.array([[0, 0], [0, 1], [1, 1]])

    def answer(picks):
        params = jax.tree.map(lambda leaf: leaf, variables['params'])
        for stage, pick in zip(('stage0', 'stage1'), picks):
            params['backbone'][stage]['block00']['spatial']['alpha'] = 1e4 * jax.nn.one_hot(pick, 2)
        return model.apply({**variables, 'params': params}, x)['logits']

    run = lambda: (right_by(Network(model, variables), BATCH, drawn), jnp.stack([answer(picks) for picks in drawn]))
    right, logits = jax.device_get(tiny.jit(run)())
    np.testing.assert_array_equal(right.T, logits.argmax(-1) == BATCH['label'][None])
    assert places(Network(model, variables)) == ['stage0/block00', 'stage1/block00']
    np.testing.assert_array_equal(parameter_free(variables['params'], 2), [False, True])
    shapes = jax.eval_shape(with_ops(NET, [1, 0]).init, jax.random.key(0), x)['params']
    assert 'spatial' not in shapes['stage0']['block00'] and 'conv' in shapes['stage1']['block00']['spatial']


def op(name):
    return {'partial': f'modelzoo.layers.convolutions.spatial:{name}'}


def staged():
    """Both searches in a tiny network, and the networks that they find, one of them trained."""
    floats = [base.normalize((0.3,), (0.4,))]
    changes = {'steps': 2, 'eval_every': 2, 'save_every': 2, 'train_transforms': floats, 'eval_transforms': floats}
    node = toys.config(**changes).to_dict()
    ops = (op('Convolved'), op('MaxPool'))
    mixed = lambda **fields: {'partial': 'modelzoo.layers.convolutions.mixed:Mixed', 'ops': ops, **fields}
    backbone = lambda **fields: {
        'fn': 'modelzoo:backbone',
        'variant': 'resnet50',
        'depths': (1, 1),
        'widths': (16, 32),
        'stem_width': 4,
        'stem_stride': 1,
        'block': {'partial': 'modelzoo.vision.resnet:Bottleneck', 'spatial': mixed(**fields)},
    }
    task = lambda **fields: {
        'fn': 'methods.supervised:Supervised',
        'backbone': backbone(**fields),
        'head': {'fn': 'modelzoo.heads:Linear', 'num_classes': None},
    }
    half = node['batch_size'] // 2
    mixture = {'fn': 'data.mixture:Mixture', 'parts': (node['data'], node['data']), 'per_batch': (half, half)}
    network = {'fn': 'methods.start:again', 'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'picked'}}}
    drawn = {'fn': 'methods.nas.mixed:Drawn', 'run': {'stage': 'random'}, 'candidates': 3, 'data': node['data']}
    stages = {
        'search': node | {'data': mixture, 'task': {'fn': 'methods.nas.mixed:Search', 'inner': task()}},
        'random': node | {'task': task(random=True)},
        'picked': {'fn': 'methods.nas.mixed:Picked', 'run': {'stage': 'search'}},
        'drawn': drawn | {'held': (0, 2, 3)},
        'trained': node | {'task': {'fn': 'methods.supervised:Supervised', 'network': network}},
    }
    return ConfigDict({'stages': stages})


@pytest.mark.heavy
def test_stages_find_networks_and_train_them(tmp_path):
    with runs.quickly():
        train.train(staged(), tmp_path)
    files = {stage: json.loads((tmp_path / stage / 'ops.json').read_text()) for stage in ('picked', 'drawn')}
    assert len(files['drawn']['accuracies']) == 3 and np.shape(files['picked']['weights']) == (2, 2)
    for stage, file in files.items():
        ops = file['ops']
        assert [*ops] == ['stage0/block00', 'stage1/block00'] and set(ops.values()) <= {'Convolved', 'MaxPool'}
        free = [float(name == 'MaxPool') for name in ops.values()]
        assert [file['parameter_free'][f'stride {stride}'] for stride in (1, 2)] == free
        paths = Best(str(tmp_path / stage)).shapes()
        kernel = 'deployed/network/params/backbone/{}/spatial/conv/kernel'
        assert [kernel.format(place) in paths for place in ops] == [not one for one in free]
    picked = np.argmax(files['picked']['weights'], axis=1)
    assert list(picked) == [('Convolved', 'MaxPool').index(name) for name in files['picked']['ops'].values()]
    assert Best(str(tmp_path / 'trained')).shapes() and 'train/held_loss' in runs.rows(tmp_path / 'search')[-2]
