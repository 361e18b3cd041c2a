"""Features of the newest training images, kept beside a task, for evaluators that look labels up in them.

The bank fills in training, with features of the image as `predict` gives them: the newest replace the oldest, so they
are of slightly older weights than the ones that are evaluated.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper

NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Banked(Wrapper):
    """Task -> Task: trains `inner` unchanged, keeps features of training images in ``state``, and scores by them.

    Attributes:
        inner: the task; its `predict` gives the feature.
        num_classes: of the labels.
        bank: how many features are kept.
        feature: which vector of `predict`.
    """

    num_classes: int
    bank: int
    feature: str = 'pooled'

    @abc.abstractmethod
    def judge(
        self, query: Float[Array, 'b d'], bank: Float[Array, 'n d'], label: Int[Array, ' n']
    ) -> dict[str, Float[Array, 'b k']]:
        """Returns what speaks for each class, by the name under which its accuracy is scored.

        Args:
            query: features to be told apart.
            bank: features of training images, the newest first.
            label: theirs; `NOBODY` where the bank is not filled yet.
        """

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        width = self._features(v, batch).shape[-1]
        bank = {'feature': jnp.zeros((self.bank, width)), 'label': jnp.full((self.bank,), NOBODY, jnp.int32)}
        return v._replace(state={'inner': v.state, **bank})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        inner = self.deploy(v)
        loss, (state, metrics) = self.inner.loss(inner, batch, rng, step)
        new = {'feature': jax.lax.stop_gradient(self._features(inner, batch)), 'label': batch['label']}
        bank = {name: jnp.concatenate([value, v.state[name]])[: self.bank] for name, value in new.items()}
        return loss, ({'inner': state, **bank}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(self.deploy(v), grads, step)
        return inner._replace(state={**v.state, 'inner': inner.state})

    def deploy(self, v: Variables) -> Variables:
        return v._replace(state=v.state['inner'])

    def extra(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        judged = self.judge(self._features(self.deploy(v), batch), v.state['feature'], v.state['label'])
        return {
            f'{name}_accuracy': (jnp.argmax(votes, axis=1) == batch['label']).astype(jnp.float32)
            for name, votes in judged.items()
        }

    def _features(self, v: Variables, batch: Batch) -> Float[Array, 'b d']:
        return self.inner.predict(v, batch)[self.feature].astype(jnp.float32)
