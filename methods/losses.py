"""Losses of a network's answers: one number an example, in float32, so that a batch's is a mean over its examples.

A config names one as `criterion` of `Supervised`; where none is named it is `SoftmaxCrossEntropy`:

    {'fn': 'methods.losses:BinaryCrossEntropy', 'answers': {'fn': 'methods.answers:Labels'}}    # several labels
    {'fn': 'methods.losses:BinaryCrossEntropy', 'threshold': 0.2}       # one class, or several mixed: ResNet-RSB
    {'fn': 'methods.losses:SquaredError'}                               # numbers

`answers` says what kind of labels there are and how they are scored (answers.py). Targets (B, K) may be soft.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from longview.methods.answers import Answers, Classes, Numbers


class Loss(abc.ABC):
    """(answer, target) -> the loss of each example. Implementations are frozen dataclasses.

    Attributes:
        answers: the kind of labels.
        batchwide: whether `mean` is no mean over examples, so that microbatches would change it.
    """

    answers: Answers
    batchwide: bool = False

    @abc.abstractmethod
    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        """Returns the loss of each example, in float32."""

    def mean(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, '']:
        """Returns the loss of a batch in training."""
        return self(answer, target).mean()


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """``-sum_c w_c target_c log softmax(answer)_c``.

    Attributes:
        class_weights: w, one for each class, such as those of `balanced`; None for 1.
        weighted_mean: in training the losses of a batch are summed and divided by ``sum w_y`` of its labels, as
            torch.nn.CrossEntropyLoss does, which microbatches would change: they are refused. False divides by the
            number of examples, as every evaluation does. Of soft targets w_y is ``sum_c w_c target_c``; torch divides
            by the number of examples there and, where labels are smoothed, by the weights of the labels before that.
    """

    class_weights: Sequence[float] | None = None
    weighted_mean: bool = True
    answers: ClassVar[Answers] = Classes()

    def __post_init__(self) -> None:
        if self.class_weights is not None and min(self.class_weights) < 0:
            raise ValueError(f'class_weights has {min(self.class_weights)}: weights must be at least 0.')

    @property
    def batchwide(self) -> bool:
        return self.class_weights is not None and self.weighted_mean

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        return cross_entropy(answer, self._weighted(target))

    def mean(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, '']:
        losses = self(answer, target)
        return losses.sum() / self._weighted(target).sum() if self.batchwide else losses.mean()

    def _weighted(self, target: Float[Array, 'b k']) -> Float[Array, 'b k']:
        if self.class_weights is None:
            return target
        if len(self.class_weights) != target.shape[1]:
            raise ValueError(
                f'class_weights has {len(self.class_weights)} weights and there are {target.shape[1]} classes: give '
                'each class one.'
            )
        return target * jnp.asarray(self.class_weights, jnp.float32)[None]


@dataclasses.dataclass(frozen=True)
class SoftmaxFocal(Loss):
    """``-sum_c target_c (1 - p_c)^gamma log p_c`` with ``p = softmax(answer)``: less of what is right already.

    Lin et al., 2017, https://arxiv.org/abs/1708.02002, equation 4, with the softmax that section 3.3 leaves open.

    Attributes:
        gamma: 0 is the cross-entropy.
    """

    gamma: float = 2.0
    answers: ClassVar[Answers] = Classes()

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        likely = jax.nn.log_softmax(answer.astype(jnp.float32), axis=-1)
        return -jnp.sum(target * _power(-jnp.expm1(likely), self.gamma) * likely, axis=-1)


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """``-t log sigmoid(a) - (1 - t) log(1 - sigmoid(a))`` of each class or label by itself.

    Of classes it is the loss of "ResNet strikes back" (Wightman et al., 2021, https://arxiv.org/abs/2110.00476); the
    reference is timm's BinaryCrossEntropy (Apache-2.0), whose smoothing is `Supervised.label_smoothing` here.

    Attributes:
        answers: `Classes`, or `Labels` where an example may have several.
        threshold: targets above it become 1 and all others 0, so that each of two mixed classes is one to be found;
            0.2 in the paper. None leaves targets as they are.
        sum_classes: the sum over the classes; False is their mean.
    """

    answers: Answers = Classes()
    threshold: float | None = None
    sum_classes: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise ValueError(f'threshold is {self.threshold}: it must be at least 0 and below 1, or None.')

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        if self.threshold is not None:
            target = (target > self.threshold).astype(jnp.float32)
        losses = optax.sigmoid_binary_cross_entropy(answer.astype(jnp.float32), target)
        return losses.sum(axis=-1) if self.sum_classes else losses.mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class SigmoidFocal(Loss):
    """The binary cross-entropy of each class or label, less of it where the answer is right already.

    Lin et al., 2017, https://arxiv.org/abs/1708.02002, equation 5; reference: torchvision's sigmoid_focal_loss (BSD-3).

    Attributes:
        answers: `Classes`, or `Labels` where an example may have several.
        alpha: weight of a target of 1; that of 0 is one less alpha. None for none.
        gamma: 0 is the binary cross-entropy.
        sum_classes: the sum over the classes; False is their mean.
    """

    answers: Answers = Classes()
    alpha: float | None = 0.25
    gamma: float = 2.0
    sum_classes: bool = False

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        losses = focal(answer.astype(jnp.float32), target, alpha=self.alpha, gamma=self.gamma)
        return losses.sum(axis=-1) if self.sum_classes else losses.mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class SquaredError(Loss):
    """``(answer - target)^2``, the mean over an example's numbers."""

    answers: ClassVar[Answers] = Numbers()

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        return jnp.mean((answer.astype(jnp.float32) - target) ** 2, axis=-1)


@dataclasses.dataclass(frozen=True)
class AbsoluteError(Loss):
    """``|answer - target|``, the mean over an example's numbers."""

    answers: ClassVar[Answers] = Numbers()

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        return jnp.mean(jnp.abs(answer.astype(jnp.float32) - target), axis=-1)


@dataclasses.dataclass(frozen=True)
class Huber(Loss):
    """``e^2 / 2`` where ``e = |answer - target|`` is at most `delta`, and ``delta (e - delta / 2)`` beyond.

    Huber, 1964, https://doi.org/10.1214/aoms/1177703732; the mean over an example's numbers.

    Attributes:
        delta: in the unit of the labels.
    """

    delta: float = 1.0
    answers: ClassVar[Answers] = Numbers()

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f'Huber.delta is {self.delta}: it must be above 0; AbsoluteError is its limit.')

    def __call__(self, answer: Float[Array, 'b k'], target: Float[Array, 'b k']) -> Float[Array, ' b']:
        return jnp.mean(optax.huber_loss(answer.astype(jnp.float32), target, delta=self.delta), axis=-1)


