"""HybridNorm: queries, keys and values are normalized in attention, and the stream before the feed-forward layer.

Zhuo et al., 2025, "HybridNorm: Towards Stable and Efficient Transformer Training via Hybrid Normalization",
https://arxiv.org/abs/2503.04598. Reference: https://github.com/BryceZhuo/HybridNorm at f0dd605,
dense_model/olmo/model.py (Apache-2.0, of OLMo), read for facts. A ViT takes `HybridNorm` as its ``block`` and the
sequence trunk `HybridBlock`, both with ``mixer={'qkv_norm': RMSNorm}``: a norm each of queries, keys and values over
the channels of a head, with one scale for all heads, before rotary positions.

HybridNorm* has an ordinary first block, ``first_block`` of both networks: `frame.block.PreNorm` and `mixer.Block`, with
the same attention. The paper's networks with experts have these blocks with experts in the place of the feed-forward
layer, which is ``mlp`` here. Its norms are RMSNorm with epsilon 1e-5.
"""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.mixers.mixer import Block
from longview.modelzoo.layers.residuals.residual import Stream, connect, initialized, run_mixer


class HybridNorm(nn.Module):
    """``s += mixer(s)``, then ``s = norm(s)`` and ``s += mlp(s)``.

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
        s = mlp_join.carry(mixer_join.write(s, drop_path(y, mixer_mask)), self.norm(name='mlp_norm'))
        y = initialized(mlp_join, self.mlp)(name='mlp')(mlp_join.read(s))
        return mlp_join.write(s, drop_path(y, mlp_mask))


class HybridBlock(Block):
    """The same for sequence mixers, which also read step by step; `pre_norm` has no meaning here."""

    def _norm(self, branch: str) -> nn.Module | None:
        return None if branch == 'mixer' else super()._norm(branch)

    def _before(self, s: Stream, join: nn.Module, norm: nn.Module | None) -> tuple[Stream, Array]:
        s = s if norm is None else join.carry(s, norm)
        return s, join.read(s)

    def _after(self, s: Stream, y: Array, join: nn.Module, norm: nn.Module | None) -> Stream:
        return join.write(s, y)
