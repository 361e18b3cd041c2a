"""Supervised learning: from one class, several labels or numbers, with soft labels and label smoothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.losses import Loss, SoftmaxCrossEntropy
from longview.methods.losses import cross_entropy as cross_entropy
from longview.methods.objective import NETWORK, NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Network, Rows, Variables
from longview.modelzoo.heads import filled


@dataclasses.dataclass(frozen=True)
class Supervised(NetworkObjective):
    """Trains ``head(backbone(image))`` on ``label``, or on ``target`` where a batch transform made one.

    The figures are ``loss`` and those of the kind of labels (methods/answers.py): of one class ``accuracy`` and
    ``top5``; of several labels ``mean_average_precision``, ``exact_match``, ``f1_micro`` and ``f1_macro``; of numbers
    ``mae``, ``rmse`` and ``r2``, with which a config sets ``best``, and ``best_mode`` to ``min``.

    Attributes:
        backbone, head, network: image -> features, and features -> logits or numbers, as many as there are classes,
            labels or numbers; see `NetworkObjective`.
        label_smoothing: the share of each hard label spread over all classes (Szegedy et al., 2016,
            https://arxiv.org/abs/1512.00567). Soft targets are taken as they are.
        criterion: the loss, which says of what kind the labels are (methods/losses.py).
        label: the column of the batch that holds them.
    """

    label_smoothing: float = 0.0
    criterion: Loss = SoftmaxCrossEntropy()
    label: str = 'label'

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f'Supervised.label_smoothing is {self.label_smoothing}: it is a share, from 0 to 1.')

    @property
    def batchwide(self) -> bool:
        return self.criterion.batchwide

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
        answer = self._answer(v, features)
        loss, metrics = forward.penalized(self.criterion.mean(answer, self._learned(batch, answer)), features)
        return loss, (state, metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns the features, and ``logits``; of numbers ``prediction``."""
        features = forward.answer(
            self.model.backbone, v.params['backbone'], v.state, *forward.inputs(self.model, batch)
        )
        return {**features, self.criterion.answers.name: self._answer(v, features)}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        answers = self.criterion.answers
        answer = self.predict(v, batch)[answers.name]
        losses = self.criterion(answer, self._target(batch, answer))
        return {'loss': losses, **answers.scores(answer, batch[self.label])}

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        answers = self.criterion.answers
        if not answers.together:
            return {}
        answer = self.predict(v, batch)[answers.name]
        return {'answer': answer.astype(jnp.float32), 'target': self._target(batch, answer)}

    def figures(self, sums: Any, rows: dict[str, Any]) -> dict[str, float]:
        scores, answers = super().figures(sums, rows), self.criterion.answers
        return {**scores, **answers.figures(rows['answer'], rows['target'])} if answers.together else scores

    def deployed(self, v: Variables) -> dict[str, Network]:
        state = {kind: {'backbone': tree} for kind, tree in v.state.items()}
        return {NETWORK: Network(self.model, {'params': v.params, **state})}

    def _answer(self, v: Variables, features: dict[str, Array]) -> Float[Array, 'b k']:
        answer = self.model.head.apply({'params': v.params['head']}, features)
        return answer['logits'] if isinstance(answer, dict) else answer  # of two heads, their mean

    def _learned(self, batch: Batch, answer: Float[Array, 'b k']) -> Float[Array, 'b k']:
        """Returns what is learned from: what batch transforms made, or the labels."""
        if 'target' not in batch:
            return self._target(batch, answer, self.label_smoothing)
        if batch['target'].shape != answer.shape:
            raise ValueError(
                f'a batch transform made targets {batch["target"].shape}, and the head gives {answer.shape}: set '
                'num_classes of both alike, or leave the transform out where labels are no classes.'
            )
        return batch['target']

    def _target(self, batch: Batch, answer: Float[Array, 'b k'], smoothing: float = 0.0) -> Float[Array, 'b k']:
        if self.label not in batch:
            raise ValueError(
                f'Supervised.label is {self.label!r}, and the batch has {", ".join(sorted(batch))}: name one of these.'
            )
        return self.criterion.answers.target(batch[self.label], answer.shape[-1], smoothing)
