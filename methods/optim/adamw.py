"""AdamW, with rules for what decays and how fast each layer learns.

Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101. The decay is multiplied by the learning rate, as
in PyTorch.
"""

from collections.abc import Callable, Sequence

import optax

from longview.methods.optim.parts import Optimizer, add_decay, clip_adaptively, scale_by_depth, scale_by_rules


def adamw(
    steps: int,
    steps_per_epoch: float,
    depth_of: Callable[[str], tuple[int, int]],
    *,
    schedule: Callable[[int, float], optax.Schedule],
    weight_decay: float = 0.05,
    decay_rules: Sequence[tuple[str, float]] = (),
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
    adaptive_clip: float | None = None,
    adaptive_clip_spare: str | None = 'head/',
    layer_decay: float = 1.0,
    rate_rules: Sequence[tuple[str, float]] = (),
) -> Optimizer:
    """Builds AdamW, the optimizer of a run.

    Args:
        steps, steps_per_epoch: of the run, for the schedule.
        depth_of: path of a parameter -> (its depth, number of depths).
        schedule: ``(steps, steps_per_epoch) -> rate of a step``.
        weight_decay: of kernels and tables; arrays of one axis (biases, scales) do not decay.
        decay_rules: pairs of a regular expression and a factor on the decay; the first found in
            the path decides, before the rule above.
        clip_norm: gradients longer than this, all together, are scaled down to it.
        adaptive_clip: bound of `parts.clip_adaptively`.
        adaptive_clip_spare: regular expression; where it is found in the path, nothing is clipped adaptively. None
            clips everything.
        layer_decay: see `parts.scale_by_depth`.
        rate_rules: pairs of a regular expression and a factor on the rate; 0 freezes.

    Raises:
        ValueError: a rule that matches no parameter, when the state is built.
    """
    rate = schedule(steps, steps_per_epoch)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    if adaptive_clip is not None:
        parts.append(clip_adaptively(adaptive_clip, adaptive_clip_spare))
    parts.append(optax.scale_by_adam(b1=b1, b2=b2, eps=eps))
    if weight_decay:
        parts.append(add_decay(weight_decay, decay_rules))
    if layer_decay != 1.0:
        parts.append(scale_by_depth(layer_decay, depth_of))
    if rate_rules:
        parts.append(scale_by_rules(rate_rules))
    return Optimizer(optax.chain(*parts, optax.scale_by_learning_rate(rate)), rate)
