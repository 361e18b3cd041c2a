"""Distillation of logits, from one teacher or from the mean of several, as MEAL V2 does it, or of decisions alone.

Hinton et al., 2015, https://arxiv.org/abs/1503.02531: ``T^2 KL(p_teacher || p_student)`` with both softmaxes at the
temperature T, and some of the labels' cross-entropy. Shen and Savvides, 2020, "MEAL V2",
https://arxiv.org/abs/2009.08453: the teachers' probabilities are averaged, T is 1, labels are not used, the student
starts from trained weights and has no weight decay, and a discriminator tries to tell the student's logits from the
teachers' mean logits. Reference:
https://github.com/szq0214/MEAL-V2 (MIT): three layers, each 8 times narrower, a rectifier after the last too, and two
sigmoids whose cross-entropy is averaged.

Touvron et al., 2021, "DeiT", https://arxiv.org/abs/2012.12877: `hard` distillation takes the class that the teacher
finds likeliest for a label, and of a student with two heads (`modelzoo.heads.TwoHeads`) one learns from labels and the
other one from the teacher. Reference: https://github.com/facebookresearch/deit (Apache-2.0), losses.py.

Where we differ: the gradient that the discriminator sends to the student is reversed (Ganin and Lempitsky, 2015,
https://arxiv.org/abs/1409.7495), which makes the paper's contest of one optimizer; the published code adds both losses
with the same sign. The reference minimises the cross-entropy with the teachers; the divergence differs from it by the
teachers' entropy, which no weight of the student changes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NETWORK, Objective
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Network, Shapes, Variables
from longview.modelzoo.heads import Classifier, bare, filled
from longview.modelzoo.layers.frame.dense import Dense

_NARROWER = 8


@dataclasses.dataclass(frozen=True)
class Distill(Objective):
    """Trains a classifier on the answers of others, which never change.

    Teachers see the student's own view of an image. Give networks that are loaded: from a file
    (`modelzoo.create_model` with weights) or from another run (`methods.start.Trained`).

    Attributes:
        student: image -> features with ``logits``.
        teachers: networks of as many classes.
        temperature: T above.
        hard: whether the teachers' likeliest class is learned in place of their probabilities; T changes nothing then.
        label_weight: share of the labels' cross-entropy in the loss, from 0 to 1.
        discriminator_weight: 0 for none.
    """

    student: Classifier
    teachers: Sequence[Classifier]
    temperature: float = 1.0
    hard: bool = False
    label_weight: float = 0.0
    discriminator_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError('Distill has no teachers: give at least one.')
        if not 0 <= self.label_weight <= 1:
            raise ValueError(f'Distill.label_weight is {self.label_weight}: it is a share, from 0 to 1.')

    @property
    def source(self) -> Classifier:
        return self.student

    @property
    def model(self) -> Classifier:
        return bare(self.student)

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        teachers = tuple(forward.read(teacher, *forward.inputs(teacher, batch)) for teacher in self.teachers)
        return super().given(batch, fixed_only=fixed_only)._replace(fixed={'teachers': teachers})

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        given = self.given(batch) if given is None else given
        params, state = forward.init(
            self.model, rng, *forward.inputs(self.student, batch), weights=given.networks.get(NETWORK, {})
        )
        keys = jax.random.split(jax.random.fold_in(rng, 1), len(self.teachers))
        weights = given.fixed.get('teachers', ({},) * len(self.teachers))
        teachers = tuple(
            filled(bare(teacher).init(key, *forward.inputs(teacher, batch), train=False), read)
            for teacher, key, read in zip(self.teachers, keys, weights)
        )
        classes = {self._logits(teacher, v, batch).shape[-1] for teacher, v in zip(self.teachers, teachers)}
        own = forward.answer(self.student, params, state, *forward.inputs(self.student, batch))['logits']
        if classes != {own.shape[-1]}:
            raise ValueError(
                f'the student has {own.shape[-1]} classes and its teachers have '
                f'{", ".join(map(str, sorted(classes)))}: all must have the same.'
            )
        if self.discriminator_weight:
            params = {**params, 'discriminator': Discriminator().init(rng, own)['params']}
        return Variables(params, state, {'teachers': teachers})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        params = self._student_params(v)
        columns = forward.inputs(self.student, batch)
        features, state = forward.learn(self.student, params, v.state, *columns, rng=rng, row=batch['row'])
        logits = features['logits']
        taught = jnp.stack([self._logits(*pair, batch) for pair in zip(self.teachers, v.fixed['teachers'])])
        # A network with two heads has an answer for each of its teachers: images' labels, and other networks.
        to_labels, to_teachers = (features.get(name, logits) for name in ('label_logits', 'teacher_logits'))
        parts = {'distillation': self._distance(to_teachers, taught).mean()}
        loss = (1 - self.label_weight) * parts['distillation']
        if self.label_weight:
            target = batch.get('target', jax.nn.one_hot(batch['label'], logits.shape[-1]))
            parts['label'] = cross_entropy(to_labels, target).mean()
            loss = loss + self.label_weight * parts['label']
        if self.discriminator_weight:
            told_apart = Discriminator().apply(
                {'params': v.params['discriminator']}, jnp.concatenate([reverse(logits), taught.mean(0)])
            )
            parts['discriminator'] = told(told_apart)
            loss = loss + self.discriminator_weight * parts['discriminator']
        loss, metrics = forward.penalized(loss, features)
        return loss, (state, {**metrics, **parts})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.student, self._student_params(v), v.state, *forward.inputs(self.student, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        logits, label = self.predict(v, batch)['logits'], batch['label']
        right = (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)
        return {'loss': cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1])), 'accuracy': right}

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {NETWORK: Network(self.model, {'params': self._student_params(v), **v.state})}

    def _student_params(self, v: Variables) -> dict[str, Any]:
        return {name: tree for name, tree in v.params.items() if name != 'discriminator'}

    def _distance(self, logits: Float[Array, 'b k'], taught: Float[Array, 'm b k']) -> Float[Array, ' b']:
        if not self.hard:
            return divergence(logits, taught, self.temperature)
        decision = jnp.argmax(jax.nn.softmax(taught, axis=-1).mean(axis=0), axis=-1)
        return cross_entropy(logits, jax.nn.one_hot(decision, logits.shape[-1]))

    def _logits(self, teacher: Classifier, variables: Any, batch: Batch) -> Float[Array, 'b k']:
        answer = teacher.apply(variables, *forward.inputs(teacher, batch), train=False)
        return jax.lax.stop_gradient(answer['logits'].astype(jnp.float32))


class Discriminator(nn.Module):
    """Logits -> two numbers, for 'of the student' and 'of the teachers'."""

    @nn.compact
    def __call__(self, x: Float[Array, 'n k']) -> Float[Array, 'n 2']:
        """Reads float32 logits."""
        width = x.shape[-1]
        for name, features in (('first', width // _NARROWER), ('second', width // _NARROWER**2), ('last', 2)):
            x = nn.relu(Dense(max(features, 2), name=name)(x))
        return x


def divergence(logits: Float[Array, 'b k'], taught: Float[Array, 'm b k'], temperature: float) -> Float[Array, ' b']:
    """Returns ``T^2 KL(mean of the teachers' softmaxes || softmax of the student)`` for each example.

    Args:
        logits: the student's.
        taught: the teachers'.
        temperature: T, which divides all logits.
    """
    target = jax.nn.softmax(taught / temperature, axis=-1).mean(axis=0)
    own = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)
    return temperature**2 * jnp.sum(jax.scipy.special.xlogy(target, target) - target * own, axis=-1)


def told(answers: Float[Array, 'n 2']) -> Float[Array, '']:
    """Returns the discriminator's loss: the first half of the rows are the student's, the others the teachers'."""
    half = len(answers) // 2
    target = jnp.repeat(jnp.eye(2), half, axis=0)
    return optax.sigmoid_binary_cross_entropy(answers, target).mean()


@jax.custom_vjp
def reverse(x: Float[Array, '...']) -> Float[Array, '...']:
    """Returns `x`; its gradient changes its sign."""
    return x


reverse.defvjp(lambda x: (x, None), lambda _, g: (-g,))
