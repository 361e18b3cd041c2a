"""Networks with a head for labels and one for a teacher: what each learns, and what both answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods import forward
from longview.methods.distill.logits import Distill
from longview.methods.supervised import Supervised
from longview.modelzoo.heads import Classifier, Linear, TwoHeads
from tests.methods.small import NET, RNG, SEEN, begun
from tests.modelzoo import tiny

TEACHERS = [Classifier(NET, Linear(10)) for _ in range(2)]


def likely(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def negative_log(logits: np.ndarray, classes: np.ndarray) -> float:
    return -np.log(likely(logits)[np.arange(len(classes)), classes]).mean()


@pytest.mark.parametrize('head, answers', [(TwoHeads(10), ('label_logits', 'teacher_logits')), (Linear(10), ())])
def test_labels_and_decisions_of_teachers_are_learned_by_a_head_each(head, answers):
    task = Distill(Classifier(NET, head), TEACHERS, hard=True, label_weight=0.25)
    v = begun(task)

    @tiny.jit
    def run(v):
        said, _ = forward.learn(task.student, v.params, v.state, SEEN['image'], rng=RNG, row=SEEN['row'])
        taught = [teacher.apply(each, SEEN['image'])['logits'] for teacher, each in zip(TEACHERS, v.fixed['teachers'])]
        return task.loss(v, SEEN, RNG, jnp.int32(0))[0], said, jnp.stack(taught)

    loss, said, taught = jax.device_get(run(v))
    to_labels, to_teachers = (said[name] for name in answers or ('logits', 'logits'))
    decision = likely(taught).mean(0).argmax(-1)
    wanted = 0.25 * negative_log(to_labels, np.asarray(SEEN['label'])) + 0.75 * negative_log(to_teachers, decision)
    assert len(set(decision)) > 1
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_supervised_learning_takes_their_mean():
    task = Supervised(NET, TwoHeads(10))
    v = begun(task)
    features = jax.device_get(tiny.jit(functools.partial(task.predict, batch=SEEN))(v))
    heads = jax.device_get(v.params['head'])
    answers = [features['pooled'] @ heads[name]['kernel'] + heads[name]['bias'] for name in ('labels', 'teacher')]
    np.testing.assert_allclose(features['logits'], np.mean(answers, axis=0), atol=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 0.01
