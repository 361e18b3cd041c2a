"""The head of a language model: logits of the next word after each element. Heads compute in float32."""

from collections.abc import Callable

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo import features as ft


class LanguageHead(nn.Module):
    """``tokens @ kernel``; the kernel is the word embedding itself where the features hold it as ``table`` (tied).

    Attributes:
        vocabulary: number of logits.
        kernel_init: initial values of the kernel, if it is not tied; by default normal with standard deviation 0.02.
    """

    vocabulary: int
    kernel_init: Callable[..., Array] = jax.nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b t k']:
        """Returns logits; `features` must hold ``tokens``."""
        tokens = features[ft.TOKENS]
        if ft.TABLE in features:
            kernel = features[ft.TABLE].T
        else:
            kernel = self.param('kernel', self.kernel_init, (tokens.shape[-1], self.vocabulary))
        return tokens.astype(kernel.dtype) @ kernel
