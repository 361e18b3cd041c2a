"""Results of an op by name: the output `y`, and the gradient `d<name>` of each of its arrays."""

from collections.abc import Callable

import jax


def results(op: Callable[[dict[str, jax.Array]], jax.Array], arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the results of `op(arrays)`; `arrays` also holds the cotangent `dy`, which is not passed to `op`."""
    arrays = dict(arrays)
    dy = arrays.pop('dy')
    y, back = jax.vjp(op, arrays)
    return {'y': y} | {f'd{name}': x for name, x in back(dy)[0].items()}
