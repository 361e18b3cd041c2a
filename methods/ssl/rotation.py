"""RotNet: predicts by how many quarter turns an image was rotated.

Gidaris et al., 2018, "Unsupervised Representation Learning by Predicting Image Rotations",
https://arxiv.org/abs/1803.07728, equations 2 and 3. Reference: https://github.com/gidariss/FeatureLearningRotNet (MIT).
All four rotations of an image are in the same batch, as the paper found best.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NetworkObjective
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Variables

TURNS = 4


@dataclasses.dataclass(frozen=True)
class RotNet(NetworkObjective):
    """Trains ``head(backbone(rotated image))``, four classes, on the number of turns.

    `predict` answers for the image as it is, by the backbone; the head's logits are of rotations, and left out.

    Attributes:
        backbone, head, network: square image -> features, and features -> four logits; see `NetworkObjective`.
    """

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        (image,) = forward.inputs(self.model, batch)
        _, height, width, _ = image.shape
        if height != width:
            raise ValueError(f'RotNet turns images and got {height}x{width}: crop them to squares.')
        params, state = forward.init(self.model, rng, image, weights=self._weights(batch, given))
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        row = (TURNS * batch['row'][None] + jnp.arange(TURNS)[:, None]).ravel()
        (image,) = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state, rotations(image), rng=rng, row=row)
        losses, right = _judged(features['logits'])
        loss, metrics = forward.penalized(losses.mean(), features)
        return loss, (state, {**metrics, 'accuracy': right.mean()})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        features = forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch))
        return {name: value for name, value in features.items() if name != 'logits'}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns means over the four turns of each image."""
        (image,) = forward.inputs(self.model, batch)
        features = forward.answer(self.model, v.params, v.state, rotations(image))
        losses, right = _judged(features['logits'])
        return {'loss': losses.mean(axis=0), 'accuracy': right.mean(axis=0)}


def rotations(image: Array) -> Array:
    """(B, H, H, C) -> (4B, H, H, C): all images as they are, then all turned once, counter-clockwise, and so on."""
    return jnp.concatenate([jnp.rot90(image, turns, axes=(1, 2)) for turns in range(TURNS)])


def _judged(logits: Float[Array, 'n k']) -> tuple[Float[Array, '4 b'], Float[Array, '4 b']]:
    if logits.shape[-1] != TURNS:
        raise ValueError(f'the head of RotNet gives {logits.shape[-1]} logits: set its num_classes to {TURNS}.')
    turn = jnp.repeat(jnp.arange(TURNS), len(logits) // TURNS)
    losses = cross_entropy(logits, jax.nn.one_hot(turn, TURNS))
    right = (jnp.argmax(logits, axis=1) == turn).astype(jnp.float32)
    return losses.reshape(TURNS, -1), right.reshape(TURNS, -1)
