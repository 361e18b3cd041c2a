"""PReLU: a rectifier that learns the slope of its negative side.

He et al., 2015, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
https://arxiv.org/abs/1502.01852. The paper's own code is not published; values and gradients are those of
torch.nn.functional.prelu. Slopes are not decayed, for decay would pull them to the plain rectifier: optimizers decay
parameters of two or more axes, and slopes have one. A network takes it by its field `act` (layers/frame/activation.py).
The initial values that go with a slope: `init.rectifier`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def prelu(x: Float[Array, '*n c'], slope: Float[Array, ' k']) -> Float[Array, '*n c']:
    """Returns ``max(0, x) + slope * min(0, x)``, with a slope for each channel (k = c), or one for all (k = 1)."""
    slope = slope.reshape((1,) * (x.ndim - 1) + (-1,))
    return jnp.where(x > 0, x, slope * x)


class PRelu(nn.Module):
    """`prelu` with slopes that are trained.

    Attributes:
        shared: whether all channels have one slope.
        start: initial value of the slopes.
    """

    shared: bool = False
    start: float = 0.25

    @nn.compact
    def __call__(self, x: Float[Array, '*n c']) -> Float[Array, '*n c']:
        """Acts on each number; returns an array of the type of `x`."""
        shape = (1 if self.shared else x.shape[-1],)
        slope = self.param('slope', jax.nn.initializers.constant(self.start), shape)
        return prelu(x, slope.astype(x.dtype))