def cross_entropy(logits: Float[Array, 'b c'], target: Float[Array, 'b c']) -> Float[Array, ' b']:
    """Returns ``-sum_c target_c log softmax(logits)_c`` for each example, in float32."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), target)


def focal(
    logits: Float[Array, '*n'], target: Float[Array, '*n'], *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Float[Array, '*n']:
    """Returns ``alpha_t (1 - p_t)^gamma (-log p_t)`` with the probability ``p_t`` of what is right; see `SigmoidFocal`.

    Targets between 0 and 1 weigh both, as in torchvision.
    """
    p = jax.nn.sigmoid(logits)
    wrong = p * (1 - target) + (1 - p) * target
    losses = _power(wrong, gamma) * optax.sigmoid_binary_cross_entropy(logits, target)
    return losses if alpha is None else losses * (alpha * target + (1 - alpha) * (1 - target))


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """Returns class weights ``N / (K n_c)``, under which every class counts alike (King and Zeng, 2001; scikit-learn).

    Their mean over the examples is 1. A class without examples has the weight 0.

    Args:
        counts: n, how many examples each of K classes has in training.
    """
    known = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (known * count) if count else 0.0 for count in counts)


def _power(wrong: Float[Array, '*n'], gamma: float) -> Float[Array, '*n']:
    # Above 0, where a power below 1 has a gradient.
    return jnp.maximum(wrong, jnp.finfo(jnp.float32).tiny) ** gamma


def _check_gamma(gamma: float) -> None:
    if gamma < 0:
        raise ValueError(f'gamma is {gamma}: it must be at least 0, where the loss is the cross-entropy.')
