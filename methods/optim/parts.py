"""What optimizers are put together from: decay, rates and clipping that choose parameters by path."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from longview.trees import path_of

Rules = Sequence[tuple[str, float]]


class Optimizer(NamedTuple):
    """An optax transformation and the schedule inside it, kept beside it to be logged."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule


def add_decay(weight_decay: float, rules: Rules) -> optax.GradientTransformation:
    """Adds ``weight_decay * parameter`` for parameters of two or more axes, or as the first rule in the path says.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    factor = _ByRule(rules, lambda path, p: float(p.ndim > 1), 'decay_rules')

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        decay = lambda path, u, p: u + weight_decay * factor(path_of(path), p) * p
        return jax.tree_util.tree_map_with_path(decay, updates, params), state

    return optax.GradientTransformation(factor.checking_init, update)


def scale_by_rules(rules: Rules) -> optax.GradientTransformation:
    """Multiplies updates with the factor of the first rule found in the path, 1 where there is none.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    factor = _ByRule(rules, lambda path, p: 1.0, 'rate_rules')
    return optax.GradientTransformation(factor.checking_init, _scaling(factor))


def scale_by_depth(layer_decay: float, depth_of: Callable[[str], tuple[int, int]]) -> optax.GradientTransformation:
    """Multiplies the updates of depth d with ``layer_decay ** (depths - 1 - d)``.

    Clark et al., 2020, https://arxiv.org/abs/2003.10555; BEiT's numbering.
    """

    def factor(path: str, parameter: Any) -> float:
        depth, depths = depth_of(path)
        return layer_decay ** (depths - 1 - depth)

    return optax.GradientTransformation(lambda params: optax.EmptyState(), _scaling(factor))


def clip_adaptively(bound: float, spare: str | None) -> optax.GradientTransformation:
    """Scales each output channel's gradient down to `bound` times the norm of its weights.

    Brock et al., 2021, https://arxiv.org/abs/2102.06171; a vector or a scalar counts as one channel, and norms below
    1e-3 as 1e-3.

    Args:
        bound: 0.01 in the paper.
        spare: regular expression; parameters whose path has it are left alone. None clips all.

    Raises:
        ValueError: `spare` matches no parameter, when the state is built.
    """
    skip = _ByRule([] if spare is None else [(spare, 0.0)], lambda path, p: 1.0, 'adaptive_clip_spare')

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, p: skip(path_of(path), p) > 0, params)

    clip = optax.masked(optax.adaptive_grad_clip(bound), mask)

    def init(params: Any) -> Any:
        skip.checking_init(params)
        return clip.init(params)

    return optax.GradientTransformation(init, clip.update)


class _ByRule:
    """(path, parameter) -> factor; the first rule found in the path decides, else `otherwise`."""

    def __init__(self, rules: Rules, otherwise: Callable[[str, Any], float], name: str):
        self.rules, self.otherwise, self.name = tuple(rules), otherwise, name

    def __call__(self, path: str, parameter: Any) -> float:
        matches = (factor for pattern, factor in self.rules if re.search(pattern, path))
        return next(matches, self.otherwise(path, parameter))

    def checking_init(self, params: Any) -> optax.EmptyState:
        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern, _ in self.rules:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(f'{self.name}: {pattern!r} matches no parameter; the first is {paths[0]!r}.')
        return optax.EmptyState()


def _scaling(factor: Callable[[str, Any], float]) -> Callable[..., tuple[Any, Any]]:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scale = lambda path, u: u * factor(path_of(path), u)
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return update
