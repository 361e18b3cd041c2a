"""Res2Net: a bottleneck whose 3x3 convolution is split into small ones that are connected in series.

Gao et al., 2019, "Res2Net: A New Multi-scale Backbone Architecture", https://arxiv.org/abs/1904.01169.
References: https://github.com/Res2Net/Res2Net-PretrainedModels, and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), with the same parameter names.

The channels after the first 1x1 convolution are split into s parts x_1, ..., x_s:

    y_1 = K_1(x_1),    y_i = K_i(x_i + y_{i-1}),    y_s = x_s.

Details of the published code that are not in the paper, kept here:
  * the part without a convolution is the last one; in the paper it is the first;
  * in the first block of a stage the parts are not connected, and the last part is averaged over 3x3 pixels, with the
    padding counted as zeros;
  * the scale of the last norm of each branch is initially 0.
We differ in the initial values of a head, which are those of modelzoo/heads.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, Stem, projection
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import avg_pool, global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class Bottle2neck(nn.Module):
    """``relu(shortcut(x) + branch(x))`` with the branch of the paper.

    Attributes:
        features: output channels.
        stride: stride of the small convolutions.
        scales: number of parts.
        base_width: a part has ``features / 4 * base_width / 64`` channels in each group.
        groups: groups of the small convolutions (Res2NeXt).
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    scales: int = 4
    base_width: int = 26
    groups: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        first = self.stride != 1 or x.shape[-1] != self.features
        width = self.features // 4 * self.base_width // 64 * self.groups
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        y = nn.relu(conv(width * self.scales, 1, norm=self.norm, name='conv1')(x, train=train))
        y = self._parts(jnp.split(y, self.scales, axis=-1), first, train=train)
        last_norm = functools.partial(self.norm, scale_init=jax.nn.initializers.zeros)
        y = conv(self.features, 1, norm=last_norm, name='conv3')(y, train=train)
        if first:
            x = projection(self.features, self.stride, self.norm, self.dtype, 'shortcut')(x, train=train)
        return nn.relu(x.astype(y.dtype) + drop_path(y, mask))

    def _parts(
        self, parts: Sequence[Float[Array, 'b h w c']], first: bool, *, train: bool
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the concatenated outputs of the small convolutions; `first` if the block changes the shape."""
        outputs = []
        for index, part in enumerate(parts[:-1]):
            if index and not first:
                part = part + outputs[-1]
            conv = ConvNorm(part.shape[-1], 3, self.stride, self.norm, self.dtype, self.groups, name=f'scale{index}')
            outputs.append(nn.relu(conv(part, train=train)))
        last = avg_pool(parts[-1], 3, self.stride, 1) if first else parts[-1]
        return jnp.concatenate([*outputs, last], axis=-1)


class Res2Net(ft.HalvingBackbone):
    """A ResNet of these blocks.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        scales, base_width, groups: those of every block; see `Bottle2neck`.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: 4 for ImageNet, 1 for small images; see `conv_norm.Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    scales: int = 4
    base_width: int = 26
    groups: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return pyramid.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        block = functools.partial(
            Bottle2neck,
            scales=self.scales,
            base_width=self.base_width,
            groups=self.groups,
            norm=self.norm,
            dtype=self.dtype,
        )
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}


# Tables 1 and 3 of the paper: "26w x 4s" is a base width of 26 and 4 parts.
VARIANTS = {
    'res2net50_26w_4s': Res2Net(),
    'res2net50_48w_2s': Res2Net(scales=2, base_width=48),
    'res2net50_14w_8s': Res2Net(scales=8, base_width=14),
    'res2net50_26w_6s': Res2Net(scales=6),
    'res2net50_26w_8s': Res2Net(scales=8),
    'res2net101_26w_4s': Res2Net((3, 4, 23, 3)),
    'res2next50': Res2Net(base_width=4, groups=8),
    'res2net_test': Res2Net((2, 1), (32, 64), scales=3, base_width=32, stem_width=16),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/1904.01169', (224, 224))
PUBLISHED = {
    'res2net50_26w_4s': _PAPER(macs=4.2, top1=77.99),
    'res2net50_48w_2s': _PAPER(macs=4.2, top1=77.45),
    'res2net50_14w_8s': _PAPER(macs=4.2, top1=78.14),
    'res2net50_26w_6s': _PAPER(macs=6.3, top1=78.57),
    'res2net50_26w_8s': _PAPER(macs=8.3, top1=79.20),
    'res2net101_26w_4s': _PAPER(macs=8.1, top1=79.19),
    'res2next50': _PAPER(macs=4.2, top1=78.24),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


def _block_names(there: str, here: str) -> tuple[tuple[str, str], ...]:
    return (
        (f'{there}.conv{{k}}.weight', f'{here}/conv{{k}}/conv/kernel'),
        *((f'{there}.bn{{k}}.{a}', f'{here}/conv{{k}}/norm/{b}') for a, b in _NORM),
        (f'{there}.convs.{{k}}.weight', f'{here}/scale{{k}}/conv/kernel'),
        *((f'{there}.bns.{{k}}.{a}', f'{here}/scale{{k}}/norm/{b}') for a, b in _NORM),
        (f'{there}.downsample.0.weight', f'{here}/shortcut/conv/kernel'),
        *((f'{there}.downsample.1.{a}', f'{here}/shortcut/norm/{b}') for a, b in _NORM),
    )


NAMES = {
    'Res2Net': (
        ('conv1.weight', 'backbone/stem/conv/kernel'),
        *((f'bn1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(
            pair
            for stage in range(4)
            for pair in _block_names(f'layer{stage + 1}.{{i}}', f'backbone/stage{stage}/block{{i:02d}}')
        ),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
