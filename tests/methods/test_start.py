"""Weights that a task begins with: of a published file and of another run, read once and handed in as arguments."""

import contextlib
import functools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from longview import modelzoo, train
from longview.configs import base
from longview.methods.distill.logits import Distill
from longview.methods.ema import Ema
from longview.methods.evaluate.linear_probe import LinearProbe
from longview.methods.exits.confidence import Branch, EarlyExit
from longview.methods.language import LanguageModel
from longview.methods.objective import variables_of
from longview.methods.peft.low_rank import LowRank, pissa
from longview.methods.prune.magnitude import Prune
from longview.methods.ssl.masked import Autoencoder, MaskedAutoencoder
from longview.methods.ssl.parts import Projector
from longview.methods.ssl.rotation import RotNet
from longview.methods.ssl.simclr import SimClr
from longview.methods.ssl.swav import SwAV
from longview.methods.start import Start, Trained, again
from longview.methods.supervised import Supervised
from longview.methods.task import Given, init_state, read_given
from longview.modelzoo import weight_files, weights
from longview.modelzoo.heads import Classifier, LanguageHead, Linear
from longview.runtime.checkpoint import Best, Checkpoints
from longview.runtime.nodes import node_of
from longview.trees import by_path
from tests import runs
from tests.methods.small import BACKBONES, NET, RNG, SEEN, batch_of, begun, supervised, transform
from tests.modelzoo import tiny

TOKENS = BACKBONES['tokens']
create = functools.partial(modelzoo.create_model, 'vit_test', image_size=8, depth=1)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Published weights of a tiny network for images of 8 x 8, grey, with seven classes."""
    path = tmp_path_factory.mktemp('weights') / 'w.safetensors'
    model = create(7)
    weights.save(model, tiny.filled(model, SEEN['image']), path)
    return str(path)


@functools.cache
def published(file):
    """Returns the file's variables, as the network loads them."""
    return jax.device_get(tiny.jit(create(weights=file).init)(RNG, SEEN['image']))


def alone(task, v):
    """Returns the variables of a task's only network."""
    (network,) = task.deployed(v).values()
    return network.variables


def same(one, other):
    chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(other))


# --- a published file ---


def objectives(network):
    """Every objective, its network given in each of the ways that there are."""
    head = Linear(10)
    return {
        'supervised': Supervised(network, head),
        'supervised_network': Supervised(network=network),
        'supervised_backbone_alone': Supervised(network),
        'rotnet': RotNet(network, Linear(4)),
        'early_exit': EarlyExit(network, head, functools.partial(Branch, 10), ('map',), (0.5, 1.0)),
        'simclr': SimClr(network, Projector((8, 4))),
        'swav': SwAV(network, Projector((8, 4)), prototypes=5),
        'mae': MaskedAutoencoder(Autoencoder(network, 8, 1, 1)),
        'distill': Distill(network, [Classifier(NET, Linear(7))]),
        'ema': Ema(Supervised(network, head)),
        'pissa': LowRank(Supervised(network, head), rank=1, start=pissa),
        'probe': LinearProbe(RotNet(network, Linear(4)), head),
    }


@pytest.mark.parametrize('name', list(objectives(Classifier(TOKENS, Linear(7)))))
def test_every_objective_starts_from_a_published_file(name, file):
    task = objectives(create(weights=file))[name]
    given = task.given(SEEN)
    found = jax.device_get(tiny.jit(lambda given: alone(task, task.init(RNG, SEEN, given)))(given))
    wanted = published(file)
    chex.assert_trees_all_close(found['params']['backbone'], wanted['params']['backbone'], atol=1e-5)
    if name in ('supervised_network', 'supervised_backbone_alone', 'distill'):
        same(found['params']['head'], wanted['params']['head'])
    elif 'head' in found['params']:
        assert found['params']['head']['kernel'].shape != wanted['params']['head']['kernel'].shape
    # Without what was read, it reads for itself; an empty one leaves random values, of the same shapes.
    itself, empty = (jax.eval_shape(task.init, RNG, SEEN, given) for given in (None, Given()))
    assert jax.tree.map(jnp.shape, itself) == jax.tree.map(jnp.shape, empty)


