"""Magnitude pruning in rounds, with the lottery ticket's rewind.

Frankle and Carbin, 2019, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635, strategy 1 of its
appendix B: train, remove the smallest p % of the weights that are left, set the others back to their first values, and
again. Setting back to the values of an early step is Frankle et al., 2019, https://arxiv.org/abs/1912.05671; not
setting back is Han et al., 2015, https://arxiv.org/abs/1506.02626. Reference:
https://github.com/google-research/lottery-ticket-hypothesis (Apache-2.0). Where we differ: the rounds are one run
(`methods.optim.restart` starts the optimizer and its schedule anew with each), batch statistics go on as they are, and
every layer loses the same share, where the paper takes half as much from the output layer.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods.reparam import Reparam, on_selected, select
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.trees import by_path

SCOPES = ('layer', 'global')


@dataclasses.dataclass(frozen=True)
class Prune(Reparam):
    """Trains `inner` with ``mask * weight`` in place of the weights.

    Attributes:
        every: steps of a round; at the end of each but the last some weights are removed.
        rounds: how often they are removed; what is left then trains to the end of the run.
        amount: share of the remaining weights that a round removes.
        pattern: regular expression of the paths of the weights concerned.
        scope: whether each array loses that share ('layer') or all of them together ('global').
        rewind_to: weights return to their values before this step; None lets them go on from where they are.
        control: the last round starts from other random values of the same initializers, the paper's control. What
            the ticket then does better is owed to its first values, not to its shape.
    """

    every: int
    rounds: int = 1
    amount: float = 0.2
    pattern: str = '.*kernel'
    scope: str = 'layer'
    rewind_to: int | None = 0
    control: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.amount < 1:
            raise ValueError(f'Prune.amount is {self.amount}: it is a share, above 0 and below 1.')
        if self.scope not in SCOPES:
            raise ValueError(f'Prune.scope is {self.scope!r}: use one of {", ".join(SCOPES)}.')
        if self.rewind_to is not None and not 0 <= self.rewind_to < self.every:
            raise ValueError(
                f'Prune.rewind_to is {self.rewind_to}: it is a step of the first round, which has {self.every}.'
            )
        if self.control and self.rewind_to is None:
            raise ValueError(
                'Prune.control is set and rewind_to is None: it is the control of a rewind, so say to '
                'which step the other rounds go back.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        paths = select(v.params, self.pattern, 'Prune')
        state = {'inner': v.state, 'mask': {path: jnp.ones(by_path(v.params)[path].shape, bool) for path in paths}}
        if self.rewind_to is not None:
            state['start'] = v.params
        if self.control:
            state['other'] = self.inner.init(jax.random.fold_in(rng, 1), batch, Given()).params
        return Variables(v.params, state, {'inner': v.fixed})

    def view(self, v: Variables) -> Variables:
        mask = v.state['mask']
        params = on_selected(lambda path, leaf: leaf * mask[path].astype(leaf.dtype), tuple(mask), v.params)
        return Variables(params, v.state['inner'], v.fixed['inner'])

    def report(self, v: Variables) -> Metrics:
        """Returns ``density``, the share of the selected weights that are left."""
        masks = v.state['mask'].values()
        return {'density': sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)}

    def advance(self, v: Variables, step: Int[Array, '']) -> Variables:
        done = step + 1
        if self.rewind_to:
            keep = lambda new, old: jnp.where(done == self.rewind_to, new, old)
            v = v._replace(state={**v.state, 'start': jax.tree.map(keep, v.params, v.state['start'])})
        due = (done % self.every == 0) & (done <= self.rounds * self.every)
        last = done == self.rounds * self.every
        return jax.lax.cond(due, lambda v: self._prune(v, last), lambda v: v, v)

    def _prune(self, v: Variables, last: Bool[Array, '']) -> Variables:
        leaves, old = by_path(v.params), v.state['mask']
        if self.scope == 'layer':
            mask = {path: smaller({path: leaves[path]}, {path: old[path]}, self.amount)[path] for path in old}
        else:
            mask = smaller({path: leaves[path] for path in old}, old, self.amount)
        params = v.params if self.rewind_to is None else v.state['start']
        if self.control:
            params = jax.tree.map(functools.partial(jnp.where, last), v.state['other'], params)
        return v._replace(params=params, state={**v.state, 'mask': mask})


def smaller(
    weights: dict[str, Float[Array, '...']], mask: dict[str, Bool[Array, '...']], amount: float
) -> dict[str, Bool[Array, '...']]:
    """Returns the mask without the smallest remaining weights, by their absolute values, of all arrays together.

    Args:
        weights: by path.
        mask: what remains, by path.
        amount: share of what remains that goes; the number that stays is rounded, and is at least 1. Of equal
            weights at the threshold all stay.
    """
    scores = {path: jnp.where(mask[path], jnp.abs(weights[path]), -1.0) for path in mask}
    order = jnp.sort(jnp.concatenate([score.ravel() for score in scores.values()]), descending=True)
    left = sum(m.sum() for m in mask.values())
    stay = jnp.maximum(jnp.round(left * (1 - amount)).astype(jnp.int32), 1)
    return {path: score >= order[stay - 1] for path, score in scores.items()}
