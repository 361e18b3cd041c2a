"""Which implementation of an op runs where: the choice and its error contract, once for all ops.

An op keeps a table `{name: Form}`. Asked for no name, `run` never fails for lack of hardware: it
takes the first form that runs anywhere, or the one that a platform has for itself. The platform is
looked at when the program is lowered (`jax.lax.platform_dependent`), so a CPU host can compile for
a TPU pod. Asked for a name, it takes that form or says in words why it cannot. A name is an argument
of each op; `prefer` gives one to all calls of an op that pass none, those inside networks too.
"""

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend
from jax import lax
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from longview.words import nearest

# Dimensions that an op may be split along, and the axis of a mesh that splits the second.
BATCH, WIDTH, TENSOR = 'batch', 'heads or channels', 'tensor'

Names = tuple[str | None, ...]

OPS = (
    'gla',
    'bidirectional_gla',
    'selective_scan',
    'linear_scan',
    'long_conv',
    'long_conv2d',
    'global_filter',
    'depthwise_conv',
    'inception_conv',
    'conv2d',
    'causal_conv1d',
)

# The implementations of `prefer`, as pairs, for they are a part of the key that jit finds a traced program by.
_preferred = jax.make_user_context(())


def _nothing(*args: Any) -> None:
    """The answer of a form that serves every call."""


@contextlib.contextmanager
def prefer(**implementations: str | None) -> Iterator[None]:
    """Chooses the implementation of ops wherever a call inside of the ``with`` names none.

        with dispatch.prefer(gla='reference', conv2d='conv'):
            jax.hessian(loss)(params)

    What `jax.jit` has traced outside is traced anew. Inside another `prefer` this one counts; None leaves an op as it
    was.

    Args:
        **implementations: op (one of `OPS`) -> name of its implementation; a call raises where there is none of that
            name, or where it cannot serve.

    Raises:
        ValueError: there is no such op.
    """
    for op in implementations:
        if op not in OPS:
            raise ValueError(f'there is no op {op!r} to prefer an implementation of{nearest(op, OPS)}')
    given = {op: name for op, name in implementations.items() if name is not None}
    with _preferred(tuple(sorted({**dict(_preferred.value), **given}.items()))):
        yield


class Form(NamedTuple):
    """One implementation of an op.

    run: the function; takes the op's arrays, whatever is static already bound.
    platform: the only platform it can be lowered for ('tpu', 'cuda', 'rocm'), or None for all.
    missing: takes the same arrays, says in words what this call lacks to be served, or None.
    proven: whether its platform takes it by itself, and not only when asked for the name.
    """

    run: Callable[..., Any]
    platform: str | None = None
    missing: Callable[..., str | None] = _nothing
    proven: bool = True


class Split(NamedTuple):
    """Along what the work of an op is independent, and may be split over devices.

    inputs: for each argument of the op, BATCH, WIDTH (heads or channels) or None a dimension; one
      for the dimensions behind may be left out. outputs: the same for each output, in a tree.
    """

    inputs: tuple[Names, ...]
    outputs: Any


def run(op: str, implementation: str | None, forms: Mapping[str, Form], *args: Any, split: Split) -> Any:
    """Runs `op` on `args` by the implementation named, or by the best for the platform of lowering.

    Over a mesh with explicit axes each device works on its batch and heads or channels, by the
    layout of the first argument that has a batch. Over automatic axes XLA's partitioner splits what
    is plain XLA, but cannot look into a kernel: a platform's own form then runs on the pieces that
    the axis 'tensor' makes of heads or channels, and all other axes together of the batch.

    Raises ValueError for a name that is not in `forms` or a layout that splits anything else, and
    NotImplementedError where the form named cannot serve: at once for what the arguments lack,
    when lowered for a wrong platform.
    """
    args = _alike(args)
    if implementation is None:
        implementation = dict(_preferred.value).get(op)
    mesh = _mesh_of(args[0])
    kinds = {kind for size, kind in zip(mesh.axis_sizes, mesh.axis_types) if size > 1}
    if jax.sharding.AxisType.Explicit in kinds:
        pieces = _by_layout(op, split, args)
        return pieces.over(partial(_choose, op, implementation, forms), *pieces.placed(args))
    if kinds == {jax.sharding.AxisType.Auto}:
        pieces = _by_names(split, mesh, args)
        forms = {name: form if form.platform is None else pieces.form(form) for name, form in forms.items()}
    return _choose(op, implementation, forms, *args)


