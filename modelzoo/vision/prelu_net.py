"""PReLU nets: deep plain convolutional networks with learned rectifiers, trained from He's initial values.

He et al., 2015, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
https://arxiv.org/abs/1502.01852. The code is not published. The networks of table 3: a 7x7 convolution of stride 2,
three stages of 3x3 convolutions with max-pooling of 2x2 before each, spatial pyramid pooling of 7, 3, 2 and 1 parts a
side, and two hidden layers of 4,096 with dropout. Kernels are normal by `init.rectifier`, biases 0. That these are the
paper's sizes is confirmed by its multiply-adds, 19.0, 23.2 and 53.0 billion.

Chosen here, for the paper does not say it: pooling includes the last row and column of an odd side, and the parts of a
pyramid are by torch's rule (layers/frame/spp.py). Where we differ: the head's initial values are those of
modelzoo/heads.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.conv_norm import stem_conv
from longview.modelzoo.layers.frame import init, pyramid
from longview.modelzoo.layers.frame.activation import Activation, made
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.dropout import Dropout
from longview.modelzoo.layers.frame.spp import pyramid_max
from longview.modelzoo.layers.prelu import PRelu

PRELU = functools.partial(PRelu, start=0.25)


class Layer(nn.Module):
    """``act(conv(x))`` with a 3x3 convolution and a bias, for stride 2 after 2x2 max-pooling.

    Attributes:
        features: output channels.
        stride: 1 or 2.
        act: factory of the activation, or a function; see layers/frame/activation.py.
        kernel_init: initial values of the kernel.
        dtype: compute type.
    """

    features: int
    stride: int = 1
    act: Activation = PRELU
    kernel_init: init.Initializer = init.rectifier(0.25)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up; there is no branch for the `mask` to drop."""
        del mask, train
        x = _halve(x) if self.stride == 2 else x
        return made(self.act, 'act')(_conv(self, self.features, 3, 1, 'conv')(x))


class PReluNet(ft.HalvingBackbone):
    """The network; ``pooled`` is the last hidden layer.

    Attributes:
        depths: convolutions of each stage.
        widths: output channels of each stage.
        stem_width: channels of the first convolution.
        stem_stride: 4 for a 7x7 convolution of stride 2 and max-pooling, or 1 for a 3x3 convolution alone.
        levels: parts a side of the pyramid.
        hidden: width of the two hidden layers.
        dropout: of both.
        act: factory of the activation after each convolution and hidden layer, or a function.
        kernel_init: initial values of all kernels.
        drop_path: unused, for no layer adds to its input.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each convolution in the backward pass.
    """

    depths: Sequence[int] = (5, 5, 5)
    widths: Sequence[int] = (256, 512, 512)
    stem_width: int = 96
    stem_stride: int = 4
    levels: Sequence[int] = (7, 3, 2, 1)
    hidden: int = 4096
    dropout: float = 0.5
    act: Activation = PRELU
    kernel_init: init.Initializer = init.rectifier(0.25)
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first convolution, each other one, each hidden layer."""
        first, *rest = pyramid.layers(self.depths)
        return ((*first, 'stem_act'), *rest, *((f'hidden{index}', f'act{index}') for index in range(2)))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``."""
        size, stride = stem_conv(self.stem_stride)
        x = made(self.act, 'stem_act')(_conv(self, self.stem_width, size, stride, 'stem')(x))
        stem = _halve(x) if stride == 2 else x
        layer = functools.partial(Layer, act=self.act, kernel_init=self.kernel_init, dtype=self.dtype)
        stages = pyramid.halving(layer, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=0.0, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = pyramid_max(maps[-1], self.levels)
        for index in range(2):
            x = Dense(self.hidden, True, self.kernel_init, self.dtype, name=f'hidden{index}')(x)
            x = Dropout(self.dropout, name=f'dropout{index}')(made(self.act, f'act{index}')(x), train=train)
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: x.astype(jnp.float32)}


def _conv(module: Layer | PReluNet, features: int, size: int, stride: int, name: str) -> Conv:
    zeros, kernel_init = jax.nn.initializers.zeros, module.kernel_init
    return Conv(features, size, stride, size // 2, module.dtype, 1, True, kernel_init, zeros, name=name)


def _halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Returns maxima of 2x2 pixels; where a side is odd, windows at the end have those that exist."""
    return nn.max_pool(x, (2, 2), (2, 2), 'SAME')


_WIDE = (384, 768, 896)
VARIANTS = {
    'prelu_net_a': PReluNet(),
    'prelu_net_b': PReluNet((6, 6, 6)),
    'prelu_net_c': PReluNet((6, 6, 6), _WIDE),
    'prelu_net_test': PReluNet((1, 1), (8, 16), 8, levels=(2, 1), hidden=16, dropout=0.1),
}

# Table 3. The paper's accuracies are of many crops and scales.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/1502.01852', (224, 224))
PUBLISHED = {
    'prelu_net_a': _PAPER(macs=19.0),
    'prelu_net_b': _PAPER(macs=23.2),
    'prelu_net_c': _PAPER(macs=53.0),
}

# No weights of these networks are published: names as PyTorch would have them for modules with ours.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
NAMES = {
    'PReluNet': (
        *((f'stem.{a}', f'backbone/stem/{b}') for a, b in _AFFINE),
        ('stem_act.weight', 'backbone/stem_act/slope'),
        *((f'stage{{s}}.{{i}}.conv.{a}', f'backbone/stage{{s}}/block{{i:02d}}/conv/{b}') for a, b in _AFFINE),
        ('stage{s}.{i}.act.weight', 'backbone/stage{s}/block{i:02d}/act/slope'),
        *((f'hidden{{k}}.{a}', f'backbone/hidden{{k}}/{b}') for a, b in _AFFINE),
        ('act{k}.weight', 'backbone/act{k}/slope'),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    )
}
