"""EvoNorm: layers that normalize and activate in one, found by evolution.

Liu et al., 2020, "Evolving Normalization-Activation Layers", https://arxiv.org/abs/2004.02967. References:
https://github.com/tensorflow/tpu (Apache-2.0), models/official/resnet/resnet_model.py, the authors'; and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), whose parameter names are kept in `NAMES`.

    B0:  x / max(s_batch, v x + s_instance) * scale + bias        S0:  x sigmoid(v x) / s_group * scale + bias

where s is the root of a biased variance plus epsilon: s_batch of a channel over the batch and the pixels, s_instance of
a channel over the pixels of each image, s_group of a group of channels over the pixels of each image. No mean is
subtracted. Where a network has a norm without an activation, the authors keep the affine part only: `Affine`. A block
with one of these layers as its `norm` has `unchanged` as its `act`.

Where we differ: the running average is that of the unbiased variance, as in our `BatchNorm` and in timm; the authors'
is that of the biased one. Epsilon is the authors' 1e-5; timm has 1e-3 in B0. The groups have to divide the channels;
the authors' code takes the next smaller number that does.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.norms.batchnorm import merged, per_channel


def unchanged(x: Array) -> Array:
    """Returns `x`: the activation after a layer that includes one."""
    return x


class EvoNormB0(nn.Module):
    """``x / max(s_batch, v x + s_instance) * scale + bias``.

    The running average of the batch variance is ``var`` in the collection ``batch_stats``, over the whole batch
    whatever the mesh and moved once a step, as in batchnorm.py.

    Attributes:
        epsilon: added to both variances.
        momentum: weight of the old running average.
        scale_init: initial values of the scale.
        dtype: of the result; statistics are float32.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    scale_init: init.Initializer = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Divides by the standard deviation of the batch in training, else by that of the running average.

        Training updates ``batch_stats``, which the caller has to make mutable.

        Raises:
            ValueError: training with one value per channel, which has no variance.
        """
        channels = x.shape[-1]
        v = self.param('v', jax.nn.initializers.ones, (channels,))
        running = self.variable('batch_stats', 'var', jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        variance = running.value
        if train:
            variance = _variance(x, (0, 1, 2)).reshape(channels)
            _, new, count = merged(self, jnp.mean(x, axis=(0, 1, 2)), variance, _count(x))
            running.value = self.momentum * running.value + (1 - self.momentum) * new * (count / (count - 1))
        batch = jnp.sqrt(variance + self.epsilon)
        instance = jnp.sqrt(_variance(x, (1, 2)) + self.epsilon)
        y = x / jnp.maximum(per_channel(batch), per_channel(v) * x + instance)
        return _affine(self, y)


class EvoNormS0(nn.Module):
    """``x sigmoid(v x) / s_group * scale + bias``, in training and evaluation.

    Attributes:
        groups: number of groups of adjacent channels; a group shares its standard deviation.
        epsilon: added to the variance.
        scale_init: initial values of the scale.
        dtype: of the result.
    """

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: init.Initializer = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Normalizes each example by itself.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        del train
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f'{channels} channels do not divide into {self.groups} groups: change the width or the groups.'
            )
        v = self.param('v', jax.nn.initializers.ones, (channels,))
        x = x.astype(jnp.float32)
        variance = _variance(x.reshape(*x.shape[:3], self.groups, -1), (1, 2, 4))
        inverse = jnp.repeat(jax.lax.rsqrt(variance + self.epsilon), channels // self.groups, axis=-1)
        return _affine(self, x * jax.nn.sigmoid(per_channel(v) * x) * inverse.reshape(x.shape[0], 1, 1, channels))


class Affine(nn.Module):
    """``x * scale + bias``: the affine part of EvoNorm, where no activation is wanted.

    Attributes:
        scale_init: initial values of the scale; zeros at the end of a residual branch.
        dtype: of the result.
    """

    scale_init: init.Initializer = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns the scaled and shifted map; `train` is ignored."""
        del train
        return _affine(self, x.astype(jnp.float32))


def _affine(module: EvoNormB0 | EvoNormS0 | Affine, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    scale = module.param('scale', module.scale_init, (x.shape[-1],))
    bias = module.param('bias', jax.nn.initializers.zeros, (x.shape[-1],))
    return (x * per_channel(scale) + per_channel(bias)).astype(module.dtype)


def _variance(x: Float[Array, 'b h w *c'], axes: tuple[int, ...]) -> Float[Array, '...']:
    """Returns the biased variance over `axes`, which are kept with size 1."""
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return jnp.mean(centred * centred, axis=axes, keepdims=True)


def _count(x: Float[Array, 'b h w c']) -> int:
    """Returns the number of values of a channel."""
    batch, height, width, _ = x.shape
    if batch * height * width < 2:
        raise ValueError(
            f'EvoNorm-B0 got {batch} image of {height}x{width} pixel to train on: use a larger batch or image.'
        )
    return batch * height * width


# Published names of a layer's parameters and statistics, and ours; see weights.py.
NAMES = (('weight', 'scale'), ('bias', 'bias'), ('v', 'v'), ('running_var', 'var'))