def _choose(op: str, implementation: str | None, forms: Mapping[str, Form], *args: Any) -> Any:
    if implementation is not None:
        return _named(op, implementation, forms, *args)
    anywhere = next(form.run for form in forms.values() if form.platform is None)
    special = {
        form.platform: form.run
        for form in forms.values()
        if form.platform is not None and form.proven and form.missing(*args) is None
    }
    if not special:
        return anywhere(*args)
    return lax.platform_dependent(*args, default=anywhere, **special)


class _Pieces(NamedTuple):
    """What each device of a mesh gets of an op's arrays; axes: of the mesh, for BATCH and WIDTH."""

    mesh: Any
    axes: Mapping[str, Any]
    split: Split

    def spec(self, names: Names) -> PartitionSpec:
        return PartitionSpec(*map(self.axes.get, names))

    def over(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function on every piece."""
        given = {n: x for n, x in enumerate(args) if x is not None}
        split = jax.shard_map(
            lambda given: function(*_alike(tuple(map(given.get, range(len(args)))))),
            mesh=self.mesh,
            in_specs=({n: self.spec(self.split.inputs[n][: x.ndim]) for n, x in given.items()},),
            out_specs=jax.tree.map(self.spec, self.split.outputs, is_leaf=_is_names),
        )
        return split(given)

    def placed(self, args: tuple) -> tuple:
        """The arguments laid out as the pieces want them."""
        place = lambda x, names: jax.sharding.reshard(x, NamedSharding(self.mesh, self.spec(names[: x.ndim])))
        return tuple(x if x is None else place(x, n) for x, n in zip(args, self.split.inputs))

    def form(self, form: Form) -> Form:
        """The form on every piece; it lacks what it lacks for a piece, or a batch that divides."""

        def missing(*args: Any) -> str | None:
            found = self.indivisible(args)

            def look(first: jax.Array, *others: Any) -> jax.Array:
                nonlocal found
                found = form.missing(first, *others)
                return first

            if found is None:
                alone = self._replace(split=Split(self.split.inputs, self.split.inputs[0]))
                jax.eval_shape(partial(alone.over, look), *args)
            return found

        return form._replace(run=partial(self.over, form.run), missing=missing)

    def indivisible(self, args: tuple) -> str | None:
        """Says in words what of the arguments does not divide over the devices, or None."""
        for x, names in zip(args, self.split.inputs):
            for size, name in zip(() if x is None else x.shape, names):
                parts = _parts(self.mesh, self.axes.get(name))
                if size % parts:
                    return (
                        f'the {name} of {size} does not divide over the {parts} devices of the '
                        f'mesh axes {self.axes[name]}; wanted a multiple of {parts}'
                    )
        return None


def _by_layout(op: str, split: Split, args: tuple) -> _Pieces:
    """By how the first argument with a batch lies on a mesh with explicit axes."""
    x, names = next((x, names) for x, names in zip(args, split.inputs) if BATCH in names)
    where = jax.typeof(x).sharding
    spec = [*where.spec, *[None] * (x.ndim - len(where.spec))]
    names = (*names, *[None] * (x.ndim - len(names)))
    if any(axes is not None and name is None for axes, name in zip(spec, names)):
        raise ValueError(
            f'{op}: an input of shape {x.shape} lies on the mesh as {where.spec}; wanted batch and '
            f'{WIDTH} to be split alone. Tokens may be split inside of jax.shard_map, by the '
            'sequence-parallel form.'
        )
    return _Pieces(where.mesh, {n: axes for n, axes in zip(names, spec) if n is not None}, split)


def _by_names(split: Split, mesh: Any, args: tuple) -> _Pieces:
    """By the names of automatic axes; heads or channels that do not all divide stay whole."""
    axes = {
        BATCH: tuple(name for name in mesh.axis_names if name != TENSOR) or None,
        WIDTH: TENSOR if TENSOR in mesh.axis_names else None,
    }
    parts = _parts(mesh, axes[WIDTH])
    widths = [
        x.shape[n]
        for x, names in zip(args, split.inputs)
        for n, name in enumerate(names)
        if x is not None and n < x.ndim and name == WIDTH
    ]
    if any(width % parts for width in widths):
        axes[WIDTH] = None
    return _Pieces(mesh, axes, split)


def _parts(mesh: Any, axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _is_names(tree: Any) -> bool:
    return isinstance(tree, tuple) and all(x is None or isinstance(x, str) for x in tree)


def _alike(args: tuple) -> tuple:
    """Inside of `jax.shard_map`: marks all arrays as varying over the axes that any varies over.

    Loops and custom derivatives want that of all that meets in them; the cotangent is summed back.
    """
    axes = [jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(args)]
    every = frozenset().union(*axes)

    def mark(x: jax.Array) -> jax.Array:
        fewer = jax.typeof(x).manual_axis_type.varying
        return lax.pcast(x, tuple(sorted(every - fewer, key=str)), to='varying')

    return jax.tree.map(mark, args)


def _named(op: str, name: str, forms: Mapping[str, Form], *args: Any) -> Any:
    if name not in forms:
        near = difflib.get_close_matches(name, forms, n=1, cutoff=0.0)[0]
        raise ValueError(
            f'{op} has no implementation {name!r}; it has {", ".join(map(repr, forms))} '
            f'(the nearest is {near!r}), or None to let the platform decide.'
        )
    form = forms[name]
    missing = form.missing(*args)
    if missing is not None:
        raise NotImplementedError(
            f'{op}: implementation {name!r} cannot serve this call: {missing}. '
            'Pass implementation=None to let the platform decide.'
        )
    if form.platform is None:
        return form.run(*args)

    refuse = partial(_refused.bind, op=op, name=name, platform=form.platform)

    @jax.custom_vjp
    def elsewhere(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(form.run, return_shape=True)(*args)
        found = [refuse(aval=aval) for aval in traced.out_avals]
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    def pullback(args: tuple, cotangents: Any) -> tuple:
        return jax.tree.map(lambda x: refuse(aval=jax.typeof(x)), args)

    # Without it the refusal would be a constant, and its gradient zero.
    elsewhere.defvjp(lambda *args: (elsewhere(*args), args), pullback)
    return lax.platform_dependent(*args, default=elsewhere, **{form.platform: form.run})


# An array that can be traced and differentiated but not lowered: the platform is known only then.
_refused = jax.extend.core.Primitive('implementation_for_another_platform')


@_refused.def_abstract_eval
def _(*, aval: jax.core.ShapedArray, **_: str) -> jax.core.ShapedArray:
    return aval


def _refuse(context: mlir.LoweringRuleContext, *, op: str, name: str, platform: str, **_: Any) -> None:
    raise NotImplementedError(
        f'{op}: implementation {name!r} runs on {platform} only, not on '
        f'{", ".join(context.module_context.platforms)}. '
        'Pass implementation=None to let the platform decide.'
    )


mlir.register_lowering(_refused, _refuse)


def lacking(arrays: Any, dtypes: tuple[str, ...]) -> str | None:
    """What the dtypes of a tree of arrays keep a Pallas kernel from, in words, or None."""
    for array in jax.tree.leaves(arrays):
        if array.dtype.name not in dtypes:
            *others, last = dtypes
            return f'an input is {array.dtype}; wanted {", ".join(others)} or {last}'
    return None


def sharded(x: jax.Array) -> bool:
    """Whether `x` may be split over devices: it lives on a mesh, and not inside of `shard_map`."""
    mesh = _mesh_of(x)
    manual = jax.sharding.AxisType.Manual
    return any(size > 1 and kind != manual for size, kind in zip(mesh.axis_sizes, mesh.axis_types))


def _mesh_of(x: jax.Array) -> Any:
    """The mesh that `x` lies on, or that of the context (`jax.set_mesh`) where `x` says none."""
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.get_abstract_mesh() if mesh.empty else mesh


def first_order(op: str, pullback: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of an op without second derivatives: refuses to be differentiated."""

    @jax.custom_jvp
    def once(*args: Any) -> Any:
        return pullback(*args)

    @once.defjvp
    def refuse(primals: tuple, tangents: tuple) -> None:
        raise NotImplementedError(
            f'{op} has first derivatives only: its gradient was differentiated again. '
            f"Pass implementation='reference' where second derivatives are needed, or run the whole network "
            f"inside of `with dispatch.prefer({op}='reference')`."
        )

    return once
