"""SpaRTAN: convolutions of two reaches for pixels, and complex rotations of pairs of channels.

Pay et al., 2025, "SpaRTAN: Spatial Reinforcement Token-based Aggregation Network for Visual Recognition",
https://arxiv.org/abs/2507.10999. Reference: https://github.com/henry-pay/SpaRTAN (Apache-2.0), commit 1715a43; `NAMES`
maps its parameter names.

Details of the published code, kept here: a block is normalized over its channels and all pixels; the first of the two
dilated convolutions has neither norm nor activation; in the first half of the stages the convolutions between pixels
are dense and those between rotated channels depthwise, in the second half the former are depthwise and the latter have
a group for each channel of the block. What is added to each pixel before the rotation is the product of channel k of
two maps, where k is the largest channel of the block's input, although these maps have more channels. Only size T is
published. Where we differ: the stochastic depth of the last block is the rate itself, there the rate less one block's
part; gates have the initial values of layers/convolutions/squeeze_excite.py; a head those of modelzoo/heads.
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
from longview.modelzoo.layers.convolutions.conv import convolve, kernel_shape, spread
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import meta_next
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import GroupNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_Pointwise = functools.partial(Dense, kernel_init=jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'))
_SMALL = 1e-5


class Conv(nn.Module):
    """A convolution without bias, in groups, with He's initial values by the fan-out of a group.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel.
        stride: step of the output grid.
        padding: zeros on each side.
        groups: groups of channels.
        dilation: distance in pixels between taps; the kernel is filled up with zeros.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1
    dilation: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns the convolution (a correlation)."""
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        fan_out = self.kernel_size**2 * self.features // self.groups
        kernel = self.param('kernel', jax.nn.initializers.normal(math.sqrt(2 / fan_out)), shape)
        kernel = spread(kernel.astype(self.dtype), self.dilation)
        return convolve(x.astype(self.dtype), kernel, self.stride, self.padding)


class ConvNorm(nn.Module):
    """``act(norm(conv(x)))``.

    Attributes:
        conv: factory of the convolution.
        act: activation.
        dtype: compute type.
    """

    conv: Callable[..., nn.Module]
    act: Callable[[Array], Array] = gelu
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns the map of the convolution's size."""
        x = self.conv(dtype=self.dtype, name='conv')(x)
        return self.act(BatchNorm(1e-6, dtype=self.dtype, name='norm')(x, train=train))


class SpatialMixer(nn.Module):
    """``out(concat(squeeze(near(y)), squeeze(far(y))))`` with ``y = x + gamma * (x - mean(x))`` and half the channels.

    near is a 3x3 convolution, far are two of dilation 2.

    Attributes:
        dense: whether the convolutions mix channels.
        dtype: compute type.
    """

    dense: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        width = x.shape[-1] // 2
        groups = 1 if self.dense else width
        near = functools.partial(Conv, width, groups=groups)
        far = functools.partial(Conv, width, padding=2, groups=groups, dilation=2)
        y = _Pointwise(width, dtype=self.dtype, name='in')(x)
        gamma = self.param('gamma', jax.nn.initializers.constant(_SMALL), (width,)).astype(self.dtype)
        y = y + gamma[None, None, None] * (y - global_mean(y)[:, None, None].astype(self.dtype))
        squeeze = functools.partial(SqueezeExcite, 1 / 4, 1, self.dtype)
        one = ConvNorm(near, dtype=self.dtype, name='near')(y, train=train)
        two = far(dtype=self.dtype, name='far0')(y)
        two = ConvNorm(far, dtype=self.dtype, name='far1')(two, train=train)
        y = jnp.concatenate([squeeze(name='near_squeeze')(one), squeeze(name='far_squeeze')(two)], axis=-1)
        return _Pointwise(x.shape[-1], dtype=self.dtype, name='out')(y)


