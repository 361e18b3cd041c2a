"""CLIP: its loss, classes by their names, retrieval, what it refuses; and a run through train.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from longview import train
from longview.configs import clip as config
from longview.methods.contrast.clip import Clip, symmetric
from longview.methods.evaluation import make_measure
from longview.methods.task import chain
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Loaded
from longview.modelzoo.layers.frame.dense import Dense
from longview.runtime import evaluation
from longview.runtime.mesh import MeshConfig, make_mesh
from longview.runtime.plan import read_run
from tests import runs
from tests.modelzoo import tiny

RNG = jax.random.key(0)
WORDS = 9


class Pixels(ft.Backbone):
    """One hidden layer."""

    layers = (('hidden',),)

    @nn.compact
    def __call__(self, x, *, train=False):
        return {ft.POOLED: jnp.tanh(Dense(8, name='hidden')(x.reshape(len(x), -1)))}


class Bag(ft.TextBackbone):
    """The mean of word embeddings."""

    layers = (('table',), ('nothing',))
    vocabulary: int = WORDS

    @nn.compact
    def __call__(self, words, valid, *, train=False):
        table = self.param('table', jax.nn.initializers.normal(1.0), (self.vocabulary, 8))
        tokens = table[words] * valid[..., None]
        return {ft.TOKENS: tokens, ft.POOLED: tokens.sum(axis=1)}


def prompts() -> dict[str, np.ndarray]:
    """Returns two captions of three words for each of four classes; the second one is shorter."""
    words = np.random.default_rng(1).integers(0, WORDS, (4, 2, 3), dtype=np.int32)
    return {'words': words, 'words_valid': np.broadcast_to(np.array([[1, 1, 1], [1, 1, 0]], bool), words.shape)}


TASK = Clip(Pixels(), Bag(), width=5, prompts=prompts)


def batch_of(size: int = 8) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        'image': draws.normal(size=(size, 4, 4, 1)).astype(np.float32),
        'words': draws.integers(0, WORDS, (size, 3), dtype=np.int32),
        'words_valid': draws.uniform(size=(size, 3)) < 0.7,
        'label': draws.integers(0, 4, size, dtype=np.int32),
        'epoch': np.zeros(size, np.int32),
        'index': np.arange(size, dtype=np.int32),
        'row': np.arange(size, dtype=np.int32),
    }


def on_device(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return jax.tree.map(jnp.asarray, batch)


@functools.cache
def variables():
    return jax.device_get(tiny.jit(TASK.init)(RNG, on_device(batch_of())))


@functools.cache
def answers() -> dict[str, dict]:
    """Returns what one program predicts of the batch and of the prompts, its loss, and the classes."""

    @tiny.jit
    def run(v, batch, named):
        loss, (_, metrics) = TASK.loss(v, batch, RNG, jnp.int32(0))
        return {
            'found': TASK.predict(v, batch),
            'named': TASK.predict(v, batch | named),
            'loss': loss,
            'metrics': metrics,
            'classes': TASK.prepare(v, None),
        }

    named = {name: jnp.asarray(column.reshape(8, 3)) for name, column in prompts().items()}
    return jax.device_get(run(variables(), on_device(batch_of()), named))


def cross_entropy(logits: np.ndarray) -> float:
    """Returns the mean over the rows, whose right answers are on the diagonal."""
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diagonal(logits)))


def test_the_loss_is_the_mean_of_both_directions():
    logits = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    rows, columns = cross_entropy(logits), cross_entropy(logits.T)
    assert abs(rows - columns) > 0.01
    np.testing.assert_allclose(symmetric(jnp.asarray(logits)), (rows + columns) / 2, rtol=1e-5)
    np.testing.assert_allclose(symmetric(jnp.asarray(logits.T)), (rows + columns) / 2, rtol=1e-5)


def test_the_loss_compares_cosines_over_the_temperature():
    image, text = (answers()['found'][f'{name}_embedding'] for name in ('image', 'text'))
    for embedding in (image, text):
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    logits = image @ text.T / 0.07
    np.testing.assert_allclose(answers()['loss'], (cross_entropy(logits) + cross_entropy(logits.T)) / 2, rtol=1e-4)
    metrics = answers()['metrics']
    assert metrics['accuracy'] == np.mean(logits.argmax(axis=1) == np.arange(8))
    np.testing.assert_allclose(metrics['temperature'], 0.07, rtol=1e-5)


def test_the_others_are_those_of_all_devices():
    mesh = make_mesh(MeshConfig())
    shards = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    assert len(shards.device_set) == 8
    loss = tiny.jit(lambda v, batch: TASK.loss(v, batch, RNG, jnp.int32(0))[0])
    with jax.set_mesh(mesh):
        found = loss(variables(), jax.device_put(batch_of(), shards))
    np.testing.assert_allclose(jax.device_get(found), answers()['loss'], rtol=1e-5)


def test_the_factor_stays_at_100_or_below():
    at = lambda scale: variables()._replace(params=variables().params | {'log_scale': jnp.log(scale)})
    after = lambda scale: float(jnp.exp(TASK.after(at(scale), None, jnp.int32(0)).params['log_scale']))
    np.testing.assert_allclose([after(1000.0), after(100.0), after(20.0)], [100, 100, 20], rtol=1e-5)


def test_a_class_is_the_mean_of_its_captions():
    each = answers()['named']['text_embedding'].reshape(4, 2, 5)
    mean = each.mean(axis=1)
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(answers()['classes'], wanted, rtol=1e-4, atol=1e-5)


def test_classes_are_embedded_once_an_evaluation_and_decide_what_is_measured():
    calls = []
    task = dataclasses.replace(TASK, prompts=lambda: calls.append(1) or prompts())
    v, batch = variables(), on_device(batch_of()) | {'mask': jnp.arange(8) < 6}
    ready = jax.eval_shape(task.prepare, v, None)
    assert ready.shape == (4, 5) and len(calls) == 1
    image = answers()['found']['image_embedding']
    others = np.roll(answers()['classes'], 1, axis=0)
    measure = tiny.jit(lambda ready: task.measure(v, batch, ready, RNG))
    for classes in (answers()['classes'], others):
        sums = jax.device_get(measure(classes))
        logits = image[:6] @ classes.T / 0.07
        label = batch_of()['label'][:6]
        assert sums['count'] == 6 and sums['accuracy'] == np.sum(logits.argmax(axis=1) == label)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), label]
        np.testing.assert_allclose(sums['loss'], losses.sum(), rtol=1e-4)
    assert len(calls) == 1


class Split:
    """An evaluation split of 13 rows in batches of 8."""

    def evaluate(self, batches, size):
        columns = {name: x for name, x in batch_of(16).items() if name != 'row'} | {'mask': np.arange(16) < 13}
        return (part for part in [jax.tree.map(lambda x: x[i : i + 8], columns) for i in (0, 8)])

    def batch_spec(self, size, train):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), next(self.evaluate(None, size)))


def evaluation_of(task: Clip) -> evaluation.Evaluation:
    measure, prepare = tiny.jit(make_measure(task, chain([]))), tiny.jit(task.prepare)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return evaluation.Evaluation('eval/', Split(), 8, here, measure, task.figures, prepare, None, lambda *_: None)


@pytest.mark.parametrize('named', [True, False])
def test_figures_are_those_of_the_whole_split_and_are_named_before(named):
    task = TASK if named else dataclasses.replace(TASK, prompts=None)
    made = evaluation_of(task)
    figures = made(variables(), RNG)
    assert {*figures} == {*made.names(variables(), RNG), 'eval/examples'}
    assert ('eval/accuracy' in figures) == named
    found = {f'eval/{way}_recall_at_{k}' for way in ('image_to_text', 'text_to_image') for k in (1, 5)}
    assert found <= {*figures} and all(0 <= figures[name] <= 1 for name in found)
    assert figures['eval/examples'] == 13


def test_captions_of_the_same_words_are_one_whatever_fills_them_up():
    words = np.array([[1, 2, 3], [1, 2, 4], [5, 6, 7], [1, 2, 3]], np.int32)
    valid = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]], bool)
    batch = {name: column[:4] for name, column in on_device(batch_of()).items()}
    rows = jax.device_get(
        TASK.rows(variables(), batch | {'words': jnp.asarray(words), 'words_valid': jnp.asarray(valid)}, None)
    )
    assert len(np.unique(rows['caption'], axis=0)) == 3
    # The first and the third image find their caption, and the first caption one of its images, an equal one aside.
    found = np.eye(5, dtype=np.float32)
    figures = TASK.figures({'count': 4}, rows | {'image': found[[0, 1, 1, 3]], 'text': found[[0, 0, 1, 2]]})
    assert figures['image_to_text_recall_at_1'] == 1 / 2
    np.testing.assert_allclose(figures['text_to_image_recall_at_1'], 1 / 3)


def test_a_parameter_has_the_depth_of_its_tower():
    paths = ('image/backbone/hidden/kernel', 'text/backbone/table', 'inner/text/projection/kernel', 'log_scale')
    assert [TASK.depth_of(path) for path in paths] == [(0, 1), (0, 2), (1, 2), (0, 1)]


class Ones(Loaded):
    """A network whose weights are all read as ones."""

    new_head: bool = False

    def load(self, like):
        return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), dict(like))


def test_a_tower_starts_from_what_its_network_is_loaded_from():
    task = dataclasses.replace(TASK, text=Ones(Bag(), None))
    v = jax.device_get(tiny.jit(lambda given: task.init(RNG, on_device(batch_of()), given))(task.given(batch_of())))
    loaded, others = v.params['text'].pop('backbone'), variables().params
    assert (loaded['table'] == 1).all() and loaded['table'].shape == (WORDS, 8)
    jax.tree.map(np.testing.assert_array_equal, v.params['image'], others['image'])
    assert v.params['text']['projection']['kernel'].shape == (8, 5)
    assert not task.given(batch_of(), fixed_only=True).networks
    assert task.depth_of('text/backbone/table') == (0, 2)


def test_microbatches_are_refused():
    node = config.get_config('digits').to_dict() | {'accumulate': 2}
    with pytest.raises(ValueError, match='accumulate is 2 and Clip compares all examples of a batch with each other'):
        read_run(node)


@pytest.mark.parametrize(
    'column, words', [('words_valid', 'Bag reads words_valid, and the batch has'), ('image', 'Pixels reads image, and')]
)
def test_a_column_that_is_missing_is_named(column, words):
    batch = {name: x for name, x in batch_of().items() if name != column}
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(TASK.init, RNG, batch)


def test_what_cannot_work_is_refused():
    with pytest.raises(
        TypeError, match=r'Clip.text needs a TextBackbone \(words with a padding mask\), and Pixels has'
    ):
        Clip(Pixels(), Pixels())
    with pytest.raises(ValueError, match='Clip.temperature is 0.001: it must be at least 0.01'):
        dataclasses.replace(TASK, temperature=0.001)
    flat = dataclasses.replace(TASK, prompts=lambda: {name: x[0] for name, x in prompts().items()})
    with pytest.raises(ValueError, match=r'shapes \(2, 3\), \(2, 3\): make them \(classes, captions, words\)'):
        jax.eval_shape(flat.prepare, variables(), None)
    batch = {name: x for name, x in on_device(batch_of()).items() if name != 'label'} | {'mask': jnp.ones(8, bool)}
    with pytest.raises(ValueError, match='the batch has no label: set prompts to None'):
        jax.eval_shape(TASK.measure, variables(), batch, answers()['classes'], RNG)


def test_a_run_by_train_py_with_averaged_weights(tmp_path):
    made = config.get_config('digits')
    # Networks that compile quickly; test_configs.py builds the config's own.
    made.task.inner.image = {'fn': 'tests.methods.test_clip:Pixels'}
    made.task.inner.text = {'fn': 'tests.methods.test_clip:Bag', 'vocabulary': 24}
    made.data.train_split.copies = 1
    made.update(steps=4, batch_size=64, eval_batch_size=128, log_every=2, eval_every=4, save_every=4)
    made.optimizer.schedule.warmup_epochs = 0.0
    made.best = 'eval/text_to_image_recall_at_5'
    with runs.quickly():
        scores = train.train(made, tmp_path)
    assert scores['eval/examples'] == 359 and np.isfinite([*scores.values()]).all()
    assert {'eval/accuracy', 'eval/raw_accuracy', 'eval/raw_image_to_text_recall_at_1'} <= {*scores}
    assert runs.saved(tmp_path, 'best') == [4]
