"""GLNet: convolutions on pixels beside attention between a few slots, into which pixels are softly clustered.

Zhu et al., 2024, "Revisiting the Integration of Convolution and Attention for Vision Backbone",
https://arxiv.org/abs/2411.14429. Reference: https://github.com/rayleizhu/GLMix (MIT), commit 3c93dbf, models/glnet.py
and models/glnet_tklb.py; `NAMES` maps its parameter names.

The mixer, GLMix, has two branches on a normalized map. One is a 5x5 kernel per channel between two matrices. The other
one has 64 slots: each is the mean of all pixels by a softmax over them of their cosines with the means of 8x8 parts of
the block's input; slots attend to each other; a pixel is the mean of them by a softmax over slots of the same cosines.
So the cost of attention does not depend on the number of pixels. In the third stage every second block attends between
pixels instead, and in the last one all do.

Details of the published code, kept here:
  * the parts whose means are compared are those of the input before its positions and norm; cosines have one learned
    factor in a block, which starts at one over the root of the channels;
  * `plain` networks have Swin's layout: patches that do not overlap, normalized before they get smaller, no convolution
    for positions or in feed-forward layers;
  * LayerNorm's epsilon is 1e-6; patch embeddings and the last map have batch normalization.

Where patches that do not overlap do not divide a map we differ: it is filled up with zeros, where the reference crops.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads.token_labels import TokenLabels
from longview.modelzoo.layers.attention import attention
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm, in_turn
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.frame.pool import adaptive_mean, global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

MIXING = ('slots', 'both', 'pixels')

_attention = functools.partial(attention.Attention, kernel_init=init.xavier_uniform(), out_init=init.trunc_normal(0.02))


class LearnedSlots(nn.Module):
    """Vectors, the same for all images.

    Attributes:
        count, width: their number and length.
    """

    count: int
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, '1 s d']:
        """Returns them."""
        return self.param('kernel', jax.nn.initializers.normal(0.02), (self.width, self.count, 1)).T


class GLMix(nn.Module):
    """Attention between slots that stand for all pixels, plus a convolution of the pixels.

    Attributes:
        heads: number of heads between slots.
        slots: number of slots, a square.
        learned: whether slots gather pixels by learned vectors, and not by means of the block's input.
        kernel_size: odd side of the kernel per channel.
        dtype: compute type; softmaxes are float32.
    """

    heads: int
    slots: int = 64
    learned: bool = False
    kernel_size: int = 5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], before: Float[Array, 'b h w d'], *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Mixes a normalized map.

        Args:
            x: the map.
            before: that which the block got, whose means are the first slots.
            train: unused.

        Raises:
            ValueError: the number of slots is no square.
        """
        del train
        return self._far(x, self._first(before)) + self._near(x)

    def _first(self, before: Float[Array, 'b h w d']) -> Float[Array, 'b s d']:
        batch, width = before.shape[0], before.shape[-1]
        if self.learned:
            slots = LearnedSlots(self.slots, width, name='initial')()
            return jnp.broadcast_to(slots, (batch, *slots.shape[1:]))
        side = math.isqrt(self.slots)
        if side**2 != self.slots:
            raise ValueError(f'slots is {self.slots}, and they are means of as many rows as columns: give a square.')
        return adaptive_mean(before, (side, side)).reshape(batch, self.slots, width)

    def _far(self, x: Float[Array, 'b h w d'], first: Float[Array, 'b s d']) -> Float[Array, 'b h w d']:
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        scale = self.param('slot_scale', jax.nn.initializers.constant(x.shape[-1] ** -0.5), ())
        of_slots, of_pixels = _direction(first).astype(self.dtype), (scale * _direction(pixels)).astype(self.dtype)
        slots = _attend(of_slots, of_pixels, pixels)
        slots = _attention(self.heads, dtype=self.dtype, name='slots')(slots)
        return _attend(of_pixels, of_slots, slots).reshape(x.shape)

    def _near(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        x = Patches(x.shape[-1], 1, dtype=self.dtype, name='near_in')(x)
        x = DepthwiseConv(self.kernel_size, dtype=self.dtype, use_bias=True, name='near_conv')(x)
        return Patches(x.shape[-1], 1, dtype=self.dtype, name='near_out')(x)


def _attend(q: Float[Array, 'b n d'], k: Float[Array, 'b m d'], v: Float[Array, 'b m d']) -> Float[Array, 'b n d']:
    """Returns ``softmax(q k^T) v``."""
    return attention.attend(*(part[:, None] for part in (q, k, v)), scale=1.0)[:, 0]


def _direction(x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    """Returns ``x / max(|x|, 1e-12)`` in float32; a vector of zeros has no gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class PixelAttention(nn.Module):
    """Attention between all pixels of a map.

    Attributes:
        heads: number of heads.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], before: Float[Array, 'b h w d'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Mixes a map; `before` is unused, so that the layer can replace `GLMix`."""
        del before
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        return _attention(self.heads, dtype=self.dtype, name='pixels')(pixels, train=train).reshape(x.shape)


class ConvMlp(nn.Module):
    """``down(gelu(y + conv(y)))`` with ``y = up(x)`` and a 3x3 kernel per channel, all with biases.

    Attributes:
        ratio: hidden width over width.
        local: whether there is the convolution.
        dtype: compute type.
    """

    ratio: float = 3.0
    local: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape."""
        y = Patches(int(x.shape[-1] * self.ratio), 1, dtype=self.dtype, name='up')(x)
        if self.local:
            y = y + DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='conv')(y)
        return Patches(x.shape[-1], 1, dtype=self.dtype, name='down')(gelu(y))


class Block(nn.Module):
    """``x += conv(x)``, ``x += mixer(norm(x))``, ``x += mlp(norm(x))``.

    Attributes:
        mixer: factory of the mixer, which also takes the block's input.
        mlp, norm, residual: factories of the other parts.
        local: whether there is the convolution, of a 3x3 kernel per channel.
        dtype: compute type.
    """

    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module] = ConvMlp
    norm: Callable[..., nn.Module] = functools.partial(LayerNorm, epsilon=1e-6)
    residual: Callable[..., nn.Module] = Add
    local: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], mask: Float[Array, 'r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if mask is None else mask
        before = x
        if self.local:
            x = x + DepthwiseConv(3, dtype=self.dtype, use_bias=True, name='positions')(x)
        y = self.norm(dtype=self.dtype, name='mixer_norm')(x)
        y = self.mixer(dtype=self.dtype, name='mixer')(y, before, train=train)
        x = self.residual(name='mixer_residual').write(x, drop_path(y, mixer_mask))
        y = self.mlp(dtype=self.dtype, name='mlp')(self.norm(dtype=self.dtype, name='mlp_norm')(x))
        return self.residual(name='mlp_residual').write(x, drop_path(y, mlp_mask))


class Stage(nn.Module):
    """The blocks of one resolution.

    Attributes:
        blocks: a factory for each block.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the blocks; `masks` has an entry for each."""
        blocks = [block(name=name) for block, name in zip(self.blocks, trunk.names(len(self.blocks)))]
        return in_turn(blocks, x, masks, train=train, remat=self.remat)


class Stem(nn.Module):
    """Two 3x3 convolutions with norms, GELU between; of `plain` networks one matrix on patches, and a norm.

    Attributes:
        features: output channels; the first convolution has half of them.
        stride: 4 as published, 2 or 1.
        plain: see `GLNet`.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 4
    plain: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride.
        """
        if self.stride not in (1, 2, 4):
            raise ValueError(f'stem_stride is {self.stride}: use 4 as published, or 2 or 1 for small images.')
        if self.plain:
            x = Patches(self.features, self.stride, dtype=self.dtype, name='patches')(x)
            return self.norm(dtype=self.dtype, name='norm')(x, train=train)
        first, last = (2 if self.stride > 1 else 1), (2 if self.stride > 2 else 1)
        x = Conv(self.features // 2, 3, first, 1, self.dtype, name='conv0')(x)
        x = gelu(self.norm(dtype=self.dtype, name='norm0')(x, train=train))
        x = Conv(self.features, 3, last, 1, self.dtype, name='conv1')(x)
        return self.norm(dtype=self.dtype, name='norm1')(x, train=train)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a norm; of `plain` networks a norm and one matrix on squares of 2x2.

    Attributes:
        features: output channels.
        plain: see `GLNet`.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    plain: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up."""
        norm = self.norm(dtype=self.dtype, name='norm')
        if self.plain:
            return Patches(self.features, 2, dtype=self.dtype, name='patches')(norm(x, train=train))
        return norm(Conv(self.features, 3, 2, 1, self.dtype, name='conv')(x), train=train)


class GLNet(ft.HalvingBackbone):
    """The network.

    Attributes:
        widths, depths: channels and blocks of each stage.
        mixing: what blocks of each stage mix: 'slots', 'pixels' or 'both', slots and pixels by turns.
        head_width: channels of a head.
        ratio: hidden width over width of the feed-forward layers.
        plain: whether the layout is Swin's: patches that do not overlap, no convolution for positions or in
            feed-forward layers.
        scaled: initial value of the vectors that scale the branches; None for none.
        stem_stride: 4, or 2 or 1 for small images.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        mixer: factory of the mixer of slots.
        norm: factory of every batch normalization.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each block in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    depths: Sequence[int] = (4, 4, 18, 4)
    mixing: Sequence[str] = ('slots', 'slots', 'both', 'pixels')
    head_width: int = 32
    ratio: float = 3.0
    plain: bool = False
    scaled: float | None = None
    stem_stride: int = 4
    drop_path: float = 0.0
    mixer: Callable[..., nn.Module] = GLMix
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; a downsampling belongs to the block before it."""
        between = [f'down{index}' for index in range(len(self.depths) - 1)]
        return (('stem',), *map(tuple, trunk.stage_paths(self.depths, between)), ('norm',))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map``, normalized, and ``pooled``, its mean.

        Raises:
            ValueError: a stage mixes something else, or heads do not divide its width.
        """
        x = Stem(self.widths[0], self.stem_stride, self.plain, self.norm, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                down = Downsample(self.widths[index], self.plain, self.norm, self.dtype, name=f'down{index - 1}')
                x = down(x, train=train)
            x = Stage(self._blocks(index), self.remat, name=ft.stage(index))(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = self.norm(dtype=self.dtype, name='norm')(x, train=train)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _blocks(self, index: int) -> list[Callable[..., nn.Module]]:
        mixing, width = self.mixing[index], self.widths[index]
        if mixing not in MIXING:
            raise ValueError(f'stage {index} mixes {mixing!r}: it must be one of {", ".join(MIXING)}.')
        if width % self.head_width:
            raise ValueError(f'width {width} does not divide into heads of {self.head_width}: change head_width.')
        heads = width // self.head_width
        residual = Add if self.scaled is None else functools.partial(LayerScale, initial=self.scaled)
        mlp = functools.partial(ConvMlp, self.ratio, not self.plain)
        block = functools.partial(Block, mlp=mlp, residual=residual, local=not self.plain, dtype=self.dtype)
        slots = functools.partial(block, functools.partial(self.mixer, heads))
        pixels = functools.partial(block, functools.partial(PixelAttention, heads))
        if self.plain:  # a transformer's block
            parts = (functools.partial(LayerNorm, 1e-6), functools.partial(PixelAttention, heads))
            parts = (*parts, functools.partial(Mlp, self.ratio))
            pixels = functools.partial(
                PreNorm, *(functools.partial(part, dtype=self.dtype) for part in parts), residual
            )
        of = {'slots': (slots, slots), 'both': (slots, pixels), 'pixels': (pixels, pixels)}[mixing]
        return [of[n % 2] for n in range(self.depths[index])]


class TokenLabelledGLNet(GLNet):
    """The same network; published weights have a head for pixels, too (`HEADS`)."""


class PlainGLNet(GLNet):
    """The same network in Swin's layout; the published names of its last stage are others."""

    plain: bool = True


HEADS = {'TokenLabelledGLNet': TokenLabels}

_WIDE = {'widths': (96, 192, 384, 768)}
_PLAIN = functools.partial(
    PlainGLNet, depths=(2, 2, 6, 2), mixing=('slots', 'slots', 'slots', 'pixels'), ratio=4.0, **_WIDE
)
_FEW = functools.partial(GLMix, slots=4)
VARIANTS = {
    'glnet_4g': GLNet(),
    'glnet_9g': GLNet(**_WIDE),
    'glnet_16g': GLNet((128, 256, 512, 1024), scaled=1e-4),
    'glnet_4g_tklb': TokenLabelledGLNet(),
    'glnet_9g_tklb': TokenLabelledGLNet(**_WIDE),
    'glnet_stl': _PLAIN(),
    'glnet_stl_paramslot': _PLAIN(mixer=functools.partial(GLMix, learned=True)),
    'glnet_test': GLNet((8, 16), (1, 1), ('slots', 'pixels'), 8, 2.0, scaled=0.5, stem_stride=2, mixer=_FEW),
    'glnet_plain_test': PlainGLNet(
        (8, 16), (1, 1), ('slots', 'pixels'), 8, 2.0, mixer=functools.partial(GLMix, slots=4, learned=True)
    ),
}

# The README's table; parameters are whole millions there.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2411.14429', (224, 224))
PUBLISHED = {
    'glnet_4g': _PAPER(params=27.0, macs=4.5, top1=83.7),
    'glnet_9g': _PAPER(params=60.0, macs=9.7, top1=84.5),
    'glnet_16g': _PAPER(params=106.0, macs=16.7, top1=85.0),
    'glnet_4g_tklb': _PAPER(params=27.0, macs=4.5, top1=84.4),
    'glnet_9g_tklb': _PAPER(params=61.0, macs=9.7, top1=85.3),
    'glnet_stl': _PAPER(params=30.0, macs=4.4, top1=82.5),
    'glnet_stl_paramslot': _PAPER(params=30.0, macs=4.4, top1=82.1),
}

# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_BATCH = (*_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_ATTENTION = (('relation_mha', 'mixer/slots'), ('mha_op', 'mixer/pixels'))
_LAYERS = (
    ('pos_conv', 'positions'),
    *((f'feature_conv.{n}', f'mixer/near_{part}') for n, part in enumerate(('in', 'conv', 'out'))),
    ('mlp.0', 'mlp/up'),
    ('mlp.1', 'mlp/conv'),
    ('mlp.3', 'mlp/down'),
)
_BLOCK = (
    ('slot_scale', 'mixer/slot_scale'),
    ('init_slots', 'mixer/initial/kernel'),
    *((f'norm1.{a}', f'mixer_norm/{b}') for a, b in _NORM),
    *((f'{there}.in_proj_{a}', f'{here}/qkv/{b}') for there, here in _ATTENTION for a, b in _AFFINE),
    *((f'{there}.out_proj.{a}', f'{here}/out/{b}') for there, here in _ATTENTION for a, b in _AFFINE),
    *((f'{there}.{a}', f'{here}/{b}') for there, here in _LAYERS for a, b in _AFFINE),
    *((f'norm2.{a}', f'mlp_norm/{b}') for a, b in _NORM),
    ('ls1.gamma', 'mixer_residual/scale', 2),
    ('ls2.gamma', 'mlp_residual/scale', 2),
)
_HEAD = tuple((f'head.{a}', f'head/{b}') for a, b in _AFFINE)
_BODY = (
    *((f'stages.{{s}}.blocks.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}', *axes) for a, b, *axes in _BLOCK),
    *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _BATCH),
)
_NAMES = (
    *((f'downsample_layers.0.{1 + 3 * k}.{a}', f'backbone/stem/conv{k}/{b}') for k in (0, 1) for a, b in _AFFINE),
    *((f'downsample_layers.0.{2 + 3 * k}.{a}', f'backbone/stem/norm{k}/{b}') for k in (0, 1) for a, b in _BATCH),
    *((f'downsample_layers.{{s+1}}.0.{a}', f'backbone/down{{s}}/conv/{b}') for a, b in _AFFINE),
    *((f'downsample_layers.{{s+1}}.1.{a}', f'backbone/down{{s}}/norm/{b}') for a, b in _BATCH),
    *_BODY,
)
NAMES = {
    'GLNet': (*_NAMES, *_HEAD),
    'TokenLabelledGLNet': (
        *_NAMES,
        *((f'head.{a}', f'head/labels/{b}') for a, b in _AFFINE),
        *((f'tklb_aux_head.{a}', f'head/pixels/{b}') for a, b in _AFFINE),
    ),
    'PlainGLNet': (
        *((f'downsample_layers.0.0.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
        *((f'downsample_layers.0.1.{a}', f'backbone/stem/norm/{b}') for a, b in _BATCH),
        *((f'downsample_layers.{{s+1}}.0.{a}', f'backbone/down{{s}}/norm/{b}') for a, b in _BATCH),
        *((f'downsample_layers.{{s+1}}.1.{a}', f'backbone/down{{s}}/patches/{b}') for a, b in _AFFINE),
        *((f'stages.3.blocks.{{i}}.mlp.2.{a}', f'backbone/stage3/block{{i:02d}}/mlp/down/{b}') for a, b in _AFFINE),
        *_BODY,
        *_HEAD,
    ),
}
# Of a block alone.
BLOCK_NAMES = _BLOCK