def test_a_language_model_starts_from_a_published_file(tmp_path):
    words = jnp.zeros((2, 4), jnp.int32)
    model = modelzoo.create_model('gla_test')
    variables = tiny.filled(model, words)
    weights.save(model, variables, tmp_path / 'w.safetensors')
    loaded = modelzoo.create_model('gla_test', weights=tmp_path / 'w.safetensors')
    task = LanguageModel(network=loaded)
    same(tiny.jit(task.init)(RNG, {'words': words}, task.given({'words': words})).params, variables['params'])
    other = LanguageModel(loaded, LanguageHead(9)).given({'words': words})
    same(other.networks['network']['params'], {'backbone': variables['params']['backbone']})


def test_a_loaded_network_inside_another_module_is_refused(file):
    wrong = Classifier(create(weights=file), Linear(3))
    with pytest.raises(ValueError, match='Pretrained stands inside another module, .* give a method the whole network'):
        jax.eval_shape(wrong.init, RNG, SEEN['image'])


@pytest.mark.parametrize(
    'make, error, words',
    [
        (lambda: Supervised(head=Linear(3)), ValueError, 'Supervised has no network: give `network`, or `backbone`'),
        (lambda: Supervised(NET), ValueError, 'Supervised has a backbone without a head: give `head` too'),
        (
            lambda: RotNet(NET, network=Classifier(NET, Linear(4))),
            ValueError,
            'RotNet has a network, and a backbone or',
        ),
        (lambda: Supervised(network=NET), TypeError, 'Supervised.network is a Pyramid, and a backbone with a head is'),
        (lambda: EarlyExit(NET, Linear(3)), ValueError, 'EarlyExit has no branch: give a factory of classifiers'),
    ],
)
def test_a_network_that_is_not_whole_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def constants(function, *arguments):
    """Returns the sizes in bytes of the constants of a program."""
    text = tiny.jit(function).lower(*arguments).as_text()
    return [len(digits) // 2 for digits in re.findall(r'dense<"0x([0-9A-F]*)"', text)]


@pytest.mark.parametrize('name', ['supervised', 'distill_loaded', 'start', 'pissa'])
def test_weights_are_arguments_of_the_program_and_no_constants_in_it(name, file, tmp_path):
    network = create(weights=file)
    tasks = objectives(network) | {'distill_loaded': Distill(create(7), [network, network])}
    if name == 'start':
        save(tmp_path, tasks['supervised'], of_a_run(tasks['supervised']))
        tasks['start'] = Start(Supervised(create(10), Linear(10)), Best(str(tmp_path)))
    task = tasks[name]
    init = lambda rng, given: init_state(task, optax.sgd(0.1), rng, batch_of(), transform, given)
    assert max(constants(init, RNG, read_given(task, batch_of(), transform)), default=0) < 4096
    assert max(constants(lambda rng: init(rng, None), RNG)) > 4096  # the test can see them


# --- through train.py ---


def fine_tuning(file, **changes):
    """A config as docs/methods.md has it, of a few steps that move nothing."""
    network = {
        'fn': 'modelzoo:create_model',
        'name': 'vit_test',
        'num_classes': 10,
        'image_size': 8,
        'depth': 1,
        'weights': file,
    }
    task = {'fn': 'methods.supervised:Supervised', 'network': network}
    data = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
    scale = [base.normalize((0.5,), (0.5,))]
    recipe = {'train_transforms': scale, 'eval_transforms': scale, 'steps': 2, 'batch_size': 64}
    node = base.run(task, data, base.adamw(peak=1e-30, warmup_epochs=0.0), **recipe)
    return base.presets(only=node | {'eval_every': 2, 'save_every': 1} | changes)()


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the file is read."""
    count, read = [], weight_files.read
    monkeypatch.setattr(weight_files, 'read', lambda path: count.append(path) or read(path))
    return count


@pytest.fixture
def placed(monkeypatch):
    """Keeps the arrays that are made of parts for the devices."""
    arrays, make = [], jax.make_array_from_callback

    def watch(shape, sharding, callback):
        arrays.append(make(shape, sharding, callback))
        return arrays[-1]

    monkeypatch.setattr(jax, 'make_array_from_callback', watch)
    return arrays


def test_a_config_fine_tunes_a_published_file_read_once_and_in_parts_onto_the_devices(file, tmp_path, reads, placed):
    mesh = {'fn': 'runtime.mesh:MeshConfig', 'data': 1, 'fsdp': 8, 'fsdp_min_size': 1024}
    with runs.quickly():
        train.train(fine_tuning(file, mesh=mesh), tmp_path)
    assert len(reads) == 1
    kernels = [array for array in placed if array.dtype == jnp.float32 and array.size >= 1024]
    assert len(kernels) >= 4
    assert all(shard.data.size == array.size // 8 for array in kernels for shard in array.addressable_shards)
    best = Best(str(tmp_path))()
    found = {path: array for path, array in best.items() if path.startswith('deployed/network/params/backbone/')}
    wanted = by_path({'deployed': {'network': {'params': {'backbone': published(file)['params']['backbone']}}}})
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        np.testing.assert_allclose(array, wanted[path], atol=1e-20, err_msg=path)
    assert best['deployed/network/params/head/kernel'].shape == (32, 10)  # the file has seven classes
    pathlib.Path(tmp_path / 'checkpoints' / '2').rename(tmp_path / 'gone')
    reads.clear()
    with runs.quickly():
        train.train(fine_tuning(file, mesh=mesh), tmp_path)
    assert not reads, 'a run that goes on has its weights in the checkpoint'


# --- another run ---


def save(workdir, task, v, deployed=True, **more):
    """Writes variables as a run's best checkpoint; without `deployed`, as the version before 0.1 did."""
    with contextlib.closing(Checkpoints(pathlib.Path(workdir))) as checkpoints:
        state, left = {'variables': v._replace(fixed=None), **more}, task.deployed(v) if deployed else {}
        nodes = {name: node_of(network.module) for name, network in left.items()}
        checkpoints.save_best(1, state, variables_of(left), nodes)


def of_a_run(task):
    """Returns variables such as a run leaves: all that began alike has moved apart, and masks have holes."""
    rng = np.random.default_rng(0)

    def moved(leaf):
        noise = rng.random(leaf.shape, np.float32)
        if leaf.dtype == bool:
            return jnp.asarray(noise < 0.5)
        return jnp.asarray(np.asarray(leaf) + noise / 10) if leaf.dtype == np.float32 else leaf

    v = begun(task)
    return v._replace(params=jax.tree.map(moved, v.params), state=jax.tree.map(moved, v.state))


RUNS = {
    'averaged and pruned': Ema(Prune(supervised(NET), every=1, amount=0.5), 0.5),
    'low rank': LowRank(supervised(NET), rank=1, alpha=2.0),
    'probed': LinearProbe(MaskedAutoencoder(Autoencoder(TOKENS, 8, 1, 1)), Linear(10)),
    'clusters': SwAV(NET, Projector((8, 4)), prototypes=5),
}


@pytest.mark.parametrize('name', RUNS)
def test_a_run_of_any_method_can_be_started_from(name, tmp_path):
    task = RUNS[name]
    v = of_a_run(task)
    save(tmp_path, task, v)
    read, backbone = Best(str(tmp_path)), TOKENS if name == 'probed' else NET
    start = Start(supervised(backbone), read, fresh='head/.*')
    whole = Trained(backbone, Linear(10), read) if name in ('averaged and pruned', 'low rank') else None

    @tiny.jit
    def run(v, given):
        started = start.predict(start.init(jax.random.key(7), SEEN, given), SEEN)
        if whole is None:
            return task.predict(v, SEEN), started
        logits = whole.apply(whole.init(RNG, SEEN['image']), SEEN['image'])['logits']
        return task.predict(v, SEEN), started, logits, Supervised(whole, Linear(3)).init(RNG, SEEN).params['backbone']

    answers, found, *more = jax.device_get(run(v, start.given(SEEN)))
    np.testing.assert_allclose(found['pooled'], answers['pooled'], rtol=1e-4, atol=1e-6)
    if whole is not None:
        logits, under_a_new_head = more
        np.testing.assert_allclose(logits, answers['logits'], rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(under_a_new_head, alone(task, v)['params']['backbone'], rtol=1e-6)


@pytest.fixture(scope='module')
def averaged():
    """A task with averaged weights, and its variables after a run."""
    task = Ema(supervised(NET), 0.9)
    return task, of_a_run(task)


def test_the_weights_that_were_trained_can_be_taken_in_place_of_their_averages(averaged, tmp_path):
    task, v = averaged
    save(tmp_path, task, v)
    start = lambda **options: Start(supervised(NET), Best(str(tmp_path)), **options).given(SEEN).networks['network']
    same(start()['params'], v.state['average'])
    same(start()['batch_stats'], alone(task, v)['batch_stats'])
    same(start(averaged=False), {'params': v.params, 'batch_stats': {'backbone': v.state['inner']['batch_stats']}})
    new_head = start(fresh='head/.*')
    assert new_head['params'].keys() == {'backbone'} and new_head.keys() == {'params', 'batch_stats'}


@pytest.mark.parametrize('kind', ['averaged', 'plain', 'whole'])
def test_a_best_checkpoint_of_an_earlier_version_can_be_started_from(kind, averaged, tmp_path):
    task, v = averaged
    inner = v.state['inner']
    if kind == 'averaged':
        v = v._replace(state={'inner': inner, 'average': v.state['average']})
        wanted = {'params': v.state['average'], 'batch_stats': {'backbone': inner['batch_stats']}}
    elif kind == 'plain':
        v = v._replace(state=inner)
        wanted = {'params': v.params, 'batch_stats': {'backbone': inner['batch_stats']}}
    else:  # an objective that runs backbone and head as one has the backbone's name in its state
        v = v._replace(state={'batch_stats': {'backbone': inner['batch_stats']}})
        wanted = {'params': v.params, **v.state}
    save(tmp_path, task, v, deployed=False)
    read = Best(str(tmp_path))
    loaded, started = Trained(NET, Linear(10), read), Start(supervised(NET), read)
    network, start = tiny.jit(lambda: (loaded.init(RNG, SEEN['image']), started.init(RNG, SEEN)))()
    same(network, wanted)
    same({'params': start.params, 'batch_stats': {'backbone': start.state['batch_stats']}}, wanted)


def test_what_a_run_does_not_have_is_said_before_anything_is_read(averaged, tmp_path):
    task, v = averaged
    save(tmp_path, task, v)
    read = Best(str(tmp_path))
    with pytest.raises(
        ValueError,
        match=rf'params/head/bias is \(3,\) in this config and \(10,\) in .* of {tmp_path} \(and 1 more do not',
    ):
        Start(Supervised(NET, Linear(3)), read).init(RNG, SEEN)
    with pytest.raises(ValueError, match='params/backbone/block00/.* and absent in the checkpoint'):
        Start(supervised(TOKENS), read).given(SEEN)
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/none/best holds no checkpoint: train that run first'):
        Trained(NET, Linear(10), Best(str(tmp_path / 'none'))).init(RNG, SEEN['image'])


def test_only_the_weights_that_are_used_are_read(averaged, tmp_path):
    task, v = averaged
    save(tmp_path, task, v, opt_state=jnp.asarray(np.random.default_rng(0).normal(size=2**21), jnp.float32))
    read = lambda: int(re.search(r'rchar: (\d+)', pathlib.Path('/proc/self/io').read_text())[1])
    start, before = Start(supervised(NET), Best(str(tmp_path))), read()
    start.given(SEEN)
    used = read() - before
    Best(str(tmp_path))()
    everything = read() - before - used
    assert used < 2**20 < 2**22 < everything
    assert set(Best(str(tmp_path))({'variables/params/head/bias'})) == {'variables/params/head/bias'}


def test_a_run_that_goes_on_reads_only_what_never_changes(averaged, file, tmp_path):
    task, v = averaged
    save(tmp_path, task, v)
    trained_classifier = Trained(NET, Linear(10), Best(str(tmp_path)))
    start = Start(supervised(NET), Best(str(tmp_path)))
    leaves = lambda task: len(jax.tree.leaves(task.given(SEEN, fixed_only=True)))
    assert leaves(Supervised(network=trained_classifier)) == leaves(start) == leaves(Ema(start)) == 0
    assert leaves(LowRank(start, rank=1)) == len(jax.tree.leaves(alone(task, v)))  # the base is made of it
    taught = Distill(trained_classifier, [trained_classifier]).given(SEEN, fixed_only=True)
    assert not taught.networks and len(jax.tree.leaves(taught.fixed)) == leaves(LowRank(start, rank=1))


def test_what_fits_can_be_taken_and_the_rest_is_listed(averaged, tmp_path, capsys):
    task, v = averaged
    save(tmp_path, task, v)
    start = Start(Supervised(NET, Linear(3)), Best(str(tmp_path)), strict=False)
    taken = start.given(SEEN).networks['network']
    same(taken['params'], {'backbone': v.state['average']['backbone']})
    assert 'params/head/bias, params/head/kernel start anew' in capsys.readouterr().out
    Start(RotNet(NET, Projector((4,))), Best(str(tmp_path)), fresh='head/.*').given(SEEN)
    said = capsys.readouterr().out
    assert 'params/head/layer0/kernel start anew and params/head/bias, params/head/kernel are left over.' in said
    other = {'params': {'other': np.zeros(2, np.float32)}}
    with contextlib.closing(Checkpoints(tmp_path / 'other')) as checkpoints:
        checkpoints.save_best(1, {'variables': other}, {'network': other})
    with pytest.raises(ValueError, match='has none of the arrays of this network: name another run'):
        Start(supervised(NET), Best(str(tmp_path / 'other')), strict=False).given(SEEN)


def test_parts_are_taken_from_wherever_they_are_in_another_network(averaged, tmp_path, capsys):
    task, v = averaged
    network = alone(task, v)
    other = {kind: {'encoder': network[kind]['backbone'], 'other': {}} for kind in ('params', 'batch_stats')}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save_best(1, {'variables': other}, {'network': other})
    start = lambda **parts: Start(Supervised(NET, Linear(3)), Best(str(tmp_path)), parts=parts).given(SEEN)
    same(start(backbone='encoder').networks['network'], {kind: {'backbone': other[kind]['encoder']} for kind in other})
    assert 'params/head/bias, params/head/kernel start anew' in capsys.readouterr().out
    norm = start(**{'backbone/norm': 'encoder/norm'}).networks['network']
    same(norm, {kind: {'backbone': {'norm': other[kind]['encoder']['norm']}} for kind in other})
    with pytest.raises(ValueError, match="Start.parts names 'stem', and the network has nothing there: its places are"):
        start(stem='encoder/stem')
    with pytest.raises(ValueError, match='params/head/bias is .* in this config and absent in the checkpoint'):
        start(head='head')


@pytest.mark.parametrize('name', RUNS)
def test_a_network_of_a_run_is_had_again_without_describing_it(name, tmp_path):
    task = RUNS[name]
    v = of_a_run(task)
    save(tmp_path, task, v)
    loaded = again(Best(str(tmp_path)), Linear(3) if name in ('probed', 'clusters') else None)
    given = Supervised(network=loaded).given(SEEN).networks['network']
    wanted = alone(task, v)
    same(given['params']['backbone'], wanted['params']['backbone'])
    assert ('head' in given['params']) == (name not in ('probed', 'clusters'))
    assert node_of(loaded.backbone) == node_of(task.deployed(v)['network'].module.backbone)


def test_one_of_two_networks_is_named(tmp_path):
    task, wrapped = SwAV(NET, Projector((8, 4)), prototypes=5), supervised(NET)
    v = of_a_run(task)
    two = {name: alone(task, v) for name in ('left', 'right')}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save_best(1, {'variables': v._replace(fixed=None)}, two, {'left': node_of(NET)})
    read = Best(str(tmp_path))
    start = Start(wrapped, read, fresh='head/.*', network='right').given(SEEN).networks['network']
    same(start['params']['backbone'], two['right']['params']['backbone'])
    with pytest.raises(ValueError, match='has the networks left and right, and none is called network: say which'):
        Start(wrapped, read, fresh='head/.*').given(SEEN)
    with pytest.raises(ValueError, match='kept no description of the network right'):
        read.module('right')
    with pytest.raises(ValueError, match='left of .* is a Pyramid, which has no backbone: name a network that has'):
        again(read, network='left')
