"""A step in microbatches: how the batch is split, and how running statistics see it whole.

Layers with running statistics (``batch_stats``) normalize each microbatch by itself, but their averages move once a
step: every microbatch begins with the averages of before the step, and a collection `MOMENTS` goes from one to the
next, in which a layer merges the moments of what it has seen (modelzoo/layers/norms/batchnorm.py). So the last
microbatch leaves the averages as one batch of all examples would move them. A layer that does not know of the
collection, such as Flax's own, moves its averages once a microbatch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from longview.modelzoo.layers.norms.batchnorm import COUNT, MOMENTS
from longview.trees import by_path, path_of

_STATISTICS = 'batch_stats'


def split(batch: Any, parts: int) -> Any:
    """(B, ...) -> (parts, B / parts, ...) for each array; rows are dealt round, so a sharded batch stays where it is.

    Raises:
        ValueError: the parts do not divide the batch.
    """

    def deal(x: Array) -> Array:
        if x.shape[0] % parts:
            raise ValueError(
                f'a batch of {x.shape[0]} does not divide into {parts} microbatches: change '
                'config.batch_size or config.accumulate.'
            )
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(deal, batch)


def opened(state: Any) -> Any:
    """Returns a task's state with a `MOMENTS` collection beside each of running statistics, all counts 0."""
    if not isinstance(state, dict):
        return state
    moments = {MOMENTS: _counts(state[_STATISTICS])} if _STATISTICS in state else {}
    return {key: opened(value) for key, value in state.items()} | moments


def begun(shapes: Any, before: Any) -> Any:
    """Returns the state that the first microbatch gets.

    Args:
        shapes: of the state that a microbatch leaves which began with ``opened(before)``.
        before: the state before the step.
    """
    known = by_path(before)

    def value(key_path: Any, shape: jax.ShapeDtypeStruct) -> Array:
        path = path_of(key_path)
        return known[path] if path in known else jnp.zeros(shape.shape, shape.dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def rewound(state: Any, before: Any) -> Any:
    """Returns the state for the next microbatch: averages whose moments are kept are again those of before the step."""
    known, now = by_path(before), by_path(state)

    def value(key_path: Any, leaf: Array) -> Array:
        path = path_of(key_path)
        return known[path] if path in known and _moment_of(path) in now else leaf

    return jax.tree_util.tree_map_with_path(value, state)


def closed(state: Any, before: Any) -> Any:
    """Returns the state after the last microbatch without the moments."""
    now = by_path(state)
    return jax.tree_util.tree_map_with_path(lambda key_path, _: now[path_of(key_path)], before)


def _counts(statistics: dict[str, Any]) -> dict[str, Any]:
    layers = {name: _counts(tree) for name, tree in statistics.items() if isinstance(tree, dict)}
    return layers | ({COUNT: jnp.zeros(())} if len(layers) < len(statistics) else {})


def _moment_of(path: str) -> str | None:
    """The path at which the moment is kept of which the array at `path` is the average; None of any other array."""
    *folders, name = path.split('/')
    if _STATISTICS not in folders:
        return None
    return '/'.join([MOMENTS if folder == _STATISTICS else folder for folder in folders] + [name])
