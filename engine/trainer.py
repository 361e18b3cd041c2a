"""The training loop: one for every task."""

import collections
import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from longview.engine import length
from longview.engine.orders import Orders
from longview.engine.programs import Programs, columns, evaluations, forward, modules_of, programs
from longview.kernels import dispatch
from longview.methods import diagnose
from longview.methods.evaluation import make_pictures
from longview.methods.objective import variables_of
from longview.methods.task import Given, Task, TrainState, Variables, chain, normalizes_batches, read_given
from longview.runtime import profiler
from longview.runtime.checkpoint import Checkpoints
from longview.runtime.ended import ended
from longview.runtime.errors import Diverged
from longview.runtime.evaluation import Evaluation
from longview.runtime.mesh import batch_sharding, check_batch, make_mesh, replicated, tree_shardings
from longview.runtime.metrics import Metrics, Progress
from longview.runtime.nodes import NoNode, node_of
from longview.runtime.plan import Plan, Run, read_run, resumable
from longview.runtime.preemption import Preempted, StopSignals
from longview.runtime.resolve import places
from longview.runtime.rows import newest, read
from longview.runtime.workdir import alone, check_config, check_given, write_config, write_given, write_interface

# Steps handed to the devices ahead of the one being waited for: enough to keep them busy, few enough
# that the batches in flight fit.
_IN_FLIGHT = 2


def run(
    config: dict[str, Any],
    workdir: pathlib.Path,
    signals: StopSignals,
    span: tuple[int, int] | None = None,
    stages: pathlib.Path | None = None,
) -> dict[str, float]:
    """Trains what the config of a single run says, from its last checkpoint if there is one; returns the last scores.

    Args:
        config: as plain mappings, lists and leaves.
        workdir: of the run.
        signals: asked after each step.
        span: first and last step to profile.
        stages: the folder of the stages that the config may name (runtime/stages.py).

    Raises:
        ConfigError, ValueError, FileNotFoundError, RunError, Preempted: as `train.train`.
    """
    with contextlib.ExitStack() as stack:
        run, config = read_run(config, stages)
        if not isinstance(run.task, Task):
            raise TypeError(
                f'config.task is a {type(run.task).__name__}, and a methods.task.Task is wanted: name one, as in '
                "{'fn': 'methods.supervised:Supervised', ...}."
            )
        stack.enter_context(alone(workdir))
        for data in run.data_sets:
            data.check()
        stop_early(signals, workdir)
        plan = Plan.of(run, run.data.num_train)
        last = ended(run, plan, config, workdir)
        if last is not None:
            scores = newest(read(workdir / 'metrics.jsonl'), 'eval/')
            figures = ''.join(f'  {name} {value:.4g}' for name, value in scores.items())
            say(f'{workdir} ended before, after step {last} of {plan.steps}:{figures}')
            return scores
        stack.enter_context(jax.default_matmul_precision(run.matmul_precision))
        stack.enter_context(dispatch.prefer(**run.kernels))
        trainer = _Trainer(run, plan, config, workdir, span, stack)
        stop_early(signals, workdir)
        return trainer.train(signals)


def stop_early(signals: StopSignals, workdir: pathlib.Path) -> None:
    """Raises Preempted if a signal came, where there is nothing to save."""
    name = signals.came()
    if name is not None:
        raise Preempted(f'{name} came before the first step: there is nothing new to save in {workdir}.')


