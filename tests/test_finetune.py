"""configs/finetune.py: a network with its weights, adapted by config alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from longview import modelzoo, train
from longview.configs import base, finetune
from longview.methods.task import read_given
from longview.modelzoo import published, weights
from longview.runtime.plan import read_run
from longview.runtime.resolve import plain, resolve
from longview.trees import by_path
from tests import runs
from tests.modelzoo import tiny


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Weights of a tiny network with ten classes for gray images of 8 x 8."""
    path = tmp_path_factory.mktemp('weights') / 'w.safetensors'
    model = modelzoo.create_model('vit_test', 10, image_size=8, depth=2)
    weights.save(model, tiny.filled(model, jnp.zeros((1, 8, 8, 1))), path)
    return str(path)


def config(file, preset, **changes):
    """A preset on digits, with the tiny network."""
    node = plain(finetune.get_config(preset))
    task = node['task']['inner'] if preset != 'full' else node['task']
    task['network'] |= {'name': 'vit_test', 'weights': file, 'image_size': 8, 'depth': 2}
    scale = [base.normalize((0.3,), (0.4,))]
    data = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
    short = {'steps': 4, 'epochs': None, 'batch_size': 64, 'eval_every': 4, 'save_every': 4}
    short['optimizer'] = base.adamw(peak=1e-2, warmup_epochs=0.0)
    return ConfigDict(node | {'data': data, 'train_transforms': scale, 'eval_transforms': scale} | short | changes)


@pytest.mark.parametrize('preset', ['full', 'probe', 'partly'])
def test_the_first_logits_are_those_of_the_loaded_network(preset, file):
    made, _ = read_run(config(file, preset).to_dict())
    spec = made.data.batch_spec(4, train=True)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    batch = {name: jnp.zeros(s.shape, s.dtype) for name, s in spec.items()} | {'image': image, 'row': jnp.arange(4)}
    given = read_given(made.task, batch, lambda batch, rng: batch)
    network = modelzoo.create_model('vit_test', weights=file, image_size=8, depth=2)

    @tiny.jit
    def both(given):
        ours = made.task.predict(made.task.init(jax.random.key(1), batch, given), batch)['logits']
        return ours, network.apply(network.init(jax.random.key(2), image), image)['logits']

    ours, theirs = jax.device_get(both(given))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_images_are_prepared_as_the_published_weights_of_the_network_want_it():
    made = finetune.get_config('probe')
    made.task.inner.network.name = 'vit_base_patch16_224'
    (normalize,) = resolve(plain(made.eval_transforms), 'x')
    assert normalize.mean == normalize.std == published.table()['vit_base_patch16_224'].preprocessing.std == (0.5,)
    made.task.inner.network.name = 'convnext_tiny'
    (normalize,), crop = resolve(plain(made.eval_transforms), 'x'), resolve(made.data.eval_crop, 'x')
    assert normalize.mean == (0.485, 0.456, 0.406) and crop.fraction == 0.875


@pytest.mark.parametrize('preset, still', [('probe', 'backbone/'), ('partly', 'backbone/block00')])
def test_what_is_held_stays_through_a_run(preset, still, file, tmp_path):
    changes = {}
    if preset == 'partly':
        inner = config(file, preset).to_dict()['task']
        changes['task'] = inner | {'pattern': 'backbone/block00/.*'}
    with runs.quickly():
        train.train(config(file, preset, **changes), tmp_path)
    network = modelzoo.create_model('vit_test', weights=file, image_size=8, depth=2)
    before = by_path(jax.device_get(network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))))
    after = runs.checkpoint(tmp_path, 4, 'best', item='deployed')
    moved = {path for path, leaf in before.items() if not np.array_equal(leaf, after[f'network/{path}'])}
    assert moved and not any(path.startswith(f'params/{still}') for path in moved)
    assert {'params/head/kernel', 'params/head/bias'} <= moved
