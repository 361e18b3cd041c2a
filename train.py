"""Trains what a config describes: ``python train.py --config configs/vig_s.py:digits --workdir runs/vig``.

The same command starts a run, resumes it after a kill and, on every host of a pod, joins it. It writes
``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/`` and ``best/`` into the workdir. On SIGTERM or
Ctrl-C it saves and exits with status 0. What a user can mend ends it in one sentence and with status 1.
"""

import collections
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import app, flags, logging
from ml_collections import config_flags

from longview import names
from longview.kernels import dispatch
from longview.methods import diagnose
from longview.methods.evaluation import make_gather, make_measure, make_pictures
from longview.methods.task import (
    Given,
    TrainState,
    chain,
    init_state,
    make_step,
    normalizes_batches,
    read_given,
)
from longview.runtime import commandline, compiler, distributed, profile
from longview.runtime.checkpoint import Checkpoints, quiet_failed_writes
from longview.runtime.errors import RunError
from longview.runtime.evaluation import Evaluation
from longview.runtime.mesh import batch_sharding, check_batch, make_mesh, replicated, tree_shardings
from longview.runtime.metrics import Metrics, Progress
from longview.runtime.plan import Eval, Plan, Run, read_run, resumable
from longview.runtime.preemption import Preempted, StopSignals
from longview.runtime.resolve import places
from longview.runtime.workdir import alone, check_config, folder, write_config

names.check(__name__)

# Steps handed to the devices ahead of the one being waited for: enough to keep them busy, few enough
# that the batches in flight fit.
_IN_FLIGHT = 2


def train(config: Any, workdir: str | os.PathLike, span: tuple[int, int] | None = None) -> dict[str, float]:
    """Runs `config` to its end, from its last checkpoint if there is one; returns the last scores.

    Args:
        config: the tree of a config file, as its ``get_config()`` returns it.
        workdir: the run's folder.
        span: first and last step to profile.

    Raises:
        ConfigError, ValueError, FileNotFoundError: the config or the data set cannot work; said
            before anything is computed.
        RunError: the run had to stop; what was saved is still there.
        Preempted: SIGTERM or Ctrl-C came, and the state is saved.
    """
    workdir = folder(workdir)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        run, config = read_run(config.to_dict())
        stack.enter_context(alone(workdir))
        for data in run.data_sets:
            data.check()
        _stop_early(signals, workdir)
        plan = Plan.of(run, run.data.num_train)
        stack.enter_context(jax.default_matmul_precision(run.matmul_precision))
        stack.enter_context(dispatch.prefer(**run.kernels))
        trainer = _Trainer(run, plan, config, workdir, span, stack)
        _stop_early(signals, workdir)
        return trainer.train(signals)


def _stop_early(signals: StopSignals, workdir: pathlib.Path) -> None:
    name = signals.came()
    if name is not None:
        raise Preempted(f'{name} came before the first step: there is nothing new to save in {workdir}.')


class Programs(NamedTuple):
    """What a run computes on a mesh, not compiled yet; `state` and `batch` are shapes, with their places.

    `init` takes beside the key what the task has read (`Given`), and reads it itself where it is left out.
    """

    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    init: jax.stages.Wrapped
    step: jax.stages.Wrapped
    measure: jax.stages.Wrapped


def programs(run: Run, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> Programs:
    """Returns the programs of a run; to be called, and they to be traced, under ``jax.set_mesh(mesh)``."""
    batches, everywhere = batch_sharding(mesh, run.data.whole), replicated(mesh)
    shapes = run.data.batch_spec(run.batch_size, train=True)
    transform = chain(run.train_transforms)

    def init(rng: jax.Array, given: Given | None = None) -> TrainState:
        # The zeros only lend their shapes: what would be computed from them is never run.
        zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
        return init_state(run.task, tx, rng, zeros, transform, given)

    state = jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), Given())
    places = tree_shardings(state, mesh, run.mesh)
    step = make_step(run.task, tx, transform=transform, accumulate=run.accumulate, log_every=run.log_every)
    place = lambda shape, where: shape.update(sharding=where)
    return Programs(
        jax.tree.map(place, state, places),
        {name: place(shape, batches) for name, shape in shapes.items()},
        jax.jit(init, out_shardings=places),
        jax.jit(step, donate_argnums=0, in_shardings=(places, batches, everywhere), out_shardings=(places, everywhere)),
        _forward(
            make_measure(run.task, chain(run.eval_transforms)), mesh, places.variables, batches, everywhere, everywhere
        ),
    )


def _forward(program: Callable, mesh: jax.sharding.Mesh, *places: Any) -> jax.stages.Wrapped:
    """Compiles a program without gradients whose answer every process gets; `places` are those of its arguments."""
    return jax.jit(
        program,
        in_shardings=places,
        out_shardings=replicated(mesh),
        compiler_options=compiler.forward_options(mesh.devices.flat[0].platform),
    )


