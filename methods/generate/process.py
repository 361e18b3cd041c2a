"""How a diffusion process adds noise, and what a network that takes it out answers with.

At time t an example is ``x_t = signal(t) * x + deviation(t) * noise`` with normal noise. `Betas` are the processes of a
fixed number of steps: Ho et al., 2020, "Denoising Diffusion Probabilistic Models" (DDPM),
https://arxiv.org/abs/2006.11239, with the schedules of Nichol and Dhariwal, 2021, https://arxiv.org/abs/2102.09672, and
Rombach et al., 2022, https://arxiv.org/abs/2112.10752. `Sigmas` is that of Karras et al., 2022 (EDM),
https://arxiv.org/abs/2206.00364, whose time is the deviation itself. References: openai/guided-diffusion (MIT), as
soumik-kanad/diffssl has it, and NVlabs/edm (CC BY-NC-SA 4.0, read for facts only).

A network's answer means what a `Prediction` says. All have the same loss, the mean squared error of the answer; of
`Preconditioned` this is EDM's weighted error of the clean example, whose weight is the inverse square of `out`.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num, Shaped


class Level(NamedTuple):
    """How much is left of an example, and how much noise is added: one number, or one for each example."""

    signal: Float[Array, '...']
    deviation: Float[Array, '...']


class Process(abc.ABC):
    """Adds noise by a time; implementations are frozen dataclasses."""

    @abc.abstractmethod
    def draw(self, rng: Key[Array, '']) -> Num[Array, '']:
        """Returns a time to train at."""

    @abc.abstractmethod
    def level(self, time: Num[Array, '*b']) -> Level:
        """Returns signal and deviation at these times."""

    @abc.abstractmethod
    def told(self, time: Num[Array, '*b']) -> Float[Array, '*b']:
        """Returns what a network is told of these times."""


@dataclasses.dataclass(frozen=True)
class Betas(Process):
    """A process of T steps, as in DDPM: ``signal^2`` is the product of ``1 - beta`` up to step t = 0 ... T - 1.

    Of all steps, ``signal^2 + deviation^2 = 1``.

    Attributes:
        betas: the variance that each step adds, such as `linear_betas`.
    """

    betas: Sequence[float]

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return len(self.betas)

    def draw(self, rng: Key[Array, '']) -> Num[Array, '']:
        return jax.random.randint(rng, (), 0, self.steps)

    def level(self, time: Num[Array, '*b']) -> Level:
        kept = np.cumprod(1 - np.asarray(self.betas, np.float64))
        table = lambda values: jnp.asarray(values.astype(np.float32))[time]
        return Level(table(np.sqrt(kept)), table(np.sqrt(1 - kept)))

    def told(self, time: Num[Array, '*b']) -> Float[Array, '*b']:
        return time.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Sigmas(Process):
    """EDM's process: noise of any deviation sigma on an unscaled signal; in training, sigma is ``exp(normal)``.

    The time of a step is its sigma (Karras et al., 2022, https://arxiv.org/abs/2206.00364).

    Attributes:
        mean, deviation: of the logarithm of the sigmas that are trained at.
    """

    mean: float = -1.2
    deviation: float = 1.2

    def draw(self, rng: Key[Array, '']) -> Num[Array, '']:
        return jnp.exp(self.mean + self.deviation * jax.random.normal(rng))

    def level(self, time: Num[Array, '*b']) -> Level:
        return Level(jnp.ones_like(time), time)

    def told(self, time: Num[Array, '*b']) -> Float[Array, '*b']:
        return jnp.log(time) / 4


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> tuple[float, ...]:
    """Returns betas that rise evenly; of other than 1000 steps they are usually scaled by ``1000 / steps``."""
    return tuple(np.linspace(first, last, steps, dtype=np.float64).tolist())


def square_betas(steps: int = 1000, first: float = 0.0015, last: float = 0.0195) -> tuple[float, ...]:
    """Returns betas whose roots rise evenly, the "linear" schedule of latent diffusion."""
    return tuple((np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2).tolist())


def cosine_betas(steps: int = 1000, offset: float = 0.008, most: float = 0.999) -> tuple[float, ...]:
    """Returns betas under which ``signal`` falls along a quarter of a cosine.

    Args:
        steps: T.
        offset: share of the way that lies before the first step, so that the first betas are not too small.
        most: bound of a beta.
    """
    angles = (np.arange(steps + 1, dtype=np.float64) / steps + offset) / (1 + offset) * np.pi / 2
    kept = np.cos(angles) ** 2
    return tuple(np.minimum(1 - kept[1:] / kept[:-1], most).tolist())


class Prediction(abc.ABC):
    """What a network's answer means; implementations are frozen dataclasses."""

    def read(self, noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        """Returns what the network reads in the place of noisy examples; these themselves by default."""
        del level
        return noisy

    @abc.abstractmethod
    def target(self, x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        """Returns what the network should answer for clean examples with this noise."""

    @abc.abstractmethod
    def clean(self, answer: Float[Array, 'b ...'], noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        """Returns the estimate of the clean examples that an answer stands for."""


@dataclasses.dataclass(frozen=True)
class Noise(Prediction):
    """The noise, as in DDPM."""

    def target(self, x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        return noise

    def clean(self, answer: Float[Array, 'b ...'], noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        signal, deviation = _beside(level, noisy)
        return (noisy - deviation * answer) / signal


@dataclasses.dataclass(frozen=True)
class Clean(Prediction):
    """The example without noise."""

    def target(self, x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        return x

    def clean(self, answer: Float[Array, 'b ...'], noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        return answer


@dataclasses.dataclass(frozen=True)
class Velocity(Prediction):
    """``signal * noise - deviation * x``, for processes with ``signal^2 + deviation^2 = 1``.

    Salimans and Ho, 2022, https://arxiv.org/abs/2202.00512.
    """

    def target(self, x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        signal, deviation = _beside(level, x)
        return signal * noise - deviation * x

    def clean(self, answer: Float[Array, 'b ...'], noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        signal, deviation = _beside(level, noisy)
        return signal * noisy - deviation * answer


@dataclasses.dataclass(frozen=True)
class Preconditioned(Prediction):
    """EDM's: the network reads ``scale * x_t``, and the clean example is ``skip * x_t + out * answer``.

    The factors, of the process `Sigmas`, keep what the network reads and answers at a deviation of 1 (Karras et al.,
    2022, https://arxiv.org/abs/2206.00364, table 1).

    Attributes:
        data: deviation of the examples.
    """

    data: float = 0.5

    def read(self, noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        return noisy / jnp.sqrt(_beside(level, noisy).deviation ** 2 + self.data**2)

    def target(self, x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        skip, out = self._factors(_beside(level, x).deviation)
        return (x - skip * added(x, noise, level)) / out

    def clean(self, answer: Float[Array, 'b ...'], noisy: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
        skip, out = self._factors(_beside(level, noisy).deviation)
        return skip * noisy + out * answer

    def _factors(self, sigma: Float[Array, '...']) -> tuple[Float[Array, '...'], Float[Array, '...']]:
        variance = sigma**2 + self.data**2
        return self.data**2 / variance, sigma * self.data / jnp.sqrt(variance)


def added(x: Float[Array, 'b ...'], noise: Float[Array, 'b ...'], level: Level) -> Float[Array, 'b ...']:
    """Returns the noisy examples ``signal * x + deviation * noise``."""
    signal, deviation = _beside(level, x)
    return signal * x + deviation * noise


def _beside(level: Level, x: Shaped[Array, 'b ...']) -> Level:
    """Returns a level of each example with as many axes as `x` has."""
    return Level(*(part.reshape(-1, *[1] * (x.ndim - 1)) for part in level))
