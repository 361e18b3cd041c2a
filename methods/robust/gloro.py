"""Training for certified robustness, and the certificate: no image within a radius has another class.

Hu et al., 2023, "Unlocking Deterministic Robustness Certification on ImageNet", https://arxiv.org/abs/2301.12549 (the
loss EMMA), on Leino et al., 2021, "Globally-Robust Neural Networks", https://arxiv.org/abs/2102.08452 (GloRo).
Reference: https://github.com/klasleino/gloro (MIT) at f04fd23, snapshots/hu23_snapshot.zip, and the follow-up
https://github.com/hukkai/liresnet (MIT) at 0c0611a, models/margin_layer.py, both read for facts.

With y the logits, w_i the class vectors of the head and K a bound of the Lipschitz constant of what is below it, no
image within r of an image in the L2 norm has its logit i further above its logit j than

    y_i - y_j + r K |w_j - w_i|,

so an image with the largest logit j is certified at r where that is below 0 for all other classes i. K is a product of
norms found by power iteration (layers/lipschitz.py), which comes from below: after `eval_iterations` steps it is a
bound to rounding. The certificate is of the numbers that are computed in float32: on an accelerator evaluate with
``--config.matmul_precision=highest``, or logits are coarser than that.

The losses, with j the label and r the radius of training:

- EMMA: the cross-entropy of y_i - y_j + e_i r K |w_j - w_i|, where e_i, without a gradient, is the share of r at
  which class i draws level, (y_j - y_i) / (r K |w_j - w_i|), at least 0.01 and at most 1.
- margin: the same with e_i = 1.
- TRADES: the cross-entropy of y, plus the Kullback-Leibler divergence from y to y with one class more, the largest
  of y_i + r K |w_p - w_i| over i other than the prediction p.

The paper's text has EMMA, while its snapshot trains with the margin loss, and EMMA is in the follow-up; here it is the
default. Where we differ: the iterates of a step are those that the step before has left, whatever the number of
microbatches; the radius grows with the epoch of each example.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.losses import cross_entropy
from longview.methods.objective import NETWORK, NetworkObjective
from longview.methods.task import Batch, Given, Metrics, Network, Sums, Variables, means
from longview.modelzoo import features as ft
from longview.modelzoo.heads.unit import UnitLinear

_LEAST_SHARE = 0.01


@jax.custom_vjp
def distances(columns: Float[Array, 'd k'], label: Int[Array, ' b']) -> Float[Array, 'b k']:
    """Returns how far the class vectors are from that of each example's label; the gradient at 0 is 0.

    The gradient is written out as products of matrices, or all differences, (B, K, D), would be kept for it.
    """
    return jnp.sqrt(jnp.sum(jnp.square(columns.T[label][:, None] - columns.T[None]), axis=-1))


def _distances_forward(columns: Array, label: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    away = distances(columns, label)
    return away, (columns, label, away)


def _distances_backward(kept: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, None]:
    columns, label, away = kept
    each = jnp.where(away > 0, cotangent / jnp.where(away > 0, away, 1.0), 0.0)
    pairs = jnp.zeros((columns.shape[1],) * 2).at[label].add(each)
    pairs = jnp.where(jnp.eye(len(pairs), dtype=bool), 0.0, pairs + pairs.T)  # rounding may part a vector from itself
    return columns * pairs.sum(0)[None] - jnp.matmul(columns, pairs, precision='highest'), None


distances.defvjp(_distances_forward, _distances_backward)


def emma(
    logits: Float[Array, 'b k'], label: Int[Array, ' b'], columns: Float[Array, 'd k'], reach: Float[Array, ' b']
) -> Float[Array, 'b k']:
    """Returns the logits less the label's, each attacked as far as it draws level.

    Args:
        logits: y above.
        label: the classes.
        columns: the class vectors.
        reach: r K of each example.
    """
    behind = logits - jnp.take_along_axis(logits, label[:, None], axis=1)
    margin = reach[:, None] * distances(columns, label)
    share = jnp.clip(-behind / jnp.maximum(margin, 1e-8), _LEAST_SHARE, 1.0)
    return behind + jax.lax.stop_gradient(share) * margin


def attacked(
    logits: Float[Array, 'b k'], label: Int[Array, ' b'], columns: Float[Array, 'd k'], reach: Float[Array, ' b']
) -> Float[Array, 'b k']:
    """Returns the logits, each as far above the label's as it can come; arguments as for `emma`."""
    return logits + reach[:, None] * distances(columns, label)


