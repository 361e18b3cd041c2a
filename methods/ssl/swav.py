"""SwAV: predicts the cluster of one view from another view, with clusters of about equal size.

Caron et al., 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
https://arxiv.org/abs/2006.09882, equations 1 to 5. Reference: https://github.com/facebookresearch/swav (CC BY-NC 4.0,
read for facts only), main_swav.py: codes by three rounds of Sinkhorn and Knopp, prototypes set to length 1 after each
step and held still at first, a queue of earlier projections to balance small batches.

Codes are balanced over the whole batch, on whatever devices it is, so that a step is not run in microbatches.
Where we differ: the queue is used from one step on, once it is full, and it holds rows of one projection after
the other; see also parts.py and views.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NETWORK, Objective
from longview.methods.ssl.parts import PROJECTED, Projected
from longview.methods.ssl.views import views_of
from longview.methods.task import Batch, Given, Metrics, Network, Variables
from longview.modelzoo.heads import Classifier, network_of
from longview.modelzoo.layers.norms.norm import l2_normalize

ASSIGNING = 2


@dataclasses.dataclass(frozen=True)
class SwAV(Objective):
    """Trains ``projector(backbone(view))`` and prototypes on all views; codes are those of ``view0`` and ``view1``.

    Prototypes learn by gradients and lie in ``params``; the queue lies in ``state``.

    Attributes:
        backbone: image -> features; has to take views of every size there is. Of a whole network the backbone is taken,
            with its weights.
        projector: features -> vectors.
        prototypes: number of clusters.
        views: number of views in the batch, 2 or more.
        temperature: of the prediction.
        epsilon: of the codes; smaller is harder.
        iterations: of Sinkhorn and Knopp.
        queue: earlier projections kept for each assigning view; 0 for none.
        queue_from: the first step that balances with the queue.
        freeze: steps at the start in which prototypes stay as they are.
    """

    batchwide = True

    backbone: nn.Module
    projector: nn.Module
    prototypes: int = 3000
    views: int = 2
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    queue: int = 0
    queue_from: int = 0
    freeze: int = 0

    def __post_init__(self) -> None:
        if self.views < ASSIGNING:
            raise ValueError(
                f'SwAV.views is {self.views}: the code of a view is predicted from another, so use at '
                f'least {ASSIGNING}.'
            )

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        model_rng, rng = jax.random.split(rng)
        view = views_of(batch, self.views, 'SwAV')[0]
        model, state = forward.init(self.model, model_rng, view, weights=self._weights(batch, given))
        width = forward.answer(self.model, model, state, view)[PROJECTED].shape[-1]
        kernel = l2_normalize(jax.random.normal(rng, (width, self.prototypes)), axis=0)
        params = {**model, 'prototypes': {'kernel': kernel}}
        queue = {'queue': jnp.zeros((ASSIGNING, self.queue, width)), 'queued': jnp.zeros((), jnp.int32)}
        return Variables(params, {'model': state, **(queue if self.queue else {})}, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        model, kernel = _parted(v.params)
        kernel = jnp.where(step < self.freeze, jax.lax.stop_gradient(kernel), kernel)
        state, projected, outputs = v.state['model'], [], []
        for index, view in enumerate(views_of(batch, self.views, 'SwAV')):
            row = self.views * batch['row'] + index
            features, state = forward.learn(self.model, model, state, view, rng=rng, row=row)
            outputs.append(features)
            projected.append(l2_normalize(features[PROJECTED].astype(jnp.float32), axis=1))
        codes = [self._codes(projected[i], kernel, v.state, i, step) for i in range(ASSIGNING)]
        losses = swapped([z @ kernel for z in projected], codes, self.temperature)
        queue = self._queued(v.state, projected) if self.queue else {}
        loss, metrics = forward.penalized(losses.mean(), *outputs)
        return loss, ({'model': state, **queue}, metrics)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        """Sets the prototypes back to length 1."""
        del grads, step
        kernel = l2_normalize(v.params['prototypes']['kernel'], axis=0)
        return v._replace(params={**v.params, 'prototypes': {'kernel': kernel}})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, _parted(v.params)[0], v.state['model'], *forward.inputs(self.source, batch))

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns the loss, codes balanced over this batch alone, padding rows included."""
        model, kernel = _parted(v.params)
        views = views_of(batch, self.views, 'SwAV')
        projected = [forward.answer(self.model, model, v.state['model'], view)[PROJECTED] for view in views]
        projected = [l2_normalize(z.astype(jnp.float32), axis=1) for z in projected]
        codes = [sinkhorn(z @ kernel, self.epsilon, self.iterations) for z in projected[:ASSIGNING]]
        return {'loss': swapped([z @ kernel for z in projected], codes, self.temperature)}

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {NETWORK: Network(self.model, {'params': _parted(v.params)[0], **v.state['model']})}

    @property
    def source(self) -> Classifier:
        return network_of(self.backbone, self.projector)

    @property
    def model(self) -> Projected:
        return Projected(self.source.backbone, self.projector)

    def _codes(
        self, z: Float[Array, 'b d'], kernel: Float[Array, 'd k'], state: Any, view: int, step: Int[Array, '']
    ) -> Float[Array, 'b k']:
        z, kernel = jax.lax.stop_gradient((z, kernel))
        balance = lambda rows: sinkhorn(rows @ kernel, self.epsilon, self.iterations)[: len(z)]
        if not self.queue:
            return balance(z)
        full = (state['queued'] >= self.queue) & (step >= self.queue_from)
        return jax.lax.cond(full, lambda: balance(jnp.concatenate([z, state['queue'][view]])), lambda: balance(z))

    def _queued(self, state: Any, projected: list[Float[Array, 'b d']]) -> dict[str, Array]:
        """Returns the queue with this step's projections of the assigning views in front."""
        fresh = jax.lax.stop_gradient(jnp.stack(projected[:ASSIGNING]))
        queue = jnp.concatenate([fresh, state['queue']], axis=1)[:, : self.queue]
        return {'queue': queue, 'queued': jnp.minimum(state['queued'] + fresh.shape[1], self.queue)}


