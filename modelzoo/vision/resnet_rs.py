"""ResNet-RS: ResNet-D with squeeze-and-excitation, in sizes by scaling rules.

Bello et al., 2021, "Revisiting ResNets: Improved Training and Scaling Strategies", https://arxiv.org/abs/2103.07579.
He et al., 2018, "Bag of Tricks for Image Classification with Convolutional Neural Networks",
https://arxiv.org/abs/1812.01187, for ResNet-D: three 3x3 convolutions in the stem, and shortcuts that average before
they project.
References: timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0), whose parameter names these
are, and the authors' https://github.com/tensorflow/tpu, models/official/resnet/resnet_rs (Apache-2.0).

Details of the published code, kept here: a 3x3 convolution of stride 2 with norm and ReLU is in the place of the stem's
pooling; squeeze-and-excitation is behind the last norm of a branch, whose scale is initially 0. The paper's rules for
sizes are in `VARIANTS`: deeper for long training, and an image size that grows slowly. Where we differ: a head has the
initial values of modelzoo/heads, and there is no dropout before it.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import AverageProjection, ConvNorm
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class Stem(nn.Module):
    """Four 3x3 convolutions, each with norm and ReLU: three as in ResNet-D, and one in the place of its pooling.

    Attributes:
        features: output channels; the first two convolutions have half of them.
        stride: 4, or 1 for small images: then no convolution has a stride.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        if self.stride not in (1, 4):
            raise ValueError(f'stem_stride is {self.stride}: use 4 for images of ImageNet size or 1 for small ones.')
        step = 2 if self.stride == 4 else 1
        layers = ((self.features // 2, step), (self.features // 2, 1), (self.features, 1), (self.features, step))
        for index, (features, stride) in enumerate(layers):
            conv = ConvNorm(features, 3, stride, self.norm, self.dtype, name=f'conv{index}')
            x = nn.relu(conv(x, train=train))
        return x


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + squeeze(branch(x)))``: convolutions 1x1 to a quarter of the channels, 3x3, 1x1 back.

    Attributes:
        features: output channels.
        stride: of the 3x3 convolution; a shortcut averages so many pixels and projects.
        squeeze: factory of squeeze-and-excitation.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 0.25)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        width = self.features // 4
        y = nn.relu(conv(width, 1, name='conv1')(x, train=train))
        y = nn.relu(conv(width, 3, self.stride, name='conv2')(y, train=train))
        from_zero = functools.partial(self.norm, scale_init=jax.nn.initializers.zeros)
        y = ConvNorm(self.features, 1, norm=from_zero, dtype=self.dtype, name='conv3')(y, train=train)
        y = self.squeeze(dtype=self.dtype, name='squeeze')(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = AverageProjection(self.features, self.stride, self.norm, self.dtype, name='shortcut')
            x = shortcut(x, train=train)
        return nn.relu(x + drop_path(y, mask))


class ResNetRS(ft.HalvingBackbone):
    """The network; each stage but the first halves the resolution.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        squeeze: see `Bottleneck`.
        norm: factory of every normalization.
        stem_width: channels after the stem.
        stem_stride: 4, or 1 for small images; see `Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks of a stage, except its first, share one compiled body.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 0.25)
    norm: Callable[..., nn.Module] = BatchNorm
    stem_width: int = 64
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return pyramid.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        stem = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        block = functools.partial(Bottleneck, squeeze=self.squeeze, norm=self.norm, dtype=self.dtype)
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train, scan=self.scan)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}


# The sizes of the authors' configs; the image size of each is that of its training.
VARIANTS = {
    'resnetrs50': ResNetRS(),
    'resnetrs101': ResNetRS((3, 4, 23, 3)),
    'resnetrs152': ResNetRS((3, 8, 36, 3)),
    'resnetrs200': ResNetRS((3, 24, 36, 3)),
    'resnetrs270': ResNetRS((4, 29, 53, 4)),
    'resnetrs350': ResNetRS((4, 36, 72, 4)),
    'resnetrs420': ResNetRS((4, 44, 87, 4)),
    'resnetrs_test': ResNetRS((2,), (32,), stem_width=16),
}

# Parameters and accuracies are timm's of the authors' weights, at the size of its own evaluation.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/2103.07579')
PUBLISHED = {
    'resnetrs50': _FIGURES((160, 160), params=35.7),
    'resnetrs101': _FIGURES((192, 192), params=63.6),
    'resnetrs152': _FIGURES((256, 256), params=86.6),
    'resnetrs200': _FIGURES((256, 256), params=93.2),
    'resnetrs270': _FIGURES((256, 256), params=129.9),
    'resnetrs350': _FIGURES((288, 288), params=164.0),
    'resnetrs420': _FIGURES((320, 320), params=191.9),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_STEM = (('conv1.0', 'conv1.1', 0), ('conv1.3', 'conv1.4', 1), ('conv1.6', 'bn1', 2), ('maxpool.0', 'maxpool.1', 3))


def _block_names(there: str, here: str) -> list[tuple]:
    return [
        (f'{there}.conv{{k}}.weight', f'{here}/conv{{k}}/conv/kernel'),
        *((f'{there}.bn{{k}}.{a}', f'{here}/conv{{k}}/norm/{b}') for a, b in _NORM),
        (f'{there}.downsample.1.weight', f'{here}/shortcut/conv/kernel'),
        *((f'{there}.downsample.2.{a}', f'{here}/shortcut/norm/{b}') for a, b in _NORM),
        *((f'{there}.se.{a}.weight', f'{here}/squeeze/{b}/kernel', 2) for a, b in (('fc1', 'down'), ('fc2', 'up'))),
        *((f'{there}.se.{a}.bias', f'{here}/squeeze/{b}/bias') for a, b in (('fc1', 'down'), ('fc2', 'up'))),
    ]


NAMES = {
    'ResNetRS': (
        *((f'{conv}.weight', f'backbone/stem/conv{k}/conv/kernel') for conv, _, k in _STEM),
        *((f'{norm}.{a}', f'backbone/stem/conv{k}/norm/{b}') for _, norm, k in _STEM for a, b in _NORM),
        *(
            pair
            for stage in range(4)
            for pair in _block_names(f'layer{stage + 1}.{{i}}', f'backbone/stage{stage}/block{{i:02d}}')
        ),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
