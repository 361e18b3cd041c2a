"""An exponential moving average of the weights, evaluated in their place.

``average <- d * average + (1 - d) * weights`` after each step (Polyak and Juditsky, 1992,
https://doi.org/10.1137/0330046; the form is timm's ModelEma, Apache-2.0). Running statistics of batch normalization are
averaged alike, as timm averages its buffers: those of the newest weights are of other activations than the averaged
weights compute. With ``warmup`` the decay starts as ``(1 + t) / (10 + t)``, TensorFlow's rule, so that short runs are
not dominated by the random start.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.task import Batch, Given, Metrics, Rows, Sums, Variables, Wrapper
from longview.trees import by_path, path_of


@dataclasses.dataclass(frozen=True)
class Ema(Wrapper):
    """Task -> Task: trains `inner` unchanged; predicts and scores with its averaged weights.

    Scores of the weights themselves come along as ``raw_...``. The state is ``{'inner': ..., 'average': ...}`` and,
    where the inner state has running statistics, ``statistics``, their averages at the same places.

    Attributes:
        decay: d above, per step; the average reaches back over about ``1 / (1 - decay)`` steps.
        warmup: start with a smaller decay.
    """

    decay: float = 0.9999
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f'Ema.decay is {self.decay}: it must be at least 0 and below 1.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        statistics = _statistics(v.state)
        state = {'inner': v.state, 'average': v.params}
        return v._replace(state=state | ({'statistics': statistics} if jax.tree.leaves(statistics) else {}))

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        loss, (state, metrics) = self.inner.loss(_inner(v), batch, rng, step)
        return loss, ({**v.state, 'inner': state}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        inner = self.inner.after(_inner(v), grads, step)
        t = step.astype(jnp.float32)
        decay = jnp.minimum(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        now = {'average': inner.params, 'statistics': _statistics(inner.state)}
        average = lambda a, x: a * decay + x * (1 - decay)
        averages = {name: jax.tree.map(average, v.state[name], now[name]) for name in v.state.keys() - {'inner'}}
        return inner._replace(state={'inner': inner.state, **averages})

    def deploy(self, v: Variables) -> Variables:
        return _averaged(v)

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        raw = self.inner.score(_inner(v), batch)
        return {**self.inner.score(_averaged(v), batch), **_raw(raw)}

    def gather(self, v: Variables, batch: Batch) -> Rows:
        return _beside(self.inner.gather(_averaged(v), batch), self.inner.gather(_inner(v), batch))

    def prepare(self, v: Variables, gathered: dict[str, Any] | None) -> Any:
        averaged, raw = _apart(gathered) if gathered is not None else (None, None)
        return self.inner.prepare(_averaged(v), averaged), self.inner.prepare(_inner(v), raw)

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        averaged, raw = ready or (None, None)
        return (
            self.inner.measure(_averaged(v), batch, averaged, rng),
            self.inner.measure(_inner(v), batch, raw, rng),
        )

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        averaged, raw = ready or (None, None)
        return _beside(self.inner.rows(_averaged(v), batch, averaged), self.inner.rows(_inner(v), batch, raw))

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        averaged, raw = (self.inner.figures(*each) for each in zip(sums, _apart(rows)))
        return {**averaged, **_raw(raw)}

    def advice(self, steps: int) -> str | None:
        memory = round(1 / (1 - self.decay))
        if self.warmup or steps >= memory:
            return self.inner.advice(steps)
        return (
            f'Ema with decay {self.decay} averages over about {memory:,} steps and the run has {steps:,}: eval/ is '
            'mostly of the random start; set warmup of methods.ema:Ema to True, or lower its decay.'
        )


def _raw(scores: dict[str, Any]) -> dict[str, Any]:
    return {f'raw_{name}': value for name, value in scores.items()}


def _beside(averaged: Rows, raw: Rows) -> Rows:
    """Returns the rows of the averaged weights and those of the weights themselves, by other names."""
    both = {'averaged': averaged, 'raw': raw}
    return {f'{side}/{name}': value for side, rows in both.items() for name, value in rows.items()}


def _apart(rows: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `_beside` has joined."""
    of = lambda side: {name.removeprefix(side): value for name, value in rows.items() if name.startswith(side)}
    return of('averaged/'), of('raw/')


def _inner(v: Variables) -> Variables:
    return v._replace(state=v.state['inner'])


def _averaged(v: Variables) -> Variables:
    """Returns the averages as variables of `inner`; what else its state holds, such as a step's moments, stays."""
    averages = {path: leaf for path, leaf in by_path(v.state.get('statistics', {})).items() if _running(path)}
    put = lambda key_path, leaf: averages.get(path_of(key_path), leaf)
    return Variables(v.state['average'], jax.tree_util.tree_map_with_path(put, v.state['inner']), v.fixed)


def _running(path: str) -> bool:
    return 'batch_stats' in path.split('/')


def _statistics(state: Any) -> Any:
    """Returns the tree of a task's state with its running statistics, and None in place of all other leaves."""

    def keep(key_path: Any, leaf: Array) -> Array | None:
        return leaf if _running(path_of(key_path)) and jnp.issubdtype(leaf.dtype, jnp.floating) else None

    return jax.tree_util.tree_map_with_path(keep, state)
