"""Scores of examples by a finished run, one number each, by which a later stage chooses (data/subset.py)."""

import dataclasses
from typing import Any

import numpy as np

from longview.methods.computation import Made, Work
from longview.methods.task import Batch, Rows, Task, Variables


@dataclasses.dataclass(frozen=True)
class Scores:
    """A computation: ``scores.npy``, float32 (N,), a score of the run's task for each of N examples, by their numbers.

    Attributes:
        run: workdir of the run, such as ``{'stage': 'teacher'}`` in a config.
        data: a data set whose evaluation split is scored, such as ``{**data, 'eval_split': 'train'}``.
        score: which of `Task.score`'s.
    """

    run: str
    data: Any
    score: str = 'loss'

    def __call__(self, work: Work) -> Made:
        """Returns the file.

        Raises:
            ValueError: the task has no such score.
        """
        rows = work.open(self.run).gather(self._scored, self.data)
        scores = np.zeros(self.data.num_eval, np.float32)
        scores[rows['index']] = rows['score']
        return Made(files={'scores.npy': scores})

    def _scored(self, task: Task, v: Variables, batch: Batch) -> Rows:
        scores = task.score(v, batch)
        if self.score not in scores:
            raise ValueError(
                f'Scores.score is {self.score!r}, and the run scores {", ".join(scores)}: take one of these.'
            )
        return {'score': scores[self.score], 'index': batch['index']}
