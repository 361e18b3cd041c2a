"""Derivatives of the forms of an op: rules of their own, which step aside where JAX differentiates.

A form has a derivative of its own (`own_derivative`), which may be differentiated again, in reverse mode: a form in
plain XLA as it is, one that is specific to a platform by that of the plain one (`first_order`). Forward mode needs
`dispatch.prefer(plain=True)`.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad, batching, mlir

# Whether derivatives are JAX's own; a part of jit's cache key.
_plain = jax.make_user_context(False)


def left_to_jax(plain: bool) -> contextlib.AbstractContextManager:
    """Whether derivatives inside of the ``with`` are JAX's own, and rules step aside."""
    return _plain(plain)


def plain() -> bool:
    """Whether derivatives are JAX's own: inside of `dispatch.prefer(plain=True)`."""
    return _plain.value


def own_derivative(op: str, static: int = 0) -> Callable[[Callable[..., Any]], Any]:
    """`jax.custom_vjp` of a part of an op, which steps aside inside of `dispatch.prefer(plain=True)`.

    Differentiation in forward mode is refused in one sentence.

    Args:
        op: its name, for the sentence.
        static: the number of static arguments, the first ones.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        ruled = jax.custom_vjp(function, nondiff_argnums=tuple(range(static)))

        @functools.wraps(function)
        def run(*args: Any) -> Any:
            if _plain.value:
                return function(*args)
            return ruled(*args[:static], *_in_reverse(op, args[static:]))

        run.defvjp = ruled.defvjp
        return run

    return decorate


_static_plan = partial(jax.custom_vjp, nondiff_argnums=(0,))


def with_rule(
    outputs: Callable[..., tuple[Any, Any]],
    cotangents: Callable[..., tuple],
    rule: Callable[..., Any] = _static_plan,
) -> Callable[..., Any]:
    """Returns a function (plan, *inputs) -> outputs, with a static plan, and with a derivative of its own.

    Args:
        outputs: (plan, inputs, keep) -> the outputs and, with `keep`, what the cotangents are computed from.
        cotangents: (plan, what was kept, cotangents of the outputs) -> cotangents of the inputs.
        rule: `own_derivative(op, 1)`; by default that of JAX, for kernels, which have `first_order` around them.
    """
    run = rule(lambda plan, *inputs: outputs(plan, inputs, False)[0])
    run.defvjp(lambda plan, *inputs: outputs(plan, inputs, True), cotangents)
    return run


def own_product(op: str, product: Callable[..., Any], cotangents: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is linear in each of its two arguments, with derivatives of any order in reverse mode.

    Its cotangents are such functions too, so each derivative is computed by the two functions given.

    Args:
        op: its name, for the sentence that refuses forward mode.
        product: the function (a, b) -> y.
        cotangents: (a, b, dy) -> (da, db).
    """

    @own_derivative(op)
    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return product(a, b)

    @own_derivative(op)
    def pull(a: jax.Array, b: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        return cotangents(a, b, dy)

    def pull_again(inputs: tuple, more: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
        (a, b, dy), (da, db) = inputs, more
        return pull(a, db, dy)[0], pull(da, b, dy)[1], multiply(da, b) + multiply(a, db)

    multiply.defvjp(lambda *inputs: (multiply(*inputs), inputs), lambda inputs, dy: pull(*inputs, dy))
    pull.defvjp(lambda *inputs: (pull(*inputs), inputs), pull_again)
    return multiply


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_reverse(op: str, arrays: tuple) -> tuple:
    """Returns the arrays; in forward mode their tangents are refused."""
    return arrays


@partial(_in_reverse.defjvp, symbolic_zeros=True)
def _(op: str, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    leaves, tree = jax.tree.flatten(tangents)
    known = [isinstance(x, SymbolicZero) for x in leaves]
    marked = iter(_transposed.bind(*(x for x, zero in zip(leaves, known) if not zero), op=op))
    leaves = [x if zero else next(marked) for x, zero in zip(leaves, known)]
    return primals[0], jax.tree.unflatten(tree, leaves)[0]


# Returns its tangents. Reverse mode transposes it, so only forward mode would compute it.
_transposed = jax.extend.core.Primitive('derivative_in_reverse_mode')
_transposed.multiple_results = True
_transposed.def_abstract_eval(lambda *tangents, op: tangents)
batching.primitive_batchers[_transposed] = lambda args, axes, op: (_transposed.bind(*args, op=op), axes)
ad.primitive_transposes[_transposed] = lambda cotangents, *args, op: [
    x if ad.is_undefined_primal(arg) else None for x, arg in zip(cotangents, args)
]


def _refuse_forward_mode(*args: Any, op: str, **_: Any) -> None:
    raise NotImplementedError(
        f'{op} has a derivative of its own, in reverse mode only: use forward mode (jax.jvp, jax.linearize, '
        'jax.hessian) inside of `with dispatch.prefer(plain=True)`.'
    )


_transposed.def_impl(_refuse_forward_mode)
mlir.register_lowering(_transposed, _refuse_forward_mode)


def first_order(op: str, run: Callable[..., Any], spare: Callable[..., Any], failed: str | None) -> Callable[..., Any]:
    """Returns a form that has a first derivative only, with those of `spare`, in plain XLA, from the second on.

    JAX cannot differentiate a kernel, only replace its derivative. So neither the outputs with what is kept for the
    gradient, nor the gradient, are differentiated as they were computed.

    failed: the beginning of the warning where the form fails while it is traced, and `spare` runs instead: every
        platform's form is traced on every platform, and a CPU has no use for that of a TPU. None raises the error.
    """

    def tried(wanted: Callable[..., Any], otherwise: Callable[..., Any]) -> Any:
        if failed is None:
            return wanted()
        try:
            return wanted()
        except Exception as error:
            warnings.warn(f'{failed} ({type(error).__name__}: {error}); plain XLA runs instead.', stacklevel=2)
            return otherwise()

    @own_derivative(op)
    def backed(*args: Any) -> Any:
        return tried(partial(run, *args), partial(spare, *args))

    def forward(*args: Any) -> tuple[Any, tuple]:
        trees = []

        @jax.custom_jvp
        def once(*args: Any) -> tuple[Any, list]:
            found, pull = tried(partial(jax.vjp, run, *args), partial(jax.vjp, spare, *args))
            kept, tree = jax.tree.flatten(pull)
            trees.append(tree)
            return found, kept

        @once.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
            found, kept = once(*primals)
            return (found, kept), (jax.jvp(spare, primals, tangents)[1], jax.tree.map(_no_tangent, kept))

        found, kept = once(*args)
        return found, (args, jax.tree_util.Partial(partial(jax.tree.unflatten, trees[-1]), kept))

    def backward(kept: tuple, cotangents: Any) -> tuple:
        slope = lambda args, cotangents: jax.vjp(spare, *args)[1](cotangents)

        @jax.custom_jvp
        def once(args: tuple, pull: Callable, cotangents: Any) -> tuple:
            return tried(lambda: pull()(cotangents), partial(slope, args, cotangents))

        @once.defjvp
        def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
            (args, _, given), (more, _, change) = primals, tangents
            return once(*primals), jax.jvp(slope, (args, given), (more, change))[1]

        return once(*kept, cotangents)

    backed.defvjp(forward, backward)
    return backed


def _no_tangent(x: jax.Array) -> Any:
    kind = jax.typeof(x).to_tangent_aval().dtype
    return np.zeros(x.shape, kind) if kind == jax.dtypes.float0 else jnp.zeros_like(x)
