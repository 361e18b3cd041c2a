"""Chooses the implementation of an op, for all ops in the same way and with the same errors.

An op has a table `{name: Form}` of implementations. If the caller names none, `run` never fails for lack of hardware:
it takes the form that is specific to the platform if there is one, else the first form that runs on all platforms. The
platform is known when the program is lowered (`jax.lax.platform_dependent`), so a CPU host can compile for a TPU pod.
If the caller names a form, `run` takes it or raises an error that says why it cannot. The name is an argument of each
op; `prefer` sets it for all calls of an op that pass none, including those inside networks.

Derivatives of forms are the subject of `derivatives.py`; forward mode needs `prefer(plain=True)`.
"""

import contextlib
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.export
import jax.extend
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from longview.kernels import derivatives
from longview.words import nearest

# Dimensions along which an op may be split over devices, and the mesh axes that split the last two.
BATCH, TIME, WIDTH = 'batch', 'tokens', 'heads or channels'
SEQUENCE, TENSOR = 'sequence', 'tensor'

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
    'fused_block',
    'causal_conv1d',
    'attention',
)

# The (op, name) pairs of `prefer`, in a tuple since they are part of jit's cache key.
_preferred = jax.make_user_context(())


def _nothing(*args: Any) -> None:
    """The `missing` of a form that serves every call."""


@contextlib.contextmanager
def prefer(*, plain: bool = False, **implementations: str | None) -> Iterator[None]:
    """Sets the implementation of ops for all calls inside of the ``with`` that name none.

        with dispatch.prefer(gla='reference', conv2d='conv'):
            loss(params)
        with dispatch.prefer(plain=True):
            jax.jvp(loss, (params,), (direction,))

    A function under `jax.jit` that was traced outside is traced again inside. The innermost `prefer` counts; None
    leaves an op unchanged.

    Args:
        plain: whether forms are differentiated by JAX and not by rules of their own, which have no forward mode
            (`jax.jvp`, `jax.linearize`, `jax.hessian`). Values are the same. Those of a platform are left out, and
            gradients take more memory: that of every intermediate array.
        **implementations: op (one of `OPS`) -> name of its implementation. A call of the op raises an error if there is
            no implementation of that name, or if it cannot serve the call.

    Raises:
        ValueError: there is no such op.
    """
    for op in implementations:
        if op not in OPS:
            raise ValueError(f'there is no op {op!r} to prefer an implementation of{nearest(op, OPS)}')
    given = {op: name for op, name in implementations.items() if name is not None}
    preferred = tuple(sorted({**dict(_preferred.value), **given}.items()))
    with _preferred(preferred), derivatives.left_to_jax(plain or derivatives.plain()):
        yield


class Form(NamedTuple):
    """One implementation of an op.

    run: function of the op's arrays; static arguments are already bound.
    platform: the only platform that the form can be lowered for ('cpu', 'tpu', 'cuda', 'rocm'), or None for all.
    missing: function of the same arrays that returns why the form cannot serve the call, in words, or None if it can.
    proven: whether the form is the default on its platform; otherwise it runs only when it is named.
    varies: whether its outputs say over which axes of a mesh they vary (`manual_axis_type`), as `jax.shard_map` checks;
      kernels of libraries do not.
    """

    run: Callable[..., Any]
    platform: str | None = None
    missing: Callable[..., str | None] = _nothing
    proven: bool = True
    varies: bool = True


class Split(NamedTuple):
    """The dimensions along which an op may be split over devices.

    The work is independent along BATCH and WIDTH (heads or channels); along TIME, the tokens, devices exchange states.

    inputs: for each argument of the op a tuple with BATCH, TIME, WIDTH or None per dimension; trailing dimensions may
      be left out.
    outputs: a tree with such a tuple for each output.
    over_time: the op of whole sequences, called on each device with its shards, `(mesh axis, *args) -> outputs`; None
      for an op without TIME.
    whole: why this call cannot be split along TIME, in words that follow the name of the op, or None if it can.
    """

    inputs: tuple[Names, ...]
    outputs: Any
    over_time: Callable[..., Any] | None = None
    whole: str | None = None


