"""Denoising diffusion: a network learns to remove noise from examples, and generates new ones from noise alone.

Ho et al., 2020, "Denoising Diffusion Probabilistic Models", https://arxiv.org/abs/2006.11239; Karras et al., 2022,
"Elucidating the Design Space of Diffusion-Based Generative Models", https://arxiv.org/abs/2206.00364. The parts say
which of these it is, or another: how noise is added and what is predicted (process.py), how examples are drawn
(samplers.py). Classes are given to the network, and hidden from it now and then, so that an answer can be driven away
from the one without a class: Ho and Salimans, 2022, "Classifier-Free Diffusion Guidance",
https://arxiv.org/abs/2207.12598.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, Num, Shaped

from longview.methods import forward
from longview.methods.generate import process as pr
from longview.methods.generate.generator import Generator, sample_keys
from longview.methods.generate.samplers import Denoise, Sampler
from longview.methods.task import Batch, Given, Metrics, Network, Variables
from longview.modelzoo import features as ft

# The name of the network that a run leaves.
DENOISER = 'denoiser'


class _Drawn(NamedTuple):
    """Examples at the times that they are trained or measured at.

    Attributes:
        read: noisy examples as the network reads them.
        told: what it is told of their times.
        target: what it should answer.
        keys: one for each example, for what else is drawn.
    """

    read: Float[Array, 'b ...']
    told: Float[Array, ' b']
    target: Float[Array, 'b ...']
    keys: Key[Array, ' b']


@dataclasses.dataclass(frozen=True)
class Diffusion(Generator):
    """Trains ``network(noisy image, time, class)``; the loss is the mean squared error of its answer.

    The time, the noise and whether the class is hidden are drawn for each example from the step's key and its row, and
    in an evaluation from its index.

    Attributes:
        network: a `Denoiser`.
        process: how noise is added.
        prediction: what the network's answer means.
        sampler: how examples are drawn, such as ``samplers.heun`` with its arguments bound.
        shape: (height, width, channels) of the images that are made: those of the batch.
        num_classes: classes of ``label`` that the network is told; None for none.
        hidden: share of the examples whose class the network is not told in training.
        guidance: 1 draws by the answer for the class, a larger number goes on from the answer without a class in the
            same direction; ``w + 1`` of the paper.
    """

    network: nn.Module
    process: pr.Process
    prediction: pr.Prediction
    sampler: Sampler
    shape: tuple[int, int, int]
    num_classes: int | None = None
    hidden: float = 0.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        ft.require(self.network, ft.Denoiser, 'Diffusion')
        if not 0 <= self.hidden < 1:
            raise ValueError(f'Diffusion.hidden is {self.hidden}: it is a share, at least 0 and below 1.')
        if self.guidance != 1 and not (self.num_classes and self.hidden):
            raise ValueError(
                f'Diffusion.guidance is {self.guidance}, which needs answers with and without a class: set num_classes '
                'and hidden, or guidance to 1.'
            )

    @property
    def asked(self) -> int | None:
        return self.num_classes

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        image = batch[ft.IMAGE]
        if image.shape[1:] != tuple(self.shape):
            raise ValueError(
                f'Diffusion.shape is {tuple(self.shape)} and the images are {image.shape[1:]}: set it to theirs, as '
                '(height, width, channels).'
            )
        time = jnp.zeros(len(image))
        weights = {} if given is None else given.networks.get(DENOISER, {})
        params, state = forward.init(
            self.network, rng, image.astype(jnp.float32), time, self.condition(batch), weights=weights
        )
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        drawn = self._draw(batch, sample_keys(rng, batch['row']))
        condition = self._hide(self.condition(batch), drawn.keys)
        columns = drawn.read, drawn.told, condition
        answer, state = forward.learn(self.network, v.params, v.state, *columns, rng=rng, row=batch['row'])
        loss = _errors(answer, drawn.target).mean()
        return loss, (state, {'loss': loss})

    def losses(self, v: Variables, batch: Batch, rng: Key[Array, '']) -> dict[str, Float[Array, ' b']]:
        drawn = self._draw(batch, sample_keys(rng, batch['index']))
        columns = drawn.read, drawn.told, self.condition(batch)
        return {'loss': _errors(forward.answer(self.network, v.params, v.state, *columns), drawn.target)}

    def generate(
        self, v: Variables, keys: Key[Array, ' b'], condition: Shaped[Array, 'b ...'] | None
    ) -> Float[Array, 'b ...']:
        def fresh(number: Int[Array, '']) -> Float[Array, 'b ...']:
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), self.shape))(keys)

        # Steps count from 0, so that what an example begins with is drawn by another number.
        return self.sampler(self.denoiser(v, condition), self.process, fresh(jnp.int32(-1)), fresh)

    def denoiser(self, v: Variables, condition: Shaped[Array, 'b ...'] | None) -> Denoise:
        """Returns ``denoise(x, time)`` of samplers.py, by which examples of these classes are drawn."""

        def clean(x: Float[Array, 'b ...'], time: Num[Array, ''], condition: Any) -> Float[Array, 'b ...']:
            level = self.process.level(time)
            told = jnp.broadcast_to(self.process.told(time), (len(x),))
            answer = forward.answer(self.network, v.params, v.state, self.prediction.read(x, level), told, condition)
            return self.prediction.clean(answer, x, level)

        def guided(x: Float[Array, 'b ...'], time: Num[Array, '']) -> Float[Array, 'b ...']:
            asked = clean(x, time, condition)
            if self.guidance == 1 or condition is None:
                return asked
            free = clean(x, time, jnp.full_like(condition, -1))
            return free + self.guidance * (asked - free)

        return guided

    def condition(self, batch: Batch) -> Int[Array, ' b'] | None:
        """Returns the class that a network is told of each example."""
        return None if self.num_classes is None else batch['label']

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {DENOISER: Network(self.network, {'params': v.params, **v.state})}

    def _draw(self, batch: Batch, keys: Key[Array, ' b']) -> _Drawn:
        """Returns noisy examples; each one's noise and time are from its key."""
        keys, time_keys, noise_keys = jnp.unstack(jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1)
        x = batch[ft.IMAGE].astype(jnp.float32)
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(noise_keys)
        time = jax.vmap(self.process.draw)(time_keys)
        level = self.process.level(time)
        target = self.prediction.target(x, noise, level)
        read = self.prediction.read(pr.added(x, noise, level), level)
        return _Drawn(read, self.process.told(time), target, keys)

    def _hide(self, condition: Int[Array, ' b'] | None, keys: Key[Array, ' b']) -> Int[Array, ' b'] | None:
        if condition is None or not self.hidden:
            return condition
        hidden = jax.vmap(lambda key: jax.random.bernoulli(key, self.hidden))(keys)
        return jnp.where(hidden, -1, condition)


def _errors(answer: Float[Array, 'b ...'], target: Float[Array, 'b ...']) -> Float[Array, ' b']:
    """Returns the mean squared error of each example."""
    return jnp.mean(jnp.square(answer - target), axis=tuple(range(1, answer.ndim)))