def evaluations(run: Run, made: Programs, mesh: jax.sharding.Mesh) -> list[tuple[int | None, Evaluation]]:
    """Returns how often each evaluation is due, and the evaluation; the run's own comes first.

    None is as often as the run's own.
    """
    everywhere, places = replicated(mesh), jax.tree.map(lambda s: s.sharding, made.state.variables)
    prepare = jax.jit(run.task.prepare, out_shardings=everywhere)

    def evaluation(prefix: str, of: Eval) -> tuple[int | None, Evaluation]:
        data = of.data or run.data
        own = of.transforms is None and data.whole == run.data.whole
        transform = chain(run.eval_transforms if of.transforms is None else of.transforms)
        batches = batch_sharding(mesh, data.whole)
        measure = made.measure
        if not own:
            measure = _forward(make_measure(run.task, transform), mesh, places, batches, everywhere, everywhere)
        return of.every, Evaluation(
            prefix=prefix,
            data=data,
            batch_size=run.eval_batch_size or run.batch_size,
            batches=batches,
            measure=measure,
            figures=run.task.figures,
            prepare=prepare,
            support=of.support,
            gather=_forward(make_gather(run.task, transform), mesh, places, batches, everywhere),
        )

    named = (evaluation(f'eval/{name}/', of) for name, of in run.evals.items())
    return [evaluation('eval/', Eval(support=run.support)), *named]


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
        self.batches = batch_sharding(self.mesh, run.data.whole)
        self.everywhere = replicated(self.mesh)
        self.optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
        advice = run.task.advice(plan.steps)
        if advice is not None and jax.process_index() == 0:
            print(f'note: {advice}', flush=True)
        self.rng = jax.jit(jax.random.key, out_shardings=self.everywhere)(np.uint32(run.seed))
        self.checkpoints = stack.enter_context(contextlib.closing(Checkpoints(workdir, run.keep)))
        self.profiler = stack.enter_context(contextlib.closing(profile.Profiler(span, workdir)))
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
        check_config(self.workdir, self.config, free)
        self.abstract, self.init = made.state, made.init
        self.pictures = self._pictures(made)
        self.deployed = jax.jit(self.run.task.deployed)
        self.given = self._read()
        self.step = made.step.lower(made.state, made.batch, self.rng).compile()

    def _pictures(self, made: Programs) -> jax.stages.Wrapped | None:
        """Returns the program that makes the task's pictures, or None where there are none or nobody wants them."""
        program = make_pictures(self.run.task, chain(self.run.eval_transforms))
        spec = self.run.data.batch_spec(self.eval_batch_size, train=False)
        if not self.run.pictures or not jax.eval_shape(program, made.state.variables, spec, self.rng):
            return None
        places = jax.tree.map(lambda s: s.sharding, made.state.variables)
        return _forward(program, self.mesh, places, self.batches, self.everywhere)

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
        return read_given(self.run.task, spec, chain(self.run.train_transforms), fixed_only=resumed)

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
        _stop_early(signals, self.workdir)
        write_config(self.workdir, self.config)
        close_later = lambda thing: self.stack.enter_context(contextlib.closing(thing))
        self.metrics = close_later(Metrics(self.workdir, start))
        self.progress = close_later(Progress(self.plan.steps, start, self.run.batch_size, self.run.best))
        batches = close_later(self.run.data.train(self.batches, self.run.batch_size, self.run.seed, start))
        in_flight: collections.deque[jax.Array] = collections.deque()
        for step in range(start, self.plan.steps):
            self.profiler.before(step)
            state, bad_step = self.step(state, next(batches), self.rng)
            self.profiler.after(step, state)
            in_flight.append(bad_step)
            if len(in_flight) > _IN_FLIGHT:
                self._stop_if_bad(in_flight.popleft(), state)
            self._finish_step(step + 1, state, bad_step)
            name = signals.came(step + 1)
            if name is not None:
                self._save(step + 1, state, bad_step)
                raise Preempted(
                    f'{name} came: step {step + 1} of {self.plan.steps} is saved in {self.workdir}; '
                    'the same command goes on from there.'
                )
        self.checkpoints.wait()
        return self.metrics.last('eval/')

    def _start(self) -> tuple[TrainState, int]:
        """Returns the state to go on from, and its step."""
        state = self.init(self.rng, self._placed(self.given))
        del self.given
        latest = self.checkpoints.latest()
        if latest is not None:
            saved = self.checkpoints.restore(_without_fixed(self.abstract), latest)
            state = saved._replace(variables=saved.variables._replace(fixed=state.variables.fixed))
        start = int(state.step)
        if jax.process_index() == 0:
            parameters = sum(x.size for x in jax.tree.leaves(state.variables.params))
            mesh = ' x '.join(f'{axis}={size}' for axis, size in self.mesh.shape.items())
            print(
                f'{parameters:,} parameters; steps {start} to {self.plan.steps}, {self.run.batch_size} '
                f'examples each; {len(self.mesh.devices.flat)} {jax.devices()[0].device_kind} ({mesh})',
                flush=True,
            )
        return state, start

    def _finish_step(self, step: int, state: TrainState, bad_step: jax.Array) -> None:
        """Does what is due after `step` steps: metrics, evaluation, checkpoints."""
        self.progress.advance()
        if step % self.run.log_every == 0 or step == self.plan.steps:
            self._stop_if_bad(bad_step, state)
            self._log(step, state)
        due = [each for every, each in self.evaluations if self.plan.evaluates(step, every)]
        if due:
            self._stop_if_bad(bad_step, state)
            self._evaluate(step, state, due)
        if self.plan.saves(step):
            self._save(step, state, bad_step)

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
        values: dict[str, float] = {}
        for evaluation in due:
            values |= evaluation(state.variables, self.rng)
        self.metrics.write(step, values)
        self.progress.report(step, values)
        self._show(step, state)
        self.progress.pause()
        if self.run.best in values and self.metrics.is_best(self.run.best, step, self.run.best_mode):
            self.checkpoints.save_best(step, _without_fixed(state), self.deployed(state.variables))

    def _show(self, step: int, state: TrainState) -> None:
        """Writes the task's pictures of the first examples of the evaluation split, if it has any."""
        if self.pictures is None:
            return
        with contextlib.closing(self.run.data.evaluate(self.batches, self.eval_batch_size)) as batches:
            found = jax.device_get(self.pictures(state.variables, next(iter(batches)), self.rng))
        self.metrics.show(step, {name: array[: self.run.pictures] for name, array in found.items()})

    def _save(self, step: int, state: TrainState, bad_step: jax.Array) -> None:
        self._stop_if_bad(bad_step, state)
        self.checkpoints.save(step, _without_fixed(state))

    def _stop_if_bad(self, bad_step: jax.Array, state: TrainState) -> None:
        """Raises RunError if a step so far was not finite; `state` is as it was before that step."""
        step = int(bad_step)
        if step < 0:
            return
        with contextlib.closing(self.run.data.train(self.batches, self.run.batch_size, self.run.seed, step)) as it:
            where = diagnose.first_bad(
                self.run.task, state, next(it), self.rng, chain(self.run.train_transforms), self.run.accumulate
            )
        latest = self.checkpoints.latest()
        kept = f'the checkpoint of step {latest} is kept' if latest is not None else 'no checkpoint was saved yet'
        raise RunError(
            f'step {step} is not finite: {where}; {kept} in {self.workdir}. Lower the learning rate, clip '
            'the gradients, or mend what is named here.'
        )


