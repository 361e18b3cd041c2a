"""RMSProp with momentum: gradients over the root of their mean square, by which Inception networks are trained.

Tieleman and Hinton, 2012, lecture 6.5 of "Neural Networks for Machine Learning",
https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf. As in TensorFlow, whose recipes name its
arguments, epsilon is inside the root, the mean square begins at 1, and the momentum is of steps, not of gradients:
``s <- decay * s + (1 - decay) * g^2``, ``m <- momentum * m + rate * g / sqrt(s + eps)``, ``p <- p - m``. The decay of
weights joins the gradient before all that.
"""

from collections.abc import Callable, Sequence

import optax

from longview.methods.optim.parts import Optimizer, add_decay, scale_by_depth, scale_by_rules


def rmsprop(
    steps: int,
    steps_per_epoch: float,
    depth_of: Callable[[str], tuple[int, int]],
    *,
    schedule: Callable[[int, float], optax.Schedule],
    decay: float = 0.9,
    momentum: float = 0.9,
    eps: float = 1.0,
    weight_decay: float = 4e-5,
    decay_rules: Sequence[tuple[str, float]] = (),
    clip_norm: float | None = None,
    layer_decay: float = 1.0,
    rate_rules: Sequence[tuple[str, float]] = (),
) -> Optimizer:
    """Builds RMSProp, the optimizer of a run.

    Args:
        steps, steps_per_epoch: of the run, for the schedule.
        depth_of: path of a parameter -> (its depth, number of depths).
        schedule: ``(steps, steps_per_epoch) -> rate of a step``.
        decay: share of the old mean square.
        momentum: share of the old momentum.
        eps: added to the mean square; 1 in the Inception papers.
        weight_decay: of kernels and tables; arrays of one axis (biases, scales) do not decay.
        decay_rules: pairs of a regular expression and a factor on the decay; the first found in the path decides,
            before the rule above.
        clip_norm: gradients longer than this, all together, are scaled down to it.
        layer_decay: see `parts.scale_by_depth`.
        rate_rules: pairs of a regular expression and a factor on the rate; 0 freezes.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    rate = schedule(steps, steps_per_epoch)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    if weight_decay:
        parts.append(add_decay(weight_decay, decay_rules))
    parts.append(optax.scale_by_rms(decay, eps, initial_scale=1.0))
    if layer_decay != 1.0:
        parts.append(scale_by_depth(layer_decay, depth_of))
    if rate_rules:
        parts.append(scale_by_rules(rate_rules))
    return Optimizer(optax.chain(*parts, optax.scale_by_learning_rate(rate), optax.trace(momentum)), rate)
