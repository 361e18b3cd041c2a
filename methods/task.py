"""What a training method is, and the one training step that serves them all.

A `Task` is a few pure functions over `Variables`: an objective builds one from backbones, a wrapper takes
one and returns one, so methods nest by configuration. `make_step` never asks which method it runs.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods import microbatches
from longview.trees import by_path

Batch = dict[str, Array]
Shapes = Mapping[str, Any]  # of a batch: arrays, or jax.ShapeDtypeStruct
Metrics = dict[str, Float[Array, '']]
Sums = Any  # a tree of arrays that are added over the batches of an evaluation
Rows = dict[str, Array]  # arrays with one row per example
Transform = Callable[[Batch, Key[Array, '']], Batch]


class Variables(NamedTuple):
    """All arrays of a task, by how they change.

    Attributes:
        params: what gradients are taken of and the optimizer changes.
        state: what changes without gradients: batch statistics, averaged weights, masks, queues, centres.
        fixed: what never changes: a teacher, a frozen base. Reloaded at the start, not checkpointed.
    """

    params: Any
    state: Any
    fixed: Any


class Network(NamedTuple):
    """A network as it would be deployed.

    Attributes:
        module: takes the variables; it is the network alone, without what trained it.
        variables: arrays by collection, ``params`` among them.
    """

    module: nn.Module
    variables: dict[str, Any]


class Given(NamedTuple):
    """Host arrays that a task begins with in place of random values: arguments of the program, and no constants in it.

    Attributes:
        networks: first values of what is trained: of networks that `Task.deployed` names, a part of their variables; {}
            for none.
        fixed: what else is read, such as teachers; {} for nothing.
    """

    networks: dict[str, dict[str, Any]] = {}
    fixed: dict[str, Any] = {}


class Task(abc.ABC):
    """A training method. Implementations are frozen dataclasses; `Wrapper` apart, only abstract ones have subclasses.

    Attributes:
        batchwide: whether the loss compares the examples of a batch with each other, as contrastive losses do; such a
            task is not run in microbatches.
        fixes_networks: whether the fixed variables are made of first values of the networks, such as a frozen part.
    """

    batchwide: ClassVar[bool] = False
    fixes_networks: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        """Returns the variables; called once, inside jit. Only shapes of `batch` may matter.

        `given` is what the method of that name has read. None reads it here; an empty one leaves random values in its
        place, which have the same shapes.
        """

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        """Reads what the variables begin with, on the host; nothing by default.

        Args:
            batch: as for `init`, or only its shapes.
            fixed_only: only what fixed variables are made of; all else is in the checkpoint of a run that goes on.
        """
        del batch, fixed_only
        return Given()

    @abc.abstractmethod
    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        """Returns ``(scalar, (state, metrics))``, means over the batch.

        `rng` is the same for every microbatch of a step: what is random per example takes the
        example's ``batch['row']`` into account, so that accumulation changes no number.
        """

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        """Returns the variables after the optimizer's update: averages, mask schedules, queues."""
        del grads, step
        return v

    def skips(self, metrics: Metrics) -> Bool[Array, ''] | bool:
        """Returns whether a step whose loss is finite and whose gradients are not is left out and the run goes on.

        By default the run ends there. A step that is left out changes no variable and nothing of the optimizer.

        Args:
            metrics: those of the step, as `loss` returned them.
        """
        del metrics
        return False

    @abc.abstractmethod
    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns what would be deployed: ``logits``, ``pooled``, ..., one row per example."""

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns metrics, one value per example, so that averages leave the padding of the last batch out.

        A task whose figures are no means over examples has `measure` and `figures` in its place.
        """
        del v, batch
        raise NotImplementedError(
            f'{type(self).__name__} scores nothing by example: give it score, or measure and figures.'
        )

    def gather(self, v: Variables, batch: Batch) -> Rows:
        """Returns what an evaluation keeps of a batch of its support set, such as features; nothing by default."""
        del v, batch
        return {}

    def prepare(self, v: Variables, gathered: dict[str, Any] | None) -> Any:
        """Returns what an evaluation computes once, before its batches; None by default.

        Args:
            v: the variables.
            gathered: the rows of `gather` over the whole support set, or None where the evaluation has none.
        """
        del v, gathered
        return None

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        """Returns sums over the rows of a batch for which ``mask`` is True; by default those of `score`.

        They are added over the batches on the host, in double precision. Integers stay integers there.

        Args:
            v: the variables.
            batch: transformed, with ``mask`` (B,).
            ready: what `prepare` returned.
            rng: for measures that draw. It is the same for all batches: what is random per example takes the
                example's ``index`` into account, so that figures do not depend on the size of the batches.
        """
        del ready, rng
        mask, batch = batch['mask'], {name: column for name, column in batch.items() if name != 'mask'}
        scores, weight = self.score(v, batch), self.weight(batch)
        _refuse_names(scores, _OWN_SCORES, 'scores')
        weight = jnp.where(mask, 1.0 if weight is None else weight, 0.0)
        return {**means(scores, mask, weight), 'weight': jnp.sum(weight)}

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        """Returns what has to meet on the host, one row per example: detections, features; nothing by default."""
        del v, batch, ready
        return {}

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        """Returns the figures of an evaluation, by default the means of `score`; computed once, on the host.

        It is called on zeros and without rows before the first step, and has to name all its figures then too.

        Args:
            sums: those of `measure` over the whole split, as NumPy arrays of float64 and int64.
            rows: those of `rows` over the whole split, padding left out.
        """
        del rows
        weight = sums['weight'] or 1.0
        return {name: float(total / weight) for name, total in sums.items() if name != 'weight'}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns images (B, H, W, C) of a few examples, floats from 0 to 1 or uint8; none by default."""
        del v, batch
        return {}

    def weight(self, batch: Batch) -> Float[Array, ' b'] | None:
        """Returns how much each example counts in the mean of a score, such as its questions; None for all alike."""
        del batch
        return None

    def deployed(self, v: Variables) -> dict[str, Network]:
        """Returns the networks that are left when training is over, by name; ``network`` where there is one.

        They are what a run keeps for others to start from: as they are evaluated, whatever method trained them. Nothing
        by default.
        """
        del v
        return {}

    def depth_of(self, path: str) -> tuple[int, int]:
        """Returns (depth of the parameter at `path`, number of depths), for layer-wise rates."""
        raise NotImplementedError(f'{type(self).__name__} does not know the depth of {path!r}: set layer_decay to 1.')

    def advice(self, steps: int) -> str | None:
        """Returns a sentence that a user should read before a run of this many steps, or None; none by default."""
        del steps
        return None


@dataclasses.dataclass(frozen=True)
class Wrapper(Task):
    """Task -> Task that passes everything on to `inner`; subclasses override what their method changes.

    One whose variables are not `inner`'s says with `deploy` where those are that are evaluated.

    Attributes:
        inner: the task underneath.
    """

    inner: Task

    @property
    def batchwide(self) -> bool:
        return self.inner.batchwide

    @property
    def fixes_networks(self) -> bool:
        return self.inner.fixes_networks

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        return self.inner.init(rng, batch, given)

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        return self.inner.given(batch, fixed_only=fixed_only)

    def deploy(self, v: Variables) -> Variables:
        """Returns the variables of `inner` that it predicts and scores with."""
        return v

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        return self.inner.loss(v, batch, rng, step)

    def after(self, v: Variables, grads: Any, step: Int[Array, '']) -> Variables:
        return self.inner.after(v, grads, step)

    def skips(self, metrics: Metrics) -> Bool[Array, ''] | bool:
        return self.inner.skips(metrics)

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return self.inner.predict(self.deploy(v), batch)

    def extra(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns what the method scores beside `inner`, one value per example; nothing by default."""
        del v, batch
        return {}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        return {**self.inner.score(self.deploy(v), batch), **self.extra(v, batch)}

    def gather(self, v: Variables, batch: Batch) -> Rows:
        return self.inner.gather(self.deploy(v), batch)

    def prepare(self, v: Variables, gathered: dict[str, Any] | None) -> Any:
        return self.inner.prepare(self.deploy(v), gathered)

    def measure(self, v: Variables, batch: Batch, ready: Any, rng: Key[Array, '']) -> Sums:
        mask = batch['mask']
        extra = self.extra(v, {name: column for name, column in batch.items() if name != 'mask'})
        own = {'extra': means(extra, mask, mask.astype(jnp.float32)), 'count': jnp.sum(mask)}
        return {'inner': self.inner.measure(self.deploy(v), batch, ready, rng), **own}

    def rows(self, v: Variables, batch: Batch, ready: Any) -> Rows:
        return self.inner.rows(self.deploy(v), batch, ready)

    def figures(self, sums: Sums, rows: dict[str, Any]) -> dict[str, float]:
        own = {name: float(total / (sums['count'] or 1)) for name, total in sums['extra'].items()}
        return {**self.inner.figures(sums['inner'], rows), **own}

    def pictures(self, v: Variables, batch: Batch) -> dict[str, Array]:
        return self.inner.pictures(self.deploy(v), batch)

    def weight(self, batch: Batch) -> Float[Array, ' b'] | None:
        return self.inner.weight(batch)

    def deployed(self, v: Variables) -> dict[str, Network]:
        return self.inner.deployed(self.deploy(v))

    def depth_of(self, path: str) -> tuple[int, int]:
        return self.inner.depth_of(path)

    def advice(self, steps: int) -> str | None:
        return self.inner.advice(steps)


