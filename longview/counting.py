"""What a function computes, counted on its traced program, which is not run."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the multiply-adds of the matrix products and convolutions in ``function(*arguments)``.

    The body of a loop counts once per iteration (of an unbounded loop, once). Of code that is chosen by platform the
    default counts, and of other branches the costliest.

    Args:
        function: traceable.
        *arguments: arrays or their shapes.
    """
    return _of_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_program(program: core.Jaxpr) -> int:
    return sum(map(_of_equation, program.eqns))


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (summed, _), _ = params['dimension_numbers']
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in summed)
    if name == 'conv_general_dilated':
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == 'cond':
        platforms = params.get('branches_platforms') or ()
        default = [branch for branch, names in zip(params['branches'], platforms) if names is None]
        return max(_of_program(bare(branch)) for branch in default or params['branches'])
    repeats = params['length'] if name == 'scan' else 1
    return repeats * sum(map(_of_program, inner(params)))


def inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the programs inside an equation: bodies of calls, loops and functions with derivatives of their own."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                yield bare(item)


def bare(program: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    """Returns a program without the constants that it may hold."""
    return program if isinstance(program, core.Jaxpr) else program.jaxpr