def run(op: str, implementation: str | None, forms: Mapping[str, Form], *args: Any, split: Split) -> Any:
    """Runs `op` on `args` with the named implementation, or with the default of the platform that it is lowered for.

    Over a mesh with explicit axes each device works on its shard of batch and heads or channels, by the layout of the
    first argument that has a batch. Over automatic axes XLA's partitioner splits plain XLA by itself but cannot split a
    Pallas kernel: a platform-specific form then runs in `shard_map` on shards, for which the axis 'tensor' splits heads
    or channels, the axis 'sequence' the tokens, and all other axes together split the batch. A mesh with an axis
    'sequence' runs every form so, by `Split.over_time`, since the partitioner would gather the tokens that a loop over
    them reads.

    Raises:
      ValueError: the name is not in `forms`, the layout of the arguments splits another dimension, or the axis
        'sequence' cannot split the tokens.
      NotImplementedError: the named form cannot serve the call: raised at once if the arguments are the reason, and
        when the program is lowered if the platform is.
    """
    args = _alike(args)
    if implementation is None:
        implementation = dict(_preferred.value).get(op)
    mesh = _mesh_of(args[0])
    kinds = {kind for size, kind in zip(mesh.axis_sizes, mesh.axis_types) if size > 1}
    if jax.sharding.AxisType.Explicit in kinds:
        shards = _by_layout(op, split, args)
        check = implementation not in forms or forms[implementation].varies
        return shards.over(partial(_choose, op, implementation, forms, split), *shards.placed(args), check=check)
    if kinds == {jax.sharding.AxisType.Auto}:
        shards = _by_names(split, mesh, args)
        if shards.axes[TIME] is not None:
            _check_time(op, shards, args)
            return shards.over(partial(split.over_time, shards.axes[TIME]), *args)
        forms = {name: form if form.platform is None else shards.form(form) for name, form in forms.items()}
    return _choose(op, implementation, forms, split, *args)


def _choose(op: str, implementation: str | None, forms: Mapping[str, Form], split: Split, *args: Any) -> Any:
    if implementation is not None:
        _check_name(op, implementation, forms)
    anywhere = next(form.run for form in forms.values() if form.platform is None)
    if _is_empty(split, args):
        return _empty(anywhere, split, args)
    if implementation is not None:
        return _named(op, implementation, forms[implementation], anywhere, *args)
    special = {
        form.platform: derivatives.first_order(
            op, form.run, anywhere, f'{op}: implementation {name!r} failed to be traced'
        )
        for name, form in forms.items()
        if form.platform is not None and form.proven and not derivatives.plain() and _missing(form, *args) is None
    }
    if not special:
        return anywhere(*args)
    return lax.platform_dependent(*args, default=anywhere, **special)


def _is_empty(split: Split, args: tuple) -> bool:
    return any(
        name == BATCH and size == 0 for x, names in _with_names(split, args) for size, name in zip(x.shape, names)
    )


def _empty(form: Callable[..., Any], split: Split, args: tuple) -> Any:
    """Returns the outputs for a batch of 0: the form is asked what it returns for a batch of 1."""
    like = next(x for x, names in _with_names(split, args) if BATCH in names)

    def resized(x: Any, names: Names, batch: int) -> tuple[int, ...]:
        names = (*names, *[None] * (x.ndim - len(names)))
        return tuple(batch if name == BATCH else size for size, name in zip(x.shape, names))

    single = lambda x, names: x if x is None else jax.ShapeDtypeStruct(resized(x, names, 1), x.dtype)
    found = jax.eval_shape(form, *(single(x, names) for x, names in zip(args, split.inputs)))
    blank = lambda names, x: jnp.zeros_like(like, x.dtype, resized(x, names, 0))
    return jax.tree.map(blank, split.outputs, found, is_leaf=_is_names)


def _with_names(split: Split, args: tuple) -> Iterator[tuple[jax.Array, Names]]:
    return ((x, names) for x, names in zip(args, split.inputs) if x is not None)


def _missing(form: Form, *args: Any) -> str | None:
    """Returns why a form cannot serve a call, in words, or None."""
    unknown = [x for x in jax.tree.leaves(args) if symbolic(x)]
    if form.platform is not None and unknown:
        # A Pallas kernel makes its tiles of numbers.
        return f'an input has the shape {unknown[0].shape}; wanted numbers alone'
    return form.missing(*args)


