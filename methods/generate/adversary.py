"""Adversarial training: a generator makes examples that a critic cannot tell from the data.

Goodfellow et al., 2014, "Generative Adversarial Networks", https://arxiv.org/abs/1406.2661. A contest is one loss here:
the sum of both sides' losses, in each of which the other side's parameters are `held`. Its gradient has each side's own
in its own place, so one optimizer step on the sum moves both sides as two optimizers would that step at the same point.
Published code often steps the critic first, and the generator at the critic's new weights. Rates of their own, and
several steps of the critic for one of the generator, are a matter of the optimizer (methods/optim/apart.py).
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, Shaped

from longview.methods import forward
from longview.methods.generate.generator import Generator, sample_keys
from longview.methods.reparam import on_selected, select
from longview.methods.task import Batch, Given, Metrics, Network, Variables
from longview.modelzoo import features as ft

_SIDES = ('generator', 'critic')


def held(params: Any, pattern: str) -> Any:
    """Returns the parameters, through some of which no gradient passes.

    Args:
        params: a tree.
        pattern: regular expression that matches the whole paths of those that are held, such as ``critic/.*``.

    Raises:
        ValueError: it matches none.
    """
    return on_selected(lambda _, leaf: jax.lax.stop_gradient(leaf), select(params, pattern, 'held'), params)


class Contest(abc.ABC):
    """What the two sides lose, by what the critic says of each example: the larger, the more it believes it is data."""

    @abc.abstractmethod
    def of_critic(self, data: Float[Array, ' b'], made: Float[Array, ' b']) -> Float[Array, ' b']:
        """Returns the critic's loss, by what it says of data and of what is made."""

    @abc.abstractmethod
    def of_generator(self, made: Float[Array, ' b']) -> Float[Array, ' b']:
        """Returns the generator's loss, by what the critic says of what is made."""


@dataclasses.dataclass(frozen=True)
class NonSaturating(Contest):
    """Logistic losses; the generator raises the probability of being taken for data (Goodfellow et al., section 3)."""

    def of_critic(self, data: Float[Array, ' b'], made: Float[Array, ' b']) -> Float[Array, ' b']:
        return jax.nn.softplus(-data) + jax.nn.softplus(made)

    def of_generator(self, made: Float[Array, ' b']) -> Float[Array, ' b']:
        return jax.nn.softplus(-made)


@dataclasses.dataclass(frozen=True)
class Hinge(Contest):
    """The critic cares for examples within a margin of 1 only; Lim and Ye, 2017, https://arxiv.org/abs/1705.02894."""

    def of_critic(self, data: Float[Array, ' b'], made: Float[Array, ' b']) -> Float[Array, ' b']:
        return jax.nn.relu(1 - data) + jax.nn.relu(1 + made)

    def of_generator(self, made: Float[Array, ' b']) -> Float[Array, ' b']:
        return -made


@dataclasses.dataclass(frozen=True)
class Adversarial(Generator):
    """Trains a generator and a critic on ``image`` in one step.

    What the generator begins with is drawn for each example from the step's key and its row.

    Attributes:
        generator: normal numbers (B, width) -> images.
        critic: images -> one number for each.
        width: how many numbers an image is made of.
        contest: the losses of both sides.
    """

    generator: nn.Module
    critic: nn.Module
    width: int
    contest: Contest = NonSaturating()

    asked = None

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        image, code = batch[ft.IMAGE].astype(jnp.float32), self._codes(sample_keys(rng, batch['index']))
        weights = {} if given is None else given.networks
        keys, inputs = jax.random.split(rng), {'generator': code, 'critic': image}
        made = {
            side: forward.init(getattr(self, side), key, inputs[side], weights=weights.get(side))
            for side, key in zip(_SIDES, keys)
        }
        _check_images(image, forward.answer(self.generator, *made['generator'], code))
        params, state = ({side: pair[i] for side, pair in made.items()} for i in (0, 1))
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        image, row = batch[ft.IMAGE].astype(jnp.float32), batch['row']
        keys = jax.random.split(rng, 5)

        def learn(side: str, params: Any, state: Any, x: Array, key: Key[Array, '']) -> tuple[Array, Any]:
            return forward.learn(getattr(self, side), params[side], state, x, rng=key, row=row)

        code = self._codes(sample_keys(keys[0], row))
        made, generator_state = learn('generator', v.params, v.state['generator'], code, keys[1])
        says_of_data, critic_state = learn('critic', v.params, v.state['critic'], image, keys[2])
        unmoved = jax.lax.stop_gradient(made)
        says_of_made, critic_state = learn('critic', v.params, critic_state, unmoved, keys[3])
        # Statistics of the critic move by the two passes above and not by this one.
        fooled, _ = learn('critic', held(v.params, 'critic/.*'), v.state['critic'], made, keys[4])
        losses = {
            'generator': self.contest.of_generator(_flat(fooled)).mean(),
            'critic': self.contest.of_critic(_flat(says_of_data), _flat(says_of_made)).mean(),
        }
        loss = losses['generator'] + losses['critic']
        return loss, ({'generator': generator_state, 'critic': critic_state}, {'loss': loss, **losses})

    def losses(self, v: Variables, batch: Batch, rng: Key[Array, '']) -> dict[str, Float[Array, ' b']]:
        made = self.generate(v, sample_keys(rng, batch['index']), None)
        says = lambda x: _flat(forward.answer(self.critic, v.params['critic'], v.state['critic'], x))
        says_of_made = says(made)
        generator = self.contest.of_generator(says_of_made)
        critic = self.contest.of_critic(says(batch[ft.IMAGE].astype(jnp.float32)), says_of_made)
        return {'loss': generator + critic, 'generator': generator, 'critic': critic}

    def generate(
        self, v: Variables, keys: Key[Array, ' b'], condition: Shaped[Array, 'b ...'] | None
    ) -> Float[Array, 'b ...']:
        del condition
        return forward.answer(self.generator, v.params['generator'], v.state['generator'], self._codes(keys))

    def condition(self, batch: Batch) -> None:
        del batch

    def deployed(self, v: Variables) -> dict[str, Network]:
        of = lambda side: {'params': v.params[side], **v.state[side]}
        return {side: Network(getattr(self, side), of(side)) for side in _SIDES}

    def _codes(self, keys: Key[Array, ' b']) -> Float[Array, 'b width']:
        return jax.vmap(lambda key: jax.random.normal(key, (self.width,)))(keys)


def _flat(says: Float[Array, 'b ...']) -> Float[Array, ' b']:
    """Returns what a critic says as one number an example, also where it answers (B, 1)."""
    return says.astype(jnp.float32).reshape(len(says))


def _check_images(image: Float[Array, 'b ...'], made: Float[Array, 'b ...']) -> None:
    if image.shape != made.shape:
        raise ValueError(
            f'the generator makes images of {made.shape[1:]} and those of the data are {image.shape[1:]}: change its '
            'size or that of the data.'
        )
