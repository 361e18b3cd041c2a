"""Few-shot accuracy of features: one matrix, fitted by ridge regression to a few examples of each class.

Dosovitskiy et al., 2021, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, section 4.1: regularized
least squares from frozen features to targets of 1 and -1, in closed form. Reference: big_vision's evaluator
fewshot_lsr, https://github.com/google-research/big_vision (Apache-2.0): features are brought to mean 0 and deviation 1
over the examples, and a column of 100s makes a bias that is hardly regularized.

Where we differ: the examples of a class are its newest in the bank, of one draw (there of three); of several strengths
of the regularization the one is taken that labels the rest of the bank best (there one is given, 1024); and since the
features' mean is 0 the bias is solved for apart from the matrix, which is the same and loses no digits.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from longview.methods.evaluate.bank import Banked

_BIAS_FEATURE = 100.0


@dataclasses.dataclass(frozen=True)
class FewShot(Banked):
    """Task -> Task: `Banked`; scored as ``shot5_accuracy`` for five examples of each class, and so on.

    The equations are solved anew with each batch of an evaluation. A class of which the bank has fewer examples has
    these only.

    Attributes:
        shots: numbers of examples of each class.
        strengths: of the regularization. Without any rest of the bank the first one counts.
    """

    shots: Sequence[int] = (1, 5, 10, 25)
    strengths: Sequence[float] = (1.0, 32.0, 1024.0, 32768.0)

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1:
            raise ValueError(f'FewShot.shots is {self.shots}: give numbers of examples, at least 1 each.')
        if not self.strengths or min(self.strengths) <= 0:
            raise ValueError(f'FewShot.strengths is {self.strengths}: give numbers above 0.')
        if max(self.shots) * self.num_classes > self.bank:
            raise ValueError(
                f'{max(self.shots)} examples of {self.num_classes} classes do not fit into a bank of '
                f'{self.bank}: raise FewShot.bank, or lower the shots.'
            )

    def judge(
        self, query: Float[Array, 'b d'], bank: Float[Array, 'n d'], label: Int[Array, ' n']
    ) -> dict[str, Float[Array, 'b k']]:
        hot = jax.nn.one_hot(label, self.num_classes)
        # 1 for the newest of its class, and 0 where there is nobody.
        place = jnp.sum(jnp.cumsum(hot, axis=0) * hot, axis=1)
        # One after the other, and one strength after the other: on a CPU with few threads, batched factorizations that
        # run at once (jaxlib 0.10) wait for each other forever.
        fitted = jax.lax.map(
            lambda shots: self._fitted(query, bank, hot, (place > 0) & (place <= shots), place > shots),
            jnp.asarray(self.shots, jnp.float32),
        )
        return {f'shot{shots}': votes for shots, votes in zip(self.shots, fitted)}

    def _fitted(
        self,
        query: Float[Array, 'b d'],
        bank: Float[Array, 'n d'],
        hot: Float[Array, 'n k'],
        chosen: Bool[Array, ' n'],
        rest: Bool[Array, ' n'],
    ) -> Float[Array, 'b k']:
        fits = jax.lax.map(lambda strength: ridge(bank, hot, chosen, strength), jnp.asarray(self.strengths))
        right = jax.vmap(lambda fit: jnp.argmax(applied(fit, bank), axis=1) == jnp.argmax(hot, axis=1))(fits)
        best = jnp.argmax(jnp.sum(right & rest[None], axis=1))
        return applied(jax.tree.map(lambda x: x[best], fits), query)


class Fit(NamedTuple):
    """``(x - mean) / deviation @ matrix + bias``."""

    mean: Float[Array, ' d']
    deviation: Float[Array, ' d']
    matrix: Float[Array, 'd k']
    bias: Float[Array, ' k']


def ridge(
    features: Float[Array, 'n d'], hot: Float[Array, 'n k'], chosen: Bool[Array, ' n'], strength: Float[Array, '']
) -> Fit:
    """Returns the regularized least squares from some of the features to targets of 1 and -1.

    Args:
        features: of all.
        hot: 1 for each one's class, 0 elsewhere.
        chosen: which count.
        strength: what the squared matrix, and the bias over 100 squared, are multiplied by.
    """
    weight = chosen.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    mean = weight @ features / count
    deviation = jnp.sqrt(weight @ (features - mean[None]) ** 2 / count) + 1e-5
    x = (features - mean[None]) / deviation[None] * weight[:, None]
    y = (2 * hot - 1) * weight[:, None]
    matrix = jax.scipy.linalg.solve(x.T @ x + strength * jnp.eye(x.shape[1]), x.T @ y, assume_a='pos')
    bias = jnp.sum(y, axis=0) / (count + strength / _BIAS_FEATURE**2)
    return Fit(mean, deviation, matrix, bias)


def applied(fit: Fit, features: Float[Array, 'n d']) -> Float[Array, 'n k']:
    """Returns what a fit says of each class."""
    return (features - fit.mean[None]) / fit.deviation[None] @ fit.matrix + fit.bias[None]
