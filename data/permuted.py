"""The training examples of a data set in a given order, from a step on."""

from __future__ import annotations

import dataclasses

import numpy as np

from longview.data.dataset import DataSet, Wrapped


@dataclasses.dataclass(frozen=True)
class Permuted(Wrapped):
    """A data set whose stream of training examples goes through one order, again and again.

    Attributes:
        data: the data set.
        permutation: the places 0 to N - 1 of its N members, each once.
        place: of the stream, from which the order holds; batch s begins at place ``s * batch_size``.
        epoch: of the first pass; augmentation draws by it, so passes that were before have lower ones.
    """

    data: DataSet
    permutation: np.ndarray
    place: int
    epoch: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.array_equal(np.sort(self.permutation), np.arange(len(self.members))):
            raise ValueError(
                f'the order has {len(self.permutation)} numbers: give each of 0 to {len(self.members) - 1} once.'
            )

    def order(self, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """See `DataSet`."""
        del seed
        passes, place = np.divmod(np.arange(start, stop) - self.place, len(self.permutation))
        return self.epoch + passes, self.members[self.permutation[place]]
