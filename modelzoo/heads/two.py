"""Two linear heads, one for labels and one for what a teacher says: networks that are distilled with a token or a head.

Touvron et al., 2020, "Training data-efficient image transformers & distillation through attention" (DeiT),
https://arxiv.org/abs/2012.12877, section 4. Heads compute in float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense


class TwoHeads(nn.Module):
    """The mean of two linear heads; the second one can be trained by distillation.

    The second one reads ``distilled`` of a backbone that has it (a distillation token), else ``pooled`` as the first.

    Attributes:
        num_classes: number of logits.
        kernel_init: initial values of both.
    """

    num_classes: int
    kernel_init: Callable[..., Array] = init.trunc_normal(0.02)

    @nn.compact
    def __call__(self, features: ft.Features) -> dict[str, Float[Array, 'b k']]:
        """Returns ``logits``, the mean, and of each head ``label_logits`` and ``teacher_logits``.

        Args:
            features: must hold ``pooled``.
        """
        pooled = features[ft.POOLED]
        read = {'labels': pooled, 'teacher': features.get(ft.DISTILLED, pooled)}
        dense = lambda name: Dense(self.num_classes, True, self.kernel_init, name=name)
        labels, teacher = (dense(name)(x.astype(jnp.float32)) for name, x in read.items())
        return {'logits': (labels + teacher) / 2, 'label_logits': labels, 'teacher_logits': teacher}
