"""AdamW with the rules that recipes differ in: what decays, and which layer learns how fast.

Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101. The decay is multiplied by the learning rate, as
in PyTorch.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax


class Optimizer(NamedTuple):
    """An optax transformation and the schedule inside it, kept beside it to be logged."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule


def adamw(steps: int, steps_per_epoch: float, depth_of: Callable[[str], tuple[int, int]], *,
          schedule: Callable[[int, float], optax.Schedule], weight_decay: float = 0.05,
          decay_rules: Sequence[tuple[str, float]] = (), b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
          clip_norm: float | None = None, layer_decay: float = 1.0,
          rate_rules: Sequence[tuple[str, float]] = ()) -> Optimizer:
    """Builds the optimizer of a run.

    Args:
        steps, steps_per_epoch: of the run, for the schedule.
        depth_of: path of a parameter -> (its depth, number of depths).
        schedule: ``(steps, steps_per_epoch) -> rate of a step``.
        weight_decay: of kernels and tables; arrays of one axis (biases, scales) do not decay.
        decay_rules: pairs of a regular expression and a factor on the decay; the first found in
            the path decides, before the rule above.
        clip_norm: gradients longer than this, all together, are scaled down to it.
        layer_decay: rate of depth d times ``layer_decay ** (depths - 1 - d)`` (Clark et al., 2020,
            https://arxiv.org/abs/2003.10555; BEiT's numbering).
        rate_rules: pairs of a regular expression and a factor on the rate; 0 freezes.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    rate = schedule(steps, steps_per_epoch)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    if weight_decay:
        parts.append(_scaled_decay(weight_decay, decay_rules))
    if layer_decay != 1.0:
        parts.append(_scale_by_path(lambda path, p: _layer_rate(layer_decay, *depth_of(path))))
    if rate_rules:
        parts.append(_scale_by_path(_Rules(rate_rules, lambda path, p: 1.0, 'rate_rules')))
    return Optimizer(optax.chain(*parts, optax.scale_by_learning_rate(rate)), rate)


def _layer_rate(layer_decay: float, depth: int, depths: int) -> float:
    return layer_decay ** (depths - 1 - depth)


class _Rules:
    """(path, parameter) -> factor; the first rule found in the path decides, else `otherwise`."""

    def __init__(self, rules: Sequence[tuple[str, float]], otherwise: Callable[[str, Any], float], name: str):
        self.rules, self.otherwise, self.name = tuple(rules), otherwise, name

    def __call__(self, path: str, parameter: Any) -> float:
        matches = (factor for pattern, factor in self.rules if re.search(pattern, path))
        return next(matches, self.otherwise(path, parameter))

    def check(self, paths: Sequence[str]) -> None:
        for pattern, _ in self.rules:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(f'{self.name}: {pattern!r} matches no parameter; the first is {paths[0]!r}.')


def _scaled_decay(weight_decay: float, rules: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    factor = _Rules(rules, lambda path, p: float(p.ndim > 1), 'decay_rules')

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        decay = lambda path, u, p: u + weight_decay * factor(_path(path), p) * p
        return jax.tree_util.tree_map_with_path(decay, updates, params), state

    return optax.GradientTransformation(_checking_init(factor), update)


def _scale_by_path(factor: Callable[[str, Any], float]) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scale = lambda path, u: u * factor(_path(path), u)
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(_checking_init(factor), update)


def _checking_init(factor: Callable[[str, Any], float]) -> Callable[[Any], optax.EmptyState]:
    def init(params: Any) -> optax.EmptyState:
        if isinstance(factor, _Rules):
            factor.check([_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)])
        return optax.EmptyState()

    return init


def _path(key_path: Any) -> str:
    return jax.tree_util.keystr(key_path, simple=True, separator='/')
