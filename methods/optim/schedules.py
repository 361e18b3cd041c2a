"""Learning-rate schedules: a linear warm-up, then half a cosine."""

import optax


def warmup_cosine(
    steps: int, steps_per_epoch: float, *, peak: float, warmup_epochs: float = 0.0, start: float = 0.0, end: float = 0.0
) -> optax.Schedule:
    """Rises linearly from `start` to `peak`, then falls to `end` along half a cosine.

    Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, as timm's CosineLRScheduler with
    ``warmup_prefix`` (Apache-2.0): the cosine spans what is left after the warm-up. timm sets the rate after
    the update, so its step n uses our rate of step n - 1; ours is not delayed.

    Args:
        steps: of the whole run.
        steps_per_epoch: may be a fraction.
        peak, start, end: learning rates.
        warmup_epochs: length of the rise.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    if warmup > steps:
        raise ValueError(
            f'a warm-up of {warmup} steps is longer than the run of {steps} steps: shorten '
            'warmup_epochs or train for longer.'
        )
    cosine = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=end / peak)
    if not warmup:
        return cosine
    return optax.join_schedules([optax.linear_schedule(start, peak, warmup), cosine], [warmup])
