"""Balanced classes: every class is equally frequent, however many examples it has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from longview.data import keyed
from longview.data.classes import by_class
from longview.data.dataset import BY_ROWS, Wrapped


@dataclasses.dataclass(frozen=True)
class Balanced(Wrapped):
    """Training rows whose classes are equally frequent, as for long-tailed data.

    Class-balanced sampling (Shen et al., "Relay Backpropagation for Effective Learning of Deep Convolutional Neural
    Networks", ECCV 2016, https://arxiv.org/abs/1512.05830), in rounds: a round has one row of each class that has
    examples, in random order, so the class of a row is uniform and what a class has had so far follows from the row's
    place. A class goes through its own examples shuffled anew each time, and drops none; a row's `epoch` says how often
    its example was seen before. An epoch of schedules is as many rows as there are examples. Evaluation is untouched.

    Attributes:
        data: a data set of classes, or a `Subset` of one.
    """

    arranged: ClassVar[str] = BY_ROWS

    @functools.cached_property
    def _classes(self) -> list[np.ndarray]:
        return list(by_class(self.data).values())

    @functools.cached_property
    def _shuffled(self) -> Callable[[int, int, int], np.ndarray]:
        """(seed, class, cycle) -> the class's examples in the order of that cycle; the last ones are kept."""

        def shuffled(seed: int, kind: int, cycle: int) -> np.ndarray:
            numbers = self._classes[kind]
            (order,) = keyed.permutations(keyed.derived(seed, kind), np.array([cycle]), len(numbers))
            return numbers[order]

        return functools.lru_cache(maxsize=2 * len(self._classes))(shuffled)

    def order(self, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """See `DataSet`."""
        turn, place = np.divmod(np.arange(start, stop), len(self._classes))
        turns = np.arange(turn[0], turn[-1] + 1)
        kinds = keyed.permutations(seed, turns, len(self._classes))[turn - turn[0], place]
        sizes = np.array([len(numbers) for numbers in self._classes])
        epoch, place = np.divmod(turn, sizes[kinds])
        rows = zip(kinds.tolist(), epoch.tolist(), place.tolist())
        return epoch, np.array([self._shuffled(seed, kind, cycle)[at] for kind, cycle, at in rows])

    def check(self) -> None:
        """See `DataSet`; reads the labels too."""
        len(self._classes)  # says what is wrong with the labels
        super().check()
