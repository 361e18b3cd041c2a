"""MOAT: blocks of a mobile convolution, which replaces the feed-forward layer, followed by attention.

Yang et al., 2022, "MOAT: Alternating Mobile Convolution and Attention Brings Strong Vision Models",
https://arxiv.org/abs/2210.01820. Reference: https://github.com/google-research/deeplab2 (Apache-2.0), commit 64bc1c1,
model/pixel_encoder/moat.py and model/layers/moat_*.py. It is TensorFlow code without a PyTorch version, so `NAMES`
writes its names in the PyTorch way: ``weight`` and ``bias`` for kernels, scales and offsets, kernels as
(out, in, *window), and the heads of an attention matrix in one axis.

The first two stages have mobile convolutions with squeeze-and-excitation, the others MOAT blocks, which attend to
the whole map. With `windows` they attend inside of windows that are not shifted, as in the reference for dense tasks
with large images; with `whole_last` the last block of a stage attends to the whole map nevertheless. Padding is
TensorFlow's SAME, which for an even map at stride 2 pads at the end only. Epsilon is 1e-3 in batch normalization and
1e-5 in layer normalization; GELU is the exact one. Where a block halves the resolution its shortcut averages 2x2
pixels.

Attention logits have a learned bias per relative offset and head, in a table for one image size; for images of another
size it is resized linearly without antialiasing, as in the reference.

We differ in the running variance of batch normalization, which is unbiased, as in our BatchNorm. For dense tasks the
reference's shortcuts average 3x3 pixels, which is not built.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import attention, posemb, window
from longview.modelzoo.layers.convolutions.conv import convolve
from longview.modelzoo.layers.convolutions.strided_depthwise import StridedDepthwise
from longview.modelzoo.layers.frame import pyramid, trunk
from longview.modelzoo.layers.frame.block import in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean, halve
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm

_NORMAL = jax.nn.initializers.normal(0.02)
_BATCH_NORM = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.99)


class Excite(nn.Module):
    """Squeeze-and-excitation with SiLU: ``x * sigmoid(up(silu(down(global_mean(x)))))``.

    Attributes:
        hidden: hidden channels.
        dtype: compute type.
    """

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        y = nn.silu(Dense(self.hidden, True, _NORMAL, self.dtype, name='down')(global_mean(x)))
        y = Dense(x.shape[-1], True, _NORMAL, self.dtype, name='up')(y)
        return x * nn.sigmoid(y)[:, None, None]


class RelativeAttention(nn.Module):
    """Attention between all pixels of a map or of each of its windows, with a bias per relative offset.

    Attributes:
        table: rows and columns of the map, or window, that the table of biases is for.
        head_width: channels of a head; divides the width.
        dtype: compute type; logits and softmax are float32.
        side: rows and columns of the windows, cropped to the map; None for the whole map.
    """

    table: ft.Grid
    head_width: int = 32
    dtype: DTypeLike = jnp.float32
    side: ft.Grid | None = None

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Mixes the pixels.

        Raises:
            ValueError: `head_width` does not divide the width, or the windows do not divide the map.
        """
        width, size = x.shape[-1], x.shape[1:3]
        seen = self._seen(size)
        flat = window.partition(x, seen)
        if width % self.head_width:
            raise ValueError(f'width {width} does not divide into heads of {self.head_width}: change one of them.')
        dense = functools.partial(Dense, width, True, _NORMAL, self.dtype)
        q, k, v = (attention.split_heads(dense(name=name)(flat), width // self.head_width) for name in 'qkv')
        mixed = attention.attend(q, k, v, bias=self._bias(q.shape[1], seen))
        return window.merge(dense(name='out')(attention.merge_heads(mixed)), seen, size)

    def _seen(self, size: ft.Grid) -> ft.Grid:
        """Returns rows and columns of what a pixel sees in a map of `size`."""
        if self.side is None:
            return size
        seen = min(size[0], self.side[0]), min(size[1], self.side[1])
        if size[0] % seen[0] or size[1] % seen[1]:
            raise ValueError(
                f'a map of {size[0]}x{size[1]} does not divide into windows of {seen[0]}x{seen[1]}: take images whose '
                'maps do, or other windows.'
            )
        return seen

    def _bias(self, heads: int, grid: ft.Grid) -> Float[Array, '1 h n n']:
        source, target = (tuple(2 * side - 1 for side in sides) for sides in (self.table, grid))
        table = self.param('pos_embed', _NORMAL, (heads, *source))
        offsets = posemb.resize(table.reshape(heads, -1).T[None], source, target, matrix=posemb.linear_matrix)
        # The table is indexed by key minus query, `relative_index` by query minus key.
        return offsets[0, window.relative_index(grid).T].transpose(2, 0, 1)[None]


class Block(nn.Module):
    """``s = shortcut(x) + convolve(x)`` and, with a mixer, ``s += mixer(norm(s))``.

    Attributes:
        features: output channels.
        stride: 2 halves the resolution, rounded up.
        excite: hidden channels of squeeze-and-excitation; 0 for none.
        mixer: factory of the attention; None for none.
        norm: factory of the normalizations in the mobile convolution.
        expansion: hidden channels of the mobile convolution over `features`.
        dtype: compute type.
    """

    features: int
    stride: int
    excite: int
    mixer: Callable[..., nn.Module] | None
    norm: Callable[..., nn.Module] = _BATCH_NORM
    expansion: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        conv_mask, mixer_mask = (None, None) if mask is None else mask
        s = self._shortcut(x) + drop_path(self._convolve(x, train=train), conv_mask)
        if self.mixer is None:
            return s
        y = LayerNorm(dtype=self.dtype, name='mixer_norm')(s)
        return s + drop_path(self.mixer(dtype=self.dtype, name='mixer')(y, train=train), mixer_mask)

    def _shortcut(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        x = x if self.stride == 1 else halve(x.astype(jnp.float32)).astype(self.dtype)
        if x.shape[-1] == self.features:
            return x
        return Dense(self.features, True, _NORMAL, self.dtype, name='shortcut')(x)

    def _convolve(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 d']:
        norm = functools.partial(self.norm, dtype=self.dtype)
        x = norm(name='norm')(x, train=train)
        x = Dense(self.expansion * self.features, False, _NORMAL, self.dtype, name='up')(x)
        x = gelu(norm(name='up_norm')(x, train=train))
        x = StridedDepthwise(3, self.stride, 'SAME', _NORMAL, self.dtype, name='conv')(x)
        x = gelu(norm(name='conv_norm')(x, train=train))
        x = Excite(self.excite, self.dtype, name='excite')(x) if self.excite else x
        return Dense(self.features, True, _NORMAL, self.dtype, name='down')(x)


class SameConv(nn.Module):
    """A 3x3 convolution with TensorFlow's padding and initial values.

    Attributes:
        features: output channels.
        stride: step of the output grid.
        dtype: compute type.
    """

    features: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        kernel = self.param('kernel', _NORMAL, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', jax.nn.initializers.zeros, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return convolve(x, kernel, self.stride, 'SAME') + bias[None, None, None]


class Stem(nn.Module):
    """Two convolutions with batch normalization and GELU between them.

    Attributes:
        features: channels of both convolutions.
        stride: stride of the first convolution.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = SameConv(self.features, self.stride, self.dtype, name='conv0')(x)
        x = gelu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        return SameConv(self.features, 1, self.dtype, name='conv1')(x)


class Stage(nn.Module):
    """The blocks of one resolution; the first block halves the resolution.

    Attributes:
        blocks: factories of the blocks, given their stride.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the map after the stage; `masks` are those of its blocks."""
        names = trunk.names(len(self.blocks))
        blocks = [block(stride=2 if name == names[0] else 1, name=name) for block, name in zip(self.blocks, names)]
        return in_turn(blocks, x, masks, train=train, remat=self.remat)


class MOAT(ft.PyramidBackbone):
    """The network.

    Attributes:
        stem_width: channels of the stem.
        widths, depths: channels and blocks of each stage.
        attends: whether each stage has MOAT blocks; other stages have mobile convolutions with squeeze-and-excitation.
        head_width: channels of a head.
        windows: sides of the windows of each stage, one number or (rows, columns); None for a stage that attends to its
            whole map, and an empty sequence for that in all of them.
        whole_last: whether the last block of a stage attends to the whole map in any case.
        stem_stride: stride of the stem; 1 for small images.
        image_size: image size of the tables of biases, a side or (height, width). For images of any other size the
            tables are resized.
        drop_path: stochastic depth; block i of n has the rate drop_path * i / n in both branches.
        norm: factory of the batch normalizations.
        mixer: factory of the attention.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    stem_width: int = 64
    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (2, 3, 7, 2)
    attends: Sequence[bool] = (False, False, True, True)
    head_width: int = 32
    windows: Sequence[int | Sequence[int] | None] = ()
    whole_last: bool = False
    stem_stride: int = 2
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = _BATCH_NORM
    mixer: Callable[..., nn.Module] = RelativeAttention
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
        """The stem, each block, the last norm."""
        return pyramid.layers(self.depths, ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``, the normalized mean of the pixels."""
        x = Stem(self.stem_width, self.stem_stride, self.norm, self.dtype, name='stem')(x, train=train)
        count = sum(self.depths)
        masks = path_masks(self, self.drop_path * (count - 1) / count, count, x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        norm = LayerNorm(dtype=self.dtype, name='norm')
        pooled = norm(global_mean(x)).astype(jnp.float32)
        return {**features, ft.MAP: norm(x), ft.POOLED: pooled}

    def table(self, index: int) -> ft.Grid:
        """Returns the rows and columns of the map that the tables of biases in a stage are for."""
        height, width = pair(self.image_size)
        return -(-height // self.strides[index]), -(-width // self.strides[index])

    def _stage(self, index: int) -> Stage:
        width, depth = self.widths[index], self.depths[index]
        excite = 0 if self.attends[index] else max(1, width // 4)
        block = functools.partial(Block, width, excite=excite, norm=self.norm, dtype=self.dtype)
        blocks = [functools.partial(block, mixer=self._mixer(index, last=turn + 1 == depth)) for turn in range(depth)]
        return Stage(blocks, self.remat, name=ft.stage(index))

    def _mixer(self, index: int, *, last: bool) -> Callable[..., nn.Module] | None:
        """Returns the factory of the attention of a stage's blocks, or of its last one; None where there is none."""
        if not self.attends[index]:
            return None
        mixer = functools.partial(self.mixer, table=self.table(index), head_width=self.head_width)
        side = self.windows[index] if self.windows else None
        return mixer if side is None or (last and self.whole_last) else functools.partial(mixer, side=pair(side))


# Table 1 of the paper. The tables of biases stay those of 224 pixels when training at 256, 384 or 512.
_DEEP, _DEEPER = {'depths': (2, 6, 14, 2)}, {'depths': (2, 12, 28, 2)}


def _sized(stem: int, width: int, depths: Sequence[int] = (2, 3, 7, 2)) -> MOAT:
    return MOAT(stem, tuple(width * 2**index for index in range(4)), depths)


VARIANTS = {
    'moat_0': _sized(64, 96),
    'moat_1': _sized(64, 96, **_DEEP),
    'moat_2': _sized(128, 128, **_DEEP),
    'moat_3': _sized(160, 160, **_DEEPER),
    'moat_4': _sized(256, 256, **_DEEPER),
    'tiny_moat_0': _sized(32, 32),
    'tiny_moat_1': _sized(40, 40),
    'tiny_moat_2': _sized(56, 56),
    'tiny_moat_3': _sized(80, 80),
    'moat_test': MOAT(8, (16, 32), (1, 2), (False, True), head_width=16, stem_stride=1, image_size=16),
}

# The repository's list of checkpoints; accuracies of those trained on ImageNet-1k alone.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2210.01820')
PUBLISHED = {
    'moat_0': _PAPER((224, 224), params=27.8, macs=5.7, top1=83.3),
    'moat_1': _PAPER((224, 224), params=41.6, macs=9.1, top1=84.2),
    'moat_2': _PAPER((384, 384), params=73.4, macs=54.3),
    'moat_3': _PAPER((512, 512), params=190.0, macs=271.0),
    'moat_4': _PAPER((512, 512), params=483.2, macs=648.5),
    'tiny_moat_0': _PAPER((256, 256), params=3.4, macs=1.1, top1=76.6),
    'tiny_moat_1': _PAPER((256, 256), params=5.1, macs=1.6, top1=79.2),
    'tiny_moat_2': _PAPER((256, 256), params=9.8, macs=3.0, top1=81.7),
    'tiny_moat_3': _PAPER((256, 256), params=19.5, macs=6.0, top1=83.3),
}


def _refit(backbone: MOAT, path: str, table: np.ndarray) -> np.ndarray:
    index = next(index for index in range(len(backbone.depths)) if f'/{ft.stage(index)}/' in path)
    grid = tuple(2 * side - 1 for side in backbone.table(index))
    flat = table.reshape(len(table), -1).T[None]
    return posemb.refit(flat, grid, matrix=posemb.linear_matrix)[0].T.reshape(len(table), *grid)


RESIZE = {'MOAT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py. 1x1 convolutions are matrices here.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_POINT = (('weight', 'kernel', 2), ('bias', 'bias'))
_PARTS = (
    (_POINT, 'shortcut_conv', 'shortcut'),
    (_BATCH, 'pre_norm', 'norm'),
    (_POINT, 'expand_conv', 'up'),
    (_BATCH, 'expand_norm', 'up_norm'),
    (_AFFINE, 'depthwise_conv', 'conv'),
    (_BATCH, 'depthwise_norm', 'conv_norm'),
    (_POINT, 'se.reduce_conv2d', 'excite/down'),
    (_POINT, 'se.expand_conv2d', 'excite/up'),
    (_POINT, 'shrink_conv', 'down'),
    (_NORM, 'attention_norm', 'mixer_norm'),
    *((_AFFINE, f'attention.{there}', f'mixer/{here}') for there, here in zip('qkvo', ('q', 'k', 'v', 'out'))),
)
NAMES = {
    'MOAT': (
        *((f'stem.conv_{i}.{a}', f'backbone/stem/conv{i}/{b}') for i in range(2) for a, b in _AFFINE),
        *((f'stem.norm_0.{a}', f'backbone/stem/norm/{b}') for a, b in _BATCH),
        *(
            (f'block_{{s:02d}}_{{i:02d}}.{there}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{here}/{b}', *axes)
            for pairs, there, here in _PARTS
            for a, b, *axes in pairs
        ),
        (
            'block_{s:02d}_{i:02d}.attention.relative_position_embedding',
            'backbone/stage{s}/block{i:02d}/mixer/pos_embed',
        ),
        *((f'final_layer_norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'logits_head.{a}', f'head/{b}', *axes) for a, b, *axes in _POINT),
    ),
}
