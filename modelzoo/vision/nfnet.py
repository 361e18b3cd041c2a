"""Networks without normalization: NF-ResNet and NFNet.

Brock, De and Smith, 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
https://arxiv.org/abs/2101.08692. Brock, De, Smith and Simonyan, 2021, "High-Performance Large-Scale Image Recognition
Without Normalization", https://arxiv.org/abs/2102.06171. Reference: timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), which has DeepMind's published weights
(https://github.com/google-deepmind/deepmind-research, nfnets, Apache-2.0).

Kernels are standardized (layers/norms/weight_standardization.py), and each block divides its input by its analytic
standard deviation:

    x <- shortcut + alpha * scale * branch(act(x) / sqrt(v)),    v <- v + alpha^2,

where v is reset to 1 in the first block of each stage, before the addition.

Details of the published code that are not in the papers, kept here:
  * a projection reads the scaled activation, after 2x2 average pooling where the resolution changes;
  * NFNets double the output of squeeze-and-excitation and multiply each activation by its gamma; NF-ResNets have gamma
    in the kernels;
  * NFNets have TensorFlow's padding, which is uneven at stride 2;
  * NF-ResNets have no activation between stem and pooling, and in place of SkipInit the scales of their last 1x1
    convolutions are initially 0.
We differ from DeepMind's Haiku code as timm does: GELU is exact, and an epsilon is added to the variance of a kernel,
which is not clipped. There is no dropout before the head. `nfnet_l0` and those with efficient channel attention
(https://arxiv.org/abs/1910.03151) are timm's own: narrower bottlenecks and groups, SiLU with gamma in the kernels, no
SkipInit.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads import Linear
from longview.modelzoo.layers.convolutions.conv_norm import stem_conv
from longview.modelzoo.layers.convolutions.efficient_attention import EfficientAttention
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import pyramid, variants
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, halve, max_pool
from longview.modelzoo.layers.norms.weight_standardization import ScaledConv

# The factor after each activation that keeps the variance of a standard normal input.
GELU_GAMMA, RELU_GAMMA, SILU_GAMMA = 1.7015043497085571, 1.7139588594436646, 1.7881293296813965


def scaled_gelu(x: Array) -> Array:
    """GELU times its gamma."""
    return nn.gelu(x, approximate=False) * GELU_GAMMA


class PoolStem(nn.Module):
    """One convolution, directly followed by max-pooling for stride 4.

    Attributes:
        features: output channels.
        stride: 4 for a 7x7 convolution, or 1 for a 3x3 convolution on small images.
        conv: factory of the convolution.
        activation: unused, for the same signature as `DeepStem`.
        dtype: compute type.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    activation: Callable[[Array], Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        kernel_size, stride = stem_conv(self.stride)
        x = self.conv(self.features, kernel_size, stride, dtype=self.dtype, name='conv')(x)
        return max_pool(x, 3, 2, 1) if stride == 2 else x


class DeepStem(nn.Module):
    """Four 3x3 convolutions with activations between them; their widths are 1/8, 1/4, 1/2 and all of the features.

    Attributes:
        features, conv, dtype: as in `PoolStem`.
        stride: 4 (2 in the first and 2 in the last convolution), or 1 for small images.
        activation: between two convolutions.
    """

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    activation: Callable[[Array], Array]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        _, step = stem_conv(self.stride)
        for index, stride in enumerate((step, 1, 1, step)):
            width = self.features // 2 ** (3 - index)
            x = self.activation(x) if index else x
            x = self.conv(width, 3, stride, dtype=self.dtype, name=f'conv{index + 1}')(x)
        return x


class Block(nn.Module):
    """A bottleneck without normalization.

    Attributes:
        features: output channels.
        stride: stride of the first 3x3 convolution.
        variance: analytic variance of the input.
        alpha: weight of the branch.
        ratio: channels of the 3x3 convolutions over the features.
        group_size: channels per group of the 3x3 convolutions; None for one group.
        spatial: number of 3x3 convolutions, 1 or 2.
        squeeze: factory of channel attention after the last convolution, whose output is doubled; None for none.
        skip_init: whether the branch has a learned scalar, initially 0 (SkipInit); else the scale of its last
            convolution is initially 0.
        conv: factory of every convolution.
        activation: before each convolution.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    variance: float = 1.0
    alpha: float = 0.2
    ratio: float = 0.25
    group_size: int | None = None
    spatial: int = 1
    squeeze: Callable[..., nn.Module] | None = None
    skip_init: bool = False
    conv: Callable[..., nn.Module] = functools.partial(ScaledConv, gamma=RELU_GAMMA)
    activation: Callable[[Array], Array] = nn.relu
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`.

        Raises:
            ValueError: there are fewer channels than `group_size`.
        """
        del train
        conv = functools.partial(self.conv, dtype=self.dtype)
        y = self.activation(x) * self.variance**-0.5
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, name='shortcut')(halve(y) if self.stride == 2 else y)
        y = self._spatial(conv(self._width(), 1, name='conv1')(y))
        last_scale = jax.nn.initializers.ones if self.skip_init else jax.nn.initializers.zeros
        y = conv(self.features, 1, scale_init=last_scale, name='conv3')(self.activation(y))
        if self.squeeze is not None:
            y = 2 * self.squeeze(dtype=self.dtype, name='squeeze')(y)
        if self.skip_init:
            y = y * self.param('skip_scale', jax.nn.initializers.zeros, ()).astype(self.dtype)
        return x + self.alpha * drop_path(y, mask)

    def _width(self) -> int:
        width = int(self.features * self.ratio)
        if self.group_size is None:
            return width
        if width < self.group_size:
            raise ValueError(
                f'{self.features} features leave {width} channels, fewer than a group of '
                f'{self.group_size}: widen the stage or lower group_size.'
            )
        return width // self.group_size * self.group_size

    def _spatial(self, y: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
        width = self._width()
        groups = 1 if self.group_size is None else width // self.group_size
        for index, name in enumerate(('conv2', 'conv2b')[: self.spatial]):
            conv = self.conv(width, 3, 1 if index else self.stride, groups=groups, dtype=self.dtype, name=name)
            y = conv(self.activation(y))
        return y


class NFNet(ft.HalvingBackbone):
    """A pyramid of these blocks.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        block: factory of a block.
        stem: factory of the stem: `PoolStem` or `DeepStem`.
        stem_width: channels after the stem.
        stem_stride: 4, or 1 for small images.
        final_width: channels of a last 1x1 convolution; None for none.
        alpha: weight of each branch.
        conv, activation: those of the stem and of every block.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    block: Callable[..., nn.Module] = Block
    stem: Callable[..., nn.Module] = PoolStem
    stem_width: int = 64
    stem_stride: int = 4
    final_width: int | None = None
    alpha: float = 0.2
    conv: Callable[..., nn.Module] = functools.partial(ScaledConv, gamma=RELU_GAMMA)
    activation: Callable[[Array], Array] = nn.relu
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last convolution."""
        return pyramid.layers(self.depths, ['final'] if self.final_width else [])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``; an activation precedes the last two."""
        conv, activation = self.conv, self.activation
        stem = self.stem(self.stem_width, self.stem_stride, conv, activation, self.dtype, name='stem')(x)
        maps = pyramid.run(self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = maps[-1]
        if self.final_width is not None:
            x = conv(self.final_width, 1, dtype=self.dtype, name='final')(x)
        x = activation(x)
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks, each with the analytic variance of its input."""
        stages, variance = [], 1.0
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            block = functools.partial(
                self.block, alpha=self.alpha, conv=self.conv, activation=self.activation, dtype=self.dtype
            )
            factories = pyramid.with_stride(block, width, depth, 2 if index else 1)
            for place, factory in enumerate(factories):
                factories[place] = functools.partial(factory, variance=variance)
                variance = (1.0 if place == 0 else variance) + self.alpha**2
            stages.append(factories)
        return stages


_F_BLOCK = functools.partial(
    Block, ratio=0.5, group_size=128, spatial=2, skip_init=True, squeeze=functools.partial(SqueezeExcite, 0.5)
)
_F = {
    'widths': (256, 512, 1536, 1536),
    'block': _F_BLOCK,
    'stem': DeepStem,
    'stem_width': 128,
    'final_width': 3072,
    'conv': functools.partial(ScaledConv, padding='SAME'),
    'activation': scaled_gelu,
}


def _light(size: int, squeeze: Callable[..., nn.Module], final_width: int = 3072) -> NFNet:
    """Returns timm's light network, with the depths of the NFNet of that size."""
    block = functools.partial(_F_BLOCK, ratio=0.25, group_size=64, squeeze=squeeze, skip_init=False)
    own = {'block': block, 'final_width': final_width, 'conv': functools.partial(ScaledConv, gamma=SILU_GAMMA)}
    return NFNet(_depths(size), **_F | own | {'activation': nn.silu})


def _depths(size: int) -> tuple[int, ...]:
    return tuple((size + 1) * depth for depth in (1, 2, 6, 3))


# Table 1 of the second paper: F0 to F6 differ in depth, image size and regularization; "dm" as timm names those with
# DeepMind's weights.
VARIANTS = {
    'nf_resnet26': NFNet((2, 2, 2, 2)),
    'nf_resnet50': NFNet(),
    'nf_resnet101': NFNet((3, 4, 23, 3)),
    **{f'dm_nfnet_f{size}': NFNet(_depths(size), **_F) for size in range(7)},
    'nfnet_l0': _light(0, functools.partial(SqueezeExcite, 0.25), 2304),
    **{f'eca_nfnet_l{size}': _light(size, EfficientAttention, 3072 if size else 2304) for size in range(4)},
    'nf_resnet_test': NFNet((1, 2), (32, 64), stem_width=16),
    'nfnet_test': NFNet(
        (1, 2),
        **_F
        | {'widths': (32, 64), 'stem_width': 16, 'final_width': 48, 'block': functools.partial(_F_BLOCK, group_size=8)},
    ),
    'eca_nfnet_test': _light(0, EfficientAttention, 48).clone(
        depths=(1, 2),
        widths=(32, 64),
        stem_width=16,
        block=functools.partial(_F_BLOCK, ratio=0.25, group_size=8, squeeze=EfficientAttention, skip_init=False),
    ),
}

# The published classifiers start with standard deviation 0.01.
HEADS = {'NFNet': functools.partial(Linear, kernel_init=jax.nn.initializers.normal(0.01))}

# The first paper also has 288-layer networks. The figures are those of tables 3 and 4 of the second paper, at the test
# resolution.
_NF = functools.partial(ft.Published, 'https://arxiv.org/abs/2101.08692', (224, 224))
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2102.06171')
PUBLISHED = {
    'nf_resnet50': _NF(),
    'nf_resnet101': _NF(),
    'dm_nfnet_f0': _PAPER((256, 256), 71.5, 12.38, 83.6),
    'dm_nfnet_f1': _PAPER((320, 320), 132.6, 35.54, 84.7),
    'dm_nfnet_f2': _PAPER((352, 352), 193.8, 62.59, 85.1),
    'dm_nfnet_f3': _PAPER((416, 416), 254.9, 114.76, 85.7),
    'dm_nfnet_f4': _PAPER((512, 512), 316.1, 215.24, 85.9),
    'dm_nfnet_f5': _PAPER((544, 544), 377.2, 289.76, 86.0),
    'dm_nfnet_f6': _PAPER((576, 576), 438.4, 377.28, 86.0),
}


def nfnet(variant: str = 'dm_nfnet_f0', *, group_size: int | None = None, **fields: Any) -> NFNet:
    """Returns a variant with some fields changed; for the fields see `NFNet`.

    Args:
        variant: one of `VARIANTS`.
        group_size: channels per group of the 3x3 convolutions; see `Block`.
        **fields: see `layers.frame.variants.changed`.

    Raises:
        ValueError: there is no such variant or field.
    """
    grouped = {} if group_size is None else {'block': {'group_size': group_size}}
    return variants.variant(VARIANTS, variant, grouped | fields)


# Published names of a classifier's parameters, and ours; see weights.py. The goldens call a gain gain_scale.
_GAINS = ('gain', 'gain_scale')


def _conv_names(there: str, here: str) -> tuple[tuple, ...]:
    gains = ((f'{there}.{gain}', f'{here}/scale', 3) for gain in _GAINS)
    return (f'{there}.weight', f'{here}/kernel'), (f'{there}.bias', f'{here}/bias'), *gains


_THERE, _HERE = 'stages.{s}.{i}', 'backbone/stage{s}/block{i:02d}'
NAMES = {
    'NFNet': (
        *_conv_names('stem.conv', 'backbone/stem/conv'),
        *_conv_names('stem.conv{k}', 'backbone/stem/conv{k}'),
        *_conv_names(f'{_THERE}.conv{{k}}', f'{_HERE}/conv{{k}}'),
        *_conv_names(f'{_THERE}.conv{{k}}b', f'{_HERE}/conv{{k}}b'),
        *_conv_names(f'{_THERE}.downsample.conv', f'{_HERE}/shortcut'),
        *((f'{_THERE}.skipinit_{gain}', f'{_HERE}/skip_scale') for gain in _GAINS),
        *(
            pair
            for there, here in (('fc1', 'down'), ('fc2', 'up'))
            for pair in (
                (f'{_THERE}.attn_last.{there}.weight', f'{_HERE}/squeeze/{here}/kernel', 2),
                (f'{_THERE}.attn_last.{there}.bias', f'{_HERE}/squeeze/{here}/bias'),
            )
        ),
        (f'{_THERE}.attn_last.conv.weight', f'{_HERE}/squeeze/kernel'),
        *_conv_names('final_conv', 'backbone/final'),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ),
}
