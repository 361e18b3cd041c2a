"""SimCLR: contrastive learning, which tells the two views of an image from those of all other images.

Chen et al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
https://arxiv.org/abs/2002.05709, equation 1 and algorithm 1. Reference: https://github.com/google-research/simclr
(Apache-2.0). The others are those of the whole batch, on whatever devices they are, so that a step is not run in
microbatches. Where we differ: see parts.py and views.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import Objective
from longview.methods.ssl.parts import PROJECTED, Projected
from longview.methods.ssl.views import views_of
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.modelzoo.heads import Classifier, network_of
from longview.modelzoo.layers.norms.norm import l2_normalize


@dataclasses.dataclass(frozen=True)
class SimClr(Objective):
    """Trains ``projector(backbone(view))`` on ``view0`` and ``view1``; `predict` answers for ``image``.

    Attributes:
        backbone: image -> features. Of a whole network, one that is loaded from a file for instance, the backbone is
            taken, with its weights.
        projector: features -> vectors to compare.
        temperature: divides the cosines.
    """

    batchwide = True

    backbone: nn.Module
    projector: nn.Module
    temperature: float = 0.1

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        view = views_of(batch, 2, 'SimClr')[0]
        params, state = forward.init(self.model, rng, view, weights=self._weights(batch, given))
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        both = jnp.concatenate(views_of(batch, 2, 'SimClr'))
        row = jnp.concatenate([2 * batch['row'], 2 * batch['row'] + 1])
        features, state = forward.learn(self.model, v.params, v.state, both, rng=rng, row=row)
        losses, found = nt_xent(*jnp.split(features[PROJECTED], 2), self.temperature)
        loss, metrics = forward.penalized(losses.mean(), features)
        return loss, (state, {**metrics, 'accuracy': found.mean(dtype=jnp.float32)})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, v.params, v.state, *forward.inputs(self.source, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns the loss and the share of views that find their partner; padding rows count among the others."""
        views = views_of(batch, 2, 'SimClr')
        projected = [forward.answer(self.model, v.params, v.state, view)[PROJECTED] for view in views]
        losses, found = nt_xent(*projected, self.temperature)
        return {'loss': losses, 'accuracy': found.astype(jnp.float32)}

    @property
    def source(self) -> Classifier:
        return network_of(self.backbone, self.projector)

    @property
    def model(self) -> Projected:
        return Projected(self.source.backbone, self.projector)


def nt_xent(
    first: Float[Array, 'b d'], second: Float[Array, 'b d'], temperature: float
) -> tuple[Float[Array, ' b'], Bool[Array, ' b']]:
    """Returns the normalized temperature-scaled cross-entropy of each pair, the mean over its two orders.

    ``-log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))`` with cosines s, k over all 2B vectors.

    Returns:
        The losses; and whether the partner of `first` is the nearest of all.
    """
    z = l2_normalize(jnp.concatenate([first, second]).astype(jnp.float32), axis=1)
    count = len(first)
    logits = jnp.where(jnp.eye(2 * count, dtype=bool), -jnp.inf, z @ z.T / temperature)
    partner = (jnp.arange(2 * count) + count) % (2 * count)
    right = jnp.take_along_axis(logits, partner[:, None], axis=1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=1) - right
    return losses.reshape(2, count).mean(axis=0), jnp.argmax(logits[:count], axis=1) == partner[:count]
