"""Language modelling: predicts the label of each position, such as the next word, from the words up to it.

The label of a place is the word wanted there, so a text is its own label one word on; places with a label below 0 ask
for nothing (torch's -100). In training an example's loss is the mean over its places that ask, and a batch's the mean
over examples, so a batch may be split; the reference of Zoology (https://github.com/HazyResearch/zoology, Apache-2.0)
takes the mean over all places of a batch, which is the same where all examples ask equally often. Scores are means over
all places of a split that ask.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.modelzoo.features import SequenceBackbone, require


@dataclasses.dataclass(frozen=True)
class LanguageModel(NetworkObjective):
    """Trains ``head(backbone(words))`` on ``label``.

    Attributes:
        backbone, head, network: words -> features, by a `SequenceBackbone` with a vocabulary, and features -> logits
            at each place, by a `modelzoo.heads.LanguageHead`; see `NetworkObjective`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.model.backbone, SequenceBackbone, 'LanguageModel')
        if not self.model.backbone.vocabulary:
            raise ValueError('LanguageModel needs a backbone that reads words: set its vocabulary.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        params, state = forward.init(
            self.model, rng, *forward.inputs(self.model, batch), weights=self._weights(batch, given)
        )
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        features, state = forward.learn(
            self.model, v.params, v.state, *forward.inputs(self.model, batch), rng=rng, row=batch['row']
        )
        loss, metrics = forward.penalized(_scores(features['logits'], batch['label'])['loss'].mean(), features)
        return loss, (state, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return _scores(self.predict(v, batch)['logits'], batch['label'])

    def weight(self, batch: Batch) -> Float[Array, ' b']:
        """Returns the number of questions."""
        return jnp.sum(batch['label'] >= 0, axis=1).astype(jnp.float32)


def _scores(logits: Float[Array, 'b t k'], label: Int[Array, 'b t']) -> dict[str, Float[Array, ' b']]:
    """Returns the loss of each example and the share of its questions whose answer has the largest logit."""
    asked = (label >= 0).astype(jnp.float32)
    count = jnp.maximum(asked.sum(axis=1), 1)
    label = jnp.maximum(label, 0)
    logits = logits.astype(jnp.float32)
    right = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - right
    said = (jnp.argmax(logits, axis=-1) == label).astype(jnp.float32)
    mean = lambda values: jnp.sum(values * asked, axis=1) / count
    return {'loss': mean(losses), 'accuracy': mean(said)}
