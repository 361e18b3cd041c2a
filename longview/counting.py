"""What a function computes, counted on its traced program, which is not run."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

# One operation for each number that they compute.
_ARITHMETIC = frozenset(
    'add add_any sub mul neg max min abs sign integer_pow square select_n eq ne lt le gt ge and or not xor floor ceil '
    'round rem clamp exp exp2 log log1p expm1 tanh logistic erf erfc erf_inv pow div rsqrt sqrt sin cos tan atan2 cbrt '
    'shift_left shift_right_logical shift_right_arithmetic cumsum cumprod cummax cummin cumlogsumexp'.split()
)
# One operation for each number that they read.
_REDUCTIONS = frozenset('reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin'.split())


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the multiply-adds of the matrix products and convolutions in ``function(*arguments)``.

    The body of a loop counts once per iteration (of an unbounded loop, once). Of code that is chosen by platform the
    default counts, and of other branches the costliest.

    Args:
        function: traceable.
        *arguments: arrays or their shapes.
    """
    return _of_program(jax.make_jaxpr(function)(*arguments).jaxpr, _products)


def operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns all that ``function(*arguments)`` computes, two operations for a multiply-add and else one for a number.

    Loops and branches count as in `multiply_adds`, and what is computed twice counts twice, though a compiler may find
    that it is the same. Sorts, gathers, random bits and windows that take a maximum count nothing.

    Args:
        function: traceable.
        *arguments: arrays or their shapes.
    """
    return _of_program(jax.make_jaxpr(function)(*arguments).jaxpr, _operations)


def _of_program(program: core.Jaxpr, count: Callable[[core.JaxprEqn], int]) -> int:
    return sum(_of_equation(equation, count) for equation in program.eqns)


def _of_equation(equation: core.JaxprEqn, count: Callable[[core.JaxprEqn], int]) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'cond':
        platforms = params.get('branches_platforms') or ()
        default = [branch for branch, names in zip(params['branches'], platforms) if names is None]
        return max(_of_program(bare(branch), count) for branch in default or params['branches'])
    # Those have programs inside that say how two numbers are joined.
    if name in _REDUCTIONS or name in _ARITHMETIC:
        return count(equation)
    repeats = params['length'] if name == 'scan' else 1
    return count(equation) + repeats * sum(_of_program(program, count) for program in inner(params))


def _products(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (summed, _), _ = params['dimension_numbers']
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in summed)
    if name == 'conv_general_dilated':
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    return 0


def _operations(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name in _ARITHMETIC:
        return math.prod(equation.outvars[0].aval.shape)
    if name in _REDUCTIONS:
        return math.prod(equation.invars[0].aval.shape)
    return 2 * _products(equation)


def inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the programs inside an equation: bodies of calls, loops and functions with derivatives of their own."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                yield bare(item)


def bare(program: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    """Returns a program without the constants that it may hold."""
    return program if isinstance(program, core.Jaxpr) else program.jaxpr
