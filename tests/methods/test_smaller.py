"""Networks with fewer hidden units: what goes, what stays, and that a later stage trains on with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from longview import train
from longview.configs import base
from longview.methods.computation import Opened, Work
from longview.methods.prune.smaller import Smaller, importance, smaller
from longview.methods.task import Network
from longview.runtime.checkpoint import Best
from longview.runtime.errors import RunError
from longview.runtime.nodes import node_of
from longview.runtime.resolve import resolve
from longview.trees import by_path
from tests import runs, toys
from tests.modelzoo import tiny

# Of each kind of layer one, and of each family that has one of these.
KINDS = {'vit_test': 'Mlp', 'vig_test': 'SwiGLU', 'svformer_test': 'GatedMlp'}
OTHERS = (
    'convit_test',
    'convnext_test',
    'cvt_test',
    'hornet_test',
    'hyena_test',
    'mixer_test',
    'swinv2_test',
    'gla_test',
    'zoology_attention_test',
)


def without_some(params, share):
    """Returns parameters where a random `share` of the units of each layer have no weights out, and their numbers."""
    draw, dead = np.random.default_rng(0), {}

    def change(path, leaf):
        path = jax.tree_util.keystr(path, simple=True, separator='/')
        if not path.endswith('mlp/down/kernel'):
            return leaf
        dead[path] = np.sort(draw.permutation(len(leaf))[: round(share * len(leaf))])
        return leaf.at[dead[path]].set(0)

    return jax.tree_util.tree_map_with_path(change, params), dead


@pytest.mark.parametrize('name', KINDS)
def test_units_without_weights_out_go_first_and_no_output_changes(name):
    model, x = tiny.sized(name)
    x = jax.random.randint(jax.random.key(1), x.shape, 0, 9) if x.dtype == 'int32' else jnp.full(x.shape, 0.3)
    variables = tiny.filled(model, x)
    params, dead = without_some(variables['params'], 0.5)
    assert len(dead) == model.backbone.depth and len({tuple(units) for units in dead.values()}) > 1
    whole = Network(model, {**variables, 'params': params})
    small = smaller(whole, 0.5)
    answer = lambda network: tiny.jit(network.module.apply)(network.variables, x)['logits']
    before, after, untouched = jax.device_get([answer(whole), answer(small), answer(Network(model, variables))])
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert np.abs(untouched - before).max() > 1e-2
    was, now = by_path(params), by_path(small.variables['params'])
    assert was.keys() == now.keys()
    for path, units in dead.items():
        left = np.delete(np.asarray(was[path]), units, axis=0)
        np.testing.assert_array_equal(now[path], left)
    rest = [path for path in was if '/mlp/' not in path]
    assert rest and all(was[path] is now[path] or np.array_equal(was[path], now[path]) for path in rest)


@pytest.mark.parametrize('name', [*KINDS, *OTHERS])
def test_the_arrays_are_those_of_the_smaller_module_which_a_config_can_say(name):
    model, x = tiny.sized(name)
    whole = jax.eval_shape(model.init, jax.random.key(0), x)
    made = []

    def cut(variables):
        made.append(smaller(Network(model, dict(variables)), 0.5))
        return made[0].variables

    arrays = jax.eval_shape(cut, whole)
    again = resolve(json.loads(json.dumps(node_of(made[0].module))))
    wanted = jax.eval_shape(again.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, arrays) == jax.tree.map(jnp.shape, dict(wanted))
    was, now = by_path(whole['params']), by_path(arrays['params'])
    downs = [path for path in was if path.endswith('/mlp/down/kernel')]
    assert downs and all(now[path].shape[0] * 2 == was[path].shape[0] for path in downs)


def test_a_unit_counts_by_the_norms_of_its_weights_in_and_out():
    """Two units: 5 into and 2 out of the first, 1 into and 6 out of the second; the bias out is nobody's."""
    layer = {
        'up/kernel': jnp.array([[3.0, 0.0], [0.0, 0.0]]),
        'up/bias': jnp.array([4.0, 1.0]),
        'down/kernel': jnp.array([[0.0, 2.0], [6.0, 0.0]]),
        'down/bias': jnp.array([9.0, 9.0]),
    }
    axes = {'up/kernel': 1, 'up/bias': 0, 'down/kernel': 0}
    np.testing.assert_allclose(importance(layer, axes), [10, 6], rtol=1e-6)
    # A gate beside the value: 3 and 2 into the first unit, 1 and 2 into the second.
    gated = {'up/kernel': jnp.array([[3.0, 1.0, 2.0, 2.0]]), 'down/kernel': layer['down/kernel']}
    np.testing.assert_allclose(importance(gated, {'up/kernel': 1, 'down/kernel': 0}), [12, 12], rtol=1e-6)


