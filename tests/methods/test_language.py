"""Language modelling: the loss against sums by hand, places that ask nothing, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.methods import language
from longview.methods.ema import Ema
from longview.methods.evaluation import make_measure
from longview.methods.language import LanguageModel
from longview.methods.task import Variables, chain
from longview.modelzoo import heads
from longview.modelzoo.sequence import zoology
from tests.modelzoo.tiny import jit


def test_scores_are_means_over_the_places_that_ask():
    logits = np.log(np.float32([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    labels = np.int32([[0, -100, 1], [-100, -100, -100]])
    scores = jax.device_get(jit(language._scores)(np.stack([logits, logits]), labels))
    np.testing.assert_allclose(scores['loss'], [-(np.log(0.5) + np.log(0.2)) / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(scores['accuracy'], [0.5, 0])


@pytest.mark.parametrize('size', [4, 2])
def test_scores_of_a_split_are_means_over_its_questions(size, monkeypatch):
    """Whatever the batches are, though rows ask 3, 0 and 1 questions and the last row is padding."""
    task = LanguageModel(zoology.zoology('based', width=8, vocabulary=16, depth=1), heads.LanguageHead(16))
    label = jnp.asarray([[0, 1, 2], [-100, -100, -100], [-100, -100, 0], [1, 1, 1]])
    chances = jnp.asarray([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]])
    shown = lambda self, v, batch: {'logits': jnp.broadcast_to(jnp.log(chances), (size, 3, 3))}
    monkeypatch.setattr(LanguageModel, 'predict', shown)
    score, rows = jit(make_measure(task, chain([]))), {'label': label, 'mask': jnp.arange(4) < 3}
    parts = [{name: x[i : i + size] for name, x in rows.items()} for i in range(0, 4, size)]
    found = jax.device_get([score(Variables({}, {}, {}), part, jax.random.key(0)).sums for part in parts])
    sums = jax.tree.map(lambda *leaves: sum(leaves), *found)
    # Asked are 0.5, 0.8 and 0.6, which are the largest of their places, and 0.2, which is not.
    assert sums['weight'] == 4
    np.testing.assert_allclose(sums['loss'] / sums['weight'], -np.log([0.5, 0.8, 0.2, 0.6]).mean(), rtol=1e-5)
    np.testing.assert_allclose(sums['accuracy'] / sums['weight'], 3 / 4)
    np.testing.assert_array_equal(Ema(task).weight(rows), [3, 0, 1, 3])


def test_a_task_trains_a_network_whose_head_has_no_parameters():
    task = LanguageModel(zoology.zoology('based', width=8, vocabulary=16, depth=1), heads.LanguageHead(16))
    batch = {'words': jnp.zeros((2, 4), jnp.int32), 'label': jnp.asarray([[1, -100, 2, 3], [4, 5, -100, -100]])}

    def run(key):
        v = task.init(key, batch)
        rows, step = batch | {'row': jnp.arange(2)}, jnp.zeros((), int)
        loss = lambda params: task.loss(v._replace(params=params), rows, key, step)
        (value, (state, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(v.params)
        return value, metrics, gradients, task.score(v, batch)

    value, metrics, gradients, scores = jit(run)(jax.random.key(0))
    np.testing.assert_allclose(value, scores['loss'].mean(), rtol=1e-6)
    np.testing.assert_allclose(value, np.log(16), rtol=0.01)
    assert list(gradients) == ['backbone'] and scores['accuracy'].shape == (2,) and metrics['loss'] == value
    assert task.depth_of('backbone/block00/mixer/q/kernel') == (1, 3)


def test_a_backbone_that_cannot_read_words_is_refused():
    with pytest.raises(ValueError, match='needs a backbone that reads words: set its vocabulary'):
        LanguageModel(modelzoo.backbone('s4d_test'), heads.LanguageHead(4))
    with pytest.raises(TypeError, match='LanguageModel needs a SequenceBackbone'):
        LanguageModel(heads.Linear(3), heads.LanguageHead(4))