def _without_fixed(state: TrainState) -> TrainState:
    """Returns what a checkpoint holds: all but teachers and frozen bases, which are loaded anew."""
    return state._replace(variables=state.variables._replace(fixed=None))


def _define_flags() -> None:
    config_flags.DEFINE_config_file('config', None, 'Config, FILE or FILE:PRESET.', lock_config=True)
    flags.DEFINE_string('workdir', None, 'Folder of the run: made if missing, else resumed.')
    flags.DEFINE_string('profile', None, 'Trace the steps FIRST:LAST into WORKDIR/profile.')
    flags.DEFINE_string('coordinator', None, 'host:port of process 0, for several processes.')
    flags.DEFINE_integer('num_processes', None, 'How many processes, with --coordinator.')
    flags.DEFINE_integer('process_id', None, 'Which of them this is, with --coordinator.')
    flags.DEFINE_bool('traceback', False, 'Show where an error came from, not only what it is.')


def _parse(argv: list[str]) -> list[str]:
    try:
        return commandline.parse(argv)
    except ValueError as error:
        sys.exit(f'error: {error}')


def _main(argv: list[str]) -> None:
    said = flags.FLAGS
    try:
        if len(argv) > 1:
            raise ValueError(f'{argv[1]!r} is not a flag; options are written --name=value.')
        if said.config is None:
            raise ValueError('no --config was given: name one, as in --config configs/vig_s.py:digits.')
        if said.workdir is None:
            raise ValueError('no --workdir was given: name the folder of the run, as in --workdir runs/vig_digits.')
        span = profile.parse(said.profile)
        distributed.initialize(said.coordinator, said.num_processes, said.process_id)
        train(said.config, said.workdir, span)
    except Preempted as stop:
        print(stop, flush=True)
    except KeyboardInterrupt:
        print('interrupted: what was saved before is still there.', file=sys.stderr)
        sys.exit(130)
    except (RunError, ValueError, TypeError, OSError, NotImplementedError) as error:
        if said.traceback:
            raise
        sys.exit(f'error: {commandline.sentence(error)} (--traceback shows where.)')


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, unless the user has named another place or none."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/longview/xla'))


if __name__ == '__main__':
    # Libraries report their progress as information; a run has its own.
    logging.set_verbosity(logging.WARNING)
    quiet_failed_writes()
    _cache_compilations()
    _define_flags()
    app.run(_main, flags_parser=_parse)