class ChannelMixer(nn.Module):
    """``out(squeeze(conv(rotated(a * b + a[k] * b[k]))))`` with ``a = value(x)``, ``b = gelu(phase(x))``.

    k is the largest channel of each pixel of x, see the file's docstring; rotated takes each pair of channels as a
    complex number and multiplies it by one that is learned.

    Attributes:
        ratio: inner width over width, above 1.
        depthwise: whether the convolution has a group for each inner channel, else for each channel of x.
        dtype: compute type; the rotation is in float32 as published.
    """

    ratio: int
    depthwise: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        channels = x.shape[-1]
        width = channels * self.ratio
        largest = jnp.argmax(x, axis=-1, keepdims=True)
        phase = gelu(_Pointwise(width, dtype=self.dtype, name='phase')(x))
        value = _Pointwise(width, dtype=self.dtype, name='value')(x)
        product = value * phase
        y = product + jnp.take_along_axis(product, largest, axis=-1)
        rotation = self.param('direction', jax.nn.initializers.normal(1.0), (1, 1, 1, width // 2, 2))  # as published
        y = rotated(y.astype(jnp.float32), rotation).astype(self.dtype)
        conv = functools.partial(Conv, width, groups=width if self.depthwise else channels)
        y = ConvNorm(conv, dtype=self.dtype, name='conv')(y, train=train)
        y = SqueezeExcite(1 / (4 * self.ratio), 1, self.dtype, name='squeeze')(y)
        return _Pointwise(channels, dtype=self.dtype, name='out')(y)


def rotated(x: Float[Array, 'b h w c'], rotation: Float[Array, '1 1 1 c2 2']) -> Float[Array, 'b h w c']:
    """Returns channels 2k and 2k + 1, real and imaginary part of a number, times number k of `rotation`."""
    real, imaginary = x[..., 0::2], x[..., 1::2]
    cosine, sine = rotation[..., 0], rotation[..., 1]
    pairs = jnp.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-1)
    return pairs.reshape(x.shape)


class Block(nn.Module):
    """``s += scale * spatial(norm(s))``, then ``s += scale * channel(norm(s))``.

    Attributes:
        ratio: see `ChannelMixer`.
        dense: see `SpatialMixer`; where it is, the convolution of the `ChannelMixer` is depthwise.
        dtype: compute type.
    """

    ratio: int
    dense: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, s: Array, masks: Float[Array, '2 b'] | None, *, train: bool = False) -> Array:
        """Returns the map after the block; `masks` are this block's part of `drop.path_masks`."""
        mixers = (
            SpatialMixer(self.dense, self.dtype, name='spatial'),
            ChannelMixer(self.ratio, self.dense, self.dtype, name='channel'),
        )
        for index, mixer in enumerate(mixers):
            x = GroupNorm(1, 1e-6, dtype=self.dtype, name=f'norm{index}')(s)
            y = drop_path(mixer(x, train=train), None if masks is None else masks[index])
            s = LayerScale(_SMALL, name=f'residual{index}').write(s, y)
        return s


