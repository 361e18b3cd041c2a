"""Few-shot episodes: batches of a few classes, with labelled examples of each and others to be classified."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import grain
import jax
import numpy as np

from longview.data import keyed
from longview.data.classes import by_class
from longview.data.dataset import BY_BATCHES, ENDLESS, DataSet, Wrapped
from longview.data.source import HostBatch


@dataclasses.dataclass(frozen=True)
class Episodes(Wrapped):
    """Each batch is one episode, or several in a row.

    Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, https://arxiv.org/abs/1606.04080. An
    episode draws `ways` classes, and of each `shots + queries` different examples. Its rows are the support set, class
    by class, and then the queries, class by class, with the columns
        label     int32, the class's number in the episode, 0 <= label < ways
        class     int32, the label in the data set
        support   bool, whether the row is of the support set
        episode   int32, the episode's number in the run, or in the evaluation
    and `epoch` is that number in training, so that an example is augmented anew in every episode. The training split
    and the evaluation split may have different classes; those without examples in a split are not drawn there.

    Attributes:
        data: a data set of classes, or a `Subset` of one.
        ways: classes of an episode.
        shots, queries: examples of a class in the support set, and to be classified.
        episodes: how many an evaluation has, the same ones each time.
        seed: decides these.

    Raises:
        ValueError: a number is below 1; later, a split has too few classes or examples of one for an episode, or an
            episode does not divide the batch.
    """

    data: DataSet
    ways: int = 5
    shots: int = 1
    queries: int = 15
    episodes: int = 600
    seed: int = 0

    arranged: ClassVar[str] = BY_BATCHES

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('ways', 'shots', 'queries', 'episodes'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} of Episodes: it must be at least 1.')

    @property
    def rows(self) -> int:
        """The number of rows of an episode."""
        return self.ways * (self.shots + self.queries)

    @property
    def num_classes(self) -> int:
        """The number of values of `label`."""
        return self.ways

    @property
    def class_names(self) -> None:
        """Every episode has other classes."""
        return None

    @property
    def num_eval(self) -> int:
        """Rows of an evaluation."""
        return self.episodes * self.rows

    def check(self) -> None:
        """See `DataSet`; finds the classes of both splits too."""
        len(self._train_classes), len(self._eval_classes)  # say what is wrong with them
        super().check()

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """See `DataSet`."""
        self._per_batch(batch_size)
        columns = {'label': np.int32, 'class': np.int32, 'support': np.bool_, 'episode': np.int32}
        added = {name: jax.ShapeDtypeStruct((batch_size,), dtype) for name, dtype in columns.items()}
        return super().batch_spec(batch_size, train) | added

    def host_train(self, own: np.ndarray, batch_size: int, seed: int, start_step: int) -> grain.IterDataset:
        """See `DataSet`."""
        count = self._per_batch(batch_size)

        def selection(step: int) -> HostBatch:
            numbers = np.arange(step * count, (step + 1) * count)
            vectors = self._joined(self._train_classes, seed, numbers)
            return {name: vector[own] for name, vector in (vectors | {'epoch': vectors['episode']}).items()}

        return self._train.batches(selection, range(start_step, ENDLESS), seed)

    def host_evaluate(self, own: np.ndarray, batch_size: int) -> grain.IterDataset:
        """See `DataSet`."""
        count = self._per_batch(batch_size)

        def selection(step: int) -> HostBatch:
            numbers = np.arange(step * count, (step + 1) * count)
            vectors = self._joined(self._eval_classes, self.seed, numbers)
            vectors['mask'] = np.repeat(numbers < self.episodes, self.rows)
            vectors['epoch'] = np.zeros_like(vectors['index'])
            return {name: vector[own] for name, vector in vectors.items()}

        return self._eval.batches(selection, range(math.ceil(self.episodes / count)), 0)

    def _per_batch(self, batch_size: int) -> int:
        if batch_size % self.rows:
            raise ValueError(
                f'An episode of {self.ways} ways, {self.shots} shots and {self.queries} queries has {self.rows} rows, '
                f'which do not divide batches of {batch_size}: make them a multiple of {self.rows}.'
            )
        return batch_size // self.rows

    @functools.cached_property
    def _train_classes(self) -> dict[int, np.ndarray]:
        return self._enough(by_class(self.data), 'training')

    @functools.cached_property
    def _eval_classes(self) -> dict[int, np.ndarray]:
        return self._enough(by_class(self.data, train=False), 'evaluation')

    def _enough(self, classes: dict[int, np.ndarray], split: str) -> dict[int, np.ndarray]:
        if len(classes) < self.ways:
            raise ValueError(
                f'ways={self.ways} and the {split} split has examples of {len(classes)} classes: lower ways.'
            )
        for label, numbers in classes.items():
            if len(numbers) < self.shots + self.queries:
                raise ValueError(
                    f'An episode needs {self.shots} + {self.queries} examples of a class and the class {label} has '
                    f'{len(numbers)} in the {split} split: lower shots or queries, or leave the class out.'
                )
        return classes

    def _joined(self, classes: dict[int, np.ndarray], seed: int, numbers: np.ndarray) -> HostBatch:
        """The vectors of episodes, one behind the other, each (episodes * rows,)."""
        drawn = [self._episode(classes, seed, number) for number in numbers.tolist()]
        return {name: np.concatenate([vectors[name] for vectors in drawn]) for name in drawn[0]}

    def _episode(self, classes: dict[int, np.ndarray], seed: int, number: int) -> HostBatch:
        names, each = np.array(list(classes)), self.shots + self.queries
        (order,) = keyed.permutations(seed, np.array([number]), len(names))
        kinds = names[order[: self.ways]]
        examples = np.empty((self.ways, each), np.int64)
        for way, kind in enumerate(kinds.tolist()):
            (order,) = keyed.permutations(keyed.derived(seed, kind), np.array([number]), len(classes[kind]))
            examples[way] = classes[kind][order[:each]]
        by_rows = lambda x: np.concatenate([x[:, : self.shots].ravel(), x[:, self.shots :].ravel()])
        label = np.broadcast_to(np.arange(self.ways)[:, None], (self.ways, each))
        return {
            'index': by_rows(examples),
            'label': by_rows(label),
            'class': by_rows(kinds[label]),
            'support': np.arange(self.rows) < self.ways * self.shots,
            'episode': np.full(self.rows, number),
        }
