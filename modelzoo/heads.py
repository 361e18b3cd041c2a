"""Heads: features -> logits, and `Classifier`, a backbone with a head as papers publish it.

A head reads the features it needs by key, so that a method need not know which. It computes in float32.
"""

from collections.abc import Callable

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from modelzoo import features as ft
from modelzoo.layers import init


class Linear(nn.Module):
    """``pooled @ kernel + bias``.

    Attributes:
        num_classes: number of logits.
        kernel_init: normal of standard deviation 0.02, as most vision transformers.
    """

    num_classes: int
    kernel_init: Callable[..., Array] = init.trunc_normal(0.02)

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``."""
        pooled = features[ft.POOLED]
        kernel = self.param('kernel', self.kernel_init, (pooled.shape[-1], self.num_classes))
        bias = self.param('bias', jax.nn.initializers.zeros, (self.num_classes,))
        return pooled.astype(kernel.dtype) @ kernel + bias[None]


class Classifier(nn.Module):
    """A backbone and a head under one roof; parameters are ``{'backbone': ..., 'head': ...}``.

    Attributes:
        backbone: image -> features.
        head: features -> logits.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns the backbone's features and ``logits``."""
        features = self.backbone(x, train=train)
        return {**features, 'logits': self.head(features)}
