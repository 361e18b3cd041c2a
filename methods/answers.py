"""What a network answers, and its labels are: one class, several labels, or numbers; and how the answers are scored.

A loss (losses.py) says which of these it is for. An objective asks it for targets and figures, and knows no more of it.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from longview.methods.figures import classification, regression


class Answers(abc.ABC):
    """A kind of answers. Implementations are frozen dataclasses.

    Attributes:
        name: what `Task.predict` calls them.
        together: whether there are figures that need all examples at once, those of `figures`.
    """

    name: ClassVar[str] = 'logits'
    together: ClassVar[bool] = False

    @abc.abstractmethod
    def target(self, label: Num[Array, 'b ...'], width: int, smoothing: float = 0.0) -> Float[Array, 'b k']:
        """Returns what the outputs of a head are compared with.

        Args:
            label: of the examples.
            width: how many outputs the head has.
            smoothing: the share of each label that is spread over what else it could have been.

        Raises:
            ValueError: they are no labels of this kind, or not as many as the head has outputs.
        """

    def scores(self, answer: Float[Array, 'b k'], label: Num[Array, 'b ...']) -> dict[str, Float[Array, ' b']]:
        """Returns what is a mean over examples, one value for each; nothing by default."""
        del answer, label
        return {}

    def figures(self, answer: Any, target: Any) -> dict[str, float]:
        """Returns figures of a whole split, on the host; none by default.

        Args:
            answer, target: (N, K) of all examples, as NumPy arrays.
        """
        del answer, target
        return {}


@dataclasses.dataclass(frozen=True)
class Classes(Answers):
    """One class of several, an integer (B,); a logit for each. ``accuracy``, and ``top5``: among the five likeliest."""

    def target(self, label: Num[Array, 'b ...'], width: int, smoothing: float = 0.0) -> Float[Array, 'b k']:
        """Returns one-hot rows; smoothed ones are ``(1 - smoothing) * one_hot + smoothing / width``."""
        if label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(
                f'the labels are {label.dtype} {label.shape}, and the loss is of one class for each example, integers '
                '(B,): name another column (label of methods.supervised:Supervised), or a criterion of several labels '
                '(whose answers are methods.answers:Labels) or of numbers (such as methods.losses:SquaredError).'
            )
        return optax.smooth_labels(jax.nn.one_hot(label, width), smoothing)

    def scores(self, answer: Float[Array, 'b k'], label: Num[Array, 'b ...']) -> dict[str, Float[Array, ' b']]:
        # Counting the classes that beat the right one gives both figures without a sort.
        right = jnp.take_along_axis(answer, label[:, None], axis=1)
        rank = jnp.sum(answer > right, axis=1)
        return {'accuracy': (rank < 1).astype(jnp.float32), 'top5': (rank < 5).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class Labels(Answers):
    """Any number of K labels, ones among zeros (B, K); a logit for each. Figures: methods/figures/classification.py."""

    together: ClassVar[bool] = True

    def target(self, label: Num[Array, 'b ...'], width: int, smoothing: float = 0.0) -> Float[Array, 'b k']:
        """Returns zeros and ones; smoothed ones are ``(1 - smoothing) * label + smoothing / 2``."""
        return _wide(label, width) * (1 - smoothing) + smoothing / 2

    def figures(self, answer: Any, target: Any) -> dict[str, float]:
        return classification.figures(answer, target > 0.5)


@dataclasses.dataclass(frozen=True)
class Numbers(Answers):
    """Numbers, (B,) or (B, K); an output for each, ``prediction``. Figures: methods/figures/regression.py."""

    name: ClassVar[str] = 'prediction'
    together: ClassVar[bool] = True

    def target(self, label: Num[Array, 'b ...'], width: int, smoothing: float = 0.0) -> Float[Array, 'b k']:
        """Returns the labels in float32."""
        if smoothing:
            raise ValueError(f'label_smoothing is {smoothing}, and the labels are numbers: set it to 0.')
        return _wide(label, width)

    def figures(self, answer: Any, target: Any) -> dict[str, float]:
        return regression.figures(answer, target)


def _wide(label: Num[Array, 'b ...'], width: int) -> Float[Array, 'b k']:
    """Returns labels as float32 (B, K)."""
    label = label.reshape(len(label), -1).astype(jnp.float32)
    if label.shape[1] != width:
        raise ValueError(
            f'the head gives {width} numbers and there are {label.shape[1]} labels for each example: set num_classes '
            f'of the head to {label.shape[1]}.'
        )
    return label
