"""Leaving a network early in earnest: the later stages run only for the examples that are still there.

For networks that methods/exits/confidence.py trained. A program has one shape, so this is a function on the host: it
runs the network up to an exit, keeps the examples that stay, and goes on with them. Their number is rounded up to a
power of two, so that few programs are compiled.

Going on from a map works for networks whose stages are `modelzoo.layers.frame.pyramid.Stage`s: while the rest is
traced, that exit's stage hands the map on in place of what it would compute, and what came before it is then read by
nobody.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from longview.methods.exits.confidence import EarlyExit
from longview.methods.task import Variables
from longview.modelzoo.layers.frame.pyramid import Stage

Answers = tuple[np.ndarray, np.ndarray]


def staged(task: EarlyExit, v: Variables, *, least: int = 8) -> Callable[[Array], Answers]:
    """Returns a function of images, already transformed: the logits (B, K) and the number of the exit taken (B,).

    Args:
        task: the method.
        v: its trained variables.
        least: the fewest examples that a program is compiled for.

    Raises:
        NotImplementedError: the network's stages cannot be left out; said when the function first runs.
    """
    parts = [jax.jit(functools.partial(_part, task, index), static_argnums=2) for index in range(len(task.exits) + 1)]

    def run(image: Float[Array, 'b h w c']) -> Answers:
        rows, x = np.arange(len(image)), image
        taken, logits = np.zeros(len(image), np.int32), None
        for index, part in enumerate(parts):
            x, answers, leaves = part(v, x, image.shape[1:])
            answers, leaves = np.asarray(answers)[: len(rows)], np.asarray(leaves)[: len(rows)]
            logits = np.zeros((len(image), answers.shape[1]), answers.dtype) if logits is None else logits
            logits[rows[leaves]], taken[rows[leaves]] = answers[leaves], index
            stay = np.flatnonzero(~leaves)
            if not stay.size:
                break
            x = jnp.take(x, _padded(stay, least, len(image)), axis=0)
            rows = rows[stay]
        return logits, taken

    return run


def _padded(rows: np.ndarray, least: int, most: int) -> np.ndarray:
    """Returns the rows and, up to the next size, the first one again."""
    size = min(max(least, 1 << (len(rows) - 1).bit_length()), most)
    return np.concatenate([rows, np.full(max(size - len(rows), 0), rows[0])])


def _part(
    task: EarlyExit, index: int, v: Variables, x: Float[Array, 'b *n'], image_shape: tuple[int, ...]
) -> tuple[Array, Float[Array, 'b k'], Bool[Array, ' b']]:
    """Runs the network from the exit before to this one; returns its map, its logits and who leaves."""
    last = index == len(task.exits)
    variables = {'params': v.params, **v.state}
    until = lambda image: task.model.apply(variables, image, index, method='until')
    if index:
        hits: list[str] = []
        with nn.intercept_methods(functools.partial(_hand_on, task.exits[index - 1], x, hits)):
            features, answers = until(jnp.zeros((len(x), *image_shape)))
        if len(hits) != 1:
            raise NotImplementedError(
                f'{type(task.source.backbone).__name__} cannot go on from {task.exits[index - 1]}: '
                'leave it at a stage of a network that is made of modelzoo.layers.frame.pyramid.'
            )
    else:
        features, answers = until(x)
    logits = answers[-1]
    leaves = jnp.ones(len(x), bool) if last else task.leaves(logits, task.threshold)
    return x if last else features[task.exits[index]], logits, leaves


def _hand_on(
    name: str,
    x: Array,
    hits: list[str],
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
) -> Any:
    """Gives `x` for the output of the stage of this name."""
    output = call(*args, **kwargs)
    if not isinstance(context.module, Stage) or context.module.name != name or context.method_name != '__call__':
        return output
    if jax.tree.map(jnp.shape, output) != x.shape:
        return output
    hits.append(name)
    return x
