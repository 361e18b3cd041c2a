"""Dropout (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html), with keys per example.

The mask of an example depends on the key of the step and on the example's row in the global batch (drop.py), so
splitting the batch over devices or microbatches changes no number. Flax's `nn.Dropout` draws one mask for the whole
array, which changes when the batch is split.

`Dropout` draws its own keys. Inside a block that is recomputed or scanned it cannot, since the rows of the batch are
out of reach there. The trunk of such blocks draws `dropout_keys` for all of them at once and gives each block its own,
as it does with the masks of stochastic depth (trunk.py, block.py), and the block calls `dropout`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from longview.modelzoo.layers.frame.drop import example_keys


class Dropout(nn.Module):
    """Sets values of its input to 0 in training, each with the same probability.

    Attributes:
        rate: that probability; the other values are divided by 1 - rate.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n'], *, train: bool = False) -> Float[Array, 'b *n']:
        """Returns an array of the same shape; the rng is ``drop_path``, as for stochastic depth.

        Raises:
            NotImplementedError: the module is inside a block that is recomputed.
        """
        _check(self.rate)
        if not train or self.rate == 0:
            return x
        if self.scope.root.path:  # a lifted transformation begins a tree of its own here
            raise NotImplementedError(
                'Dropout stands in a block that runs under nn.remat, where the rows of the batch are not known: draw '
                'dropout_keys outside of the block and call dropout with them, or switch remat off.'
            )
        return dropout(x, example_keys(self, x.shape[0]), self.rate)


def dropout(x: Float[Array, 'b *n'], keys: Key[Array, ' b'] | None, rate: float) -> Float[Array, 'b *n']:
    """Returns `x` with values set to 0 with probability `rate`, and the others divided by 1 - `rate`.

    Args:
        x: activations.
        keys: one per example; with None `x` is returned unchanged.
        rate: the probability.
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
        rate: probability of dropping a value.
        depth: number of blocks.
        batch: number of examples in this (micro)batch.
        places: number of dropouts in a block.
        train: whether to draw at all.

    Returns:
        A key for each block, each place in it and each example; None if no value can be dropped.

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
