"""A linear probe: how well do the features tell the labels apart, by one matrix?

Alain and Bengio, 2016, https://arxiv.org/abs/1610.01644. The probe learns along with the task, on features of the image
as `predict` gives them, and no gradient of it reaches them; so its figure is a lower bound for a probe that is trained
to its end on the finished features (as in Chen et al., 2020, https://arxiv.org/abs/2002.05709, section B.6).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from methods.supervised import cross_entropy
from methods.task import Batch, Metrics, Variables, Wrapper


@dataclasses.dataclass(frozen=True)
class LinearProbe(Wrapper):
    """Task -> Task: trains `inner` unchanged and a head on its features; scores both.

    Attributes:
        inner: the task; its `predict` gives what the head reads, and no ``logits``.
        head: features -> logits.
    """

    head: nn.Module

    def init(self, rng: Key[Array, ''], batch: Batch) -> Variables:
        v = self.inner.init(rng, batch)
        features = self.inner.predict(v, batch)
        head = self.head.init(jax.random.fold_in(rng, 1), features)['params']
        return v._replace(params={'inner': v.params, 'probe': head})

    def loss(self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
             ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        inner = v._replace(params=v.params['inner'])
        loss, (state, metrics) = self.inner.loss(inner, batch, rng, step)
        features = jax.lax.stop_gradient(self.inner.predict(inner, batch))
        probe = self._losses(v, features, batch['label']).mean()
        return loss + probe, (state, {**metrics, 'inner_loss': loss, 'probe_loss': probe})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        grads = None if grads is None else grads['inner']
        inner = self.inner.after(v._replace(params=v.params['inner']), grads, step)
        return inner._replace(params={**v.params, 'inner': inner.params})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        features = self.inner.predict(v._replace(params=v.params['inner']), batch)
        return {**features, 'logits': self._logits(v, features)}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        inner = v._replace(params=v.params['inner'])
        logits = self._logits(v, self.inner.predict(inner, batch))
        right = (jnp.argmax(logits, axis=1) == batch['label']).astype(jnp.float32)
        return {**self.inner.score(inner, batch), 'probe_accuracy': right}

    def _logits(self, v: Variables, features: dict[str, Array]) -> Float[Array, 'b k']:
        return self.head.apply({'params': v.params['probe']}, features)

    def _losses(self, v: Variables, features: dict[str, Array], label: Int[Array, ' b']) -> Float[Array, ' b']:
        logits = self._logits(v, features)
        return cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1]))
