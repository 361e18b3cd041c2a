"""A part of the training examples: named ones, those with the best scores, or equally many of each class."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import numpy as np

from longview.data import keyed
from longview.data.classes import by_class
from longview.data.dataset import DataSet, Wrapped


@dataclasses.dataclass(frozen=True)
class Subset(Wrapped):
    """The training split restricted to some of its examples, which keep their numbers; evaluation is unchanged.

    Attributes:
        data: a data set, a `Subset` too.
        indices: the numbers of the examples.
        scores: a file with a number for every example of the training split: a `.npy` of shape (N,), or a CSV with the
            header `index,score`, in any order.
        keep: which fraction of the examples to keep by their scores, rounded to whole examples, at least one; of equal
            scores the lower index first.
        highest: keep those of the highest scores, not of the lowest.
        per_class: keep so many of each class, chosen at random.
        seed: decides these.

    Raises:
        ValueError: not one of `indices`, `scores` with `keep`, and `per_class` is given; later, what they say does not
            fit the data.
    """

    data: DataSet
    indices: Sequence[int] | None = None
    scores: str | None = None
    keep: float | None = None
    highest: bool = True
    per_class: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(way is not None for way in (self.indices, self.scores, self.per_class)) != 1:
            raise ValueError('Subset wants one of indices, scores and per_class.')
        if (self.scores is None) != (self.keep is None) or not 0 < (self.keep or 1) <= 1:
            raise ValueError(f'Subset has scores={self.scores!r} and keep={self.keep}: give both, with 0 < keep <= 1.')

    @functools.cached_property
    def members(self) -> np.ndarray:
        """See `DataSet`."""
        if self.indices is not None:
            return self._named()
        return self._scored() if self.scores is not None else self._drawn()

    def order(self, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """See `DataSet`: every member once in each epoch."""
        epoch, place = keyed.stream(seed, start, stop, len(self.members))
        return epoch, self.members[place]

    def check(self) -> None:
        """See `DataSet`."""
        len(self.members)  # says what is wrong with them
        super().check()

    def _named(self) -> np.ndarray:
        numbers, counts = np.unique(np.array(self.indices, np.int64), return_counts=True)
        if not len(numbers):
            raise ValueError('Subset has no indices; wanted at least one.')
        if counts.max() > 1:
            raise ValueError(f'Subset has the index {numbers[counts.argmax()]} twice: name every example once.')
        unknown = np.setdiff1d(numbers, self.data.members)
        if len(unknown):
            raise ValueError(f'Subset has the index {unknown[0]}, which is none of the {self.data.num_train} examples.')
        return numbers

    def _scored(self) -> np.ndarray:
        scores = _scores(os.path.expanduser(self.scores), self._train.size)
        candidates = self.data.members
        kept = max(1, math.floor(self.keep * len(candidates) + 0.5))
        ranked = np.lexsort((candidates, -scores[candidates] if self.highest else scores[candidates]))
        return np.sort(candidates[ranked[:kept]])

    def _drawn(self) -> np.ndarray:
        chosen = []
        for label, numbers in by_class(self.data).items():
            if not 0 < self.per_class <= len(numbers):
                raise ValueError(
                    f'per_class={self.per_class} and the class {label} has {len(numbers)} examples: use 1 to '
                    f'{len(numbers)}.'
                )
            (order,) = keyed.permutations(keyed.derived(self.seed, label), np.array([0]), len(numbers))
            chosen.append(numbers[order[: self.per_class]])
        return np.sort(np.concatenate(chosen))


def _scores(path: str, size: int) -> np.ndarray:
    """float64 (size,), by the numbers of the examples."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'Subset.scores names {path}, and there is no such file: write it, or name another.')
    if path.endswith('.csv'):
        scores = _from_table(path, size)
    else:
        scores = np.load(path, allow_pickle=False)
    if scores.shape != (size,):
        raise ValueError(f'The scores in {path} have the shape {scores.shape}; wanted ({size},), one for each example.')
    if np.isnan(scores).any():
        raise ValueError(f'The score of example {int(np.isnan(scores).argmax())} in {path} is none.')
    return scores.astype(np.float64)


def _from_table(path: str, size: int) -> np.ndarray:
    with open(path, encoding='utf-8-sig', newline='') as file:
        header, *rows = [row for row in csv.reader(file) if row]
    if header != ['index', 'score']:
        raise ValueError(f'The table {path} has the header {",".join(header)!r}; wanted index,score.')
    numbers = [int(index) for index, _ in rows]
    if sorted(numbers) != list(range(size)):
        raise ValueError(f'The table {path} has {len(numbers)} scores; wanted one for each index from 0 to {size - 1}.')
    scores = np.empty(size)
    scores[numbers] = [float(score) for _, score in rows]
    return scores