class TrainState(NamedTuple):
    """Everything that a run carries from step to step.

    Attributes:
        step: steps done.
        variables: the task's.
        opt_state: the optimizer's.
        meters: metrics summed since the last multiple of ``log_every``.
        bad_step: the first step that was not finite, or -1. From it on the state is kept as it was
            before that step, so whatever is saved is sound.
    """

    step: Int[Array, '']
    variables: Variables
    opt_state: Any
    meters: Metrics
    bad_step: Int[Array, '']


def init_state(
    task: Task,
    tx: optax.GradientTransformation,
    rng: Key[Array, ''],
    batch: Batch,
    transform: Transform,
    given: Given | None = None,
) -> TrainState:
    """Builds the first state; meant to be jitted with output shardings.

    `given` is what `read_given` has returned, or as `Task.init` says.

    One program makes every copy of the weights (averages, moments), so no two leaves share a
    buffer and the whole state can be donated to the step.
    """
    batch = with_rows(transform(batch, rng))
    variables = task.init(rng, batch, given)
    step = jnp.zeros((), jnp.int32)
    _, (_, metrics) = jax.eval_shape(task.loss, variables, batch, rng, step)
    _refuse_names(metrics, _STEP_METERS, 'reports')
    meters = {name: jnp.zeros((), jnp.float32) for name in {'loss', *metrics, *_STEP_METERS}}
    return TrainState(step, variables, tx.init(variables.params), meters, jnp.full((), -1, jnp.int32))


