"""iFormer, the Inception Transformer: convolution, pooling and attention beside each other, each on its own channels.

Si et al., 2022, "Inception Transformer", https://arxiv.org/abs/2205.12956. Reference:
https://github.com/sail-sg/iFormer (Apache-2.0), commit 725d8e7; `NAMES` maps its parameter names. (timm's networks of
that name are others: Zheng, 2025, "iFormer: Integrating ConvNet and Transformer for Mobile Application".)

The mixer splits the channels in three: high frequencies go through 3x3 kernels and through max-pooling, low ones
through attention, in the first stages on means of 2x2 pixels. The share that attends grows with depth, from a third to
eleven twelfths in iFormer-S.

Details of the published code, kept here:
  * the first two parts are widened twofold; all are joined by ``out(y + conv(y))`` with a 3x3 kernel per channel;
  * GELU follows the kernels and the pooled channels' matrix, but no norm;
  * only the last two stages have LayerScale, initially 1e-6;
  * patch embeddings have batch norms, with biases before them, and each a table of positions behind it.

Position tables are resized linearly, in the network and when weights are loaded. Where we differ: images of any size,
also of other than square shape; the reference's low frequencies need maps that are square and of even sides. At an odd
side the last mean is of the pixels that exist, and what is enlarged is cut.
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
from longview.modelzoo.layers.attention import attention, posemb
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.meta_next import Stage
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean, halve, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_INIT = init.trunc_normal(0.02)
_Depthwise = functools.partial(DepthwiseConv, 3, _INIT)


class InceptionMixer(nn.Module):
    """``out(y + fuse(y))``: ``y = [gelu(local(expand(a))) | gelu(pooled(max(b))) | attend(c)]`` of ``x = [a | b | c]``.

    Attributes:
        heads: heads that the whole width has room for; divides it.
        attending: heads that there are: the width of c, from none (0) to all (`heads`); a and b are equally wide.
        halved: whether attention is between means of 2x2 pixels.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    attending: int
    halved: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape.

        Raises:
            ValueError: the heads do not divide the width, or what is left of it is odd.
        """
        del train
        width = x.shape[-1]
        high = width - width // self.heads * self.attending
        if width % self.heads or not 0 <= self.attending <= self.heads or high % 2:
            raise ValueError(
                f'{self.attending} of {self.heads} heads leave {high} of {width} channels to convolution and pooling: '
                'they must be an even number, and the heads divide the width.'
            )
        local, pooled, low = jnp.split(x, (high // 2, high), axis=-1)
        parts = [self._local(local), self._pooled(pooled)] if high else []
        parts += [self._attention(low)] if self.attending else []
        y = jnp.concatenate(parts, axis=-1)
        y = y + _Depthwise(dtype=self.dtype, name='fuse')(y)
        return Dense(width, dtype=self.dtype, name='out')(y)

    def _local(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        x = Dense(2 * x.shape[-1], False, dtype=self.dtype, name='expand')(x)
        return gelu(_Depthwise(dtype=self.dtype, name='local')(x))

    def _pooled(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
        return gelu(Dense(2 * x.shape[-1], dtype=self.dtype, name='pooled')(max_pool(x, 3, 1, 1)))

    def _attention(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        (batch, rows, columns, width), coarse = x.shape, halve(x) if self.halved else x
        qkv = Dense(3 * width, dtype=self.dtype, name='qkv')(coarse.reshape(batch, -1, width))
        q, k, v = (attention.split_heads(part, self.attending) for part in jnp.split(qkv, 3, axis=-1))
        y = attention.merge_heads(attention.attend(q, k, v)).reshape(coarse.shape)
        return _enlarged(y)[:, :rows, :columns] if self.halved else y


def _enlarged(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Returns a map in which each pixel is there four times, side by side."""
    batch, rows, columns, width = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, rows, 2, columns, 2, width))
    return x.reshape(batch, 2 * rows, 2 * columns, width)


