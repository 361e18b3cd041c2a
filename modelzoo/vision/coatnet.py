"""CoAtNet: two stages of mobile convolutions, then two of attention to the whole map.

Dai et al., 2021, "CoAtNet: Marrying Convolution and Attention for All Data Sizes", https://arxiv.org/abs/2106.04803.
The authors published no code. Reference: timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0),
models/maxxvit.py, with whose parameters and outputs these agree: ``coatnet_0_224`` to ``coatnet_5_224`` are its reading
of the paper, those with ``_rw`` its own, for which there are weights.

Attention has a learned bias per relative offset and head. Where a stage halves the resolution its first block averages
2x2 pixels, in the shortcut and behind the norm of the branch. Batch normalization has an epsilon of 1e-5, layer
normalization one of 1e-6; GELU is the exact one. The paper's sizes have a hidden layer with tanh before the classifier.
What timm's own have in other ways is in `_own`.

Where we differ: odd sides are rounded up; biases of the feed-forward layers start at 0, there with a deviation of 1e-6.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import relative
from longview.modelzoo.layers.attention.relative import RelativeAttention
from longview.modelzoo.layers.convolutions import mbconv
from longview.modelzoo.layers.convolutions.mbconv import MobileConv
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import init, pyramid
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean, halve
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_NORM = functools.partial(LayerNorm, epsilon=1e-6)
_MLP = functools.partial(Mlp, kernel_init=init.xavier_uniform())
_OWN_SQUEEZE = functools.partial(SqueezeExcite, 0.25, 1)


class HalvedNorm(nn.Module):
    """LayerNorm, then 2x2 means.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
        """Returns a map of half the sides, rounded up."""
        return halve(_NORM(dtype=self.dtype, name='norm')(x))