def read_given(task: Task, batch: Shapes, transform: Transform, *, fixed_only: bool = False) -> Given:
    """Returns what `task` begins with, for batches of these shapes before `transform`; see `Task.given`."""
    seen = jax.eval_shape(lambda batch: with_rows(transform(batch, jax.random.key(0))), batch)
    return task.given(seen, fixed_only=fixed_only)


def make_step(
    task: Task, tx: optax.GradientTransformation, *, transform: Transform, accumulate: int = 1, log_every: int = 1
) -> Callable[[TrainState, Batch, Key[Array, '']], tuple[TrainState, Array]]:
    """Returns the training step ``(state, batch, rng) -> (state, bad_step)``.

    Args:
        task: the method.
        tx: the optimizer, clipping and schedules included.
        transform: batch transforms, applied to the whole batch before it is split.
        accumulate: microbatches per step; their gradients are averaged, so for a loss that is a mean
            over examples, each computed from itself alone, the step is the same for any number that
            divides the batch. Batch normalization sees a microbatch (methods/microbatches.py).
        log_every: the meters restart after every multiple of this.

    The step takes one `rng` for the whole run: batch transforms fold each example's epoch and index into their
    half of it, the task's half gets the step number. ``bad_step`` is returned a second time beside the state,
    because the next step takes the state's buffers over, and a caller has to be able to wait for this one.
    """

    def step(state: TrainState, batch: Batch, rng: Key[Array, '']) -> tuple[TrainState, Array]:
        v = state.variables
        transform_rng, task_rng = jax.random.split(rng)
        batch = with_rows(transform(batch, transform_rng))
        step_rng = jax.random.fold_in(task_rng, state.step)
        grads, task_state, metrics = _gradients(task, v, batch, step_rng, state.step, accumulate)
        updates, opt_state = tx.update(grads, state.opt_state, v.params)
        v = Variables(optax.apply_updates(v.params, updates), task_state, v.fixed)
        v = task.after(v, grads, state.step)
        grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
        finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
        skipped = jnp.isfinite(metrics['loss']) & ~jnp.isfinite(grad_norm) & task.skips(metrics)
        metrics = {**metrics, 'grad_norm': grad_norm, 'update_norm': update_norm}
        known = jax.tree.map(lambda m: jnp.where(skipped & ~jnp.isfinite(m), 0.0, m), metrics)
        restart = state.step % log_every == 0
        meters = jax.tree.map(lambda s, m: jnp.where(restart, 0.0, s) + m, state.meters, known)
        new = TrainState(state.step + 1, v, opt_state, meters, state.bad_step)
        state = _keep_if_bad(state, new, finite, skipped)
        return state, state.bad_step

    return step


