"""Lists the zoo: ``python -m longview.modelzoo [PATTERN]``, say ``python -m longview.modelzoo 'vig_h*'``.

Each line has a variant's parameters and multiply-adds beside the paper's figures, then the input size that they are for
(for a sequence 1 and its length) and the paper. They are counted from the traced program, which is not run. A scan in
chunks has more multiply-adds than the recurrence that papers count.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from longview import modelzoo
from longview.modelzoo.features import Backbone, Grid, SequenceBackbone

_ROW = '{:16} {:>10} {:>8} {:>10} {:>8} {:>9}  {}'
_WITHOUT_FIGURES = (32, 32)


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the multiply-adds of the matrix products and convolutions in ``function(*arguments)``.

    The body of a loop counts once per iteration (of an unbounded loop, once). Of code that is chosen by platform the
    default counts.

    Args:
        function: traceable.
        *arguments: arrays or their shapes.
    """
    return _count(_opened(jax.make_jaxpr(function)(*arguments)))


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        shape = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == 'conv_general_dilated':
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params['dimension_numbers'].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == 'cond':
        platforms = params.get('branches_platforms') or [()] * len(params['branches'])
        default = [branch for branch, names in zip(params['branches'], platforms) if names is None]
        return max(_count(_opened(branch)) for branch in default or params['branches'])
    repeats = params['length'] if name == 'scan' else 1
    return repeats * sum(map(_count, _inner(params)))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Returns the jaxprs inside an equation: bodies of calls, loops and functions with custom derivatives."""
    values = [item for value in params.values() for item in (value if isinstance(value, (tuple, list)) else [value])]
    return [_opened(value) for value in values if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))]


def _opened(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> core.Jaxpr:
    return jaxpr if isinstance(jaxpr, core.Jaxpr) else jaxpr.jaxpr  # newer jax has one class for both


def example(backbone: Backbone, size: Grid, batch: int = 1) -> jax.ShapeDtypeStruct:
    """Returns the shape of an input: an image of `size`, or a sequence of as many elements as that has pixels."""
    if not isinstance(backbone, SequenceBackbone):
        return jax.ShapeDtypeStruct((batch, *size, 3), 'float32')
    if backbone.vocabulary is None:
        return jax.ShapeDtypeStruct((batch, math.prod(size), 1), 'float32')
    return jax.ShapeDtypeStruct((batch, math.prod(size)), 'int32')


def row(name: str) -> str:
    """Returns the line of one variant."""
    family, _ = modelzoo.find(name)
    published = family.PUBLISHED.get(name)
    size = published.image_size if published else _WITHOUT_FIGURES
    model = modelzoo.create_model(name)
    x = example(model.backbone, size)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    macs = multiply_adds(model.apply, variables, x)
    said = [f'{value:g}' if value else '-' for value in (published[2:4] if published else (None, None))]
    return _ROW.format(
        name,
        f'{params / 1e6:.2f} M',
        said[0],
        f'{macs / 1e9:.2f} G',
        said[1],
        f'{size[0]}x{size[1]}',
        published.paper if published else '-',
    )


def main(pattern: str = '*') -> int:
    """Prints the table; returns 1 where nothing matches."""
    found = modelzoo.list_models(pattern)
    if not found:
        print(f'no model matches {pattern!r}.', file=sys.stderr)
        return 1
    print(_ROW.format('variant', 'parameters', 'paper', 'mult-adds', 'paper', 'input', 'paper'))
    for name in found:
        print(row(name), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2]))
