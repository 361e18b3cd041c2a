"""Which implementation of an op runs where: the choice and its error contract, once for all ops.

An op keeps a table `{name: Form}`. Asked for no name, `run` never fails for lack of hardware: it
takes the first form that runs anywhere, or the one that a platform has for itself. The platform is
looked at when the program is lowered (`jax.lax.platform_dependent`), so a CPU host can compile for
a TPU pod. Asked for a name, it takes that form or says in words why it cannot.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend
from jax import lax
from jax.interpreters import mlir


def _nothing(*args: Any) -> None:
    """The answer of a form that serves every call."""


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


def run(op: str, implementation: str | None, forms: Mapping[str, Form], *args: Any) -> Any:
    """Runs `op` on `args` by the implementation named, or by the best for the platform of lowering.

    Raises ValueError for a name that is not in `forms`, and NotImplementedError where the form
    named cannot serve: at once for what the arguments lack, when lowered for a wrong platform.
    """
    args = _alike(args)
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


def _refuse(
    context: mlir.LoweringRuleContext, *, op: str, name: str, platform: str, **_: Any
) -> None:
    raise NotImplementedError(
        f'{op}: implementation {name!r} runs on {platform} only, not on '
        f'{", ".join(context.module_context.platforms)}. '
        'Pass implementation=None to let the platform decide.'
    )


mlir.register_lowering(_refused, _refuse)


def lacking(name: str, x: jax.Array, arrays: Any, dtypes: tuple[str, ...]) -> str | None:
    """What keeps a Pallas kernel from serving a call, in words, or None; for `Form.missing`.

    name, x: the array that says how a call lies on a mesh; arrays: a tree of all; dtypes: known.
    """
    for array in jax.tree.leaves(arrays):
        if array.dtype.name not in dtypes:
            *others, last = dtypes
            return f'an input is {array.dtype}; wanted {", ".join(others)} or {last}'
    if sharded(x):
        wanted = 'wanted one device, or a call inside of jax.shard_map'
        return f'{name} may be split over a mesh; {wanted}'
    return None


def sharded(x: jax.Array) -> bool:
    """Whether `x` may be split over devices: it lives on a mesh, and not inside of `shard_map`."""
    mesh = jax.typeof(x).sharding.mesh
    manual = jax.sharding.AxisType.Manual
    return any(
        size > 1 and kind != manual for size, kind in zip(mesh.axis_sizes, mesh.axis_types)
    )


def explicit_layout(x: jax.Array) -> jax.sharding.NamedSharding | None:
    """How `x` lies on a mesh with explicit axes, an entry per dimension; None without such a mesh.

    There every operation is asked for the layout of what it makes, so an op is best run on each
    device's piece, in `jax.shard_map`. Over automatic axes the partitioner decides, and later.
    """
    where = jax.typeof(x).sharding
    explicit = jax.sharding.AxisType.Explicit
    if not any(n > 1 and t == explicit for n, t in zip(where.mesh.axis_sizes, where.mesh.axis_types)):
        return None
    spec = jax.sharding.PartitionSpec(*where.spec, *[None] * (x.ndim - len(where.spec)))
    return jax.sharding.NamedSharding(where.mesh, spec)


def first_order(op: str, pullback: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of an op without second derivatives: refuses to be differentiated."""

    @jax.custom_jvp
    def once(*args: Any) -> Any:
        return pullback(*args)

    @once.defjvp
    def refuse(primals: tuple, tangents: tuple) -> None:
        raise NotImplementedError(
            f'{op} has first derivatives only: its gradient was differentiated again. '
            "Pass implementation='reference' where second derivatives are needed."
        )

    return once
