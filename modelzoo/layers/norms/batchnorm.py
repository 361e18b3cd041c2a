"""Batch normalization as PyTorch's (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167).

The running averages live in the collection ``batch_stats``, as ``mean`` and ``var``. Flax's own layer differs in
two places: it averages the biased variance where torch averages the unbiased one, and it computes the variance as
``E[x^2] - E[x]^2``.

A batch sharded over devices is one array under jit, so these are statistics of the whole batch, whatever the mesh:
what elsewhere is called synchronized batch normalization. Of a step in microbatches (``config.accumulate``) each is
normalized by itself, so accumulation does change numbers here; the running averages move once a step, by the moments of
all its microbatches together (`merged`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init

# The collection of a step in microbatches (methods/microbatches.py), and what it holds of a layer beside the moments.
MOMENTS, COUNT = 'moments', 'values_merged'


class BatchNorm(nn.Module):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, one mean and variance a channel.

    Attributes:
        epsilon: torch's default.
        momentum: weight of the old running average; torch calls 1 - momentum its momentum.
        scale_init: initial values of the scale; zeros for the last norm of a residual branch.
        dtype: of the result; statistics are float32.
        affine: whether there are scale and bias.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    scale_init: init.Initializer = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Normalizes with the batch's statistics in training, else with the running averages.

        Training updates ``batch_stats``, which the caller has to make mutable.

        Raises:
            ValueError: training on a single value a channel, which has no variance.
        """
        channels = x.shape[-1]
        mean = self.variable('batch_stats', 'mean', jnp.zeros, (channels,))
        var = self.variable('batch_stats', 'var', jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        if train:
            batch_mean, batch_var = _statistics(x)
            new_mean, new_var, count = merged(self, batch_mean, batch_var, x.size // channels)
            mean.value = self._average(mean.value, new_mean)
            var.value = self._average(var.value, new_var * (count / (count - 1)))
        else:
            batch_mean, batch_var = mean.value, var.value
        gain = jax.lax.rsqrt(batch_var + self.epsilon)
        if not self.affine:
            return ((x - per_channel(batch_mean)) * per_channel(gain)).astype(self.dtype)
        gain = gain * self.param('scale', self.scale_init, (channels,))
        bias = self.param('bias', jax.nn.initializers.zeros, (channels,))
        return ((x - per_channel(batch_mean)) * per_channel(gain) + per_channel(bias)).astype(self.dtype)

    def _average(self, old: Float[Array, ' c'], new: Float[Array, ' c']) -> Float[Array, ' c']:
        return self.momentum * old + (1 - self.momentum) * new


def merged(
    module: nn.Module, mean: Float[Array, ' c'], var: Float[Array, ' c'], count: int
) -> tuple[Float[Array, ' c'], Float[Array, ' c'], Float[Array, ''] | int]:
    """Returns mean, biased variance and number of values a channel of the step so far, this microbatch included.

    Without a collection `MOMENTS` for the module, which is where it keeps them, the batch is the whole step: the
    arguments come back. Moments are merged as in Chan, Golub and LeVeque, 1979 (Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances), which is the law of total variance.

    Args:
        module: the layer, inside its compact method.
        mean, var, count: of this microbatch.
    """
    if not module.has_variable(MOMENTS, COUNT):
        return mean, var, count
    seen = module.variable(MOMENTS, COUNT, None)
    means = module.variable(MOMENTS, 'mean', jnp.zeros_like, mean)
    variances = module.variable(MOMENTS, 'var', jnp.zeros_like, var)
    total = seen.value + count
    share = count / total
    apart = mean - means.value
    variances.value += share * (var - variances.value) + share * (1 - share) * apart * apart
    means.value += share * apart
    seen.value = total
    return means.value, variances.value, total


def _statistics(x: Float[Array, 'b h w c']) -> tuple[Float[Array, ' c'], Float[Array, ' c']]:
    if x.shape[0] * x.shape[1] * x.shape[2] < 2:
        raise ValueError(
            f'batch normalization got {x.shape[0]} image of {x.shape[1]}x{x.shape[2]} pixel to train on: '
            'use a larger batch or image.'
        )
    mean = jnp.mean(x, axis=(0, 1, 2))
    centred = x - per_channel(mean)
    return mean, jnp.mean(centred * centred, axis=(0, 1, 2))


def per_channel(vector: Float[Array, ' c']) -> Float[Array, '1 1 1 c']:
    """Returns one number a channel in a shape that meets a map's."""
    return vector[None, None, None]
