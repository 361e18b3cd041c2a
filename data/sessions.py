"""Sessions: the classes of a data set come one part after the other, with few or no examples of earlier parts."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import grain
import jax
import numpy as np

from longview.data import keyed
from longview.data.classes import by_class
from longview.data.dataset import BY_BATCHES, ENDLESS, DataSet, Wrapped
from longview.data.source import HostBatch

NEVER = -1  # the session of a class that is in no part


@dataclasses.dataclass(frozen=True)
class Sessions(Wrapped):
    """One run over a sequence of sessions, each with the training examples of other classes.

    This is class-incremental learning as in Rebuffi et al., "iCaRL: Incremental Classifier and Representation
    Learning", CVPR 2017, https://arxiv.org/abs/1611.07725. Beside the examples of its own classes a session has the
    exemplars, a few examples of each class of earlier sessions. A session's examples are an endless stream, shuffled
    anew whenever it is through. The columns that are added:
        session   int32, in training: the session that the step belongs to, the same for all rows of a batch
        arrives   int32, in both splits: the session in which the example's class comes, -1 for a class of no part.
                  In training `arrives < session` says which rows are exemplars
    `epoch` goes on from session to session, so that an exemplar is augmented anew. An epoch of schedules is as many
    rows as all parts have examples together. The evaluation split has all classes at all times.

    What replays exemplars differs in the literature. iCaRL and those that followed it (LUCIR, BiC, WA, FOSTER) shuffle
    new examples and exemplars together, which is the default here. Experience replay (Chaudhry et al., 2019,
    https://arxiv.org/abs/1902.10486; DER, Buzzega et al., 2020, https://arxiv.org/abs/2004.07211) takes a fixed share
    of each batch from the memory, mostly half: `replay`. GDumb (Prabhu et al., 2020,
    https://doi.org/10.1007/978-3-030-58536-5_31) trains on the memory alone, which needs no sessions: a `Subset` with
    the same `per_class` and `seed` has the same random exemplars.

    Two bounds: without exemplars a run forgets freely (fine-tuning), and with `cumulative` it has all examples of the
    classes so far (joint training).

    Attributes:
        data: a data set of classes, or a `Subset` of one.
        parts: the classes of each session; or how many sessions, of as many classes each, drawn by `seed`.
        steps: how many each session has, one number for all or one each. The last session goes on to the end of the
            run.
        memory: exemplars of each class, at most; all of a class that has fewer.
        memory_total: or exemplars of all classes together: each of the t classes of earlier sessions has
            floor(memory_total / t), so that a class keeps fewer and fewer. The paper has memory_total / t, its code
            rounds up.
        replay: the share of each batch that exemplars are, rounded to whole rows; None: they are shuffled together with
            the new examples. The first session has none to replay.
        cumulative: a session has all examples of all classes so far.
        scores: a `.npy` with a number for every example of the training split, such as methods/continual/herding.py
            writes; of each class those of the highest are its exemplars, of equal ones the lower index first, and those
            of -inf are none. None: they are drawn by `seed`.
        first: the session that the run begins with, where each session is a run of its own.
        seed: decides the parts, where their number is given, and the exemplars.

    Raises:
        ValueError: a number does not fit the others; later, the parts do not fit the classes, a session has no example,
            or a share is no whole row.
    """

    data: DataSet
    parts: int | Sequence[Sequence[int]]
    steps: int | Sequence[int]
    memory: int = 0
    memory_total: int | None = None
    replay: float | None = None
    cumulative: bool = False
    scores: str | None = None
    first: int = 0
    seed: int = 0

    arranged: ClassVar[str] = BY_BATCHES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_sessions < 1:
            raise ValueError(f'Sessions has parts={self.parts}: wanted at least one.')
        each = np.broadcast_to(self.steps, self.num_sessions) if isinstance(self.steps, int) else self.steps
        if len(each) != self.num_sessions or min(each) < 1:
            raise ValueError(
                f'Sessions has {self.num_sessions} parts and steps={self.steps}: give one number above 0 for all, or '
                'one each.'
            )
        if not 0 <= self.first < self.num_sessions:
            raise ValueError(f'first={self.first} is none of the {self.num_sessions} sessions, which count from 0.')
        self._check_memory()

    def _check_memory(self) -> None:
        if self.memory < 0 or (self.memory_total is not None and (self.memory or self.memory_total < 1)):
            raise ValueError(
                f'Sessions has memory={self.memory} and memory_total={self.memory_total}: give one of them, above 0, '
                'or neither.'
            )
        if self.cumulative and self._remembers:
            raise ValueError(
                'Sessions that are cumulative have all earlier examples: leave memory and memory_total out.'
            )
        for name in ('replay', 'scores'):
            if getattr(self, name) is not None and not self._remembers:
                raise ValueError(f'Sessions has {name}={getattr(self, name)!r} and no exemplars: set memory above 0.')
        if self.replay is not None and not 0 < self.replay < 1:
            raise ValueError(f'replay={self.replay} of Sessions is a share of the batch: it must be between 0 and 1.')

    @property
    def _remembers(self) -> bool:
        return bool(self.memory or self.memory_total)

    @property
    def num_sessions(self) -> int:
        """The number of sessions, whichever is the first of the run."""
        return self.parts if isinstance(self.parts, int) else len(self.parts)

    @functools.cached_property
    def class_sessions(self) -> tuple[int, ...]:
        """The session in which each class comes, -1 for a class of no part; a config has it as a task's field.

        Raises:
            ValueError: the parts do not fit the classes.
        """
        if self.num_classes is None:
            raise ValueError('Sessions are of classes, and the labels of the data set are numbers: leave Sessions out.')
        sessions = [NEVER] * self.num_classes
        for session, classes in enumerate(self._parts()):
            for kind in classes:
                if not 0 <= kind < self.num_classes or sessions[kind] != NEVER:
                    wrong = 'twice' if 0 <= kind < self.num_classes else f'and there are {self.num_classes}, from 0'
                    raise ValueError(f'parts of Sessions name the class {kind} {wrong}: name each class once at most.')
                sessions[kind] = session
        return tuple(sessions)

    def _parts(self) -> Sequence[Sequence[int]]:
        if not isinstance(self.parts, int):
            return self.parts
        if self.num_classes % self.parts:
            raise ValueError(
                f'{self.num_classes} classes do not divide into parts={self.parts} of equal size: take a number that '
                'divides them, or name the classes of each part.'
            )
        return keyed.permutation(self.seed, 0, self.num_classes).reshape(self.parts, -1).tolist()

    @functools.cached_property
    def _classes(self) -> list[dict[int, np.ndarray]]:
        """Of each session its classes, and the numbers of their examples."""
        sessions = [{} for _ in range(self.num_sessions)]
        for kind, numbers in by_class(self.data).items():
            if self.class_sessions[kind] != NEVER:
                sessions[self.class_sessions[kind]][kind] = numbers
        empty = next((session for session, classes in enumerate(sessions) if not classes), None)
        if empty is not None:
            raise ValueError(f'Session {empty} has no training example: give it a class that has some.')
        return sessions

    @functools.cached_property
    def members(self) -> np.ndarray:
        """See `DataSet`."""
        return _joined(numbers for classes in self._classes for numbers in classes.values())

    def check(self) -> None:
        """See `DataSet`; reads the labels too."""
        if self.memory_total is not None and self.num_sessions > 1:
            self._each(sum(map(len, self._classes[:-1])))
        self.exemplars(self.first)  # says what is wrong with the parts and the scores
        super().check()

    def exemplars(self, session: int) -> np.ndarray:
        """The numbers of the examples of earlier sessions that a session has, sorted, int64 (N,)."""
        earlier = {kind: numbers for classes in self._classes[:session] for kind, numbers in classes.items()}
        if not self.cumulative and earlier:
            earlier = {kind: ranked[: self._each(len(earlier))] for kind, ranked in self._ranked(earlier).items()}
        return _joined(earlier.values())

    def _each(self, classes: int) -> int:
        """Exemplars of each of so many classes."""
        if self.memory_total is None:
            return self.memory
        if self.memory_total < classes:
            raise ValueError(
                f'memory_total={self.memory_total} of Sessions has to do for {classes} classes: raise it to one each.'
            )
        return self.memory_total // classes

    def _ranked(self, classes: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The examples of each class, those first that are exemplars before others are."""
        if self.scores is None:
            order = lambda kind, size: keyed.permutations(keyed.derived(self.seed, kind), np.array([0]), size)[0]
            return {kind: numbers[order(kind, len(numbers))] for kind, numbers in classes.items()}
        ranked = {kind: _highest(self._scores, numbers) for kind, numbers in classes.items()}
        lacking = next((kind for kind, numbers in ranked.items() if not len(numbers)), None)
        if lacking is not None:
            raise ValueError(
                f'{self.scores} scores no example of the class {lacking}, of which session '
                f'{self.class_sessions[lacking] + 1} wants exemplars: name a file that was written after session '
                f'{self.class_sessions[lacking]}.'
            )
        return ranked

    @functools.cached_property
    def _scores(self) -> np.ndarray:
        scores = np.load(os.path.expanduser(self.scores), allow_pickle=False)
        if scores.shape != (self._train.size,) or np.isnan(scores).any():
            raise ValueError(
                f'The scores in {self.scores} are {scores.shape}, {np.isnan(scores).sum()} of them no numbers; wanted '
                f'({self._train.size},), a number for each example.'
            )
        return scores

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """See `DataSet`."""
        if train:
            self._replayed(batch_size)
        added = ('arrives', 'session') if train else ('arrives',)
        columns = {name: jax.ShapeDtypeStruct((batch_size,), np.int32) for name in added}
        return super().batch_spec(batch_size, train) | columns

    def host_train(self, own: np.ndarray, batch_size: int, seed: int, start_step: int) -> grain.IterDataset:
        """See `DataSet`."""
        pools = functools.lru_cache(maxsize=2)(lambda session: self._pools(session, batch_size))
        passes = functools.cache(lambda session: self._passes(session, pools(session)))

        def selection(step: int) -> HostBatch:
            session, at = self._place(step)
            key = keyed.derived(seed, session)
            streams = [pool.rows_of(keyed.derived(key, number), at) for number, pool in enumerate(pools(session))]
            epoch, index = (np.concatenate(vectors) for vectors in zip(*streams))
            epoch = epoch + sum(passes(earlier) for earlier in range(session))
            rows = {'epoch': epoch, 'index': index, 'session': np.full(batch_size, session)}
            return {name: vector[own] for name, vector in rows.items()}

        return self._train.batches(selection, range(start_step, ENDLESS), seed).map(self._with_arrival)

    def host_evaluate(self, own: np.ndarray, batch_size: int) -> grain.IterDataset:
        """See `DataSet`."""
        return super().host_evaluate(own, batch_size).map(self._with_arrival)

    def _with_arrival(self, batch: HostBatch) -> HostBatch:
        sessions, label = np.array(self.class_sessions, np.int32), batch['label']
        return batch | {'arrives': np.where(label < 0, np.int32(NEVER), sessions[label])}

    @functools.cached_property
    def _begins(self) -> np.ndarray:
        """The step with which each session begins, in a run that begins with the first one."""
        steps = np.broadcast_to(np.asarray(self.steps, np.int64), self.num_sessions)
        return np.cumsum(steps) - steps

    def _place(self, step: int) -> tuple[int, int]:
        """The session of a step, and the step's number in it."""
        step = step + int(self._begins[self.first])
        session = int(np.searchsorted(self._begins, step, side='right')) - 1
        return session, step - int(self._begins[session])

    def _pools(self, session: int, batch_size: int) -> list[_Pool]:
        new, old = _joined(self._classes[session].values()), self.exemplars(session)
        replayed = self._replayed(batch_size)
        if replayed is None or not len(old):
            return [_Pool(_joined([new, old]), batch_size)]
        return [_Pool(new, batch_size - replayed), _Pool(old, replayed)]

    def _replayed(self, batch_size: int) -> int | None:
        """Rows of a batch that are taken from the memory."""
        if self.replay is None:
            return None
        rows = math.floor(self.replay * batch_size + 0.5)
        if not 0 < rows < batch_size:
            raise ValueError(
                f'replay={self.replay} of a batch of {batch_size} is {rows} rows, and both new examples and exemplars '
                'want one: change it, or raise batch_size.'
            )
        return rows

    def _passes(self, session: int, pools: Sequence[_Pool]) -> int:
        """How often a session that is not the last has been through its examples at most, a begun pass counted."""
        steps = int(self._begins[session + 1] - self._begins[session])
        return max(math.ceil(steps * pool.rows / len(pool.numbers)) for pool in pools)


class _Pool(NamedTuple):
    """Examples that are shuffled together.

    Attributes:
        numbers: theirs in the split.
        rows: how many of them a batch has.
    """

    numbers: np.ndarray
    rows: int

    def rows_of(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and index of the rows of a step."""
        epoch, place = keyed.stream(seed, step * self.rows, (step + 1) * self.rows, len(self.numbers))
        return epoch, self.numbers[place]


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))


def _highest(scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Those of the examples that are scored, the highest first."""
    scored = numbers[scores[numbers] > -np.inf]
    return scored[np.argsort(-scores[scored], kind='stable')]
