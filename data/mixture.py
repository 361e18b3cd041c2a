"""Several data sets in every batch, each in a fixed share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction

import grain
import jax
import numpy as np

from longview.data import keyed
from longview.data.dataset import BY_BATCHES, ENDLESS, DataSet
from longview.data.source import HostBatch, Source, Spec
from longview.words import nearest


@dataclasses.dataclass(frozen=True)
class Mixture(DataSet):
    """Batches with rows from several data sets: first those of part 0, then those of part 1, and so on.

    Every part is a stream of its own, shuffled anew each time it is through, by a seed of its own; its rows keep the
    `epoch` and `index` that they have in it. The column `source` (int32) says which part a row is of.

    An epoch of schedules is as many rows as all parts have examples together. That number depends on neither the order
    of the parts nor the batch; where the epochs of one part are meant, give `steps`, and see that part's `epoch`.

    Attributes:
        parts: the data sets; also `Subset`s and `Balanced` ones.
        per_batch: rows of each part in a batch; together they are the batch size.
        weights: or the share of each part in all rows, of any sum. A share that is no whole number of rows a batch is
            rounded, now up and now down: after any number of steps each part has had its share to less than one row,
            and which rows a step takes follows from its number alone.
        eval_part: the part whose evaluation split is the mixture's, and whose classes are counted.
        fill: column -> value that stands for it in the rows of parts that lack it, such as {'boxes': 0}.
        prefetch: see `DataSet`.

    Raises:
        ValueError: a number does not fit the others; later, the columns of the parts do not go together.
    """

    parts: Sequence[DataSet]
    per_batch: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    eval_part: int = 0
    fill: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prefetch: int = 2

    arranged = BY_BATCHES

    def __post_init__(self) -> None:
        for number, part in enumerate(self.parts):
            if part.arranged == BY_BATCHES:
                raise ValueError(
                    f'Part {number} of the Mixture is a {type(part).__name__}, which decides by itself what a batch '
                    'holds: mix the data sets in it.'
                )
            if part.whole:
                raise ValueError(f'Part {number} of the Mixture is one example, of which no batch takes a share.')
        if (self.per_batch is None) == (self.weights is None):
            raise ValueError('Mixture wants one of per_batch and weights.')
        name = 'weights' if self.per_batch is None else 'per_batch'
        shares = tuple(getattr(self, name))
        if len(shares) != len(self.parts) or not shares or min(shares) <= 0:
            raise ValueError(
                f'Mixture has {len(self.parts)} parts and {name}={shares}: wanted a number above 0 for each.'
            )
        if not 0 <= self.eval_part < len(self.parts):
            raise ValueError(
                f'eval_part={self.eval_part} is no part of the Mixture, which has {len(self.parts)}, from 0.'
            )

    @property
    def sequences(self) -> bool:
        """See `DataSet`."""
        return all(part.sequences for part in self.parts)

    @functools.cached_property
    def _parts(self) -> dict[str, Source]:
        return {f'part {number}': part.source(train=True) for number, part in enumerate(self.parts)}

    @functools.cached_property
    def _train(self) -> _Joined:
        return _Joined(dict(enumerate(self._parts.values())), _columns(self._parts, self.fill), self.fill)

    @functools.cached_property
    def _eval(self) -> _Joined:
        source = self.parts[self.eval_part].source(train=False)
        columns = _columns(self._parts | {'the evaluation split': source}, self.fill)
        return _Joined({self.eval_part: source}, columns, self.fill)

    @property
    def num_classes(self) -> int | None:
        """See `DataSet`."""
        return self.parts[self.eval_part].num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `DataSet`."""
        return self.parts[self.eval_part].class_names

    @property
    def num_examples(self) -> int:
        """See `DataSet`; examples of two parts may have the same `index`, and differ in `source`."""
        return max(part.num_examples for part in self.parts)

    @property
    def num_train(self) -> int:
        """See `DataSet`."""
        return sum(part.num_train for part in self.parts)

    def check(self) -> None:
        """See `DataSet`."""
        for part in self.parts:
            part.check()
        super().check()

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """See `DataSet`."""
        if train:
            self._edges(batch_size)
        return super().batch_spec(batch_size, train)

    def host_train(self, own: np.ndarray, batch_size: int, seed: int, start_step: int) -> grain.IterDataset:
        """See `DataSet`."""
        edges, starts = self._edges(batch_size), self._train.starts

        def selection(step: int) -> HostBatch:
            before, after = _rows_before(edges, step), _rows_before(edges, step + 1)
            streams = [
                part.order(keyed.derived(seed, number), first, last)
                for number, (part, first, last) in enumerate(zip(self.parts, before, after))
            ]
            epoch = np.concatenate([epoch for epoch, _ in streams])
            index = np.concatenate([index + start for (_, index), start in zip(streams, starts)])
            return {'epoch': epoch[own], 'index': index[own]}

        def in_their_parts(batch: HostBatch) -> HostBatch:
            return batch | {'index': batch['index'] - np.asarray(starts, np.int32)[batch['source']]}

        return self._train.batches(selection, range(start_step, ENDLESS), seed).map(in_their_parts)

    def _edges(self, batch_size: int) -> list[Fraction]:
        """Where the rows of the parts begin and end in a batch, as far as fractions of rows go: 0, ..., batch_size."""
        if self.per_batch is not None and sum(self.per_batch) != batch_size:
            raise ValueError(
                f'per_batch={tuple(self.per_batch)} of the Mixture makes batches of {sum(self.per_batch)} and '
                f'batch_size is {batch_size}: make them equal.'
            )
        # As it is written in decimals: 0.2 is a fifth, not the nearest double.
        shares = [Fraction(str(share)) for share in self.per_batch or self.weights]
        rows = [batch_size * share / sum(shares) for share in shares]
        if min(rows) < 1:
            raise ValueError(
                f'weights={tuple(self.weights)} of the Mixture give part {rows.index(min(rows))} less than one row of '
                f'a batch of {batch_size}: raise its weight or batch_size.'
            )
        return [sum(rows[:number], Fraction(0)) for number in range(len(rows) + 1)]


