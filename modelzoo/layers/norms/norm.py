"""Normalizations of each example by itself, computed in float32 with two passes like PyTorch's.

Layer normalization: Ba et al., 2016, https://arxiv.org/abs/1607.06450.
Root mean square normalization: Zhang and Sennrich, 2019, https://arxiv.org/abs/1910.07467.
Group normalization: Wu and He, 2018, https://arxiv.org/abs/1803.08494.
Global response normalization: Woo et al., 2023, https://arxiv.org/abs/2301.00808.
Flax's LayerNorm has epsilon 1e-6 and computes the variance as ``E[x^2] - E[x]^2``; torch has 1e-5 and two passes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``.

    Attributes:
        epsilon: torch's default.
        dtype: of the result.
        affine: whether there are a scale and a bias.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, '*n d'], *, train: bool = False) -> Float[Array, '*n d']:
        """Normalizes the last axis; `train` is ignored, so that the layer can replace `BatchNorm`."""
        del train
        scale, bias = _affine(self, x.shape[-1], self.affine, self.affine)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return _transformed(x, scale, bias).astype(self.dtype)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon) * scale``, and ``+ bias`` where asked for.

    Attributes:
        epsilon: by default that of the gated linear attention code on which ViG builds.
        dtype: of the result.
        affine: whether there is a scale.
        use_bias: whether there is a bias, as in `LayerNorm`, whose parameters this norm then has.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32
    affine: bool = True
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, '*n d']) -> Float[Array, '*n d']:
        """Normalizes the last axis; leading axes, such as heads, share the scale."""
        scale, bias = _affine(self, x.shape[-1], self.affine, self.use_bias)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return _transformed(x, scale, bias).astype(self.dtype)


class GroupNorm(nn.Module):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` with one mean and variance per group of channels.

    Attributes:
        groups: number of groups of adjacent channels; a group shares its statistics over all pixels.
        epsilon: torch's default.
        scale_init: initial values of the scale.
        dtype: of the result.
    """

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: Callable[..., Array] = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Normalizes each example; `train` is ignored, so that the layer can replace `BatchNorm`.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        del train
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f'{channels} channels do not divide into {self.groups} groups: change the width or the groups.'
            )
        scale = self.param('scale', self.scale_init, (channels,))
        bias = self.param('bias', jax.nn.initializers.zeros, (channels,))
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.groups, -1)
        grouped = grouped - jnp.mean(grouped, axis=(1, 2, 4), keepdims=True)
        variance = jnp.mean(grouped * grouped, axis=(1, 2, 4), keepdims=True)
        x = (grouped * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (x * _last_axis(scale, x) + _last_axis(bias, x)).astype(self.dtype)


class GlobalResponseNorm(nn.Module):
    """``x * (1 + scale * n) + bias``; n is the L2 norm of a channel over all pixels, divided by its mean over channels.

    Woo et al., 2023, https://arxiv.org/abs/2301.00808. Scale and bias are initially 0, so the layer is the identity.

    Attributes:
        use_bias: whether there is a bias.
        epsilon: added to the mean of the norms.
        dtype: of the result.
    """

    use_bias: bool = True
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Rescales the channels of each example."""
        shape = (1, 1, 1, x.shape[-1])  # as published
        scale = self.param('scale', jax.nn.initializers.zeros, shape)
        x = x.astype(jnp.float32)
        squares = jnp.sum(x * x, axis=(1, 2), keepdims=True)
        # For a channel of zeros the gradient of the norm is set to 0; that of the root is infinite.
        length = jnp.sqrt(jnp.where(squares > 0, squares, 1)) * (squares > 0)
        x = x * (1 + scale * (length / (jnp.mean(length, axis=-1, keepdims=True) + self.epsilon)))
        if self.use_bias:
            x = x + self.param('bias', jax.nn.initializers.zeros, shape)
        return x.astype(self.dtype)


class NoNorm(nn.Module):
    """The identity in place of a norm, for residual connections that make norms unnecessary.

    Attributes:
        scale_init: unused, for the signature that norms share.
        dtype: of the result.
    """

    scale_init: Callable[..., Array] = jax.nn.initializers.ones
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, '*n d'], *, train: bool = False) -> Float[Array, '*n d']:
        """Returns `x`."""
        del train
        return x.astype(self.dtype)


def l2_normalize(x: Float[Array, '*n'], axis: int) -> Float[Array, '*n']:
    """Returns ``x / max(|x|, 1e-12)`` with the L2 norm along `axis`."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


def _affine(norm: nn.Module, width: int, scaled: bool, shifted: bool) -> tuple[Array | None, Array | None]:
    """Returns the scale and the bias of a norm, None for what it has not."""
    scale = norm.param('scale', jax.nn.initializers.ones, (width,)) if scaled else None
    return scale, norm.param('bias', jax.nn.initializers.zeros, (width,)) if shifted else None


def _transformed(x: Array, scale: Array | None, bias: Array | None) -> Array:
    x = x if scale is None else x * _last_axis(scale, x)
    return x if bias is None else x + _last_axis(bias, x)


def _last_axis(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))