class Embed(nn.Module):
    """3x3 convolutions with batch norms, GELU between them, and a table of positions.

    Attributes:
        widths: output channels of each convolution.
        strides: stride of each.
        table: rows and columns of the position table.
        norm: factory of the batch normalizations.
        dtype: compute type.
    """

    widths: Sequence[int]
    strides: Sequence[int]
    table: ft.Grid
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map whose sides are those of `x` over the strides, rounded up."""
        zeros = jax.nn.initializers.zeros
        for index, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            conv = Conv(width, 3, stride, 1, self.dtype, kernel_init=_INIT, bias_init=zeros, name=f'conv{index}')
            x = conv(gelu(x) if index else x)
            x = self.norm(dtype=self.dtype, name=f'norm{index}')(x, train=train)
        table = self.param('pos_embed', _INIT, (1, *self.table, x.shape[-1]))
        return x + _resized(table, x.shape[1:3]).astype(x.dtype)


def _resized(table: Float[Array, '1 h w c'], grid: ft.Grid) -> Float[Array, '1 h2 w2 c']:
    flat = table.reshape(1, -1, table.shape[-1])
    return posemb.resize(flat, table.shape[1:3], grid, matrix=posemb.linear_matrix).reshape(1, *grid, -1)


class IFormer(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths: channels and blocks of each stage.
        heads: heads that the width of each stage has room for.
        attending: for each stage how many of them there are, in the first half of its blocks and in the others.
        halved: for each stage whether attention is between means of 2x2 pixels.
        scaled: for each stage whether it has LayerScale.
        stem_stride: stride of the first stage, 4, or 2 or 1 for small images; each further stage doubles it.
        image_size: image size of the position tables, a side or (height, width). For images of any other size the
            tables are resized.
        ratio: hidden width of the feed-forward layers over width.
        mixer: factory of what mixes pixels.
        norm: factory of every batch normalization.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (96, 192, 320, 384)
    depths: Sequence[int] = (3, 3, 9, 3)
    heads: Sequence[int] = (3, 6, 10, 12)
    attending: Sequence[tuple[int, int]] = ((1, 1), (3, 3), (7, 9), (11, 11))
    halved: Sequence[bool] = (True, True, False, False)
    scaled: Sequence[bool] = (False, False, True, True)
    stem_stride: int = 4
    image_size: int | tuple[int, int] = 224
    ratio: float = 4.0
    mixer: Callable[..., nn.Module] = InceptionMixer
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The first embedding, each block, the last norm; a later embedding belongs to the block before it."""
        blocks = trunk.stage_paths(self.depths, [f'embed{index}' for index in range(1, len(self.depths))])
        return (('embed0',), *map(tuple, blocks), ('norm',))

    def grid(self, index: int) -> ft.Grid:
        """Returns rows and columns of the position table of a stage."""
        return tuple(-(-side // self.strides[index]) for side in pair(self.image_size))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map``, the normalized last stage, and ``pooled``, its mean.

        Raises:
            ValueError: the stride is another than 4, 2 and 1.
        """
        if self.stem_stride not in (1, 2, 4):
            raise ValueError(f'stem_stride is {self.stem_stride}: use 4 as published, or 2 or 1 for small images.')
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            x = self._embed(index)(x, train=train)
            features.setdefault(ft.STEM, x)
            x = Stage(self._blocks(index), Add, self.remat, name=ft.stage(index))(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = _layer_norm(dtype=self.dtype, name='norm')(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _embed(self, index: int) -> Embed:
        width, name = self.widths[index], f'embed{index}'
        widths, strides = ((width // 2, width), (min(self.stem_stride, 2), max(self.stem_stride // 2, 1)))
        if index:
            widths, strides = (width,), (2,)
        return Embed(widths, strides, self.grid(index), self.norm, self.dtype, name=name)

    def _blocks(self, index: int) -> tuple[Callable[..., nn.Module], ...]:
        depth, dtype = self.depths[index], self.dtype
        residual = functools.partial(LayerScale, 1e-6) if self.scaled[index] else Add
        norm, mlp = functools.partial(_layer_norm, dtype=dtype), functools.partial(Mlp, self.ratio, dtype=dtype)
        mixers = [
            functools.partial(self.mixer, self.heads[index], attending, self.halved[index], dtype=dtype)
            for attending in self.attending[index]
        ]
        half = depth // 2
        return tuple(functools.partial(PreNorm, norm, mixers[place >= half], mlp, residual) for place in range(depth))


_layer_norm = functools.partial(LayerNorm, epsilon=1e-6)

# Table 7 of the paper.
_TRAINED = {
    'iformer_small': IFormer(),
    'iformer_base': IFormer((96, 192, 384, 512), (4, 6, 14, 6), (3, 6, 12, 16), ((1, 1), (3, 3), (8, 10), (15, 15))),
    'iformer_large': IFormer((96, 192, 448, 640), (4, 6, 18, 8), (3, 6, 14, 20), ((1, 1), (3, 3), (10, 12), (19, 19))),
}
VARIANTS = {
    **_TRAINED,
    **{f'{name}_384': backbone.clone(image_size=384) for name, backbone in _TRAINED.items()},
    'iformer_test': IFormer((8, 16), (1, 1), (2, 4), ((1, 1), (3, 3)), (True, False), (False, True), 4, 16, 2.0),
}

# Tables 1 and 2 of the paper; parameters and multiply-adds at 224 px are the reference's.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2205.12956')
PUBLISHED = {
    'iformer_small': _PAPER((224, 224), 19.866, 4.849, 83.4),
    'iformer_base': _PAPER((224, 224), 47.866, 9.379, 84.6),
    'iformer_large': _PAPER((224, 224), 86.637, 14.048, 84.8),
    'iformer_small_384': _PAPER((384, 384), 20, 16.1, 84.6),
    'iformer_base_384': _PAPER((384, 384), 48, 30.5, 85.7),
    'iformer_large_384': _PAPER((384, 384), 87, 45.3, 85.8),
}


def _refit(backbone: IFormer, path: str, table: np.ndarray) -> np.ndarray:
    index = int(path.rpartition('/embed')[2].partition('/')[0])
    flat = posemb.refit(table.reshape(1, -1, table.shape[-1]), backbone.grid(index), matrix=posemb.linear_matrix)
    return flat.reshape(1, *backbone.grid(index), -1)


RESIZE = {'IFormer': _refit}

# Published names of a classifier's parameters and statistics, and ours; see weights.py. 1x1 convolutions are matrices
# here.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
MIXER_NAMES = (
    ('high_mixer.conv1.weight', 'expand/kernel', 2),
    ('high_mixer.proj1.weight', 'local/kernel'),
    ('high_mixer.proj2.weight', 'pooled/kernel', 2),
    ('high_mixer.proj2.bias', 'pooled/bias'),
    *((f'low_mixer.qkv.{a}', f'qkv/{b}') for a, b in _AFFINE),
    ('conv_fuse.weight', 'fuse/kernel'),
    ('proj.weight', 'out/kernel', 2),
    ('proj.bias', 'out/bias'),
)
_BLOCK = (
    *((f'norm{k}.{a}', f'{here}_norm/{b}') for k, here in ((1, 'mixer'), (2, 'mlp')) for a, b in _NORM),
    *((f'attn.{a}', f'mixer/{b}', *axes) for a, b, *axes in MIXER_NAMES),
    *((f'mlp.fc{k}.{a}', f'mlp/{here}/{b}') for k, here in ((1, 'up'), (2, 'down')) for a, b in _AFFINE),
    *((f'layer_scale_{k}', f'{here}_residual/scale') for k, here in ((1, 'mixer'), (2, 'mlp'))),
)
NAMES = {
    'IFormer': (
        *((f'patch_embed.proj{k + 1}.{a}', f'backbone/embed0/conv{k}/{b}') for k in range(2) for a, b in _AFFINE),
        *((f'patch_embed.norm{k + 1}.{a}', f'backbone/embed0/norm{k}/{b}') for k in range(2) for a, b in _BATCH),
        ('pos_embed{s+1}', 'backbone/embed{s}/pos_embed'),
        *((f'patch_embed{{s+1}}.proj.{a}', f'backbone/embed{{s}}/conv0/{b}') for a, b in _AFFINE),
        *((f'patch_embed{{s+1}}.norm.{a}', f'backbone/embed{{s}}/norm0/{b}') for a, b in _BATCH),
        *(('blocks{s+1}.{i}.' + a, 'backbone/stage{s}/block{i:02d}/' + b, *axes) for a, b, *axes in _BLOCK),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