@pytest.mark.parametrize(
    'name, share, words',
    [
        ('resnet_test', 0.5, 'ResNet has no field mlp, and hidden units are removed from Mlp, SwiGLU, GatedMlp: take'),
        ('convnextv2_test', 0.5, 'ConvNeXt has ResponseMlp as its mlp, and hidden'),
        ('zoology_rwkv4_test', 0.5, 'RWKV4 has a tuple as its mlp, and hidden'),
        ('pvt_v1_test', 0.5, 'stage0/block00/mlp/ has other arrays than the mlp of its backbone makes: take'),
        ('vit_test', 0.001, 'block00/mlp/ would keep 0 of its 128 hidden units: change Smaller.share'),
        ('gla_test', 0.99, r'block00/mlp/ would keep (\d+) of its \1 hidden units: change Smaller.share'),
    ],
)
def test_what_cannot_become_smaller_is_refused_in_words(name, share, words):
    model, x = tiny.sized(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda v: smaller(Network(model, dict(v)), share).variables, variables)


class Finished(Work):
    """Work of a run that has left one network."""

    def open(self, workdir):
        return Left()


class Left(Opened):
    """A run that has left one network."""

    networks = {'network': None}


def test_a_share_and_a_name_that_cannot_be_are_refused_in_words():
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf'Smaller.share is {share}: it must be above 0 and below 1'):
            Smaller('runs/dense', share)
    with pytest.raises(ValueError, match="Smaller.network is 'student', and runs/dense has network: name one"):
        Smaller('runs/dense', network='student')(Finished())


VIT = {'fn': 'modelzoo:backbone', 'variant': 'vit_test', 'patch': 4, 'image_size': 8, 'depth': 1}


def staged(share=0.25):
    """A network, the same with a share of its hidden units, and that one trained on."""
    head = {'fn': 'modelzoo.heads:Linear', 'num_classes': None}
    floats = [base.normalize((0.3,), (0.4,))]
    changes = {'steps': 4, 'eval_every': 4, 'save_every': 4, 'train_transforms': floats, 'eval_transforms': floats}
    node = toys.config(**changes).to_dict()
    best = {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'small'}}
    task = lambda **network: {'task': {'fn': 'methods.supervised:Supervised', **network}}
    stages = {
        'dense': node | task(backbone=VIT, head=head),
        'small': {'fn': 'methods.prune.smaller:Smaller', 'run': {'stage': 'dense'}, 'share': share},
        'tuned': node | task(network={'fn': 'methods.start:again', 'read': best}),
    }
    return ConfigDict({'stages': stages})


def test_a_stage_trains_on_with_the_smaller_network(tmp_path):
    with runs.quickly():
        train.train(staged(), tmp_path)
    counts = json.loads((tmp_path / 'small' / 'smaller.json').read_text())
    saved = {stage: Best(str(tmp_path / stage)) for stage in ('dense', 'small', 'tuned')}
    sizes = {
        stage: sum(np.prod(shape) for path, shape in best.shapes().items() if path.startswith('deployed/network/par'))
        for stage, best in saved.items()
    }
    # 96 units of 32 weights in, a bias and 32 weights out have gone.
    assert counts == {'before': sizes['dense'], 'after': sizes['small']}
    assert sizes['dense'] - sizes['small'] == 96 * 65 and sizes['tuned'] == sizes['small']
    assert node_of(saved['tuned'].module('network')) == node_of(saved['small'].module('network'))
    first = runs.rows(tmp_path / 'tuned')[0]['train/loss']
    assert first < runs.rows(tmp_path / 'dense')[0]['train/loss'], 'it begins where the dense one has ended'
    path = 'deployed/network/params/head/kernel'
    heads = {stage: best([path])[path] for stage, best in saved.items()}
    np.testing.assert_array_equal(heads['small'], heads['dense'])
    assert np.abs(heads['tuned'] - heads['small']).max() > 0
    with pytest.raises(RunError, match='small holds a stage of another config: config.stages.small.share was 0.25'):
        train.train(staged(0.5), tmp_path)