class Stem(nn.Module):
    """Two 3x3 convolutions, each with norm and GELU.

    Attributes:
        features: output channels; the first convolution has half as many.
        stride: 4, or 1 for small images.
        dtype: compute type.
    """

    features: int
    stride: int = 4
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
        for index, features in enumerate((self.features // 2, self.features)):
            conv = functools.partial(Conv, features, stride=step)
            x = ConvNorm(conv, dtype=self.dtype, name=f'conv{index}')(x, train=train)
        return x


class SpaRTAN(ft.HalvingBackbone):
    """The network; a 2x2 convolution before each stage but the first halves the resolution.

    Attributes:
        widths, depths: channels, multiples of 8, and blocks of each stage.
        ratios: inner width of a `ChannelMixer` over width, of each stage.
        stem_stride: see `Stem`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (32, 64, 128, 256)
    depths: Sequence[int] = (3, 3, 12, 2)
    ratios: Sequence[int] = (4, 4, 2, 2)
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; downsampling belongs to the block before it."""
        *found, _ = meta_next.layers(self.depths)
        return tuple(found)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``; an odd last row or column is left out.

        Raises:
            ValueError: a stem of another stride than 4 and 1, or widths that 8 does not divide.
        """
        if any(width % 8 for width in self.widths):
            raise ValueError(f'SpaRTAN.widths is {tuple(self.widths)}: use multiples of 8.')
        x = Stem(self.widths[0], self.stem_stride, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                conv = functools.partial(Conv, self.widths[index], 2, 2, 0)
                x = ConvNorm(conv, nn.silu, self.dtype, name=f'down{index - 1}')(x, train=train)
            dense = index < len(self.depths) // 2
            block = functools.partial(Block, self.ratios[index], dense, self.dtype)
            stage = meta_next.Stage([block] * self.depths[index], Add, self.remat, name=ft.stage(index))
            x = stage(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}


# The authors' one config, which trains at 256 pixels.
VARIANTS = {
    'spartan_t': SpaRTAN(),
    'spartan_test': SpaRTAN((16, 32), (1, 1), (2, 2)),
}

PUBLISHED = {'spartan_t': ft.Published('https://arxiv.org/abs/2507.10999', (256, 256), 3.8, 1.0, 77.7)}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_POINTWISE = (
    ('smixer.proj_in', 'spatial/in'),
    ('smixer.proj_out', 'spatial/out'),
    ('cmixer.theta', 'channel/phase'),
    ('cmixer.proj', 'channel/value'),
    ('cmixer.proj_out', 'channel/out'),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for there, here in (
            ('smixer.h_attn', 'spatial/near_squeeze'),
            ('smixer.l_attn', 'spatial/far_squeeze'),
            ('cmixer.attn', 'channel/squeeze'),
        )
        for a, b in (('squeeze', 'down'), ('expand', 'up'))
    ),
)
_CONVS = (('smixer.h_conv', 'spatial/near'), ('smixer.l_conv.1', 'spatial/far1'), ('cmixer.conv', 'channel/conv'))
_BLOCK = (
    *((f'{there}.weight', f'{here}/kernel', 2) for there, here in _POINTWISE),
    *((f'{there}.bias', f'{here}/bias') for there, here in _POINTWISE),
    ('smixer.l_conv.0.conv.weight', 'spatial/far0/kernel'),
    *((f'{there}.conv.weight', f'{here}/conv/kernel') for there, here in _CONVS),
    *((f'{there}.norm.{a}', f'{here}/norm/{b}') for there, here in _CONVS for a, b in _NORM),
    *((f'norm_{k + 1}.{a}', f'norm{k}/{b}') for k in range(2) for a, b in _NORM[:2]),
    *((f'scale_{k + 1}', f'residual{k}/scale', 2) for k in range(2)),
    ('smixer.gamma', 'spatial/gamma', 2),
    ('cmixer.complex', 'channel/direction'),
)


def names(depths: Sequence[int]) -> list[tuple]:
    """Returns the names of a network of these depths: the published ones count blocks and downsampling in one row."""
    places = [('conv.0', 'stem/conv0'), ('conv.1', 'stem/conv1')]
    blocks, place = [], 0
    for stage, depth in enumerate(depths):
        if stage:
            places.append((f'layers.{place}', f'down{stage - 1}'))
            place += 1
        blocks += [(f'layers.{place + i}', f'stage{stage}/block{i:02d}') for i in range(depth)]
        place += depth
    return [
        *((f'{there}.conv.weight', f'backbone/{here}/conv/kernel') for there, here in places),
        *((f'{there}.norm.{a}', f'backbone/{here}/norm/{b}') for there, here in places for a, b in _NORM),
        *((f'{there}.{a}', f'backbone/{here}/{b}', *units) for there, here in blocks for a, b, *units in _BLOCK),
        *((f'linear.{a}', f'head/{b}') for a, b in _AFFINE),
    ]


NAMES = {'SpaRTAN': tuple(names((3, 3, 12, 2)))}