# What the step and the evaluation measure themselves.
_STEP_METERS = ('grad_norm', 'update_norm')
_OWN_SCORES = ('count', 'examples', 'weight')


def _refuse_names(given: Iterable[str], own: tuple[str, ...], does: str) -> None:
    for name in own:
        if name in given:
            raise ValueError(f'the task {does} {name!r}, a figure that every run has already: give it another name.')


def means(scores: Mapping[str, Array], mask: Bool[Array, ' b'], weight: Float[Array, ' b']) -> Metrics:
    """Returns the sums of scores times the weight of each row, from which padding is left out whatever it holds."""
    return {name: jnp.sum(jnp.where(mask, values, 0.0) * weight) for name, values in scores.items()}


def chain(transforms: Sequence[Transform]) -> Transform:
    """Applies batch transforms one after the other; without any, returns the batch as it is."""

    def apply(batch: Batch, rng: Key[Array, '']) -> Batch:
        for transform in transforms:
            batch = transform(batch, rng)
        return batch

    return apply


def normalizes_batches(state: Any) -> bool:
    """Whether a task's state holds running statistics of batches: then a microbatch is normalized otherwise."""
    return any('batch_stats' in path.split('/') for path in by_path(state))


def with_rows(batch: Batch) -> Batch:
    """Adds ``row`` (B,), the number of each example in the batch."""
    rows = jnp.arange(len(jax.tree.leaves(batch)[0]), dtype=jnp.int32)
    return {**batch, 'row': rows}


def _gradients(
    task: Task, v: Variables, batch: Batch, rng: Array, step: Array, accumulate: int
) -> tuple[Any, Any, Metrics]:
    """Returns mean gradients, the state after the last of `accumulate` microbatches, and mean metrics."""

    def of(task_state: Any, micro: Batch) -> tuple[Any, Any, Metrics]:
        def objective(params: Any) -> tuple[Array, tuple[Any, Metrics]]:
            return task.loss(v._replace(params=params, state=task_state), micro, rng, step)

        (loss, (new_state, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(v.params)
        return grads, new_state, {**metrics, 'loss': loss}

    if accumulate == 1:
        return of(v.state, batch)
    micros = microbatches.split(batch, accumulate)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(of, microbatches.opened(v.state), first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[2]))

    def body(carry: Any, micro: Batch) -> tuple[Any, None]:
        task_state, sums = carry
        grads, task_state, metrics = of(microbatches.rewound(task_state, v.state), micro)
        return (task_state, jax.tree.map(jnp.add, sums, (grads, metrics))), None

    (task_state, sums), _ = jax.lax.scan(body, (microbatches.begun(shapes[1], v.state), zeros), micros)
    grads, metrics = jax.tree.map(lambda x: x / accumulate, sums)
    return grads, microbatches.closed(task_state, v.state), metrics


def _keep_if_bad(old: TrainState, new: TrainState, finite: Array, skipped: Array) -> TrainState:
    """Returns the state after a step: of one that is not finite the old one, marked unless the step is left out."""
    running = old.bad_step < 0
    good, goes_on = finite & running, (finite | skipped) & running
    bad_step = jnp.where(goes_on | ~running, old.bad_step, old.step)
    kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    step, meters = jax.tree.map(lambda n, o: jnp.where(goes_on, n, o), (new.step, new.meters), (old.step, old.meters))
    return kept._replace(step=step, meters=meters, bad_step=bad_step)
