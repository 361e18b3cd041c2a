"""Freezing parts of a network: the backbone under a new head, or its first stages.

Frozen parameters are no parameters of the optimizer: they have no moments, do not decay and get no gradient. What
layers with running statistics (batch normalization) among them hold stays too, and they normalize with it in training
as they do in evaluation, which is usual where a trained network is adapted (He et al., 2017, "Mask R-CNN",
https://arxiv.org/abs/1703.06870, for one). Stochastic depth and dropout are active as before.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods.reparam import Reparam, select
from longview.methods.task import Batch, Given, Metrics, Shapes, Variables
from longview.trees import by_path, path_of


@dataclasses.dataclass(frozen=True)
class Freeze(Reparam):
    """Task -> Task: trains `inner` but for the parameters whose paths match.

    What is frozen is made anew, not saved, when a run goes on.

    Attributes:
        pattern: regular expression of whole paths, such as ``backbone/.*``, or ``(?!head/).*`` for all but the head. A
            layer keeps its running statistics where the pattern matches its path followed by ``/scale``.
    """

    pattern: str

    fixes_networks = True

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        frozen = frozenset(select(v.params, self.pattern, 'Freeze'))
        if len(frozen) == len(by_path(v.params)):
            raise ValueError(f'Freeze.pattern {self.pattern!r} matches every parameter: leave some to train.')
        part = lambda keep: jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if (path_of(path) in frozen) == keep else None, v.params
        )
        return Variables(part(False), {'inner': v.state}, {'inner': v.fixed, 'frozen': part(True)})

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        """Reads all that the inner task begins with, for the frozen part is made of it."""
        del fixed_only
        return self.inner.given(batch)

    def view(self, v: Variables) -> Variables:
        either = lambda frozen, trained: trained if frozen is None else frozen
        params = jax.tree.map(either, v.fixed['frozen'], v.params, is_leaf=lambda leaf: leaf is None)
        return Variables(params, v.state['inner'], v.fixed['inner'])

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        with nn.intercept_methods(self._hold):
            return super().loss(v, batch, rng, step)

    def _hold(self, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        """Runs a frozen layer with running statistics as in evaluation."""
        if context.method_name == '__call__' and kwargs.get('train') and self._holds(context.module):
            kwargs = {**kwargs, 'train': False}
        return call(*args, **kwargs)

    def _holds(self, module: nn.Module) -> bool:
        statistics = module.variables.get('batch_stats', {})
        if not any(not isinstance(leaf, Mapping) for leaf in statistics.values()):
            return False
        path = '/'.join((*module.path, 'scale'))
        # An objective may run the backbone alone, whose paths then begin below it.
        return any(re.fullmatch(self.pattern, f'{prefix}{path}') for prefix in ('', 'backbone/'))
