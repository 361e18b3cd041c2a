"""Logits of an image or a sequence from its pooled features, and `Classifier`, a backbone with a head.

A head computes in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init


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

    A head that has no parameters of its own has no entry there.

    Attributes:
        backbone: image, or sequence, -> features.
        head: features -> logits.
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(self, x: Float[Array, 'b h w c'] | ft.Sequences, *, train: bool = False) -> ft.Features:
        """Returns the backbone's features and ``logits``."""
        return self._with_logits(self.backbone(x, train=train))

    def init_state(self, batch: int) -> Any:
        """Returns a sequence backbone's state before the first element."""
        return self.backbone.init_state(batch)

    def step(self, state: Any, x: ft.Element) -> tuple[Any, ft.Features]:
        """Returns a sequence backbone's next state, and the features and ``logits`` of this element."""
        state, features = self.backbone.step(state, x)
        return state, self._with_logits(features)

    def extend(self, state: Any, x: ft.Sequences) -> tuple[Any, ft.Features]:
        """Returns a sequence backbone's state after the next elements, and their features and ``logits``."""
        state, features = self.backbone.extend(state, x)
        return state, self._with_logits(features)

    def _with_logits(self, features: ft.Features) -> ft.Features:
        return {**features, 'logits': self.head(features)}
