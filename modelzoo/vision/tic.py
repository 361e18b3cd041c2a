"""TiC: a pyramid of convolutions that attend, MSA-Conv, and feed-forward layers.

Zhang et al., 2023, "TiC: Exploring Vision Transformer in Convolution", https://arxiv.org/abs/2310.04134. The published
code, https://github.com/zs670980918/MSA-Conv (no licence file), commit 2d96f54, holds the layer alone
(layers/attention/msa_conv.py) and no network. So what stands around it is our choice: stages of the widths and depths
of Swin-T, blocks ``x + msa_conv(norm(x))`` and ``x + mlp(norm(x))``, and a matrix on squares of pixels between stages.
The convolutions have one kernel per channel, which the paper calls depthwise, and heads of 16 channels, which are six
or more as cyclic shifts want it.

No table of positions depends on the image size: a network takes images of any other without learning anew.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import msa_conv
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add


class Merge(nn.Module):
    """One matrix on each square of pixels, and a normalization.

    Attributes:
        features: output channels.
        side: of the squares.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    side: int
    norm: Callable[..., nn.Module] = LayerNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns ``ceil(h / side) x ceil(w / side)`` pixels."""
        x = Patches(self.features, self.side, dtype=self.dtype, name='conv')(x)
        return self.norm(dtype=self.dtype, name='norm')(x)


class TiC(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths, heads: channels, blocks and heads of each stage.
        window: odd side of the windows and of the kernels.
        dilation: distance in pixels between the places of a window.
        shifted, pooled: whether heads look into several directions, and at the map averaged over 2x2; see
            layers/attention/msa_conv.py.
        ratio: hidden width over width of the feed-forward layers.
        stem_stride: stride of the first stage, 4, or less for small images; each further stage doubles it.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (6, 12, 24, 48)
    window: int = 7
    dilation: int = 1
    shifted: bool = True
    pooled: bool = True
    ratio: float = 4.0
    stem_stride: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = LayerNorm
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; what merges pixels belongs to the block before it."""
        between = [f'merge{index}' for index in range(1, len(self.depths))]
        return (('merge0',), *map(tuple, trunk.stage_paths(self.depths, between)), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map``, the last one normalized, and ``pooled``, its mean."""
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            side = 2 if index else self.stem_stride
            x = Merge(self.widths[index], side, self.norm, self.dtype, name=f'merge{index}')(x)
            features.setdefault(ft.STEM, x)
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = self.norm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stage(self, index: int) -> trunk.Stage:
        width = self.widths[index]
        mixer = functools.partial(
            msa_conv.MSAConv,
            width,
            self.window,
            padding=self.window // 2,
            dtype=self.dtype,
            groups=width,
            heads=self.heads[index],
            dilation=self.dilation,
            shifted=self.shifted,
            pooled=self.pooled,
        )
        mlp = functools.partial(self.mlp, self.ratio, dtype=self.dtype)
        block = functools.partial(PreNorm, functools.partial(self.norm, dtype=self.dtype), mixer, mlp, self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


VARIANTS = {
    'tic_tiny': TiC(),
    'tic_test': TiC((20, 20), (1, 1), (5, 5), window=3, stem_stride=2),
}

# Its authors have published no network.
PUBLISHED: dict[str, ft.Published] = {}

# No weights were published: names are ours, in the layout of PyTorch, and within a convolution those of its layer.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BLOCK = (
    *((f'{norm}.{a}', f'{norm}/{b}') for norm in ('mixer_norm', 'mlp_norm') for a, b in _NORM),
    *((f'mixer.{there}', f'mixer/{here}', *axes) for there, here, *axes in msa_conv.NAMES),
    *((f'mlp.{name}.{a}', f'mlp/{name}/{b}') for name in ('up', 'down') for a, b in _AFFINE),
)
NAMES = {
    'TiC': (
        *((f'merge{{s}}.conv.{a}', f'backbone/merge{{s}}/conv/{b}') for a, b in _AFFINE),
        *((f'merge{{s}}.norm.{a}', f'backbone/merge{{s}}/norm/{b}') for a, b in _NORM),
        *((f'stage{{s}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}', *axes) for a, b, *axes in _BLOCK),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
