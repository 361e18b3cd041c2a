"""Every effective value of a run with where it came from, and the conventions that its parts follow.

    python train.py --config configs/vig_s.py:digits --config.seed=1 --explain

A recipe is as much its defaults as what it says, and the frameworks that papers are written in have other defaults:
the epsilon of a norm, the momentum of batch normalization, the form of GELU, how images are made smaller, what weight
decay is multiplied by, where a warm-up begins. What the built network and optimizer do is named here by the dialects
that do so by default: torch (PyTorch and torchvision), timm, tf (Keras and tf.image), big_vision (and flax).
"""

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from longview.engine.programs import programs
from longview.kernels import dispatch
from longview.methods.task import chain
from longview.runtime.mesh import make_mesh
from longview.runtime.plan import Plan, Run, read_run
from longview.runtime.renames import current
from longview.runtime.resolve import locate, plain, resolve

PRESET, COMMAND_LINE, DATA_SET, DEFAULT = 'preset', 'command line', 'data set', 'default'

# Where nothing stands at a place of a tree.
_NOTHING = object()


class Value(NamedTuple):
    """One effective value: its place as the command line writes it, what it is, and where it came from.

    `source` is one of `PRESET`, `COMMAND_LINE`, `DATA_SET` (runtime/from_data.py), `DEFAULT` (of the called function's
    signature), or the name of the variant of a network.
    """

    key: str
    value: Any
    source: str


class Convention(NamedTuple):
    """What a part of the run does, and the dialects that do so by default; none where no dialect does."""

    what: str
    value: str
    dialects: tuple[str, ...]


# By norm and epsilon. torch.nn.RMSNorm takes the machine's epsilon, which nothing here does.
_EPSILONS = {
    ('BatchNorm', 1e-5): ('torch', 'timm', 'big_vision'),
    ('BatchNorm', 1e-3): ('tf',),
    ('GroupNorm', 1e-5): ('torch', 'timm'),
    ('GroupNorm', 1e-6): ('big_vision',),
    ('GroupNorm', 1e-3): ('tf',),
    ('LayerNorm', 1e-5): ('torch',),
    ('LayerNorm', 1e-6): ('timm', 'big_vision'),
    ('LayerNorm', 1e-3): ('tf',),
    ('RMSNorm', 1e-6): ('timm', 'big_vision', 'tf'),
}

# By the share of the old running average; torch's argument of that name is the share of the new value.
_MOMENTA = {('BatchNorm', 0.9): ('torch', 'timm'), ('BatchNorm', 0.99): ('tf', 'big_vision')}

_GELUS = {'exact': ('torch', 'timm', 'tf'), 'tanh': ('big_vision',)}

# Of the optimizers that decay weights: what the decay is multiplied by, and who does so.
_DECAYS = {
    'longview.methods.optim.adamw:adamw': ('times the rate, apart from the moments', ('torch', 'timm', 'tf')),
    'longview.methods.optim.sgd:sgd': ('in the gradient, before the momentum', ('torch', 'timm')),
}


def explain(config: Any, preset: Any = None) -> tuple[list[Value], list[Convention]]:
    """Returns the values of a run and the conventions of its parts; nothing is trained or written.

    Of a config with stages, whose data may come from stages that have not run, it returns what the config and the
    signatures say, and no conventions.

    Args:
        config: the tree of a config file, as its ``get_config()`` returns it.
        preset: the same without what the command line changes; None where it changes nothing.

    Raises:
        ConfigError, ValueError, FileNotFoundError: as `train.train`, of what it builds.
    """
    config = plain(config)
    preset = config if preset is None else plain(preset)
    if 'stages' in config:
        return list(_values(config, config, preset, 'config')), []
    run, filled = read_run(config)
    left = (Value(f'config.{key}', value, DEFAULT) for key, value in _left_out(Run, config))
    return [*_values(filled, config, preset, 'config'), *left], conventions(run)


def table(values: Iterable[Value], conventions: Iterable[Convention] = ()) -> str:
    """Returns both as text, a line each."""
    lines = _columns([('key', 'value', 'from'), *((v.key, words(v.value), v.source) for v in values)])
    found = [(c.what, c.value, ', '.join(c.dialects) or 'none of these') for c in conventions]
    return '\n'.join([*lines, '', *_columns([('convention', 'value', 'as in'), *found])] if found else lines)


