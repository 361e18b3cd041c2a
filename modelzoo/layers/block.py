"""The blocks that most token networks are made of: two residual branches and their norms.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; with the norms before the branches as in Wang et al., 2019,
https://arxiv.org/abs/1906.01787, or at the branches' ends as in Liu et al., 2021, https://arxiv.org/abs/2111.09883.
"""

from collections.abc import Callable, Sequence

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


class PostNorm(nn.Module):
    """``s += norm(mixer(s))``, then ``s += norm(mlp(s))``.

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
        y = self.norm(name='mixer_norm')(self.mixer(name='mixer')(join.read(s), train=train))
        s = join.write(s, drop_path(y, mixer_mask))
        join = self.residual(name='mlp_residual')
        y = self.norm(name='mlp_norm')(self.mlp(name='mlp')(join.read(s)))
        return join.write(s, drop_path(y, mlp_mask))


def in_turn(blocks: Sequence[nn.Module], s: Array, masks: Float[Array, 'l *r b'] | None, *, train: bool, remat: bool
            ) -> Array:
    """Passes the stream through blocks that may differ from each other and hold batch statistics.

    Args:
        blocks: bound and named; called as ``block(s, mask, train=train)``.
        s: the stream.
        masks: from `drop.path_masks`, one entry a block.
        train: handed on.
        remat: recompute a block's activations in the backward pass.
    """
    run = lambda block, s, mask: block(s, mask, train=train)
    run = nn.remat(run) if remat else run
    for index, block in enumerate(blocks):
        s = run(block, s, None if masks is None else masks[index])
    return s
