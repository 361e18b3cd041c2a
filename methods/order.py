"""Orders of the training examples that depend on what the run has learned, such as batches of hard negatives.

Everything else in a run is a function of its config and the step. This is the one exception: every so many steps the
examples are looked at with the newest weights and put in another order, which is saved in the checkpoint. A run of such
an order resumes to the bit as any other does.

    config['order'] = {
        'fn': 'methods.order:Neighbours',
        'every': 500,
        'size': 64,
        'data': config['data'] | {'eval_split': 'train'},
    }
"""

import abc
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from longview.methods.task import Batch, Rows, Task, Variables


@dataclasses.dataclass(frozen=True)
class Order(abc.ABC):
    """How the examples are looked at, and the order that follows.

    The first `every` steps are in the order of any run. Each order is gone through again and again until the next one.

    Attributes:
        every: steps between two orders.
        data: a data set whose evaluation split has the run's training examples, in their order.
    """

    every: int
    data: Any

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f'{type(self).__name__}.every is {self.every}: it is a number of steps, at least 1.')

    @abc.abstractmethod
    def look(self, task: Task, v: Variables, batch: Batch) -> Rows:
        """Returns what is kept of each example of a batch; compiled."""

    @abc.abstractmethod
    def arrange(self, rows: dict[str, np.ndarray], rng: np.random.Generator) -> Int[np.ndarray, ' n']:
        """Returns the numbers 0 to N - 1, each once, in their new order.

        Args:
            rows: what `look` has kept, of all N examples.
            rng: for what is random, a function of the run's seed and the step.
        """


@dataclasses.dataclass(frozen=True)
class Neighbours(Order):
    """Examples that the network finds alike come in the same batch, so that each has hard negatives beside it.

    The examples are halved again and again, at the median of their features along the direction in which these vary
    most, until groups have `size` examples or fewer; then groups, and examples in a group, are shuffled. Batches of
    balanced clusters are those of Dahiya et al., 2023, "NGAME: Negative Mining-aware Mini-batching for Extreme
    Classification", https://arxiv.org/abs/2207.04452, which finds its clusters by balanced k-means.

    Attributes:
        size: examples of a group at most, such as the batch size.
        feature: which vector of `Task.predict`.
    """

    size: int = 64
    feature: str = 'pooled'

    def look(self, task: Task, v: Variables, batch: Batch) -> Rows:
        found = task.predict(v, batch)
        if self.feature not in found:
            raise ValueError(
                f'Neighbours.feature is {self.feature!r}, and the task predicts {", ".join(found)}: name one of these.'
            )
        return {'feature': found[self.feature]}

    def arrange(self, rows: dict[str, np.ndarray], rng: np.random.Generator) -> Int[np.ndarray, ' n']:
        features = np.asarray(rows['feature'], np.float64)
        groups = list(halved(features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12), self.size))
        return np.concatenate([rng.permutation(groups[place]) for place in rng.permutation(len(groups))])


def halved(features: Float[np.ndarray, 'n d'], size: int) -> list[Int[np.ndarray, ' _']]:
    """Returns groups of at most `size` examples, the numbers of each, that are near to each other."""
    waiting, groups = [np.arange(len(features))], []
    while waiting:
        group = waiting.pop()
        if len(group) <= size:
            groups.append(group)
            continue
        centred = features[group] - features[group].mean(axis=0)
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        sorted_group = group[np.argsort(centred @ direction, kind='stable')]
        waiting += [sorted_group[: len(group) // 2], sorted_group[len(group) // 2 :]]
    return groups
