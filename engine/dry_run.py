"""A run planned before it is queued: what it computes, holds and communicates, without accelerator and without data."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from longview.counting import multiply_adds
from longview.engine import activations, fit
from longview.engine import topology as tpus
from longview.engine.programs import Programs, modules_of, programs
from longview.kernels import dispatch
from longview.methods.task import Task, chain
from longview.runtime import memory, textplot
from longview.runtime.mesh import AXES, MeshConfig, check_batch, make_mesh
from longview.runtime.plan import Plan, Run, read_run
from longview.runtime.resolve import plain, resolve
from longview.runtime.stages import ordered, reads
from longview.trees import by_path

# Of the learning rates that are drawn.
_POINTS = 200


class _Made(NamedTuple):
    """A run with what follows from its config and its devices, nothing of it compiled."""

    run: Run
    plan: Plan
    optimizer: Any
    mesh: jax.sharding.Mesh
    programs: Programs


class Known(NamedTuple):
    """What is known of a data set without a file of it: examples by split, classes, and (H, W, C); None: it varies."""

    splits: Mapping[str, int]
    num_classes: int
    shape: tuple[int | None, int | None, int]


# As https://www.tensorflow.org/datasets/catalog has them; digits and fashion_mnist are prepared by data/.
KNOWN = {
    'imagenet2012': Known({'train': 1_281_167, 'validation': 50_000}, 1000, (None, None, 3)),
    'cifar10': Known({'train': 50_000, 'test': 10_000}, 10, (32, 32, 3)),
    'cifar100': Known({'train': 50_000, 'test': 10_000}, 100, (32, 32, 3)),
    'digits': Known({'train': 1438, 'test': 359}, 10, (8, 8, 1)),
    'fashion_mnist': Known({'train': 60_000, 'test': 10_000}, 10, (28, 28, 1)),
}


@dataclasses.dataclass(frozen=True)
class Unread:
    """Stands for a data set of labelled images of which no file is read.

    Its fields have defaults because a config may ask the class for them (runtime/from_data.py).
    """

    num_train: int = 0
    num_eval: int | None = None
    num_classes: int | None = None
    image_shape: tuple[int, int, int] = (0, 0, 3)
    train_crop: Any = None
    eval_crop: Any = None
    whole: bool = False
    sequences: bool = False
    class_names: tuple[str, ...] | None = None

    @property
    def num_examples(self) -> int:
        return self.num_train

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a global batch."""
        spec = {'image': (self.image_shape, np.uint8)}
        if any(getattr(crop, 'pads', False) for crop in (self.train_crop, self.eval_crop)):
            spec['image_valid'] = (self.image_shape[:2], np.bool_)
        spec |= {name: ((), np.int32) for name in ('label', 'epoch', 'index')}
        if not train:
            spec['mask'] = ((), np.bool_)
        return {name: jax.ShapeDtypeStruct((batch_size, *shape), dtype) for name, (shape, dtype) in spec.items()}


