"""Batch normalization by PyTorch's conventions (Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167).

The running averages are ``mean`` and ``var`` in the collection ``batch_stats``. Flax's layer differs in two points: it
averages the biased variance, torch the unbiased one, and it computes the variance as ``E[x^2] - E[x]^2``.

A batch sharded over devices is one array under jit, so the statistics are those of the whole batch on any mesh, which
elsewhere is called synchronized batch normalization. With microbatches (``config.accumulate``) each microbatch is
normalized by itself, so accumulation does change numbers here; the running averages are updated once per step, with the
moments of all its microbatches together (`merged`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init

# The collection in which a step merges the moments of its microbatches (methods/microbatches.py), and the variable in
# it that counts the values merged so far.
MOMENTS, COUNT = 'moments', 'values_merged'


class BatchNorm(nn.Module):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` with one mean and variance per channel.

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
        """Normalizes with the statistics of the batch in training, else with the running averages.

        Training updates ``batch_stats``, which the caller has to make mutable.

        Raises:
            ValueError: training with one value per channel, which has no variance.
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
    """Returns mean, biased variance and number of values per channel over the step so far, with this microbatch.

    The moments so far are in the collection `MOMENTS` of the module. Without it the batch is the whole step, and the
    arguments are returned. Moments are merged as in Chan, Golub and LeVeque, 1979 (Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances), by the law of total variance.

    Args:
        module: the layer, inside its compact method.
        mean, var, count: moments of this microbatch.
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
    """Returns a vector over the channels in a shape that broadcasts to a map."""
    return vector[None, None, None]