class _Shards(NamedTuple):
    """How the arrays of an op are split into shards; `axes` are the mesh axes that split BATCH, TIME and WIDTH."""

    mesh: Any
    axes: Mapping[str, Any]
    split: Split

    def spec(self, names: Names) -> PartitionSpec:
        return PartitionSpec(*map(self.axes.get, names))

    def over(self, function: Callable[..., Any], *args: Any, check: bool = True) -> Any:
        """Runs the function on every shard, in `shard_map`, which may check how the outputs vary."""
        given = {n: x for n, x in enumerate(args) if x is not None}
        split = jax.shard_map(
            lambda given: function(*_alike(tuple(map(given.get, range(len(args)))))),
            mesh=self.mesh,
            in_specs=({n: self.spec(self.split.inputs[n][: x.ndim]) for n, x in given.items()},),
            out_specs=jax.tree.map(self.spec, self.split.outputs, is_leaf=_is_names),
            check_vma=check,
        )
        return split(given)

    def placed(self, args: tuple) -> tuple:
        """Reshards the arguments to the layout of the shards."""
        place = lambda x, names: jax.sharding.reshard(x, NamedSharding(self.mesh, self.spec(names[: x.ndim])))
        return tuple(x if x is None else place(x, n) for x, n in zip(args, self.split.inputs))

    def form(self, form: Form) -> Form:
        """Returns the form that runs on every shard; it cannot serve where the form cannot serve a shard."""

        def missing(*args: Any) -> str | None:
            found = self.indivisible(args)

            def look(first: jax.Array, *others: Any) -> jax.Array:
                nonlocal found
                found = form.missing(first, *others)
                return first

            if found is None:
                alone = self._replace(split=Split(self.split.inputs, self.split.inputs[0]))
                jax.eval_shape(partial(alone.over, look, check=form.varies), *args)
            return found

        return form._replace(run=partial(self.over, form.run, check=form.varies), missing=missing)

    def indivisible(self, args: tuple) -> str | None:
        """Returns which dimension does not divide over the devices, in words, or None."""
        for x, names in zip(args, self.split.inputs):
            for size, name in zip(() if x is None else x.shape, names):
                parts = _parts(self.mesh, self.axes.get(name))
                if size % parts:
                    return (
                        f'the {name} of {size} does not divide over the {parts} devices of the '
                        f'mesh axes {self.axes[name]}; wanted a multiple of {parts}'
                    )
        return None


def _by_layout(op: str, split: Split, args: tuple) -> _Shards:
    """Returns the shards by the layout of the first argument with a batch on a mesh with explicit axes."""
    x, names = next((x, names) for x, names in zip(args, split.inputs) if BATCH in names)
    where = jax.typeof(x).sharding
    spec = [*where.spec, *[None] * (x.ndim - len(where.spec))]
    names = (*names, *[None] * (x.ndim - len(names)))
    if any(axes is not None and name not in (BATCH, WIDTH) for axes, name in zip(spec, names)):
        raise ValueError(
            f'{op}: an input of shape {x.shape} lies on the mesh as {where.spec}; wanted batch and '
            f'{WIDTH} to be split alone. Tokens may be split inside of jax.shard_map, by the '
            'sequence-parallel form.'
        )
    return _Shards(where.mesh, {n: axes for n, axes in zip(names, spec) if n is not None}, split)


def _by_names(split: Split, mesh: Any, args: tuple) -> _Shards:
    """Returns the shards by the names of automatic axes; heads or channels stay whole unless all of them divide.

    So does a batch whose tokens are split. A single token is not split.
    """
    tokens = max(_sizes(split, args, TIME), default=1)
    axes = {
        BATCH: tuple(name for name in mesh.axis_names if name not in (SEQUENCE, TENSOR)) or None,
        TIME: SEQUENCE if SEQUENCE in mesh.axis_names and mesh.shape[SEQUENCE] > 1 and tokens > 1 else None,
        WIDTH: TENSOR if TENSOR in mesh.axis_names else None,
    }
    for name in (WIDTH, BATCH) if axes[TIME] else (WIDTH,):
        if any(size % _parts(mesh, axes[name]) for size in _sizes(split, args, name)):
            axes[name] = None
    return _Shards(mesh, axes, split)


