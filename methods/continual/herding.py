"""Herding: chooses the exemplars of a class whose mean feature is nearest to that of the whole class.

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
https://arxiv.org/abs/1611.07725, algorithm 4: exemplars are chosen one after the other, each so that the mean of those
chosen so far comes nearest to the class's. So the first m of a list are those that would be chosen for m, and a memory
shrinks by dropping from the end. Reference: https://github.com/srebuffi/iCaRL (MIT), whose features are divided by
their norms before the mean is taken, as here.

Where we differ: what is chosen is out of the search. There an example that is chosen again counts once, and moves the
search as if it were chosen twice.
"""

import dataclasses
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from longview.methods.computation import Made, Work
from longview.methods.task import Batch, Rows, Task, Variables


@dataclasses.dataclass(frozen=True)
class Herding:
    """A computation after the run of a session: ranks examples of the classes that came in it.

    It writes ``scores.npy``, float32 (N,), for `data.sessions:Sessions`: minus the place of an example in its class's
    list, which begins with 0, and -inf for examples that are in none.

    Attributes:
        run: the workdir of the session's run.
        data: a `data.sessions:Sessions` around the data set whose *evaluation* split is what the run was trained on,
            such as ``{'fn': 'input_pipeline:Images', ..., 'eval_split': 'train'}``.
        session: whose classes are ranked.
        count: how long each class's list is; all of a class that has fewer.
        before: the ``scores.npy`` of the sessions before, whose lists stay as they are; None for the first session.
        feature: which vector of `Task.predict`.
    """

    run: str
    data: Any
    session: int
    count: int
    before: str | None = None
    feature: str = 'pooled'

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f'Herding.count is {self.count}: it must be at least 1.')

    def __call__(self, work: Work) -> Made:
        """Returns ``scores.npy``.

        Raises:
            ValueError: no class comes in the session, or `before` is of another data set.
        """
        rows = work.open(self.run).gather(self._read, self.data)
        classes = np.unique(rows['label'][rows['arrives'] == self.session])
        if not len(classes):
            raise ValueError(
                f'Herding.session is {self.session}, in which no class of its data comes: name one of the sessions '
                f'from 0 to {rows["arrives"].max()}.'
            )
        scores = self._scores(self.data.num_eval)
        for kind in classes:
            mine = rows['label'] == kind
            chosen = rows['index'][mine][herded(rows['feature'][mine], self.count)]
            scores[chosen] = -np.arange(len(chosen), dtype=np.float32)
        return Made(files={'scores.npy': scores})

    def _read(self, task: Task, v: Variables, batch: Batch) -> Rows:
        feature = task.predict(v, batch)[self.feature].astype(jnp.float32)
        return {'feature': feature, **{name: batch[name] for name in ('index', 'label', 'arrives')}}

    def _scores(self, size: int) -> Float[np.ndarray, ' n']:
        if self.before is None:
            return np.full(size, -np.inf, np.float32)
        scores = np.load(os.path.expanduser(self.before), allow_pickle=False)
        if scores.shape != (size,):
            raise ValueError(
                f'{self.before} has scores of {scores.shape} and the data {size} examples: name the scores of the same '
                'data set.'
            )
        return scores.astype(np.float32)


def herded(features: Float[np.ndarray, 'n d'], count: int) -> Int[np.ndarray, ' m']:
    """Returns the numbers of the exemplars of a class in the order in which they are chosen, min(count, n) of them.

    Args:
        features: of all examples of the class, of any length; they are divided by their norms.
        count: how many to choose.
    """
    features = features.astype(np.float64)
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    mean, total = features.mean(axis=0), np.zeros(features.shape[1])
    left, chosen = np.ones(len(features), bool), []
    for number in range(1, min(count, len(features)) + 1):
        distance = np.linalg.norm(mean[None] - (total[None] + features) / number, axis=1)
        nearest = int(np.argmin(np.where(left, distance, np.inf)))
        chosen.append(nearest)
        left[nearest], total = False, total + features[nearest]
    return np.array(chosen, np.int64)