def words(value: Any) -> str:
    """Returns a value on one short line: functions and classes by name, objects with what is not their default.

    >>> words(functools.partial(max, key=len)), words((1, 'a'))
    ('max(key=len)', "(1, 'a')")
    """
    if isinstance(value, functools.partial):
        return f'{words(value.func)}({_said(value.keywords)})'
    if isinstance(value, (tuple, list)):
        return f'({", ".join(map(words, value))}{"," if len(value) == 1 else ""})'
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f'{type(value).__name__}({_said(_changed(value))})'
    return getattr(value, '__name__', None) or repr(value)


def conventions(run: Run) -> list[Convention]:
    """Returns the conventions of a run's networks, as evaluated, of its images and of its optimizer."""
    plan = Plan.of(run, run.data.num_train)
    optimizer = run.optimizer(plan.steps, plan.steps_per_epoch, run.task.depth_of)
    modules, jaxpr = _traced(run, optimizer.transform)
    return [
        *of_norms(modules),
        *of_gelus(jaxpr),
        *_of_images(run.data),
        *of_decay(run.optimizer),
        *of_warmup(optimizer),
    ]


def of_norms(modules: Iterable[nn.Module]) -> list[Convention]:
    """Returns the epsilon of each kind of norm among modules, and the momentum of batch normalization."""
    found = set()
    for module in modules:
        name = type(module).__name__
        if hasattr(module, 'epsilon'):
            found.add(Convention(f'{name} epsilon', f'{module.epsilon:g}', _EPSILONS.get((name, module.epsilon), ())))
        if hasattr(module, 'epsilon') and hasattr(module, 'momentum'):
            value = f'{module.momentum:g} of the old average'
            found.add(Convention(f'{name} momentum', value, _MOMENTA.get((name, module.momentum), ())))
    return sorted(found)


def of_gelus(jaxpr: core.Jaxpr) -> list[Convention]:
    """Returns which forms of GELU a program computes, known by the error function and by the constant of the other."""
    equations = list(_equations(jaxpr))
    exact = any(equation.primitive.name in ('erf', 'erfc') for equation in equations)
    literals = [x for equation in equations for x in equation.invars if isinstance(x, core.Literal)]
    real = [float(x.val) for x in literals if x.aval.shape == () and jnp.issubdtype(x.aval.dtype, jnp.floating)]
    tanh = any(abs(value - 0.044715) < 1e-4 for value in real)  # in bfloat16 it is 0.04468
    return [Convention('GELU', name, _GELUS[name]) for name, there in (('exact', exact), ('tanh', tanh)) if there]


def of_decay(optimizer: Any) -> list[Convention]:
    """Returns what the weight decay of a `functools.partial` of an optimizer is multiplied by, if there is any."""
    if not isinstance(optimizer, functools.partial) or not optimizer.keywords.get('weight_decay'):
        return []
    known = _DECAYS.get(f'{optimizer.func.__module__}:{optimizer.func.__name__}')
    return [Convention('weight decay', *known)] if known else []


def of_warmup(optimizer: Any) -> list[Convention]:
    """Returns the rate that a rise begins with, if the rate rises from the first step to the second."""
    first, second = float(optimizer.schedule(0)), float(optimizer.schedule(1))
    if second <= first:
        return []
    return [Convention('warm-up starts at', f'{first:.4g}', ('timm',) if first else ('tf', 'big_vision'))]


def _of_images(data: Any) -> list[Convention]:
    while hasattr(data, 'data'):  # a part of another data set
        data = data.data
    found = []
    for name in ('train_crop', 'eval_crop'):
        how = getattr(getattr(data, name, None), 'interpolation', None)
        if how is not None:
            smooth = how != 'nearest'
            value = f'{how}, antialiased' if smooth else how
            found.append(Convention(f'resizing in {name}', value, ('torch', 'timm') if smooth else ()))
    return found


