"""Transformer blocks: two residual branches, a mixer and a feed-forward layer, and their norms.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; with the norms before the branches as in Wang et al., 2019,
https://arxiv.org/abs/1906.01787, or at the ends of the branches as in Liu et al., 2021,
https://arxiv.org/abs/2111.09883.
"""

from collections.abc import Callable, Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.residuals.residual import Stream, connect, initialized, run_mixer


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
    def __call__(self, s: Stream, mask: Float[Array, 'r b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        mixer_join, mlp_join = connect(self.residual, ('mixer', 'mlp'))
        y = self.norm(name='mixer_norm')(mixer_join.read(s))
        s, y = run_mixer(mixer_join, initialized(mixer_join, self.mixer)(name='mixer'), s, y, train=train)
        s = mixer_join.write(s, drop_path(y, mixer_mask))
        y = self.norm(name='mlp_norm')(mlp_join.read(s))
        return mlp_join.write(s, drop_path(initialized(mlp_join, self.mlp)(name='mlp')(y), mlp_mask))


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
    def __call__(self, s: Stream, mask: Float[Array, 'r b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        mixer_join, mlp_join = connect(self.residual, ('mixer', 'mlp'))
        mixer = initialized(mixer_join, self.mixer)(name='mixer')
        s, y = run_mixer(mixer_join, mixer, s, mixer_join.read(s), train=train)
        s = mixer_join.write(s, drop_path(self.norm(name='mixer_norm')(y), mixer_mask))
        y = self.norm(name='mlp_norm')(initialized(mlp_join, self.mlp)(name='mlp')(mlp_join.read(s)))
        return mlp_join.write(s, drop_path(y, mlp_mask))


def in_turn(
    blocks: Sequence[nn.Module], s: Stream, masks: Float[Array, 'l *r b'] | None, *, train: bool, remat: bool
) -> Stream:
    """Passes the stream through blocks that may differ from each other and hold batch statistics.

    Args:
        blocks: bound and named modules; called as ``block(s, mask, train=train)``.
        s: the stream.
        masks: from `drop.path_masks`, one entry per block.
        train: passed to the blocks.
        remat: whether to recompute the activations of each block in the backward pass.
    """
    run = lambda block, s, mask: block(s, mask, train=train)
    run = nn.remat(run) if remat else run
    for index, block in enumerate(blocks):
        s = run(block, s, None if masks is None else masks[index])
    return s