@dataclasses.dataclass(frozen=True)
class _Part:
    """Stands for a data set of sequences of which a device holds one of several parts.

    Attributes:
        data: the data set.
        parts: of each sequence.
    """

    data: Any
    parts: int
    whole: bool = False
    sequences: bool = True

    def batch_spec(self, batch_size: int, train: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the part of a batch."""
        cut = lambda x: x if x.ndim == 1 else x.update(shape=(x.shape[0], x.shape[1] // self.parts, *x.shape[2:]))
        return {name: cut(x) for name, x in self.data.batch_spec(batch_size, train).items()}


@dataclasses.dataclass(frozen=True)
class Left:
    """Stands for the best checkpoint of a stage that is planned: its networks, and no weights (methods/start.py)."""

    modules: Mapping[str, Any]

    def networks(self) -> tuple[str, ...]:
        """Returns the names of the networks."""
        return tuple(self.modules)

    def module(self, name: str) -> Any:
        """Returns one of them."""
        return self.modules[name]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A plan compares no shapes: whoever starts from a run is told when it starts."""
        return {}

    def __call__(self, paths: Collection[str]) -> dict[str, np.ndarray]:
        """A plan reads no weights."""
        return {}


def report(
    config: Mapping[str, Any],
    devices: int | None = None,
    topology: str | None = None,
    num_examples: int | None = None,
    num_classes: int | None = None,
) -> str:
    """Returns the plan of a run as text; nothing of it is computed, and no workdir is made.

    Args:
        config: of a run or of stages. Of stages, those are planned that begin without another one, or from the
            networks of stages that are planned.
        devices: on which the run is to be, no more than jax was begun with (`jax_num_cpu_devices`); None: as many as
            its mesh names.
        topology: TPUs such as ``v5e:4x4``, in place of `devices`; the training step is compiled for them.
        num_examples: of the training split of a data set of images that is not here.
        num_classes: of it.

    Raises:
        ConfigError, ValueError, FileNotFoundError: the config cannot work, or what it needs is not known.
    """
    if devices is not None and topology is not None:
        raise ValueError(f'--devices is {devices} and --topology is {topology!r}, which says how many: give one.')
    config = plain(config)
    say = lambda node: _lines(node, devices, topology, num_examples, num_classes)
    if 'stages' not in config:
        return '\n'.join(say(config)[0])
    stages, order = config['stages'], config['order'] if 'order' in config else None
    left: dict[str, Left] = {}
    return '\n\n'.join(_stage(name, stages[name], say, left) for name in ordered(stages, order))


def devices_of(config: Mapping[str, Any]) -> int:
    """Returns how many devices the mesh of a config names, of stages the largest; -1, for all that are left, is one."""
    return max(map(_named, config['stages'].values() if 'stages' in config else [config]))


def compiled(config: Mapping[str, Any], topology: str) -> tuple[Programs, tpus.Cost]:
    """Returns the programs of a run on a topology such as ``v5e:4x4``, and what its step costs each chip.

    Args:
        config: of a run, as plain mappings, lists and leaves; of its data set, what `report` needs.
        topology: TPUs that the training step is compiled for.

    Raises:
        ConfigError, ValueError: the config cannot work, or what it needs is not known.
        DoesNotFit: the step needs more memory than a chip has.
    """
    made = _made(config, tpus.devices_of(topology), None, None)
    return made.programs, _cost(made, topology)


def _stage(name: str, node: Any, say: Callable[[Any], tuple[list[str], _Made]], left: dict[str, Left]) -> str:
    """Returns what is printed of a stage; notes in `left` what it leaves to those that read it."""
    node = _standing_in_for(node, left)
    needed = reads(node)
    if needed:
        return f'stage {name}: is known when {", ".join(needed)} is there'
    if 'fn' in node or 'partial' in node:
        return f'stage {name}: a computation, which has no training steps'
    lines, made = say(node)
    left[name] = Left(modules_of(made.run.task, made.programs.state.variables))
    return '\n'.join([f'stage {name}', *lines])


def _standing_in_for(node: Any, left: Mapping[str, Left]) -> Any:
    """Returns a config with what planned stages leave in the place of their checkpoints."""
    if isinstance(node, Mapping):
        read = node.get('workdir')
        if node.get('fn') == 'runtime.checkpoint:Best' and isinstance(read, Mapping) and read.get('stage') in left:
            return left[read['stage']]
        return {key: _standing_in_for(value, left) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_standing_in_for(item, left) for item in node)
    return node


def _lines(
    config: Mapping[str, Any],
    devices: int | None,
    topology: str | None,
    num_examples: int | None,
    num_classes: int | None,
) -> tuple[list[str], _Made]:
    """Returns what is printed of a run, and the run."""
    where = _cpus(_named(config) if devices is None else devices) if topology is None else tpus.devices_of(topology)
    make = lambda config: _made(config, where, num_examples, num_classes)
    made = make(config)
    with _ways(made.run), jax.set_mesh(made.mesh):
        lines = [*_length(made.run, made.plan, made.programs), '', *_places(made), '']
        lines += [*_rates(made.optimizer.schedule, made.plan.steps), '', *_pipeline(made.run)]
    if topology is not None:
        lines += ['', *_step(config, topology, len(where), make)]
    return lines, made


def _made(
    config: Mapping[str, Any], where: Sequence[jax.Device], num_examples: int | None, num_classes: int | None
) -> _Made:
    run = read(config, num_examples, num_classes)
    plan = Plan.of(run, run.data.num_train)
    mesh = make_mesh(run.mesh, where)
    if not run.data.whole:
        check_batch(mesh, 'batch_size', run.batch_size)
        check_batch(mesh, 'eval_batch_size', run.eval_batch_size or run.batch_size)
    optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
    with _ways(run), jax.set_mesh(mesh):
        return _Made(run, plan, optimizer, mesh, programs(run, optimizer.transform, mesh))


def _step(config: Mapping[str, Any], topology: str, chips: int, make: Callable[..., _Made]) -> list[str]:
    """Compiles the step for a topology, and where it does not fit, what may make it fit; returns what is printed."""
    room = tpus.chip_of(topology)[1].memory
    cost = lambda config: _cost(make(config), topology)
    tried = fit.search(config, chips, room, lambda config: _estimate(make(config)), cost)
    found = tried[-1].cost
    lines = [] if len(tried) == 1 and found else fit.lines(tried, room)
    return lines if found is None else [*lines, *tpus.lines(found, topology, config['batch_size'])]


def _cost(made: _Made, topology: str) -> tpus.Cost:
    with _ways(made.run), jax.set_mesh(made.mesh):
        return tpus.cost(made.programs, topology)


def _estimate(made: _Made) -> int:
    """Returns the bytes that a step is expected to need on each device."""
    expected = sum(_beside(made))
    return memory.per_device(made.programs.state) + memory.per_device(made.programs.batch) + expected


def _beside(made: _Made) -> activations.Estimate:
    """Returns what a step is expected to need on a device beside the state and the batch.

    The step is traced for the examples of one device alone, which is what it computes where nothing is split along
    ``tensor``; there the estimate is an upper bound.
    """
    run = made.run
    parts = 1 if run.data.whole else made.mesh.shape['data'] * made.mesh.shape['fsdp']
    # A microbatch has at least one example here.
    own = max(run.batch_size // parts // run.accumulate, 1) * run.accumulate
    try:
        return _traced(made, own)
    except ValueError:
        # A layer that normalizes batches refuses a single value, and has more over all devices.
        return _traced(made, 2 * own)


def _traced(made: _Made, batch_size: int) -> activations.Estimate:
    alone = make_mesh(MeshConfig(), list(made.mesh.devices.flat[:1]))
    data = made.run.data
    part = _Part(data, made.mesh.shape['sequence']) if data.sequences else data
    run = dataclasses.replace(made.run, batch_size=batch_size, mesh=MeshConfig(), data=part)
    with _ways(run), jax.set_mesh(alone):
        one = programs(run, made.optimizer.transform, alone)
        return activations.estimate(one.step, one.state, one.batch, jax.eval_shape(jax.random.key, 0))


def _named(config: Mapping[str, Any]) -> int:
    mesh = dict.fromkeys(AXES, 1) | (dict(config['mesh']) if 'mesh' in config else {})
    return math.prod(max(mesh[axis], 1) for axis in AXES)


def _cpus(count: int) -> Sequence[jax.Device]:
    """Returns devices of this host's processor, which are there to be counted."""
    if count < 1:
        raise ValueError(f'--devices is {count}: it must be at least 1.')
    found = jax.devices('cpu')
    if len(found) < count:
        raise ValueError(f'--devices is {count} and jax was begun with {len(found)}: plan the run in a new process.')
    return found[:count]


@contextlib.contextmanager
def _ways(run: Run) -> Iterator[None]:
    """How the run computes: the precision of its products and its kernels."""
    with jax.default_matmul_precision(run.matmul_precision), dispatch.prefer(**run.kernels):
        yield


def read(config: Mapping[str, Any], num_examples: int | None, num_classes: int | None) -> Run:
    """Returns the run of a config, with a stand-in for a data set that is not here."""
    data = resolve(config['data'], 'config.data') if 'data' in config else None
    standing_in = _stand_in(data, num_examples, num_classes)
    try:
        run, _ = read_run(config if standing_in is None else {**config, 'data': standing_in})
        _ = run.data.num_train  # of a set that is not prepared, the first that is asked
    except FileNotFoundError as error:
        if getattr(data, 'columns', ()) is not None:  # no data set of labelled images, or a run that has to be there
            raise
        raise ValueError(
            f'the data set {data.dataset!r} is not prepared here and its size is not known: give --num_examples and '
            '--num_classes, or prepare it.'
        ) from error
    if not isinstance(run.task, Task):
        raise TypeError(f'config.task is a {type(run.task).__name__}, and a methods.task.Task is wanted.')
    return run


def _stand_in(data: Any, num_examples: int | None, num_classes: int | None) -> Unread | None:
    """Returns what stands for a data set, or None where it says all itself."""
    labelled = hasattr(data, 'dataset') and data.columns is None
    if not labelled:
        if num_examples is not None or num_classes is not None:
            raise ValueError(
                f'--num_examples and --num_classes are for labelled images, and config.data is a '
                f'{type(data).__name__}, which says its own: leave them out.'
            )
        return None
    for name, value in (('num_examples', num_examples), ('num_classes', num_classes)):
        if value is not None and value < 1:
            raise ValueError(f'--{name} is {value}: it must be at least 1.')
    known = KNOWN.get(data.dataset)
    if num_examples is None and (known is None or data.train_split not in known.splits):
        return None
    classes = known.num_classes if num_classes is None and known else num_classes
    if not classes:
        raise ValueError(f'the classes of {data.dataset!r} are not known: give --num_classes.')
    return Unread(
        num_train=known.splits[data.train_split] if num_examples is None else num_examples,
        num_eval=None if known is None else known.splits.get(data.eval_split),
        num_classes=classes,
        image_shape=_image_shape(data, (None, None, 3) if known is None else known.shape),
        train_crop=data.train_crop,
        eval_crop=data.eval_crop,
    )


def _image_shape(data: Any, stored: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
    size = data.image_size
    height, width = stored[:2] if size is None else (size, size) if isinstance(size, int) else size
    if height is None or width is None:
        raise ValueError(f'the size of the images of {data.dataset!r} is not known: set config.data.image_size.')
    return height, width, stored[2]


def _length(run: Run, plan: Plan, made: Programs) -> list[str]:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.state.variables.params))
    return [
        f'{parameters:,} parameters, {_of_one(run, made) / 1e6:,.4g} M multiply-adds to predict one example',
        f'{plan.steps:,} steps of {run.batch_size:,} examples, {plan.steps * run.batch_size:,} in all: '
        f'{plan.steps / plan.steps_per_epoch:.4g} epochs of {run.data.num_train:,}, '
        f'each of {plan.steps_per_epoch:.6g} steps',
        f'evaluated every {plan.eval_every:,} steps, saved every {plan.save_every:,}',
    ]


def _of_one(run: Run, made: Programs) -> int:
    """Returns the multiply-adds of what the task predicts of one example."""
    transform = chain(run.eval_transforms)
    key = jax.eval_shape(jax.random.key, 0)
    predict = lambda v, batch, rng: run.task.predict(v, transform(batch, rng))
    # A batch that is split over devices: all have as many examples, and the product is over all of them.
    size = run.eval_batch_size or run.batch_size
    return multiply_adds(predict, made.state.variables, run.data.batch_spec(size, train=False), key) // size


def _places(made: _Made) -> list[str]:
    mesh, state = made.mesh, made.programs.state
    parts = {
        'parameters': state.variables.params,
        'optimizer': state.opt_state,
        'task state': state.variables.state,
        'fixed': state.variables.fixed,
        'a batch': made.programs.batch,
    }
    sizes = ' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
    lines = [f'mesh {sizes}, {mesh.size} devices', f'  {"":12}{"in all":>12}{"each device":>14}']
    for name, tree in parts.items():
        whole, each = memory.readable(memory.whole(tree)), memory.readable(memory.per_device(tree))
        lines.append(f'  {name:12}{whole:>12}{each:>14}')
    beside = _beside(made)
    lines.append(f'  {"activations":12}{"":>12}{memory.readable(beside.held):>14}  estimated, to a third')
    lines.append(f'  {"code":12}{"":>12}{memory.readable(beside.code):>14}  estimated')
    split = {path: leaf for path, leaf in by_path(state.variables.params).items() if _is_split(leaf)}
    if not split:
        return [*lines, '  every device holds all parameters']
    lines.append('  parameters that are split; every device holds the others whole')
    for path, leaf in split.items():
        lines.append(
            f'    {path}  {leaf.shape} by {tuple(leaf.sharding.spec)}, {leaf.sharding.shard_shape(leaf.shape)}'
        )
    return lines


def _is_split(leaf: jax.ShapeDtypeStruct) -> bool:
    return leaf.sharding.shard_shape(leaf.shape) != leaf.shape


def _rates(schedule: Any, steps: int) -> list[str]:
    """Returns the learning rate as a picture, and its values at the start, the peak and the end."""
    rate = jax.jit(jax.vmap(lambda step: jax.numpy.asarray(schedule(step), 'float32')))
    # On the host, whatever the mesh is of.
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices('cpu')[:1])):
        values = np.asarray(rate(np.arange(steps, dtype=np.int32)))
    peak = int(values.argmax())
    said = f'{values[0]:.4g} at first, {values[peak]:.4g} at step {peak:,}, {values[-1]:.4g} at last'
    drawn = np.unique(np.linspace(0, steps - 1, min(_POINTS, steps)).round().astype(int))
    curve = [(int(step), float(values[step])) for step in drawn]
    return textplot.plot({said: curve}, 'learning rate by step', height=10).splitlines()


def _pipeline(run: Run) -> list[str]:
    """Returns what is done to the examples, in order; the crops by the host, the rest on the devices."""
    lines = []
    for name, transforms in (('train', run.train_transforms), ('eval', run.eval_transforms)):
        crop = getattr(run.data, f'{name}_crop', None)
        steps = [*([] if crop is None else [crop]), *transforms]
        lines.append(f'{name}, in this order:' if steps else f'{name}: as the data set has it')
        lines += [f'  {number}. {step}' for number, step in enumerate(steps, 1)]
    return lines