def _traced(run: Run, transform: Any) -> tuple[list[nn.Module], core.Jaxpr]:
    """Returns the modules that an evaluation calls, and what it computes; nothing is compiled."""
    modules = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        modules.append(context.module)
        return call(*args, **kwargs)

    mesh, prepare = make_mesh(run.mesh), chain(run.eval_transforms)
    with jax.set_mesh(mesh), dispatch.prefer(**run.kernels), nn.intercept_methods(note):
        variables = programs(run, transform, mesh).state.variables
        modules.clear()
        batch = run.data.batch_spec(run.eval_batch_size or run.batch_size, train=False)
        predict = lambda v, batch, rng: run.task.predict(v, prepare(batch, rng))
        return modules, jax.make_jaxpr(predict)(variables, batch, jax.eval_shape(jax.random.key, 0)).jaxpr


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _equations(getattr(inner, 'jaxpr', inner))


def _is_program(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def _values(filled: Any, config: Any, preset: Any, path: str) -> Iterator[Value]:
    """Yields the values below a node, given as the run gets it, as the command line makes it and as its file has it."""
    if isinstance(filled, Mapping) and filled:
        for key, node in filled.items():
            yield from _values(node, _at(config, key), _at(preset, key), f'{path}.{key}')
        yield from _below(filled, path)
    elif isinstance(filled, Sequence) and any(isinstance(item, Mapping) for item in filled):
        for n, node in enumerate(filled):
            yield from _values(node, _at(config, n), _at(preset, n), f'{path}[{n}]')
    else:
        changed = COMMAND_LINE if config != preset else PRESET
        yield Value(path, filled, DATA_SET if filled != config else changed)


def _at(node: Any, key: Any) -> Any:
    """Returns what stands at a key or number of a node, `_NOTHING` where there is none."""
    try:
        return node[key]
    except (KeyError, IndexError, TypeError):
        return _NOTHING


def _below(node: Mapping[str, Any], path: str) -> Iterator[Value]:
    """Yields the arguments that a call leaves to its function."""
    kind = next((key for key in ('fn', 'partial') if key in node), None)
    if kind is None:
        return
    arguments = {key: value for key, value in node.items() if key != kind}
    spec, arguments = current(str(node[kind]), arguments)
    fn = locate(spec, path)
    parameters = inspect.signature(fn).parameters.values()
    for key, value in _left_out(fn, arguments):
        yield Value(f'{path}.{key}', value, DEFAULT)
    # A variant of the zoo: its fields are what the function makes of its name.
    if kind == 'fn' and 'variant' in arguments and any(p.kind is p.VAR_KEYWORD for p in parameters):
        made = resolve(node, path)
        for field in _fields(made):
            if field.name not in arguments:
                yield Value(f'{path}.{field.name}', getattr(made, field.name), arguments['variant'])


def _left_out(fn: Any, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the arguments of a function that have a default and are not given."""
    factories = {field.name: field.default_factory for field in _fields(fn)} if dataclasses.is_dataclass(fn) else {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.default is not parameter.empty and name not in (*arguments, 'parent', 'name'):
            factory = factories.get(name, dataclasses.MISSING)
            yield name, parameter.default if factory is dataclasses.MISSING else factory()


def _fields(value: Any) -> list[dataclasses.Field]:
    """Returns the fields of a dataclass; of a flax module not those that flax adds."""
    return [field for field in dataclasses.fields(value) if field.init and field.name not in ('parent', 'name')]


def _changed(value: Any) -> dict[str, Any]:
    return {
        field.name: getattr(value, field.name)
        for field in _fields(value)
        if words(getattr(value, field.name)) != words(field.default)
    }


def _said(arguments: Mapping[str, Any]) -> str:
    return ', '.join(f'{name}={words(value)}' for name, value in arguments.items())


def _columns(rows: Sequence[tuple[str, str, str]], most: int = 60) -> list[str]:
    """Returns rows as lines whose columns stand below each other; what is longer than `most` is cut."""
    cut = [tuple(cell if len(cell) <= most else f'{cell[: most - 3]}...' for cell in row[1:]) for row in rows]
    rows = [(row[0], *rest) for row, rest in zip(rows, cut)]
    first, second = (max(len(row[n]) for row in rows) for n in (0, 1))
    return [f'{a:{first}}  {b:{second}}  {c}'.rstrip() for a, b, c in rows]
