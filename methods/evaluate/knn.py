"""Nearest-neighbour accuracy of features: the classes of the nearest training images vote; nothing is learned.

Wu et al., 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
https://arxiv.org/abs/1805.01978, section 3.4: the k nearest by cosine vote with weights ``exp(cosine / temperature)``.
Reference: https://github.com/zhirongw/lemniscate.pytorch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from longview.methods.evaluate.bank import Banked
from longview.modelzoo.layers.norms.norm import l2_normalize


@dataclasses.dataclass(frozen=True)
class NearestNeighbours(Banked):
    """Task -> Task: `Banked`, whose features vote for the classes of their nearest; scored as ``knn_accuracy``.

    Attributes:
        neighbours: k above.
        temperature: of the votes.
    """

    neighbours: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if not 0 < self.neighbours <= self.bank:
            raise ValueError(
                f'{self.neighbours} neighbours cannot be found in a bank of {self.bank}: use 1 to {self.bank}.'
            )

    def judge(
        self, query: Float[Array, 'b d'], bank: Float[Array, 'n d'], label: Int[Array, ' n']
    ) -> dict[str, Float[Array, 'b k']]:
        return {
            'knn': vote(
                l2_normalize(query, axis=1),
                l2_normalize(bank, axis=1),
                label,
                neighbours=self.neighbours,
                temperature=self.temperature,
                num_classes=self.num_classes,
            )
        }


def vote(
    query: Float[Array, 'b d'],
    bank: Float[Array, 'n d'],
    label: Int[Array, ' n'],
    *,
    neighbours: int,
    temperature: float,
    num_classes: int,
) -> Float[Array, 'b k']:
    """Returns the sum of the nearest neighbours' votes for each class.

    Args:
        query, bank: vectors of length 1.
        label: of the bank; below 0 where it is not filled yet, which does not vote.
        neighbours: how many vote.
        temperature: a neighbour's vote is exp(cosine / temperature).
        num_classes: number of classes.
    """
    cosine = jnp.where(label[None] < 0, -jnp.inf, query @ bank.T)
    nearest, index = jax.lax.top_k(cosine, neighbours)
    # A cosine is at most 1: less one, nothing overflows at small temperatures.
    weight = jnp.where(jnp.isfinite(nearest), jnp.exp((nearest - 1) / temperature), 0.0)
    return jnp.einsum('bn,bnk->bk', weight, jax.nn.one_hot(label[index], num_classes))
