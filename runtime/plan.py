"""A run as its config describes it, checked before anything is computed."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from longview.runtime.from_data import filled
from longview.runtime.mesh import MeshConfig
from longview.runtime.resolve import call, resolve
from longview.runtime.stages import located

# Those of jax's names for the precision of products that say one for every platform.
_PRECISIONS = ('default', 'high', 'highest', 'bfloat16', 'tensorfloat32', 'float32')


@dataclasses.dataclass(frozen=True)
class Eval:
    """One more evaluation of a run, logged as ``eval/NAME/...``.

    Attributes:
        data: its evaluation split is measured; None is the run's own data set.
        every: steps between evaluations; None is as often as the run's own. The last step is evaluated too.
        transforms: batch transforms on the device; None are the run's `eval_transforms`.
        support: a data set whose evaluation split `Task.gather` goes over first, such as
            ``{**data, 'eval_split': 'train'}``; None for what needs none.
    """

    data: Any = None
    every: int | None = None
    transforms: Sequence[Any] | None = None
    support: Any = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f'every of an evaluation is {self.every}: it must be at least 1.')


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything `train.py` needs; the top level of every config, key for key.

    Attributes:
        task: what is trained (methods/task.py).
        data: where batches come from (input_pipeline.py).
        optimizer: ``(steps, steps_per_epoch, depth_of) -> Optimizer``.
        batch_size: examples per step, over all devices and microbatches.
        epochs: the length of the run in passes over the training split; needed where `steps` is None.
        steps: the length of the run in steps; overrides `epochs`.
        train_transforms, eval_transforms: batch transforms on the device, in order.
        eval_batch_size: examples per evaluation batch; by default `batch_size`.
        accumulate: microbatches per step; 1 for a task that compares the examples of a batch with each other.
        seed: decides initial weights, order of the examples, augmentation and stochastic depth.
        mesh: devices and sharding rules (runtime/mesh.py).
        log_every: steps between lines of training metrics.
        eval_every, save_every: steps between evaluations and checkpoints; by default once per
            epoch, at least 100 steps apart.
        keep: how many of the last checkpoints stay.
        keep_every: the checkpoints of every so many steps stay too, a multiple of `save_every`; None for no others.
        best: the evaluation metric that decides which checkpoint is the best.
        best_mode: whether the best value of it is the largest, ``max``, or the smallest, ``min``.
        patience: evaluations in a row that are no better than the best before them, after which the run ends; None for
            the whole length. The schedule is that of the whole length all the same.
        matmul_precision: jax's name for the precision of float32 products on accelerators.
        evals: further evaluations, by the names under which they are logged.
        support: of the run's own evaluation, as `Eval.support`.
        order: another order of the training examples every so many steps, which follows from the run's own state
            (methods/order.py); None for the order that follows from the seed alone.
        pictures: how many examples of the evaluation split are shown at each evaluation, for a task that has pictures.
        kernels: op -> name of the implementation that all of the run's networks take (kernels/dispatch.py:OPS); an op
            that is left out, or None, chooses by the platform.
    """

    task: Any
    data: Any
    optimizer: Any
    batch_size: int
    epochs: float | None = None
    steps: int | None = None
    train_transforms: Sequence[Any] = ()
    eval_transforms: Sequence[Any] = ()
    eval_batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    mesh: MeshConfig = MeshConfig()
    log_every: int = 50
    eval_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    keep_every: int | None = None
    best: str = 'eval/accuracy'
    best_mode: str = 'max'
    patience: int | None = None
    matmul_precision: str = 'default'
    evals: Mapping[str, Eval] = dataclasses.field(default_factory=dict)
    support: Any = None
    order: Any = None
    pictures: int = 8
    kernels: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError('config gives neither epochs nor steps: give one of them.')
        for name in ('batch_size', 'accumulate', 'log_every', 'keep'):
            if getattr(self, name) < 1:
                raise ValueError(f'config.{name} is {getattr(self, name)}: it must be at least 1.')
        for name in ('keep_every', 'patience'):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f'config.{name} is {getattr(self, name)}: it must be at least 1, or None.')
        if self.pictures < 0:
            raise ValueError(f'config.pictures is {self.pictures}: it must be at least 0, for none.')
        if not 0 <= self.seed < 2**32:
            raise ValueError(f'config.seed is {self.seed}: use 0 <= seed < 2**32.')
        if self.matmul_precision not in _PRECISIONS:
            raise ValueError(
                f'config.matmul_precision is {self.matmul_precision!r}: use one of {", ".join(_PRECISIONS)}.'
            )
        for name in self.evals:
            if not re.fullmatch(r'[\w.-]+', name):
                raise ValueError(f'config.evals has the name {name!r}: use letters, digits, "_", "-" and ".".')
        if self.best_mode not in ('max', 'min'):
            raise ValueError(f"config.best_mode is {self.best_mode!r}: it must be 'max' or 'min'.")
        if self.accumulate > 1 and self.task.batchwide:
            raise ValueError(
                f'config.accumulate is {self.accumulate} and {_innermost(self.task)} compares all examples of a '
                'batch with each other, which microbatches keep apart: set accumulate to 1; where memory is short, '
                'remat of the backbone or more devices help.'
            )

    @property
    def data_sets(self) -> list[Any]:
        """All data sets that the run reads, its own first."""
        looked_at = None if self.order is None else self.order.data
        others = (
            self.support,
            looked_at,
            *(data for each in self.evals.values() for data in (each.data, each.support)),
        )
        return [self.data, *(data for data in others if data is not None)]


