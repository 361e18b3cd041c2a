"""Dropout (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html), drawn as stochastic depth is.

What is dropped of an example depends on the step's key and on the example's row in the global batch (drop.py), so
splitting the batch over devices or microbatches changes no number. Flax's `nn.Dropout` draws for a whole array at once:
its masks are others as soon as the batch is split.

`Dropout` draws for itself. Inside a block that is recomputed or scanned it cannot: the rows of the batch are out of
reach there. The trunk of such blocks draws `dropout_keys` for all of them at once and hands each block its own, as it
does with the masks of stochastic depth (trunk.py, block.py), and the block calls `dropout`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from longview.modelzoo.layers.frame.drop import example_keys


class Dropout(nn.Module):
    """Drops values of its input in training, each with the same probability.

    Attributes:
        rate: share of the values that become 0; the others are divided by what is left, 1 - rate.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n'], *, train: bool = False) -> Float[Array, 'b *n']:
        """Keeps the shape; the rng is ``drop_path``, as of all that is drawn by row.

        Raises:
            NotImplementedError: it stands in a block that is recomputed.
        """
        _check(self.rate)
        if not train or self.rate == 0:
            return x
        if self.scope.root.path:  # a lifted transformation begins a tree of its own here
            raise NotImplementedError(
                'Dropout stands in a block that runs under nn.remat, where the rows of the batch are not known: draw '
                'dropout_keys outside of the block and call dropout with them, or switch remat off.'
            )
        return dropout(x, example_keys(self, len(x)), self.rate)


def dropout(x: Float[Array, 'b *n'], keys: Key[Array, ' b'] | None, rate: float) -> Float[Array, 'b *n']:
    """Returns `x` with a share of its values dropped, and the others divided by 1 - `rate`.

    Args:
        x: activations.
        keys: of the examples; None for `x` as it is.
        rate: the share.
    """
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def dropout_keys(
    module: nn.Module, rate: float, depth: int, batch: int, *, places: int = 1, train: bool
) -> Key[Array, 'l p b'] | None:
    """Draws the keys of all blocks of a trunk, from the rng ``drop_path``.

    Args:
        module: the bound trunk.
        rate: share of the values that are dropped.
        depth: number of blocks.
        batch: number of examples here.
        places: how often a block drops.
        train: without it nothing is drawn.

    Returns:
        A key for each block, each place in it and each example; None where nothing is ever dropped.

    Raises:
        ValueError: `rate` is not in [0, 1).
    """
    _check(rate)
    if not train or rate == 0:
        return None
    keys = jax.vmap(lambda key: jax.random.split(key, (depth, places)), out_axes=-1)
    return keys(example_keys(module, batch))


def _check(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f'the rate of dropout is {rate}: it must be at least 0 and below 1.')
