"""How examples are drawn from a network that takes noise out: small functions over ``denoise(x, time)``.

A sampler is ``(denoise, process, noise, fresh) -> examples``, with further arguments bound by a config:

- ``denoise(x, time)`` returns the estimate of the clean examples, `x` being examples at one time, a scalar.
- ``noise`` is (B, ...) standard normal, what each example begins with.
- ``fresh(i)`` gives more of it for step i, each example's from its own key, so that examples do not depend on the batch
  in which they are drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from longview.methods.generate.process import Betas, Process

Denoise = Callable[[Float[Array, 'b ...'], Num[Array, '']], Float[Array, 'b ...']]
Fresh = Callable[[Int[Array, '']], Float[Array, 'b ...']]
Sampler = Callable[[Denoise, Process, Float[Array, 'b ...'], Fresh], Float[Array, 'b ...']]


def heun(
    denoise: Denoise,
    process: Process | None,
    noise: Float[Array, 'b ...'],
    fresh: Fresh | None,
    *,
    steps: int = 18,
    last: float = 0.002,
    first: float = 80.0,
    rho: float = 7.0,
) -> Float[Array, 'b ...']:
    """EDM's deterministic sampler: Heun's method from one deviation of the noise to the next.

    Karras et al., 2022, https://arxiv.org/abs/2206.00364, algorithm 1 without `S_churn`; ``2 steps - 1`` evaluations,
    for the last step, to no noise at all, is Euler's. Reference: NVlabs/edm, generate.py (CC BY-NC-SA 4.0, facts only),
    which keeps `x` in float64.

    Args:
        denoise, process, noise, fresh: as every sampler's; times are deviations.
        steps: deviations from `first` to `last`, whose powers of ``1 / rho`` lie evenly.
        last, first: the smallest and the largest deviation.
        rho: the larger, the closer are small deviations.
    """
    del process, fresh
    ends = np.float64(first) ** (1 / rho), np.float64(last) ** (1 / rho)
    sigmas = (np.linspace(*ends, steps) ** rho).astype(np.float32)

    def step(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        now, after = pair
        # As a mean of `x` and the estimate, for the direction times the step would be a difference of large numbers.
        clean = denoise(x, now)
        euler = clean + after / now * (x - clean)
        slopes = (x - clean) / now, (euler - denoise(euler, after)) / after
        return x + (after - now) * (slopes[0] + slopes[1]) / 2, None

    x, _ = jax.lax.scan(step, noise * sigmas[0], (sigmas[:-1], sigmas[1:]))
    return denoise(x, jnp.asarray(sigmas[-1]))


def ddim(
    denoise: Denoise, process: Betas, noise: Float[Array, 'b ...'], fresh: Fresh, *, steps: int = 50, eta: float = 0.0
) -> Float[Array, 'b ...']:
    """Goes back through some of a process's steps; with ``eta = 0`` nothing is drawn on the way.

    Song et al., 2021, "Denoising Diffusion Implicit Models", https://arxiv.org/abs/2010.02502, equations 12 and 16.

    Args:
        denoise, process, noise, fresh: as every sampler's.
        steps: how many of the process's steps, evenly spaced, the first and the last among them.
        eta: share of the noise of `ancestral` that is drawn anew at each step.

    Raises:
        ValueError: the process has fewer steps.
    """
    if not 2 <= steps <= process.steps:
        raise ValueError(f'ddim has {steps} steps and the process {process.steps}: give at least 2, and no more.')
    times = np.linspace(process.steps - 1, 0, steps).round().astype(np.int32)

    def step(x: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, None]:
        now, after, number = pair
        level, lower = process.level(now), process.level(after)
        clean = denoise(x, now)
        left = (x - level.signal * clean) / level.deviation
        ratio = level.signal / lower.signal
        drawn = eta * lower.deviation / level.deviation * jnp.sqrt(1 - ratio**2)
        kept = jnp.sqrt(jnp.maximum(lower.deviation**2 - drawn**2, 0.0))
        return lower.signal * clean + kept * left + drawn * fresh(number), None

    numbers = np.arange(steps - 1, dtype=np.int32)
    x, _ = jax.lax.scan(step, noise, (times[:-1], times[1:], numbers))
    return denoise(x, jnp.asarray(times[-1]))


def ancestral(denoise: Denoise, process: Betas, noise: Float[Array, 'b ...'], fresh: Fresh) -> Float[Array, 'b ...']:
    """DDPM's sampler: each step is drawn from ``q(x_(t-1) | x_t, x)`` with the estimate in the place of `x`.

    Ho et al., 2020, https://arxiv.org/abs/2006.11239, equations 6 and 7, with the variance of the posterior. This is
    `ddim` over all steps with ``eta = 1`` (Song et al., section 4.1).
    """
    return ddim(denoise, process, noise, fresh, steps=process.steps, eta=1.0)
