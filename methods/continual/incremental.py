"""Class-incremental classification: one head for all classes, of which those seen so far compete.

Van de Ven and Tolias, 2019, "Three scenarios for continual learning", https://arxiv.org/abs/1904.07734: in the
class-incremental scenario an answer is one of all classes seen so far; in the task-incremental one the session that an
example's class came in is given, and an answer is one of that session's classes. Both are measured of the same network.

The head has a logit for every class from the start. In place of growing it, as published code mostly does, logits of
classes that have not come yet are left out of the softmax: that is the softmax of a smaller head, and rows of the head
that are not seen get no gradient. (Weight decay does reach them; a pattern in `decay_rules` keeps it away.)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NETWORK, NetworkObjective
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Network, Sums, Variables


@dataclasses.dataclass(frozen=True)
class Incremental(NetworkObjective):
    """Trains ``head(backbone(image))`` session by session on ``label``, or ``target`` where a batch transform made one.

    The newest session is what the column ``session`` of the last training batch said; evaluation sees it as
    ``state['session']``. The figures, of an evaluation split with all classes (``eval/`` is the run's prefix):
        session             the newest session, from 0
        accuracy            class-incremental, over the examples of classes seen so far
        task_accuracy       task-incremental, over the same
        average_accuracy    mean over the sessions so far of what follows
        sessionK/accuracy   class-incremental, over the examples whose class comes in session K. It is 0 before that
                            session, since no answer can be right
        sessionK/task_accuracy  task-incremental; before that session it is what an untrained row of the head guesses
        loss                cross-entropy among the classes seen so far, over their examples
    `predict` gives logits of -3.4e38 to classes that have not come.

    ``eval/accuracy`` is highest when there are few classes: `config.best` should be ``eval/session``, with which the
    best checkpoint is that of the first evaluation in the last session.

    Attributes:
        backbone, head, network: image -> features, and features -> logits; see `NetworkObjective`.
        class_sessions: the session in which each class comes, -1 for never; ``{'data': 'class_sessions'}`` in a config.
        label_smoothing: the share of each hard label spread over the classes seen so far. Of soft targets, what lies on
            other classes is left out, and the rest is brought to the sum 1.
    """

    class_sessions: Sequence[int] = dataclasses.field(kw_only=True)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.class_sessions or max(self.class_sessions) < 0:
            raise ValueError(
                f'Incremental.class_sessions is {tuple(self.class_sessions)}: give the session of each class, as '
                "{'data': 'class_sessions'} does for a data set of data.sessions:Sessions."
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        if 'session' not in batch:
            raise ValueError(
                f'Incremental reads the column session, and the batch has {", ".join(sorted(batch))}: put '
                'data.sessions:Sessions around the data set.'
            )
        columns = forward.inputs(self.model, batch)
        params, state = forward.init(self.model, rng, *columns, weights=self._weights(batch, given))
        logits = jax.eval_shape(lambda: forward.answer(self.model, params, state, *columns)['logits'])
        if logits.shape[-1] != len(self.class_sessions):
            raise ValueError(
                f'Incremental.class_sessions has {len(self.class_sessions)} classes and the head gives '
                f'{logits.shape[-1]} logits: change the head.'
            )
        return Variables(params, {'session': jnp.zeros((), jnp.int32), 'network': state}, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state['network'], *columns, rng=rng, row=batch['row'])
        session = jnp.max(batch['session'])
        seen = came(self.class_sessions, session)
        losses = cross_entropy(among(features['logits'], seen[None]), self._target(batch, seen))
        loss, metrics = forward.penalized(losses.mean(), features)
        return loss, ({'session': session, 'network': state}, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        features = self._features(v, batch)
        return {**features, 'logits': among(features['logits'], self._seen(v)[None])}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns the loss, 0 for a class that has not come, and whether each of the two answers is right."""
        logits, label, seen = self._features(v, batch)['logits'], batch['label'], self._seen(v)
        losses = cross_entropy(among(logits, seen[None]), jax.nn.one_hot(label, logits.shape[-1]))
        of_its_session = jnp.asarray(self.class_sessions)[None] == self._arrives(label)[:, None]
        right = lambda allowed: (jnp.argmax(among(logits, allowed), axis=1) == label).astype(jnp.float32)
        return {
            'loss': jnp.where(seen[label], losses, 0.0),
            'accuracy': right(seen[None]),
            'task_accuracy': right(of_its_session),
        }

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        """Returns sums by session of the scores, of all examples and of those whose class has come."""
        del ready, rng
        session = jnp.arange(max(self.class_sessions) + 1)
        here = (self._arrives(batch['label'])[:, None] == session[None]) & batch['mask'][:, None]
        count = jnp.sum(here, axis=0, dtype=jnp.int32)
        scores = self.score(v, batch)
        by_session = {name: jnp.sum(jnp.where(here, value[:, None], 0.0), axis=0) for name, value in scores.items()}
        return {'scores': by_session, 'count': count, 'seen': jnp.where(session <= v.state['session'], count, 0)}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        del rows
        seen = sums['seen'] > 0
        mean = lambda name: float(sums['scores'][name][seen].sum() / max(sums['seen'].sum(), 1))
        by_session = {
            name: sums['scores'][name] / np.maximum(sums['count'], 1) for name in ('accuracy', 'task_accuracy')
        }
        return {
            'session': int(np.flatnonzero(seen).max(initial=0)),
            **{name: mean(name) for name in ('loss', 'accuracy', 'task_accuracy')},
            'average_accuracy': float(by_session['accuracy'][seen].sum() / max(seen.sum(), 1)),
            **{
                f'session{k}/{name}': float(value)
                for name, values in by_session.items()
                for k, value in enumerate(values)
            },
        }

    def deployed(self, v: Variables) -> dict[str, Network]:
        """Returns the network, which gives logits of all classes."""
        return {NETWORK: Network(self.model, {'params': v.params, **v.state['network']})}

    def _features(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, v.params, v.state['network'], *forward.inputs(self.model, batch))

    def _seen(self, v: Variables) -> Bool[Array, ' c']:
        return came(self.class_sessions, v.state['session'])

    def _arrives(self, label: Int[Array, ' b']) -> Int[Array, ' b']:
        return jnp.where(label < 0, -1, jnp.asarray(self.class_sessions)[label])

    def _target(self, batch: Batch, seen: Bool[Array, ' c']) -> Float[Array, 'b c']:
        if 'target' in batch:
            target = jnp.where(seen[None], batch['target'], 0.0)
            return target / jnp.sum(target, axis=1, keepdims=True)
        hard, even = jax.nn.one_hot(batch['label'], len(seen)), seen / jnp.sum(seen)
        return (1 - self.label_smoothing) * hard + self.label_smoothing * even[None]


def came(class_sessions: Sequence[int], session: Int[Array, '']) -> Bool[Array, ' c']:
    """Returns which classes have come by a session, itself included."""
    sessions = jnp.asarray(class_sessions)
    return (sessions >= 0) & (sessions <= session)


def among(logits: Float[Array, 'b c'], allowed: Bool[Array, '#b c']) -> Float[Array, 'b c']:
    """Returns logits in float32 with which no other class than the allowed ones has a part in a softmax or argmax.

    The others are the lowest finite number, of which a softmax is exactly 0; with infinity, 0 times its logarithm would
    be NaN.
    """
    return jnp.where(allowed, logits.astype(jnp.float32), jnp.finfo(jnp.float32).min)
