"""An optimizer whose moments and schedule restart with every round of a run.

For methods that set the weights back and train again, as the lottery ticket of Frankle and Carbin, 2019,
https://arxiv.org/abs/1803.03635, whose rounds are whole trainings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from longview.methods.optim.parts import Optimizer


class Restarting(NamedTuple):
    """State of `restarting`: steps done, and the state of what starts anew."""

    count: Int[Array, '']
    inner: Any


def restarting(
    steps: int,
    steps_per_epoch: float,
    depth_of: Callable[[str], tuple[int, int]],
    *,
    optimizer: Callable[..., Optimizer],
    every: int,
) -> Optimizer:
    """Builds the optimizer of a run that consists of rounds.

    Args:
        steps, steps_per_epoch, depth_of: as every optimizer's; `optimizer` sees `every` in place of `steps`.
        optimizer: what each round starts with, such as `adamw.adamw` with all but these three given.
        every: steps of a round; the last one may be shorter.

    Raises:
        ValueError: the run is shorter than a round.
    """
    if not 0 < every <= steps:
        raise ValueError(f'rounds of {every} steps do not fit a run of {steps} steps: lower `every`, or train longer.')
    inner = optimizer(every, steps_per_epoch, depth_of)

    def init(params: Any) -> Restarting:
        return Restarting(jnp.zeros((), jnp.int32), inner.transform.init(params))

    def update(updates: Any, state: Restarting, params: Any) -> tuple[Any, Restarting]:
        first = state.count % every == 0
        start = jax.tree.map(lambda new, old: jnp.where(first, new, old), inner.transform.init(params), state.inner)
        updates, after = inner.transform.update(updates, start, params)
        return updates, Restarting(state.count + 1, after)

    return Optimizer(optax.GradientTransformation(init, update), lambda step: inner.schedule(step % every))
