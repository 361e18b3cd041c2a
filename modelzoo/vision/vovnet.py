"""VoVNet: blocks that aggregate the outputs of all their layers once, at their end.

Lee et al., 2019, "An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection",
https://arxiv.org/abs/1904.09730.
Lee and Park, 2019, "CenterMask: Real-Time Anchor-Free Instance Segmentation", https://arxiv.org/abs/1911.06667, for
VoVNetV2: effective squeeze-and-excitation at the end of each stage.
References: https://github.com/stigma0617/VoVNet.pytorch (the authors', no licence), whose parameter names the networks
without squeeze have, and timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0) for the others.

Details of the published code that are not in the papers, kept here: all blocks of a stage but the first add their
input; max-pooling between stages has windows that reach over the right and lower end; the gate is a hard sigmoid. Where
we differ: initial kernels of the first VoVNet are He's by the fan-out as in the second, there by the fan-in; a head has
the initial values of modelzoo/heads.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm, PlainConv
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_fan_out = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class EffectiveSqueeze(nn.Module):
    """``x * hard_sigmoid(fc(global_mean(x)))``: squeeze-and-excitation without the narrow layer.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the rescaled map."""
        gate = Dense(x.shape[-1], True, _fan_out, self.dtype, name='fc')(global_mean(x))
        return x * nn.hard_sigmoid(gate)[:, None, None]


class Separable(nn.Module):
    """``norm(pointwise(depthwise(x)))``, a 3x3 kernel per channel and a 1x1 convolution.

    Attributes:
        features: output channels.
        stride: of the first.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = StridedDepthwise(3, self.stride, 1, _fan_out, self.dtype, name='depthwise')(x)
        x = PlainConv(self.features, 1, dtype=self.dtype, name='pointwise')(x)
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class Block(nn.Module):
    """One-shot aggregation: 3x3 layers one after the other; a 1x1 convolution of the input and all their outputs.

    Attributes:
        features: output channels.
        width: channels of each layer.
        count: number of layers.
        pools: whether the block begins with 3x3 max-pooling of stride 2.
        adds: whether the input is added to the output.
        depthwise: whether the layers are `Separable`, after a 1x1 convolution to their width.
        squeeze: factory of the gate on the output; None for none.
        norm: factory of every normalization.
        dtype: compute type.
    """

    features: int
    width: int
    count: int
    pools: bool = False
    adds: bool = False
    depthwise: bool = False
    squeeze: Callable[..., nn.Module] | None = None
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`, and of use where the block adds."""
        x = _halve(x) if self.pools else x
        conv = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        y = x
        if self.depthwise and x.shape[-1] != self.width:
            y = nn.relu(conv(self.width, 1, name='reduction')(y, train=train))
        outputs = [x]
        for index in range(self.count):
            y = nn.relu(self._layer(f'layer{index}')(y, train=train))
            outputs.append(y)
        y = nn.relu(conv(self.features, 1, name='concat')(jnp.concatenate(outputs, axis=-1), train=train))
        if self.squeeze is not None:
            y = self.squeeze(dtype=self.dtype, name='squeeze')(y)
        return x + drop_path(y, mask) if self.adds else y

    def _layer(self, name: str) -> nn.Module:
        if self.depthwise:
            return Separable(self.width, norm=self.norm, dtype=self.dtype, name=name)
        return ConvNorm(self.width, 3, norm=self.norm, dtype=self.dtype, name=name)


def _halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """3x3 max-pooling of stride 2 without padding, with windows that reach over the end (torch's ``ceil_mode``)."""
    over = [(0, (side - 3) % 2 if side > 2 else 3 - side) for side in x.shape[1:3]]
    return max_pool(jnp.pad(x, ((0, 0), *over, (0, 0)), constant_values=-jnp.inf), 3, 2, 0)


class VoVNet(ft.HalvingBackbone):
    """The network; each stage but the first begins with pooling.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        inner: channels of the layers in the blocks of each stage.
        count: layers of a block.
        stem: channels of the three convolutions of the stem.
        stem_stride: 4, or 1 for small images.
        depthwise: whether the layers in blocks, and the last two of the stem, are `Separable`.
        squeeze: factory of the gate at the end of each stage; None for none.
        norm: factory of every normalization.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (1, 1, 2, 2)
    widths: Sequence[int] = (256, 512, 768, 1024)
    inner: Sequence[int] = (128, 160, 192, 224)
    count: int = 5
    stem: Sequence[int] = (64, 64, 128)
    stem_stride: int = 4
    depthwise: bool = False
    squeeze: Callable[..., nn.Module] | None = None
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        _, *blocks = pyramid.layers(self.depths)
        return (('stem0', 'stem1', 'stem2'), *blocks)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: a stem of another stride than 4 and 1.
        """
        stem = self._stem(x, train)
        maps = pyramid.run(self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}

    def _stem(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 d']:
        if self.stem_stride not in (1, 4):
            raise ValueError(f'VoVNet.stem_stride is {self.stem_stride}: use 4 as published or 1 for small images.')
        stride = 1 if self.stem_stride == 1 else 2
        conv = functools.partial(ConvNorm, kernel_size=3, norm=self.norm, dtype=self.dtype)
        later = functools.partial(Separable, norm=self.norm, dtype=self.dtype) if self.depthwise else conv
        x = nn.relu(conv(self.stem[0], stride=stride, name='stem0')(x, train=train))
        x = nn.relu(later(self.stem[1], name='stem1')(x, train=train))
        return nn.relu(later(self.stem[2], stride=stride, name='stem2')(x, train=train))

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        return [
            [
                functools.partial(
                    Block,
                    features,
                    width,
                    self.count,
                    pools=stage > 0 and index == 0,
                    adds=index > 0,
                    depthwise=self.depthwise,
                    squeeze=self.squeeze if index == depth - 1 else None,
                    norm=self.norm,
                    dtype=self.dtype,
                )
                for index in range(depth)
            ]
            for stage, (features, width, depth) in enumerate(zip(self.widths, self.inner, self.depths, strict=True))
        ]


_ESE = {'squeeze': EffectiveSqueeze}
_19 = {'depths': (1, 1, 1, 1), 'count': 3, **_ESE}
_SLIM = {'widths': (112, 256, 384, 512), 'inner': (64, 80, 96, 112)}
_DEPTHWISE = {'stem': (64, 64, 64), 'depthwise': True}

# The first paper: table 1 and the authors' repository. VoVNetV2: the second paper's repository, timm's names.
VARIANTS = {
    'vovnet27_slim': VoVNet((1, 1, 1, 1), (128, 256, 384, 512), (64, 80, 96, 112)),
    'vovnet39': VoVNet(),
    'vovnet57': VoVNet((1, 1, 4, 3)),
    'ese_vovnet19b_slim_dw': VoVNet(**_19, **_SLIM, **_DEPTHWISE),
    'ese_vovnet19b_dw': VoVNet(**_19, **_DEPTHWISE),
    'ese_vovnet19b_slim': VoVNet(**_19, **_SLIM),
    'ese_vovnet19b': VoVNet(**_19),
    'ese_vovnet39b': VoVNet(**_ESE),
    'ese_vovnet57b': VoVNet((1, 1, 4, 3), **_ESE),
    'ese_vovnet99b': VoVNet((1, 3, 9, 3), **_ESE),
    'vovnet_test': VoVNet((1, 2), (16, 24), (8, 12), 2, (8, 8, 12)),
    'ese_vovnet_test': VoVNet((2,), (32,), (16,), 1, (16, 16, 32), **_ESE),
}

# Accuracies: the authors' repository, at 224 pixels; of the networks with squeeze timm's own weights at 288.
_V1 = functools.partial(ft.Published, 'https://arxiv.org/abs/1904.09730', (224, 224))
_V2 = functools.partial(ft.Published, 'https://arxiv.org/abs/1911.06667', (224, 224))
PUBLISHED = {
    'vovnet27_slim': _V1(),
    'vovnet39': _V1(top1=76.77),
    'vovnet57': _V1(top1=77.73),
    **{name: _V2() for name in VARIANTS if name.startswith('ese_') and not name.endswith('_test')},
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


def _v1_names() -> list[tuple[str, str]]:
    """The authors' names; their stages count from 2, blocks from 1, and each block names its parts again."""
    found = [
        pair
        for k in range(3)
        for pair in (
            (f'stem.stem_{k + 1}/conv.weight', f'backbone/stem{k}/conv/kernel'),
            *((f'stem.stem_{k + 1}/norm.{a}', f'backbone/stem{k}/norm/{b}') for a, b in _NORM),
        )
    ]
    for stage in range(4):
        for index in range(4):
            name, here = f'OSA{stage + 2}_{index + 1}', f'backbone/stage{stage}/block{index:02d}'
            parts = [(f'layers.{k}.{name}_{k}', f'layer{k}') for k in range(5)]
            for there, part in (*parts, (f'concat.{name}_concat', 'concat')):
                found += [(f'stage{stage + 2}.{name}.{there}/conv.weight', f'{here}/{part}/conv/kernel')]
                found += [(f'stage{stage + 2}.{name}.{there}/norm.{a}', f'{here}/{part}/norm/{b}') for a, b in _NORM]
    return [*found, ('classifier.weight', 'head/kernel'), ('classifier.bias', 'head/bias')]


def _v2_names() -> list[tuple]:
    """timm's names."""
    places = [(f'stem.{k}', f'backbone/stem{k}') for k in range(3)]
    there, here = 'stages.{s}.blocks.{i}.', 'backbone/stage{s}/block{i:02d}/'
    places += [(f'{there}conv_reduction', f'{here}reduction'), (f'{there}conv_concat', f'{here}concat')]
    places += [(f'{there}conv_mid.{{k}}', f'{here}layer{{k}}')]
    kinds = (('conv', 'conv'), ('conv_dw', 'depthwise'), ('conv_pw', 'pointwise'))
    return [
        *((f'{a}.{c}.weight', f'{b}/{d}/kernel') for a, b in places for c, d in kinds),
        *((f'{a}.bn.{c}', f'{b}/norm/{d}') for a, b in places for c, d in _NORM),
        (f'{there}attn.fc.weight', f'{here}squeeze/fc/kernel', 2),
        (f'{there}attn.fc.bias', f'{here}squeeze/fc/bias'),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ]


NAMES = {'VoVNet': (*_v2_names(), *_v1_names())}
