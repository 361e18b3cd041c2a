"""Classification with a softmax cross-entropy, soft labels and label smoothing included."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NETWORK, NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Network, Variables
from longview.modelzoo.heads import filled


@dataclasses.dataclass(frozen=True)
class Supervised(NetworkObjective):
    """Trains ``head(backbone(image))`` on ``label``, or on ``target`` where a batch transform made one.

    Attributes:
        backbone, head, network: image -> features, and features -> logits; see `NetworkObjective`.
        label_smoothing: the share of each hard label spread over all classes (Szegedy et al., 2016,
            https://arxiv.org/abs/1512.00567). Soft targets are taken as they are.
    """

    label_smoothing: float = 0.0

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        # Each part has a key of its own: initialised as one module, both would have other values.
        backbone_rng, head_rng = jax.random.split(rng)
        features, made = self.model.backbone.init_with_output(
            backbone_rng, *forward.inputs(self.model, batch), train=False
        )
        # The head's shapes come from the features'; their values are never computed.
        head = self.model.head.init(head_rng, jax.tree.map(lambda f: jnp.zeros(f.shape, f.dtype), features))
        variables = {kind: {'backbone': tree} for kind, tree in made.items()}
        variables['params']['head'] = head['params']
        params, state = forward.parted(filled(variables, self._weights(batch, given)))
        return Variables(params, {kind: tree['backbone'] for kind, tree in state.items()}, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(
            self.model.backbone, v.params['backbone'], v.state, *columns, rng=rng, row=batch['row']
        )
        logits = self._logits(v, features)
        losses = cross_entropy(logits, self._target(batch, logits.shape[-1]))
        loss, metrics = forward.penalized(losses.mean(), features)
        return loss, (state, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        features = forward.answer(
            self.model.backbone, v.params['backbone'], v.state, *forward.inputs(self.model, batch)
        )
        return {**features, 'logits': self._logits(v, features)}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        logits, label = self.predict(v, batch)['logits'], batch['label']
        # Counting the classes that beat the right one gives both figures without a sort.
        right = jnp.take_along_axis(logits, label[:, None], axis=1)
        rank = jnp.sum(logits > right, axis=1)
        losses = cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1]))
        return {'loss': losses, 'accuracy': (rank < 1).astype(jnp.float32), 'top5': (rank < 5).astype(jnp.float32)}

    def deployed(self, v: Variables) -> dict[str, Network]:
        state = {kind: {'backbone': tree} for kind, tree in v.state.items()}
        return {NETWORK: Network(self.model, {'params': v.params, **state})}

    def _logits(self, v: Variables, features: dict[str, Array]) -> Float[Array, 'b classes']:
        return self.model.head.apply({'params': v.params['head']}, features)

    def _target(self, batch: Batch, classes: int) -> Float[Array, 'b classes']:
        if 'target' in batch:
            return batch['target']
        return optax.smooth_labels(jax.nn.one_hot(batch['label'], classes), self.label_smoothing)


def cross_entropy(logits: Float[Array, 'b c'], target: Float[Array, 'b c']) -> Float[Array, ' b']:
    """Returns ``-sum_c target_c log softmax(logits)_c`` for each example, in float32."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), target)