class _Trainer:
    """The compiled functions of a run, and the loop that calls them.

    Everything that has to be closed, whatever happens, is put on `stack`.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        config: dict[str, Any],
        workdir: pathlib.Path,
        span: tuple[int, int] | None,
        stack: contextlib.ExitStack,
    ):
        self.run, self.plan, self.config, self.workdir, self.stack = run, plan, config, workdir, stack
        self.mesh = make_mesh(run.mesh)
        self.eval_batch_size = run.eval_batch_size or run.batch_size
        self._check_batches()
        self.batches = batch_sharding(self.mesh, run.data.whole, run.data.sequences)
        self.everywhere = replicated(self.mesh)
        self.optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
        advice = run.task.advice(plan.steps)
        if advice is not None:
            say(f'note: {advice}')
        self.rng = jax.jit(jax.random.key, out_shardings=self.everywhere)(np.uint32(run.seed))
        self.checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, run.keep, run.keep_every)))
        self.profiler = stack.enter_context(contextlib.closing(profiler.Profiler(span, workdir)))
        # Kernels run on each device's part alone, and have to know the mesh while they are traced.
        stack.enter_context(jax.set_mesh(self.mesh))
        self._build()

    def _check_batches(self) -> None:
        for name, size in (('batch_size', self.run.batch_size), ('eval_batch_size', self.eval_batch_size)):
            if not self.run.data.whole:
                check_batch(self.mesh, name, size)
            elif size != 1:
                raise ValueError(f'config.{name} is {size} and the data set is a single example: set it to 1.')

    def _build(self) -> None:
        """Traces and compiles; the step and the score exist once, for fixed shapes and places."""
        try:
            made = programs(self.run, self.optimizer.transform, self.mesh)
        except (TypeError, ValueError) as error:
            self._check_targets(error)
            raise
        self.evaluations = evaluations(self.run, made, self.mesh)
        self._check_outputs(made.state, made.batch)
        free = resumable(normalizes_batches(made.state.variables.state))
        self.longer = length.grows(self.run, self.plan, self.workdir, made.state.variables.params)
        check_config(self.workdir, self.config, (*free, *length.KEYS) if self.longer else free)
        self.abstract, self.init = made.state, made.init
        self.pictures = self._pictures(made)
        self.networks = jax.jit(lambda v: variables_of(self.run.task.deployed(v)))
        self.modules = _modules(self.run.task, made.state.variables)
        latest = self.checkpoints.latest()
        saved = None if latest is None else self.checkpoints.order(latest)
        self.orders = Orders(self.run, self.mesh, self.abstract.variables, saved)
        self.given = self._read()
        self.step = made.step.lower(made.state, made.batch, self.rng).compile()

    def _pictures(self, made: Programs) -> jax.stages.Wrapped | None:
        """Returns the program that makes the task's pictures, or None where there are none or nobody wants them."""
        program = make_pictures(self.run.task, chain(self.run.eval_transforms))
        spec = self.run.data.batch_spec(self.eval_batch_size, train=False)
        if not self.run.pictures or not jax.eval_shape(program, made.state.variables, spec, self.rng):
            return None
        places = jax.tree.map(lambda s: s.sharding, made.state.variables)
        batches = columns(self.mesh, self.run.data, self.eval_batch_size)
        return forward(program, self.mesh, places, batches, self.everywhere)

    def _check_targets(self, error: Exception) -> None:
        """Raises a sentence in place of `error` where batch transforms make targets of the wrong number of classes."""
        classes = self.run.data.num_classes
        spec = self.run.data.batch_spec(self.run.batch_size, train=True)
        batch = jax.eval_shape(chain(self.run.train_transforms), spec, self.rng)
        if classes is not None and 'target' in batch and batch['target'].shape[-1] != classes:
            raise ValueError(
                f'the batch transforms make targets of {batch["target"].shape[-1]} classes and the data set has '
                f'{classes}: {self._set_classes()}.'
            ) from error

    def _set_classes(self) -> str:
        """Says which keys of the config have another number of classes than the data set, as flags to set them."""
        classes = self.run.data.num_classes
        found = [place for place, value in places(self.config, 'num_classes') if value != classes]
        found = [place for place in found if not place.startswith('config.data.')]
        flags = ' '.join(f'--{place}={classes}' for place in found)
        return f'set {flags}' if found else 'change the head'

    def _read(self) -> Given:
        """Reads what the task begins with, before anything is compiled for it; of a run that goes on, what it needs."""
        spec = self.run.data.batch_spec(self.run.batch_size, train=True)
        resumed = self.checkpoints.latest() is not None
        given = read_given(self.run.task, spec, chain(self.run.train_transforms), fixed_only=resumed)
        if jax.tree.leaves(self.abstract.variables.fixed):
            # What never changes is not in the checkpoint: it has to be the same when it is read again.
            (check_given if resumed else write_given)(self.workdir, given._asdict())
        return given

    def _placed(self, given: Given) -> Given:
        """Puts what was read where the parameters will be that it becomes; no device gets more than its part."""
        places = tree_shardings({**self.abstract._asdict(), 'given': given}, self.mesh, self.run.mesh)['given']
        part = lambda array, place: jax.make_array_from_callback(array.shape, place, lambda index: array[index])
        return jax.tree.map(part, given, places)

    def _check_outputs(self, abstract: TrainState, spec: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Checks by shapes alone what would otherwise fail after an epoch, or not at all."""
        task, transform = self.run.task, chain(self.run.eval_transforms)

        def shapes(what: Any) -> dict[str, jax.ShapeDtypeStruct]:
            return jax.eval_shape(lambda v, b, rng: what(v, transform(b, rng)), abstract.variables, spec, self.rng)

        outputs, classes = shapes(task.predict), self.run.data.num_classes
        if 'logits' in outputs and 'label' in spec and classes is None:
            raise ValueError(
                'the labels of the data set are numbers and no classes, and the task gives logits of classes: prepare '
                'the set with a ClassLabel, or use a task that predicts numbers.'
            )
        if 'logits' in outputs and outputs['logits'].shape[-1] < (classes or 0):
            raise ValueError(
                f'the head gives {outputs["logits"].shape[-1]} logits and the data set has {classes} '
                f'classes: {self._set_classes()}.'
            )
        scored = [name for _, each in self.evaluations for name in each.names(abstract.variables, self.rng)]
        if self.run.best not in scored:
            raise ValueError(
                f'config.best is {self.run.best!r}, which the task does not score; it scores {", ".join(scored)}.'
            )

    def train(self, signals: StopSignals) -> dict[str, float]:
        """Initialises or resumes, and runs the remaining steps."""
        state, start = self._start()
        stop_early(signals, self.workdir)
        write_config(self.workdir, self.config, replace=self.longer)
        write_interface(self.workdir, self.run.data.batch_spec(1, train=False), self.run.data.class_names)
        close_later = lambda thing: self.stack.enter_context(contextlib.closing(thing))
        self.metrics = close_later(Metrics(self.workdir, start))
        self.progress = close_later(Progress(self.plan.steps, start, self.run.batch_size, self.run.best))
        batches = self._open(start)
        self.stack.callback(lambda: batches.close())
        in_flight: collections.deque[jax.Array] = collections.deque()
        unreached = self.profiler.unreached(start, self.plan.steps)
        if unreached is not None:
            say(f'note: {unreached}')
        for step in range(start, self.plan.steps):
            if self.orders.due(step):
                while in_flight:
                    self._stop_if_bad(in_flight.popleft(), state)
                batches.close()
                self.orders.renew(step, state.variables, self.rng)
                batches = self._open(step)
            self.profiler.before(step)
            state, bad_step = self.step(state, self.profiler.next(batches), self.rng)
            self.profiler.after(step, state)
            in_flight.append(bad_step)
            if len(in_flight) > _IN_FLIGHT:
                self._stop_if_bad(in_flight.popleft(), state)
            if self._finish_step(step + 1, state, bad_step):
                break
            name = signals.came(step + 1)
            if name is not None:
                self._save(step + 1, state, bad_step)
                raise Preempted(
                    f'{name} came: step {step + 1} of {self.plan.steps} is saved in {self.workdir}; '
                    'the same command goes on from there.'
                )
        self.checkpoints.wait()
        return self.metrics.last('eval/')

    def _open(self, step: int) -> Any:
        """Returns the batches from a step on."""
        return self.orders.data.train(self.batches, self.run.batch_size, self.run.seed, step)

    def _start(self) -> tuple[TrainState, int]:
        """Returns the state to go on from, and its step."""
        state = self.init(self.rng, self._placed(self.given))
        del self.given
        latest = self.checkpoints.latest()
        if latest is not None:
            saved = self.checkpoints.restore(_without_fixed(self.abstract), latest)
            state = saved._replace(variables=saved.variables._replace(fixed=state.variables.fixed))
        start = int(state.step)
        parameters = sum(x.size for x in jax.tree.leaves(state.variables.params))
        mesh = ' x '.join(f'{axis}={size}' for axis, size in self.mesh.shape.items())
        say(
            f'{parameters:,} parameters; steps {start} to {self.plan.steps}, {self.run.batch_size} '
            f'examples each; {len(self.mesh.devices.flat)} {jax.devices()[0].device_kind} ({mesh})'
        )
        return state, start

    def _finish_step(self, step: int, state: TrainState, bad_step: jax.Array) -> bool:
        """Does what is due after `step` steps: metrics, evaluation, checkpoints; returns whether the run ends early."""
        self.progress.advance()
        if step % self.run.log_every == 0 or step == self.plan.steps:
            self._stop_if_bad(bad_step, state)
            self._log(step, state)
        due = [each for every, each in self.evaluations if self.plan.evaluates(step, every)]
        if due:
            self._stop_if_bad(bad_step, state)
            self._evaluate(step, state, due)
        early = bool(due) and step < self.plan.steps and self._has_stalled()
        if early:
            say(f'no better {self.run.best} in {self.run.patience} evaluations: the run ends after step {step}')
            # As after the last step, nothing is left unmeasured.
            self._measure(
                step, state, [each for every, each in self.evaluations if not self.plan.evaluates(step, every)]
            )
        if early or self.plan.saves(step):
            self._save(step, state, bad_step)
        return early

    def _has_stalled(self) -> bool:
        patience = self.run.patience
        return patience is not None and self.metrics.since_best(self.run.best, self.run.best_mode) >= patience

    def _log(self, step: int, state: TrainState) -> None:
        steps_in_window = (step - 1) % self.run.log_every + 1
        values = {f'train/{k}': float(v) / steps_in_window for k, v in jax.device_get(state.meters).items()}
        values['train/learning_rate'] = float(self.optimizer.schedule(step - 1))
        values['train/epoch'] = step / self.plan.steps_per_epoch
        values |= self.progress.rate(step)
        self.metrics.write(step, values)
        self.progress.report(step, values)

    def _evaluate(self, step: int, state: TrainState, due: Sequence[Evaluation]) -> None:
        """Runs the evaluations that are due, and keeps the state if it is the best so far."""
        values = self._measure(step, state, due)
        self._show(step, state)
        self.progress.pause()
        if self.run.best in values and self.metrics.is_best(self.run.best, step, self.run.best_mode):
            networks = self.networks(state.variables)
            self.checkpoints.save_best(step, _without_fixed(state), networks, self.modules)

    def _measure(self, step: int, state: TrainState, which: Sequence[Evaluation]) -> dict[str, float]:
        """Runs evaluations, writes their figures and returns them."""
        values: dict[str, float] = {}
        for evaluation in which:
            values |= evaluation(state.variables, self.rng)
        if values:
            self.metrics.write(step, values)
            self.progress.report(step, values)
        return values

    def _show(self, step: int, state: TrainState) -> None:
        """Writes the task's pictures of the first examples of the evaluation split, if it has any."""
        if self.pictures is None:
            return
        with contextlib.closing(self.run.data.evaluate(self.batches, self.eval_batch_size)) as batches:
            found = jax.device_get(self.pictures(state.variables, next(iter(batches)), self.rng))
        self.metrics.show(step, {name: array[: self.run.pictures] for name, array in found.items()})

    def _save(self, step: int, state: TrainState, bad_step: jax.Array) -> None:
        self._stop_if_bad(bad_step, state)
        self.checkpoints.save(step, _without_fixed(state), self.orders.saved)

    def _stop_if_bad(self, bad_step: jax.Array, state: TrainState) -> None:
        """Raises Diverged if a step so far was not finite; `state` is as it was before that step."""
        step = int(bad_step)
        if step < 0:
            return
        with contextlib.closing(self._open(step)) as it:
            where = diagnose.first_bad(
                self.run.task, state, next(it), self.rng, chain(self.run.train_transforms), self.run.accumulate
            )
        latest = self.checkpoints.latest()
        kept = f'the checkpoint of step {latest} is kept' if latest is not None else 'no checkpoint was saved yet'
        raise Diverged(
            f'step {step} is not finite: {where}; {kept} in {self.workdir}. Lower the learning rate, clip '
            'the gradients, or mend what is named here.'
        )


def say(text: str) -> None:
    """Prints a line, of several processes the first one."""
    if jax.process_index() == 0:
        print(text, flush=True)


def _without_fixed(state: TrainState) -> TrainState:
    """Returns what a checkpoint holds: all but teachers and frozen bases, which are loaded anew."""
    return state._replace(variables=state.variables._replace(fixed=None))


def _modules(task: Task, v: Variables) -> dict[str, Any]:
    """Returns the modules of what a task leaves, as config nodes; one that no config can say is left out, in words.

    Args:
        task: the method.
        v: the shapes of its variables.
    """
    nodes = {}
    for name, module in modules_of(task, v).items():
        try:
            nodes[name] = node_of(module, name)
        except NoNode as error:
            say(f'note: {error} So best/ keeps the arrays of {name} and not what it is.')
    return nodes