def _sizes(split: Split, args: tuple, wanted: str) -> list[int]:
    """Returns the size of every dimension of that name."""
    return [size for x, names in _with_names(split, args) for size, name in zip(x.shape, names) if name == wanted]


def _check_time(op: str, shards: _Shards, args: tuple) -> None:
    """Raises ValueError if the tokens cannot be split."""
    axis, tokens = shards.axes[TIME], max(_sizes(shards.split, args, TIME))
    parts = _parts(shards.mesh, axis)
    if shards.split.whole is not None:
        raise ValueError(
            f'{op} {shards.split.whole}, which cannot be split over the {parts} devices of the mesh axis {axis!r}: use '
            'a mesh without it (config.mesh.sequence=1).'
        )
    if tokens % parts:
        raise ValueError(
            f'{op}: {tokens} tokens do not divide over the {parts} devices of the mesh axis {axis!r}; wanted a '
            f'multiple of {parts}: fill up the sequence at its end.'
        )


def _parts(mesh: Any, axes: Any) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _is_names(tree: Any) -> bool:
    return isinstance(tree, tuple) and all(x is None or isinstance(x, str) for x in tree)


def _alike(args: tuple) -> tuple:
    """Inside of `jax.shard_map`: marks all arrays as varying over the axes that any of them varies over.

    Loops and custom derivatives require this of their arguments; cotangents are summed over the added axes.
    """
    axes = [jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(args)]
    every = frozenset().union(*axes)

    def mark(x: jax.Array) -> jax.Array:
        fewer = jax.typeof(x).manual_axis_type.varying
        return lax.pcast(x, tuple(sorted(every - fewer, key=str)), to='varying')

    return jax.tree.map(mark, args)


def _check_name(op: str, name: str, forms: Mapping[str, Form]) -> None:
    if name not in forms:
        near = difflib.get_close_matches(name, forms, n=1, cutoff=0.0)[0]
        raise ValueError(
            f'{op} has no implementation {name!r}; it has {", ".join(map(repr, forms))} '
            f'(the nearest is {near!r}), or None to let the platform decide.'
        )


def _named(op: str, name: str, form: Form, anywhere: Callable[..., Any], *args: Any) -> Any:
    missing = _missing(form, *args)
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

    # Without this rule the refusal would be a constant, whose gradient is zero.
    elsewhere.defvjp(lambda *args: (elsewhere(*args), args), pullback)
    return lax.platform_dependent(
        *args, default=elsewhere, **{form.platform: derivatives.first_order(op, form.run, anywhere, None)}
    )


# An array that can be traced and differentiated but not lowered, since the platform is known only when lowering.
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
    """Returns which dtype in a tree of arrays a kernel does not take, in words, or None."""
    for array in jax.tree.leaves(arrays):
        if array.dtype.name not in dtypes:
            *others, last = dtypes
            return f'an input is {array.dtype}; wanted {" or ".join(filter(None, (", ".join(others), last)))}'
    return None


def sharded(x: jax.Array) -> bool:
    """Whether `x` may be split over devices: it is on a mesh of several devices, and not inside of `shard_map`."""
    mesh = _mesh_of(x)
    manual = jax.sharding.AxisType.Manual
    return any(size > 1 and kind != manual for size, kind in zip(mesh.axis_sizes, mesh.axis_types))


def symbolic(x: jax.Array) -> bool:
    """Whether a size of `x` is a symbol, as the batch is in a program for batches of any size (`jax.export`)."""
    return any(map(jax.export.is_symbolic_dim, x.shape))


def _mesh_of(x: jax.Array) -> Any:
    """The mesh that `x` is on, or that of the context (`jax.set_mesh`) if `x` has none."""
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.get_abstract_mesh() if mesh.empty else mesh


def check_floats(kind: Any = jnp.floating, **arrays: jax.Array | None) -> None:
    """Raises ValueError for arrays of integers, or of another `kind` than the numbers that an op is for.

    Outputs have the type of an input, so those of integers would be cut to integers.
    """
    for name, x in arrays.items():
        if x is not None and not jnp.issubdtype(x.dtype, kind):
            raise ValueError(f'{name} is {x.dtype}; wanted {_KINDS[kind]}: pass {name}.astype(jnp.float32).')


_KINDS = {jnp.floating: 'real floating-point numbers', jnp.inexact: 'floating-point numbers'}
