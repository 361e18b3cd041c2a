"""Separate optimizers for groups of parameters, each of which may step less often than the run.

For networks that are trained against each other, such as a critic with its own rate that steps five times as often as
its generator (Arjovsky et al., 2017, https://arxiv.org/abs/1701.07875, algorithm 1). Between a group's steps its
parameters, moments and counts stay as they are; gradients that come in between are left out, and not averaged.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Bool, Int

from longview.methods.optim.parts import Optimizer
from longview.trees import path_of


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters with an optimizer of their own.

    Attributes:
        paths: regular expression that matches their whole paths, such as ``critic/.*``.
        optimizer: what steps them, such as `adamw.adamw` with all but the three arguments of a run given; it sees as
            many steps as it takes.
        every: it takes the last of so many steps.
    """

    paths: str
    optimizer: Callable[..., Optimizer]
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f'the group {self.paths!r} steps every {self.every} steps: give at least 1.')


def apart(
    steps: int, steps_per_epoch: float, depth_of: Callable[[str], tuple[int, int]], *, groups: Sequence[Group]
) -> Optimizer:
    """Builds the optimizer of a run whose parameters are in groups; the first one's learning rate is logged.

    Args:
        steps, steps_per_epoch, depth_of: as every optimizer's.
        groups: a parameter is in the first one whose `paths` match.

    Raises:
        ValueError: the run is shorter than a group's `every`; when the state is built, a parameter is in no group, or a
            group has none.
    """
    late = [group.every for group in groups if group.every > steps]
    if late:
        raise ValueError(
            f'a group steps every {late[0]} steps and the run has {steps}: train longer, or lower `every`.'
        )
    made = [group.optimizer(steps // group.every, steps_per_epoch / group.every, depth_of) for group in groups]
    parts = {n: _rarely(one.transform, group.every) for n, (group, one) in enumerate(zip(groups, made))}
    transform = optax.partition(parts, lambda params: _labels(params, [group.paths for group in groups]))
    first = groups[0].every
    return Optimizer(transform, lambda step: made[0].schedule(step // first))


def _rarely(transform: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """Returns a transformation that acts at the last of every so many steps, and else gives zeros."""

    def due(step: Int[Array, '']) -> Bool[Array, '']:
        return step % every == every - 1

    return transform if every == 1 else optax.conditionally_mask(transform, due)


def _labels(params: Any, patterns: Sequence[str]) -> Any:
    """Returns the number of the group of each parameter."""

    def label(key_path: Any, _: Any) -> int:
        path = path_of(key_path)
        for number, pattern in enumerate(patterns):
            if re.fullmatch(pattern, path):
                return number
        raise ValueError(f'{path} is in no group of the optimizer, which has {", ".join(patterns)}: add one for it.')

    labels = jax.tree_util.tree_map_with_path(label, params)
    empty = set(range(len(patterns))) - set(jax.tree.leaves(labels))
    if empty:
        raise ValueError(
            f'the group {patterns[min(empty)]!r} of the optimizer has no parameter: mend it or leave it out.'
        )
    return labels
