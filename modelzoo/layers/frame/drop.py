"""Stochastic depth (Huang et al., 2016, https://arxiv.org/abs/1603.09382).

The trunk draws the masks of all its blocks at once and gives each block its own, so blocks need no rng and can be
scanned or recomputed. A mask depends on the key of the step and on the example's row in the global batch, not on its
place in memory: a batch that is split over devices or microbatches gets the same masks. The rows are read from the
collection ``example``, ``{'example': {'row': int32 (B,)}}``; without it they are 0, 1, ....
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key


def path_masks(
    module: nn.Module, rate: float, depth: int, batch: int, *, branches: int = 2, train: bool
) -> Float[Array, 'l r b'] | None:
    """Draws a factor for each residual branch of each block and each example, from the rng ``drop_path``.

    Args:
        module: the bound trunk.
        rate: probability of skipping the branches of the last block; over the blocks it rises linearly from 0.
        depth: number of blocks.
        batch: number of examples in this (micro)batch.
        branches: residual branches in a block.
        train: whether to draw at all.

    Returns:
        0 where a branch is skipped, 1 / (1 - its rate) elsewhere; None if no branch can be skipped.

    Raises:
        ValueError: `rate` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f'drop_path is {rate}: it must be at least 0 and below 1.')
    if not train or rate == 0:
        return None
    draw = lambda key: jax.random.uniform(key, (depth, branches))
    keep = 1 - np.linspace(0, rate, depth, dtype=np.float32)[:, None, None]
    return (jax.vmap(draw, out_axes=-1)(example_keys(module, batch)) < keep) / keep


def example_keys(module: nn.Module, batch: int) -> Key[Array, ' b']:
    """Returns a key for each example, from the rng ``drop_path`` and the example's row in the global batch."""
    examples = module.scope.root.get_variable('example', 'row', None)
    examples = jnp.arange(batch) if examples is None else examples
    key = module.make_rng('drop_path')
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)


def by_stage(masks: Float[Array, 'l r b'] | None, depths: Sequence[int]) -> list[Float[Array, 'm r b'] | None]:
    """Returns the masks of each stage's blocks; `depths` has each stage's number of blocks."""
    ends = np.cumsum(depths)
    return [None if masks is None else masks[end - depth : end] for end, depth in zip(ends, depths)]


def drop_path(y: Float[Array, 'b *n'], mask: Float[Array, ' b'] | None) -> Float[Array, 'b *n']:
    """Multiplies each example of a branch by its mask."""
    if mask is None:
        return y
    return y * mask.astype(y.dtype).reshape((-1,) + (1,) * (y.ndim - 1))
