"""PyramidNet: residual networks whose width grows at every block.

Han et al., 2016, "Deep Pyramidal Residual Networks", https://arxiv.org/abs/1610.02915.
References: https://github.com/jhkim89/PyramidNet (the authors', Torch7, no licence) and
https://github.com/dyhan0920/PyramidNet-PyTorch (an author's, MIT), whose parameter names these are.

The additive network of the paper, which is the better of its two. Details of the published code, kept here:
  * the stem for CIFAR has a norm and no ReLU, and a stage begins with its first block's norm;
  * where a shortcut halves the resolution it takes 2x2 means; missing channels are zeros behind the others;
  * a width is rounded from a sum that grows by alpha over the number of blocks; where that ends in .5, the PyTorch code
    rounds to the even number and the Torch7 code up. No published network has such a width.
We differ in the initial values of a head, which are those of modelzoo/heads, and in that there is no dropout of 0.5
before the head, which the paper has for alpha 450 on ImageNet.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, Stem
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, halve
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.residuals.residual import Add


class Basic(nn.Module):
    """``shortcut(x) + norm(conv(relu(norm(conv(norm(x))))))`` with two 3x3 convolutions.

    Attributes:
        features: output channels, at least those of the input.
        stride: stride of the first convolution.
        norm: factory of the normalization.
        dtype: compute type.
    """

    expansion = 1
    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, self.features, 3, norm=self.norm, dtype=self.dtype)
        y = self.norm(dtype=self.dtype, name='norm')(x, train=train)
        y = nn.relu(conv(stride=self.stride, name='conv1')(y, train=train))
        y = drop_path(conv(name='conv2')(y, train=train), mask)
        return Add(name='residual').write(_widened(x, self), y)


class Bottleneck(nn.Module):
    """``shortcut(x) + branch(x)``: norm, then convolutions 1x1 to a quarter of the features, 3x3, 1x1 back with norms.

    Attributes:
        features, norm, dtype: as in `Basic`.
        stride: stride of the 3x3 convolution.
    """

    expansion = 4
    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        width = self.features // self.expansion
        y = self.norm(dtype=self.dtype, name='norm')(x, train=train)
        y = nn.relu(conv(width, 1, name='conv1')(y, train=train))
        y = nn.relu(conv(width, 3, self.stride, name='conv2')(y, train=train))
        y = drop_path(conv(self.features, 1, name='conv3')(y, train=train), mask)
        return Add(name='residual').write(_widened(x, self), y)


def _widened(x: Float[Array, 'b h w c'], block: Basic | Bottleneck) -> Float[Array, 'b h2 w2 d']:
    """Returns the shortcut of a block, which has no parameters."""
    x = halve(x) if block.stride == 2 else x
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, block.features - x.shape[-1]))).astype(block.dtype)


class PyramidNet(ft.PyramidBackbone):
    """The network; each stage but the first halves the resolution, and each block adds as many channels.

    Attributes:
        depths: blocks of each stage.
        alpha: channels that all blocks together add to those of the stem.
        bottleneck: whether blocks are `Bottleneck`, with four times the channels of the sum, or `Basic`.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: 4 for ImageNet, 1 for CIFAR.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (3, 24, 36, 3)
    alpha: float = 300.0
    bottleneck: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def _block(self) -> type[Basic] | type[Bottleneck]:
        return Bottleneck if self.bottleneck else Basic

    @property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Output channels of each block, by stage."""
        step, width, widths = self.alpha / sum(self.depths), float(self.stem_width), []
        for depth in self.depths:
            stage = []
            for _ in range(depth):
                width += step
                stage.append(round(width) * self._block.expansion)
            widths.append(tuple(stage))
        return tuple(widths)

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 for ImageNet."""
        return tuple(self.stem_stride * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Those of the last block of each stage."""
        return tuple(stage[-1] for stage in self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm."""
        return pyramid.layers(self.depths, ['norm'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` and so on, ``map`` and ``pooled``.

        Raises:
            ValueError: alpha is negative.
        """
        if self.alpha < 0:
            raise ValueError(f'PyramidNet.alpha is {self.alpha}: blocks add channels, so it must be at least 0.')
        if self.stem_stride == 1:
            stem = ConvNorm(self.stem_width, 3, norm=self.norm, dtype=self.dtype, name='stem')(x, train=train)
        else:
            stem = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        block = functools.partial(self._block, norm=self.norm, dtype=self.dtype)
        stages = [
            [functools.partial(block, features=width, stride=1 if i or not s else 2) for i, width in enumerate(widths)]
            for s, widths in enumerate(self.widths)
        ]
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}


def _cifar(layers: int, alpha: int, bottleneck: bool = True) -> PyramidNet:
    """The network for CIFAR: three stages; so many layers are two of the stem and the head, and those of the blocks."""
    depth = (layers - 2) // (9 if bottleneck else 6)
    return PyramidNet((depth,) * 3, float(alpha), bottleneck, stem_width=16, stem_stride=1)


# CIFAR: tables 3 and 4. ImageNet: table 5, and the size of the PyTorch code.
VARIANTS = {
    **{f'pyramidnet110_a{alpha}_cifar': _cifar(110, alpha, bottleneck=False) for alpha in (48, 84, 270)},
    **{f'pyramidnet164_a{alpha}_cifar': _cifar(164, alpha) for alpha in (48, 84, 270)},
    'pyramidnet200_a240_cifar': _cifar(200, 240),
    'pyramidnet236_a220_cifar': _cifar(236, 220),
    'pyramidnet272_a200_cifar': _cifar(272, 200),
    'pyramidnet101_a360': PyramidNet((3, 4, 23, 3), 360.0),
    'pyramidnet200_a300': PyramidNet(),
    'pyramidnet200_a450': PyramidNet(alpha=450.0),
    'pyramidnet_test': PyramidNet((2, 1), 12.0, stem_width=8),
    'pyramidnet_cifar_test': PyramidNet((1, 2), 9.0, bottleneck=False, stem_width=8, stem_stride=1),
}

# Parameters as the authors' table has them, cut to one digit; accuracies of ImageNet are of one crop of 224 pixels.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1610.02915')
PUBLISHED = {
    'pyramidnet110_a48_cifar': _FIGURES((32, 32), params=1.7),
    'pyramidnet110_a84_cifar': _FIGURES((32, 32), params=3.8),
    'pyramidnet110_a270_cifar': _FIGURES((32, 32), params=28.3),
    'pyramidnet164_a48_cifar': _FIGURES((32, 32), params=1.7),
    'pyramidnet164_a84_cifar': _FIGURES((32, 32), params=3.8),
    'pyramidnet164_a270_cifar': _FIGURES((32, 32), params=27.0),
    'pyramidnet200_a240_cifar': _FIGURES((32, 32), params=26.6),
    'pyramidnet236_a220_cifar': _FIGURES((32, 32), params=26.8),
    'pyramidnet272_a200_cifar': _FIGURES((32, 32), params=26.0),
    'pyramidnet101_a360': _FIGURES((224, 224), params=42.5, top1=78.02),
    'pyramidnet200_a300': _FIGURES((224, 224), params=62.1, top1=79.53),
    'pyramidnet200_a450': _FIGURES((224, 224), params=116.4, top1=79.89),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
NAMES = {
    'PyramidNet': (
        ('conv1.weight', 'backbone/stem/conv/kernel'),
        *((f'bn1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(
            pair
            for stage in range(4)
            for there, here in [(f'layer{stage + 1}.{{i}}', f'backbone/stage{stage}/block{{i:02d}}')]
            for pair in (
                *((f'{there}.bn1.{a}', f'{here}/norm/{b}') for a, b in _NORM),
                *((f'{there}.conv{k}.weight', f'{here}/conv{k}/conv/kernel') for k in (1, 2, 3)),
                *((f'{there}.bn{k + 1}.{a}', f'{here}/conv{k}/norm/{b}') for k in (1, 2, 3) for a, b in _NORM),
            )
        ),
        *((f'bn_final.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
