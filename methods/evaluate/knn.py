"""The nearest neighbours' vote: how well do the features tell the labels apart, by nothing learned?

Wu et al., 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
https://arxiv.org/abs/1805.01978, section 3.4: the k nearest by cosine vote with weights ``exp(cosine / temperature)``.
Reference: https://github.com/zhirongw/lemniscate.pytorch. The bank fills in training, with features of the image
as `predict` gives them: the newest replace the oldest, so they are of slightly older weights.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from methods.task import Batch, Metrics, Task, Variables

_NOBODY = -1


@dataclasses.dataclass(frozen=True)
class NearestNeighbours(Task):
    """Task -> Task: trains `inner` unchanged, keeps features of training images in ``state``, and scores their vote.

    Attributes:
        inner: the task; its `predict` gives the feature.
        num_classes: of the labels.
        bank: how many features are kept.
        neighbours: k above.
        temperature: of the votes.
        feature: which vector of `predict`.
    """

    inner: Task
    num_classes: int
    bank: int
    neighbours: int = 20
    temperature: float = 0.07
    feature: str = 'pooled'

    def __post_init__(self) -> None:
        if not 0 < self.neighbours <= self.bank:
            raise ValueError(f'{self.neighbours} neighbours cannot be found in a bank of {self.bank}: use 1 to '
                             f'{self.bank}.')

    def init(self, rng: Key[Array, ''], batch: Batch) -> Variables:
        v = self.inner.init(rng, batch)
        width = self._features(v, batch).shape[-1]
        bank = {'feature': jnp.zeros((self.bank, width)), 'label': jnp.full((self.bank,), _NOBODY, jnp.int32)}
        return v._replace(state={'inner': v.state, **bank})

    def loss(self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
             ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        inner = v._replace(state=v.state['inner'])
        loss, (state, metrics) = self.inner.loss(inner, batch, rng, step)
        new = {'feature': jax.lax.stop_gradient(self._features(inner, batch)), 'label': batch['label']}
        bank = {name: jnp.concatenate([value, v.state[name]])[:self.bank] for name, value in new.items()}
        return loss, ({'inner': state, **bank}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(v._replace(state=v.state['inner']), grads, step)
        return inner._replace(state={**v.state, 'inner': inner.state})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return self.inner.predict(v._replace(state=v.state['inner']), batch)

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        inner = v._replace(state=v.state['inner'])
        votes = vote(self._features(inner, batch), v.state['feature'], v.state['label'], neighbours=self.neighbours,
                     temperature=self.temperature, num_classes=self.num_classes)
        right = (jnp.argmax(votes, axis=1) == batch['label']).astype(jnp.float32)
        return {**self.inner.score(inner, batch), 'knn_accuracy': right}

    def depth_of(self, path: str) -> tuple[int, int]:
        return self.inner.depth_of(path)

    def _features(self, v: Variables, batch: Batch) -> Float[Array, 'b d']:
        x = self.inner.predict(v, batch)[self.feature].astype(jnp.float32)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def vote(query: Float[Array, 'b d'], bank: Float[Array, 'n d'], label: Int[Array, ' n'], *, neighbours: int,
         temperature: float, num_classes: int) -> Float[Array, 'b k']:
    """Returns the sum of the nearest neighbours' votes for each class.

    Args:
        query, bank: vectors of length 1.
        label: of the bank; below 0 where it is not filled yet, which does not vote.
        neighbours: how many vote.
        temperature: a neighbour's vote is exp(cosine / temperature).
        num_classes: number of classes.
    """
    cosine = jnp.where(label[None] < 0, -jnp.inf, query @ bank.T)
    nearest, index = jax.lax.top_k(cosine, neighbours)
    # A cosine is at most 1: less one, nothing overflows at small temperatures.
    weight = jnp.where(jnp.isfinite(nearest), jnp.exp((nearest - 1) / temperature), 0.0)
    return jnp.einsum('bn,bnk->bk', weight, jax.nn.one_hot(label[index], num_classes))
