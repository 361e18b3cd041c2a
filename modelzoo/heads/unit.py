"""A linear head whose class vectors have length 1 (last-layer normalization), as certified networks have it.

Singla et al., 2022, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100",
https://arxiv.org/abs/2108.04062. Heads compute in float32.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.features import POOLED, Features
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.norms.norm import l2_normalize


class UnitLinear(nn.Module):
    """``pooled @ (kernel / |kernel|) + bias``, each column of the kernel divided by its length.

    Initial values are torch's.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int

    def __call__(self, features: Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``."""
        kernel, bias = self._parameters(features[POOLED].shape[-1])
        return features[POOLED].astype(kernel.dtype) @ l2_normalize(kernel, axis=0) + bias[None]

    def columns(self, channels: int) -> Float[Array, 'd k']:
        """Returns the class vectors, of length 1, of a head for so many channels."""
        return l2_normalize(self._parameters(channels)[0], axis=0)

    @nn.compact
    def _parameters(self, channels: int) -> tuple[Float[Array, 'd k'], Float[Array, ' k']]:
        uniform = init.uniform_fan_in(channels)
        kernel = self.param('kernel', uniform, (channels, self.num_classes))
        return kernel, self.param('bias', uniform, (self.num_classes,))