def _rows_before(edges: Sequence[Fraction], step: int) -> list[int]:
    """How many rows of each part come before a step.

    Edge k of all steps before this one together is at floor(step * edges[k]). Where the parts have at least a row of
    each batch, no later step has fewer of any.
    """
    ends = [step * edge.numerator // edge.denominator for edge in edges]
    return [stop - start for start, stop in zip(ends, ends[1:])]


def _columns(splits: Mapping[str, Source], fill: Mapping[str, float]) -> Spec:
    """All columns, which have the same shape and type in all splits that have them; splits are by what they are."""
    columns: Spec = {}
    for where, source in splits.items():
        for name, column in source.spec.items():
            if columns.setdefault(name, column) != column:
                raise ValueError(
                    f'The column {name!r} of the Mixture is {_text(columns[name])} at first and {_text(column)} in '
                    f'{where}: make them alike, images by image_size.'
                )
    unknown = next((name for name in fill if name not in columns), None)
    if unknown is not None:
        raise ValueError(f'fill of the Mixture names {unknown!r}, a column that no part has{nearest(unknown, columns)}')
    for where, source in splits.items():
        lacking = next((name for name in columns if name not in source.spec and name not in fill), None)
        if lacking is not None:
            raise ValueError(
                f'The Mixture has the column {lacking!r}, but not in {where}: say what stands for it there, such as '
                f'fill={{{lacking!r}: 0}}.'
            )
    return columns


def _text(column: jax.ShapeDtypeStruct) -> str:
    return f'{np.dtype(column.dtype).name} {column.shape}'


class _Joined(Source):
    """The examples of several sources, numbered through.

    Args:
        sources: by the number of their part.
        columns: of the rows.
        fill: value of a column in the rows of a source that lacks it.

    Attributes:
        starts: number of the first example of each source.
    """

    def __init__(self, sources: Mapping[int, Source], columns: Spec, fill: Mapping[str, float]) -> None:
        self._sources, self._columns, self._fill = sources, columns, fill
        sizes = [source.size for source in sources.values()]
        self.starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self.size, self.threads = sum(sizes), max(source.threads for source in sources.values())

    @property
    def spec(self) -> Spec:
        """See `Source`."""
        return self._columns | {'source': jax.ShapeDtypeStruct((), np.int32)}

    def rows(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> HostBatch:
        """See `Source`; a part's rows are keyed by the seed that is derived for it."""
        out = {name: np.empty((len(index), *x.shape), x.dtype) for name, x in self.spec.items()}
        place = np.searchsorted(self.starts, index, side='right') - 1
        for at, (part, source) in enumerate(self._sources.items()):
            here = place == at
            if here.any():
                rows = source.rows(keyed.derived(seed, part), epoch[here], index[here] - self.starts[at])
                for name in self._columns:
                    out[name][here] = rows.get(name, self._fill.get(name))
                out['source'][here] = part
        return out