def with_bottom(
    logits: Float[Array, 'b k'], columns: Float[Array, 'd k'], reach: Float[Array, ' b']
) -> Float[Array, 'b k1']:
    """Returns the logits and, last, the largest that another class than the prediction can come to.

    An example is certified where the prediction is still above it. Arguments as for `emma`.
    """
    first = jnp.argmax(logits, axis=1)
    others = jax.nn.one_hot(first, logits.shape[1]) == 0
    most = jnp.max(attacked(logits, first, columns, reach), axis=1, where=others, initial=-jnp.inf, keepdims=True)
    return jnp.concatenate([logits, most], axis=1)


def certified(
    logits: Float[Array, 'b k'], columns: Float[Array, 'd k'], reach: Float[Array, ' b']
) -> Float[Array, ' b']:
    """Returns 1 for each example whose prediction no image within the radius can change, else 0."""
    return (jnp.max(logits, axis=1) > with_bottom(logits, columns, reach)[:, -1]).astype(jnp.float32)


def emma_loss(logits: Array, label: Array, columns: Array, reach: Array) -> Float[Array, ' b']:
    """The cross-entropy of `emma`."""
    return _cross_entropy(emma(logits, label, columns, reach), label)


def margin_loss(logits: Array, label: Array, columns: Array, reach: Array) -> Float[Array, ' b']:
    """The cross-entropy of `attacked`."""
    return _cross_entropy(attacked(logits, label, columns, reach), label)


def trades_loss(logits: Array, label: Array, columns: Array, reach: Array) -> Float[Array, ' b']:
    """The cross-entropy, and the divergence to `with_bottom`: what the bottom adds to the sum of the exponentials."""
    more = jax.nn.logsumexp(with_bottom(logits, columns, reach), axis=1) - jax.nn.logsumexp(logits, axis=1)
    return _cross_entropy(logits, label) + more


def _cross_entropy(logits: Array, label: Array) -> Float[Array, ' b']:
    return cross_entropy(logits, jax.nn.one_hot(label, logits.shape[1]))


