"""Reparametrisations: a task trained through another set of parameters.

A `Reparam` takes a task and returns one. What it trains need not be what the inner task computes with: `view` makes
the one of the other, through masks, low-rank sums or rounding, and the chain rule does the rest. So whatever is
written for a task, every objective and average, runs under every reparametrisation, and they nest.
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper
from longview.trees import by_path, path_of


@dataclasses.dataclass(frozen=True)
class Reparam(Wrapper):
    """Task -> Task: trains, predicts and scores `inner` with the variables that `view` shows it.

    Implementations have `init` and `view` and, where it applies, the methods below that have a default. Their state and
    their fixed part are dicts whose ``inner`` is the inner task's.
    """

    @abc.abstractmethod
    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        """Returns the variables to train, and in state and fixed part beside the inner task's what `view` needs."""

    @abc.abstractmethod
    def view(self, v: Variables) -> Variables:
        """Returns the inner task's variables; what this does not change, it hands on as the same arrays."""

    def deploy(self, v: Variables) -> Variables:
        """Returns what the inner task predicts and scores with, by default the view."""
        return self.view(v)

    def penalty(self, v: Variables) -> Float[Array, ''] | float:
        """Returns what is added to the inner task's loss; nothing by default."""
        del v
        return 0.0

    def advance(self, v: Variables, step: Int[Array, '']) -> Variables:
        """Returns the variables after a step: schedules of masks and the like; identity by default."""
        del step
        return v

    def report(self, v: Variables) -> Metrics:
        """Returns metrics to be logged beside the inner task's; none by default."""
        del v
        return {}

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        loss, (state, metrics) = self.inner.loss(self.view(v), batch, rng, step)
        return loss + self.penalty(v), ({**v.state, 'inner': state}, {**metrics, **self.report(v)})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        """Lets the inner task follow, then `advance`; the inner task gets no gradients, for they are of other weights.

        Raises:
            NotImplementedError: the inner task changes a weight after the step that it only sees through `view`.
        """
        del grads
        before = self.view(v)
        inner = self.inner.after(before, None, step)
        params = self._taken(v.params, before.params, inner.params)
        return self.advance(v._replace(params=params, state={**v.state, 'inner': inner.state}), step)

    def _taken(self, params: Any, before: Any, after: Any) -> Any:
        """Returns `params` with what the inner task has changed; by path, for the trees may differ."""
        old, new = by_path(before), by_path(after)
        changed = {path: leaf for path, leaf in new.items() if leaf is not old[path]}
        ours = by_path(params)
        hidden = [path for path in changed if ours.get(path) is not old[path]]
        if hidden:
            raise NotImplementedError(
                f'{type(self).__name__} shows {type(self.inner).__name__} a changed {hidden[0]}, '
                'which that sets anew after each step: nest them the other way round, or leave '
                'this weight out of the pattern.'
            )
        return jax.tree_util.tree_map_with_path(lambda path, leaf: changed.get(path_of(path), leaf), params)


def select(params: Any, pattern: str, who: str) -> tuple[str, ...]:
    """Returns the paths that a regular expression matches from end to end, such as ``.*kernel``.

    Raises:
        ValueError: there is none.
    """
    paths = tuple(by_path(params))
    found = tuple(path for path in paths if re.fullmatch(pattern, path))
    if not found:
        raise ValueError(f'{who}: {pattern!r} matches no parameter; the first is {paths[0]!r}.')
    return found


def on_selected(change: Callable[[str, Array], Any], paths: Sequence[str], params: Any) -> Any:
    """Returns `params` with ``change(path, leaf)`` at `paths` and the same arrays elsewhere."""
    chosen = frozenset(paths)

    def pick(key_path: Any, leaf: Array) -> Any:
        path = path_of(key_path)
        return change(path, leaf) if path in chosen else leaf

    return jax.tree_util.tree_map_with_path(pick, params)
