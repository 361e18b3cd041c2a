"""What a stage between runs is: a function of what earlier stages made, whose result is written into its workdir.

A config names a computation where another stage has a run (docs/runs.md, "Stages"). It is called once with a `Work`, on
every process of a run, and returns what it made:

    @dataclasses.dataclass(frozen=True)
    class Hardest:
        \"\"\"Scores training examples by their loss.\"\"\"

        run: str  # {'stage': 'teacher'} in a config
        data: Any  # a data set whose evaluation split is scored

        def __call__(self, work: Work) -> Made:
            opened = work.open(self.run)
            rows = opened.gather(lambda task, v, batch: {'loss': task.score(v, batch)['loss']}, self.data)
            return Made(files={'scores.npy': rows['loss']})
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from longview.methods.task import Batch, Network, Rows, Task, Variables


class Made(NamedTuple):
    """What a computation returns, the same on every process.

    Attributes:
        files: by name, which says how each is written: ``.npy`` an array, ``.json`` plain data, ``.png`` an image
            (H, W, C) of uint8, anything else a text.
        networks: to be started from by later stages, as from the best checkpoint of a run.
    """

    files: Mapping[str, Any] = {}
    networks: Mapping[str, Network] = {}


@runtime_checkable
class Opened(Protocol):
    """A finished run, read again.

    Attributes:
        task: what it trained.
        variables: those of its best checkpoint, on the devices of the mesh.
        networks: what it deploys, by name (`Task.deployed`).
        data: its data set.
    """

    task: Task
    variables: Variables
    networks: Mapping[str, Network]
    data: Any

    def gather(
        self, program: Callable[[Task, Variables, Batch], Rows], data: Any = None, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what a program gives for each example of an evaluation split, in its order.

        Args:
            program: ``(task, variables, batch) -> arrays by name``, one row an example; it is compiled. The batch has
                passed the run's `eval_transforms`.
            data: the data set; None is the run's own. ``{**data, 'eval_split': 'train'}`` is its training split.
            batch_size: None is the run's.
        """


@runtime_checkable
class Work(Protocol):
    """What a computation may use.

    Attributes:
        mesh: the devices of the run.
    """

    mesh: jax.sharding.Mesh

    def open(self, workdir: str) -> Opened:
        """Reads the best checkpoint of a run."""

    def metrics(self, workdir: str) -> list[dict[str, Any]]:
        """Returns the lines of a run's metrics.jsonl."""

    def save(self, step: int, tree: Any) -> None:
        """Saves the progress of a long computation after so many steps of its own; the one before is then removed."""

    def restore(self, like: Any) -> tuple[int, Any]:
        """Returns the steps that were saved and the tree, or 0 and `like` where there is nothing yet."""