def sinkhorn(scores: Float[Array, 'n k'], epsilon: float, iterations: int) -> Float[Array, 'n k']:
    """Returns codes: rows of sum 1 whose columns have about equal sums.

    ``exp(scores / epsilon)``, its columns and then its rows scaled to equal sums, some times over (Cuturi, 2013,
    https://arxiv.org/abs/1306.0895).

    Args:
        scores: of n examples and k prototypes.
        epsilon: smoothness.
        iterations: how often; the rows come last.
    """
    rows, columns = scores.shape
    codes = jnp.exp((scores - scores.max()) / epsilon)
    for _ in range(iterations):
        codes = codes / (codes.sum(axis=0, keepdims=True) * columns)
        codes = codes / (codes.sum(axis=1, keepdims=True) * rows)
    return codes / codes.sum(axis=1, keepdims=True)


def swapped(
    scores: list[Float[Array, 'b k']], codes: list[Float[Array, 'b k']], temperature: float
) -> Float[Array, ' b']:
    """Returns each example's loss: the cross-entropy of a view's code with every other view's prediction, averaged.

    Args:
        scores: of each view, cosines with the prototypes.
        codes: of the first views.
        temperature: of the predictions.
    """
    logs = [jax.nn.log_softmax(score / temperature, axis=1) for score in scores]
    losses = [-jnp.sum(code * log, axis=1) for i, code in enumerate(codes) for j, log in enumerate(logs) if i != j]
    return sum(losses) / len(losses)


def _parted(params: Any) -> tuple[Any, Float[Array, 'd k']]:
    return {name: tree for name, tree in params.items() if name != 'prototypes'}, params['prototypes']['kernel']