@dataclasses.dataclass(frozen=True)
class Gloro(NetworkObjective):
    """Trains a `Bounded` network with a `UnitLinear` head, and certifies its answers.

    The figures are ``accuracy``, ``certified`` (the share whose answer holds within the radius), ``vra`` (verified
    robust accuracy: right and certified) and ``loss``, all at ``radius``. Images are in the units of the radius, such
    as pixels from 0 to 1.

    Attributes:
        backbone, head, network: image -> features, and features -> logits; see `NetworkObjective`.
        radius: of the certificate.
        criterion: (logits, label, class vectors, r K) -> the loss of each example: `emma_loss`, `margin_loss` or
            `trades_loss`.
        first, last: the radius of training, in units of `radius`, in epoch 0 and from epoch `ramp` on; between them it
            grows linearly, epoch by epoch.
        ramp: epochs; 0 for `last` at once.
        iterations: steps of power iteration in a step of training.
        eval_iterations: steps before an evaluation.
        through: whether the bound's gradient flows through all of these steps; see `spectral_norm` of
            layers/lipschitz.py.
    """

    radius: float = 36 / 255
    criterion: Callable[..., Array] = emma_loss
    first: float = 0.1
    last: float = 1.5
    ramp: float = 0.0
    iterations: int = 10
    eval_iterations: int = 500
    through: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        ft.require(self.source.backbone, ft.Bounded, 'Gloro')
        if not isinstance(self.source.head, UnitLinear):
            raise TypeError(
                f'Gloro has a {type(self.source.head).__name__} as its head, whose class vectors it does not know: use '
                'modelzoo.heads.unit:UnitLinear.'
            )
        if min(self.iterations, self.eval_iterations) < 1:
            raise ValueError(
                f'Gloro has iterations={self.iterations} and eval_iterations={self.eval_iterations}: use at least 1 of '
                'each, or the bound bounds nothing.'
            )
        if self.radius <= 0:
            raise ValueError(f'Gloro.radius is {self.radius}: it is a distance between images, above 0.')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        columns = forward.inputs(self.model, batch)
        params, state = forward.init(self.model, rng, *columns, weights=self._weights(batch, given))
        shapes = self.model.backbone.iterates(columns[0].shape[1:])
        leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda node: isinstance(node, tuple))
        keys = jax.random.split(jax.random.fold_in(rng, 1), len(leaves))
        starts = tree.unflatten([jax.random.normal(key, shape) for key, shape in zip(keys, leaves)])
        return Variables(params, {NETWORK: state, 'iterates': starts, 'moved': starts}, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        if 'target' in batch:
            raise ValueError('Gloro learns from a class, and a batch transform made targets: leave out Mix.')
        seen = forward.inputs(self.model, batch)
        features, network = forward.learn(self.model, v.params, v.state[NETWORK], *seen, rng=rng, row=batch['row'])
        bound, moved = self._bound(v, self.iterations)
        radius = self.radius * self._growth(batch['epoch'].astype(jnp.float32))
        losses = self.criterion(features['logits'], batch['label'], self._columns(v, features), radius * bound)
        loss, metrics = forward.penalized(losses.mean(), features)
        state = {**v.state, NETWORK: network, 'moved': moved}
        return loss, (state, {**metrics, 'lipschitz': bound, 'radius': radius.mean()})

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        # All microbatches of a step begin with the same iterates, and leave the same.
        return v._replace(state={**v.state, 'iterates': v.state['moved']})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return forward.answer(self.model, v.params, v.state[NETWORK], *forward.inputs(self.model, batch))

    def prepare(self, v: Variables, gathered: dict[str, Any] | None) -> Float[Array, '']:
        """Returns the bound, once for an evaluation."""
        return self._bound(v, self.eval_iterations)[0]

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return self._scores(v, batch, self.prepare(v, None))

    def measure(self, v: Variables, batch: Batch, ready: Float[Array, ''], rng: Key[Array, '']) -> Sums:
        mask = batch['mask']
        scores = self._scores(v, batch, ready)
        return {**means(scores, mask, mask.astype(jnp.float32)), 'weight': jnp.sum(mask)}

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {NETWORK: Network(self.model, {'params': v.params, **v.state[NETWORK]})}

    def _scores(self, v: Variables, batch: Batch, bound: Float[Array, '']) -> dict[str, Float[Array, ' b']]:
        features, label = self.predict(v, batch), batch['label']
        logits, columns = features['logits'], self._columns(v, features)
        reach = jnp.full(label.shape, self.radius) * bound
        right = (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)
        sure = certified(logits, columns, reach)
        losses = self.criterion(logits, label, columns, reach)
        return {'loss': losses, 'accuracy': right, 'certified': sure, 'vra': right * sure}

    def _bound(self, v: Variables, iterations: int) -> tuple[Float[Array, ''], Any]:
        params, starts = _whole((v.params['backbone'], v.state['iterates']))
        options = {'iterations': iterations, 'through': self.through}
        return self.model.backbone.apply({'params': params}, starts, **options, method='lipschitz')

    def _columns(self, v: Variables, features: ft.Features) -> Float[Array, 'd k']:
        return self.model.head.apply({'params': v.params['head']}, features[ft.POOLED].shape[-1], method='columns')

    def _growth(self, epoch: Float[Array, ' b']) -> Float[Array, ' b']:
        """Returns the radius of training in units of `radius`."""
        share = jnp.minimum(epoch / self.ramp, 1.0) if self.ramp else jnp.ones_like(epoch)
        return self.first + (self.last - self.first) * share


def _whole(tree: Any) -> Any:
    """Returns arrays that every device has whole, or devices would exchange the borders of images in each iteration."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.sharding.PartitionSpec())