class Transformer(nn.Module):
    """``s = shortcut(x) + mixer(norm(x))``, then ``s += mlp(norm(s))``.

    Attributes:
        features: output channels.
        mixer: factory of the attention.
        stride: 2 halves the resolution, rounded up.
        attend_wide: whether the heads together have the output's width; else the input's.
        use_bias: whether the matrix of the shortcut has a bias.
        residual: factory of the connections.
        dtype: compute type.
    """

    features: int
    mixer: Callable[..., nn.Module]
    stride: int = 1
    attend_wide: bool = True
    use_bias: bool = True
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], masks: Float[Array, '2 b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `masks` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if masks is None else masks
        mixer_join, mlp_join = (self.residual(name=f'scale{index}') for index in (1, 2))
        width = self.features if self.attend_wide else x.shape[-1]
        mixer = self.mixer(features=self.features, width=width, dtype=self.dtype, name='mixer')
        norm = HalvedNorm if self.stride == 2 else _NORM
        y = mixer(norm(dtype=self.dtype, name='norm1')(x), train=train)
        s = mixer_join.write(self._shortcut(x), drop_path(y, mixer_mask))
        y = _MLP(dtype=self.dtype, name='mlp')(_NORM(dtype=self.dtype, name='norm2')(s))
        return mlp_join.write(s, drop_path(y, mlp_mask))

    def _shortcut(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        x = halve(x) if self.stride == 2 else x
        if x.shape[-1] == self.features:
            return x
        return Dense(self.features, self.use_bias, init.xavier_uniform(), self.dtype, name='shortcut')(x)


class CoAtNet(ft.PyramidBackbone):
    """The network.

    Attributes:
        stem_widths: channels of the stem's two convolutions.
        widths, depths: channels and blocks of each stage.
        attends: whether each stage has attention; other stages have mobile convolutions.
        hidden: whether ``pooled`` is the hidden layer before the published classifier, of the last width.
        stem_stride: stride of the stem; 1 for small images.
        image_size: image size of the tables of biases, a side or (height, width). For images of any other size the
            tables are resized.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        act: activation of the stem and the mobile convolutions.
        norm: factory of the batch normalizations.
        conv, mixer, residual: factories of mobile convolutions, of attention, and of its blocks' connections.
        attend_wide, shortcut_bias: as in `Transformer`.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    stem_widths: Sequence[int] = (64, 64)
    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (2, 3, 5, 2)
    attends: Sequence[bool] = (False, False, True, True)
    hidden: bool = True
    stem_stride: int = 2
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    act: Callable[[Array], Array] = gelu
    norm: Callable[..., nn.Module] = BatchNorm
    conv: Callable[..., nn.Module] = MobileConv
    mixer: Callable[..., nn.Module] = RelativeAttention
    residual: Callable[..., nn.Module] = Add
    attend_wide: bool = True
    shortcut_bias: bool = True
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.stem_stride * 2 ** (index + 1) for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, and what follows."""
        return pyramid.layers(self.depths, ('norm', 'head_norm', 'hidden'))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``."""
        parts = {'norm': self.norm, 'act': self.act, 'dtype': self.dtype}
        x = mbconv.Stem(tuple(self.stem_widths), self.stem_stride, **parts, name='stem')(x, train=train)
        features = {ft.STEM: x}
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        for index, rows in enumerate(by_stage(masks, self.depths)):
            rows = rows if rows is None or self.attends[index] else rows[:, 0]
            blocks = pyramid.with_stride(self._block(index), self.widths[index], self.depths[index], 2)
            x = pyramid.Stage(blocks, self.remat, name=ft.stage(index))(x, rows, train=train)
            features[ft.stage(index)] = x
        norm = _NORM(dtype=self.dtype, name='head_norm' if self.hidden else 'norm')
        features[ft.MAP] = norm(x)
        if not self.hidden:
            return {**features, ft.POOLED: global_mean(features[ft.MAP])}
        pooled = norm(global_mean(x))
        dense = Dense(x.shape[-1], True, init.uniform_fan_in(x.shape[-1]), self.dtype, name='hidden')
        return {**features, ft.POOLED: jnp.tanh(dense(pooled)).astype(jnp.float32)}

    def table(self, index: int) -> ft.Grid:
        """Returns the rows and columns of the map that the tables of biases in a stage are for."""
        height, width = pair(self.image_size)
        return -(-height // self.strides[index]), -(-width // self.strides[index])

    def _block(self, index: int) -> Callable[..., nn.Module]:
        if not self.attends[index]:
            return functools.partial(self.conv, norm=self.norm, act=self.act, dtype=self.dtype)
        mixer = functools.partial(self.mixer, table=self.table(index))
        options = {'attend_wide': self.attend_wide, 'use_bias': self.shortcut_bias, 'residual': self.residual}
        return functools.partial(Transformer, mixer=mixer, dtype=self.dtype, **options)


def _paper(width: int, depths: Sequence[int], widths: Sequence[int] | None = None, stem: int | None = None) -> CoAtNet:
    stem = stem or width
    return CoAtNet((stem, stem), widths or tuple(width * 2**index for index in range(4)), depths)


def _own(stem: int, width: int, depths: Sequence[int], conv: Mapping[str, Any], **fields: Any) -> CoAtNet:
    """Returns one of timm's own: no hidden layer, SiLU, the hidden widths of a block those of its input."""
    widths = tuple(width * 2**index for index in range(4))
    options = {'of_output': False, 'squeeze': _OWN_SQUEEZE, **conv}
    conv = functools.partial(MobileConv, **options)
    fields = {'hidden': False, 'act': nn.silu, 'attend_wide': False, **fields}
    return CoAtNet((stem, width if width != 96 else 64), widths, depths, conv=conv, **fields)


# Table 3 of the paper; below it timm's own.
_EARLY = {'use_bias': False, 'act_first': True, 'squeeze_first': True}
_LATE = {'use_bias': False, 'act_first': True, 'squeeze': functools.partial(_OWN_SQUEEZE, act=nn.silu)}
_BIASED = {'squeeze': functools.partial(_OWN_SQUEEZE, act=nn.silu)}
_DEEP, _DEEPER = (2, 6, 14, 2), (2, 12, 28, 2)
VARIANTS = {
    'coatnet_0_224': _paper(96, (2, 3, 5, 2), stem=64),
    'coatnet_1_224': _paper(96, _DEEP, stem=64),
    'coatnet_2_224': _paper(128, _DEEP),
    'coatnet_3_224': _paper(192, _DEEP),
    'coatnet_4_224': _paper(192, _DEEPER),
    'coatnet_5_224': _paper(256, _DEEPER, (256, 512, 1280, 2048), 192),
    'coatnet_pico_rw_224': _own(32, 64, (2, 3, 5, 2), _BIASED),
    'coatnet_nano_rw_224': _own(32, 64, (3, 4, 6, 3), {**_BIASED, 'pool_first': True}),
    'coatnet_0_rw_224': _own(32, 96, (2, 3, 7, 2), {**_EARLY, 'pool_first': True}, shortcut_bias=False),
    'coatnet_1_rw_224': _own(32, 96, _DEEP, _EARLY, shortcut_bias=False),
    'coatnet_2_rw_224': _own(64, 128, _DEEP, _LATE),
    'coatnet_3_rw_224': _own(96, 192, _DEEP, _LATE, residual=functools.partial(LayerScale, initial=1e-6)),
    'coatnet_test': CoAtNet(
        (8, 8),
        (8, 16),
        (1, 2),
        (False, True),
        stem_stride=1,
        image_size=16,
        mixer=functools.partial(RelativeAttention, head_width=8),
    ),
}

# Tables 4 and 5, trained on ImageNet-1k alone.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2106.04803', (224, 224))
PUBLISHED = {
    'coatnet_0_224': _PAPER(params=25, macs=4.2, top1=81.6),
    'coatnet_1_224': _PAPER(params=42, macs=8.4, top1=83.3),
    'coatnet_2_224': _PAPER(params=75, macs=15.7, top1=84.1),
    'coatnet_3_224': _PAPER(params=168, macs=34.7, top1=84.5),
    'coatnet_4_224': _PAPER(params=275),
    'coatnet_5_224': _PAPER(params=688),
}


def _refit(backbone: CoAtNet, path: str, table: np.ndarray) -> np.ndarray:
    index = next(index for index in range(len(backbone.depths)) if f'/{ft.stage(index)}/' in path)
    return relative.refit(table, backbone.table(index))


RESIZE = {'CoAtNet': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_SCALE = (('weight', 'scale'), ('bias', 'bias'))
_THERE, _HERE = 'stages.{s}.blocks.{i}', 'backbone/stage{s}/block{i:02d}'
NAMES = {
    'CoAtNet': (
        *mbconv.STEM_NAMES,
        *mbconv.names(_THERE, _HERE),
        *((f'{_THERE}.norm1.norm.{a}', f'{_HERE}/norm1/norm/{b}') for a, b in _SCALE),
        *relative.names(_THERE, _HERE, axes=2),
        *((f'{_THERE}.ls{index}.gamma', f'{_HERE}/scale{index}/scale') for index in (1, 2)),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _SCALE),
        *((f'head.norm.{a}', f'backbone/head_norm/{b}') for a, b in _SCALE),
        ('head.pre_logits.fc.weight', 'backbone/hidden/kernel'),
        ('head.pre_logits.fc.bias', 'backbone/hidden/bias'),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ),
}
