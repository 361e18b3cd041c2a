"""A learning rate that falls along cosines, each longer than the one before.

Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", https://arxiv.org/abs/1608.03983,
equation 5; torch's CosineAnnealingWarmRestarts, which steps once an epoch where this does at each step.
"""

import optax


def warm_restarts(
    steps: int, steps_per_epoch: float, *, peak: float, period: float, factor: float = 1.0, end: float = 0.0
) -> optax.Schedule:
    """Falls from `peak` to `end` along half a cosine, and starts again.

    Args:
        steps: of the whole run.
        steps_per_epoch: may be a fraction.
        peak, end: learning rates.
        period: epochs of the first cosine (T_0).
        factor: how much longer each cosine is than the one before (T_mult).

    Raises:
        ValueError: the first cosine has no step, or later ones would be shorter.
    """
    length = round(period * steps_per_epoch)
    if length < 1 or factor < 1:
        raise ValueError(
            f'the first cosine has {length} steps and each is {factor} times as long as the one before: '
            'give a period of at least a step, and a factor of at least 1.'
        )
    if peak <= 0:
        raise ValueError(f'the peak of the cosines is {peak}: use a rate above 0.')
    falls, starts = [], [0]
    while starts[-1] < steps:
        falls.append(optax.cosine_decay_schedule(peak, round(length), alpha=end / peak))
        starts.append(starts[-1] + round(length))
        length *= factor
    return optax.join_schedules(falls, starts[1:-1])