def _innermost(task: Any) -> str:
    """Returns the name of the task that wrappers are around."""
    while hasattr(task, 'inner'):
        task = task.inner
    return type(task).__name__


def read_run(config: Mapping[str, Any], stages: pathlib.Path | None = None) -> tuple[Run, dict[str, Any]]:
    """Returns the run that a config describes, and the config with what it leaves to the data set (from_data.py).

    The data set is made first, nothing of it is read yet but what it says of itself.

    Args:
        config: the tree of a config file as plain mappings, lists and leaves, such as its ``to_dict()``.
        stages: the folder of the stages that the config may name (runtime/stages.py); None where there are none.

    Raises:
        ConfigError, ValueError: the config does not make a run; the sentence says what to mend.
    """
    data = resolve(located(config['data'], stages, 'config.data'), 'config.data') if 'data' in config else None
    rest = filled({key: node for key, node in config.items() if key != 'data'}, data)
    made = {key: resolve(located(node, stages, f'config.{key}'), f'config.{key}') for key, node in rest.items()}
    return call(Run, made | ({} if data is None else {'data': data}), 'config'), {**config, **rest}


# Keys that say how to run, not what to compute: a run may be resumed with others. So may `accumulate`, unless batches
# are normalized (`resumable`).
_EXECUTION = (
    'mesh',
    'keep',
    'keep_every',
    'save_every',
    'patience',
    'kernels',
    'evals',
    'support',
    'pictures',
)


def resumable(statistics: bool) -> tuple[str, ...]:
    """Returns the keys of a config that may change between the parts of a run.

    Args:
        statistics: whether the state of the task holds running statistics of batches, which are normalized then; how
            large microbatches are makes a difference to them.
    """
    return _EXECUTION if statistics else (*_EXECUTION, 'accumulate')


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers of a run that follow from its config and its data set.

    Attributes:
        steps: length of the whole run.
        steps_per_epoch: may be a fraction, because a batch may straddle two epochs.
        eval_every, save_every: steps between evaluations and checkpoints; both also follow the last step.
    """

    steps: int
    steps_per_epoch: float
    eval_every: int
    save_every: int

    @classmethod
    def of(cls, run: Run, num_train: int) -> 'Plan':
        """Returns the plan of a run over a training split of `num_train` examples.

        Raises:
            ValueError: the run has no step, or keeps checkpoints that it does not save.
        """
        per_epoch = num_train / run.batch_size
        steps = run.steps if run.steps is not None else round(run.epochs * per_epoch)
        if steps < 1:
            raise ValueError(
                f'the run has {steps} steps ({num_train} examples in batches of {run.batch_size}): '
                'raise config.epochs or lower config.batch_size.'
            )
        default = max(math.ceil(per_epoch), 100)
        save_every = run.save_every or default
        if run.keep_every is not None and run.keep_every % save_every:
            raise ValueError(
                f'config.keep_every is {run.keep_every} and a checkpoint is saved every {save_every} steps: make it a '
                'multiple of config.save_every.'
            )
        return cls(steps, per_epoch, run.eval_every or default, save_every)

    def evaluates(self, step: int, every: int | None = None) -> bool:
        """Whether an evaluation is due after so many steps; by default the run's own."""
        return step % (every or self.eval_every) == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        return step % self.save_every == 0 or step == self.steps
