"""Stochastic gradient descent with momentum, and the staircase of rates that goes with it.

Sutskever et al., 2013, https://proceedings.mlr.press/v28/sutskever13.html. As in PyTorch the decay joins the gradient
before the momentum, and the momentum is of gradients, not of steps: ``m <- momentum * m + g``, ``p <- p - rate * m``.
"""

from collections.abc import Callable, Sequence

import optax

from longview.methods.optim.parts import Optimizer, add_decay, clip_adaptively, scale_by_depth, scale_by_rules


def sgd(
    steps: int,
    steps_per_epoch: float,
    depth_of: Callable[[str], tuple[int, int]],
    *,
    schedule: Callable[[int, float], optax.Schedule],
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    decay_rules: Sequence[tuple[str, float]] = (),
    clip_norm: float | None = None,
    adaptive_clip: float | None = None,
    adaptive_clip_spare: str = 'head/',
    layer_decay: float = 1.0,
    rate_rules: Sequence[tuple[str, float]] = (),
) -> Optimizer:
    """Builds SGD with momentum, the optimizer of a run.

    Args:
        steps, steps_per_epoch: of the run, for the schedule.
        depth_of: path of a parameter -> (its depth, number of depths).
        schedule: ``(steps, steps_per_epoch) -> rate of a step``.
        momentum: share of the old momentum.
        nesterov: looks ahead by one step.
        weight_decay: of kernels and tables; arrays of one axis (biases, scales) do not decay.
        decay_rules: pairs of a regular expression and a factor on the decay; the first found in the path decides,
            before the rule above. ``(('.*', 1.0),)`` lets everything decay.
        clip_norm: gradients longer than this, all together, are scaled down to it.
        adaptive_clip: bound of `parts.clip_adaptively`.
        adaptive_clip_spare: regular expression; where it is found in the path, nothing is clipped adaptively.
        layer_decay: see `parts.scale_by_depth`.
        rate_rules: pairs of a regular expression and a factor on the rate; 0 freezes.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    rate = schedule(steps, steps_per_epoch)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    if adaptive_clip is not None:
        parts.append(clip_adaptively(adaptive_clip, adaptive_clip_spare))
    if weight_decay:
        parts.append(add_decay(weight_decay, decay_rules))
    parts.append(optax.trace(momentum, nesterov))
    if layer_decay != 1.0:
        parts.append(scale_by_depth(layer_decay, depth_of))
    if rate_rules:
        parts.append(scale_by_rules(rate_rules))
    return Optimizer(optax.chain(*parts, optax.scale_by_learning_rate(rate)), rate)


def staircase(
    steps: int,
    steps_per_epoch: float,
    *,
    peak: float,
    boundaries: Sequence[float],
    factor: float = 0.1,
    warmup_epochs: float = 0.0,
    start: float = 0.0,
) -> optax.Schedule:
    """Rises linearly from `start` to `peak`, then is multiplied by `factor` at each boundary.

    Args:
        steps: of the whole run.
        steps_per_epoch: may be a fraction.
        peak, start: learning rates.
        boundaries: epochs, rising; those after the run's end do nothing.
        factor: below 1.
        warmup_epochs: length of the rise.

    Raises:
        ValueError: the boundaries do not rise, or the first one comes before the warm-up is over.
    """
    del steps
    edges = [warmup_epochs, *boundaries]
    if any(later <= earlier for earlier, later in zip(edges, edges[1:])):
        raise ValueError(
            f'boundaries are {list(boundaries)} after a warm-up of {warmup_epochs} epochs: they must rise from there.'
        )
    warmup = round(warmup_epochs * steps_per_epoch)
    scales = {round(epoch * steps_per_epoch) - warmup: factor for epoch in boundaries}
    stairs = optax.piecewise_constant_schedule(peak, scales)
    if not warmup:
        return stairs
    return optax.join_schedules([optax.linear_schedule(start, peak, warmup), stairs], [warmup])
