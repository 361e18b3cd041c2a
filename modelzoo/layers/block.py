"""The block that most token networks are made of: normalization first, two residual branches.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, with the norms before the branches as in Wang et al., 2019,
https://arxiv.org/abs/1906.01787.
"""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from modelzoo.layers.drop import drop_path


class PreNorm(nn.Module):
    """``s += mixer(norm(s))``, then ``s += mlp(norm(s))``.

    Attributes:
        norm, mixer, mlp, residual: factories of the parts.
    """

    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    residual: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, s: Array, mask: Float[Array, 'r b'] | None, *, train: bool = False) -> Array:
        """Passes the stream on; `mask` is this block's row of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        join = self.residual(name='mixer_residual')
        y = self.norm(name='mixer_norm')(join.read(s))
        s = join.write(s, drop_path(self.mixer(name='mixer')(y, train=train), mixer_mask))
        join = self.residual(name='mlp_residual')
        y = self.norm(name='mlp_norm')(join.read(s))
        return join.write(s, drop_path(self.mlp(name='mlp')(y), mlp_mask))
