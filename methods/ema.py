"""An exponential moving average of the weights, evaluated in their place.

``average <- d * average + (1 - d) * weights`` after each step (Polyak and Juditsky, 1992,
https://doi.org/10.1137/0330046; the form is timm's ModelEma, Apache-2.0). With ``warmup`` the decay starts as
``(1 + t) / (10 + t)``, TensorFlow's rule, so that short runs are not dominated by the random start.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.task import Batch, Metrics, Variables, Wrapper


@dataclasses.dataclass(frozen=True)
class Ema(Wrapper):
    """Task -> Task: trains `inner` unchanged; predicts and scores with its averaged weights.

    Scores of the weights themselves come along as ``raw_...``.

    Attributes:
        decay: d above, per step.
        warmup: start with a smaller decay.
    """

    decay: float = 0.9999
    warmup: bool = False

    def init(self, rng: Key[Array, ''], batch: Batch) -> Variables:
        v = self.inner.init(rng, batch)
        return v._replace(state={'inner': v.state, 'average': v.params})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        loss, (state, metrics) = self.inner.loss(_inner(v), batch, rng, step)
        return loss, ({**v.state, 'inner': state}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(_inner(v), grads, step)
        t = step.astype(jnp.float32)
        decay = jnp.minimum(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        average = jax.tree.map(lambda a, p: a * decay + p * (1 - decay), v.state['average'], inner.params)
        return inner._replace(state={'inner': inner.state, 'average': average})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return self.inner.predict(_averaged(v), batch)

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        raw = self.inner.score(_inner(v), batch)
        return {**self.inner.score(_averaged(v), batch), **{f'raw_{k}': x for k, x in raw.items()}}


def _inner(v: Variables) -> Variables:
    return v._replace(state=v.state['inner'])


def _averaged(v: Variables) -> Variables:
    return Variables(v.state['average'], v.state['inner'], v.fixed)
