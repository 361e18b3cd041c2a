"""SHViT: attention of a single head on some of the channels, on few tokens from the start.

Yun and Ro, 2024, "SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
https://arxiv.org/abs/2401.16456. Reference: https://github.com/ysj9909/SHViT (MIT), commit 6a729cc; `NAMES` maps its
parameter names and timm's (https://github.com/huggingface/pytorch-image-models, Apache-2.0, release 1.0.31).

A stem of stride 16 leaves so few tokens that the first stage can mix them by 3x3 kernels alone. The other two have, in
each block, one head that attends to the first channels only and leaves the rest as they are; a matrix mixes both.

Details of the published code, kept here:
  * the channels that attend are normalized together over the whole map, by a group normalization of one group;
  * between stages stand, beside the block that shrinks the map, two blocks without attention, whose 3x3 kernels do not
    start from 0 as those of the other blocks do;
  * the head's batch normalization comes before its matrix.

For inference, `deploy` turns the parameters of a trained network into those of an equivalent one without batch
normalizations, `DeployedSHViT`: they are merged into the kernels before them, or into the head, and the 3x3 kernels
take up the shortcut around them. Where we differ: stochastic depth, which the published networks do not use, skips the
branches of a block together. The second head for distillation, of which no weights were published, is not built.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads.classify import Linear
from longview.modelzoo.heads.normed import NormedLinear
from longview.modelzoo.layers.attention.attention import attend
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.large_small import DepthNorm, PointNorm
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import init, pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm, per_channel
from longview.modelzoo.layers.norms.norm import GroupNorm

_ONE, _ZERO = jax.nn.initializers.ones, jax.nn.initializers.zeros


class Shift(nn.Module):
    """``x + bias``: what `deploy` leaves of a batch normalization.

    Attributes:
        scale_init: unused, for the signature that norms share.
        dtype: of the result.
    """

    scale_init: init.Initializer = _ONE
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns the map with the bias of each channel."""
        del train
        return x + per_channel(self.param('bias', _ZERO, (x.shape[-1],)).astype(self.dtype))


class SingleHead(nn.Module):
    """``norm(out(relu([attend(norm(x1)) | x2])))`` with the first channels x1 and the rest x2 of the map.

    Attributes:
        attending: number of the first channels, which are those of the values.
        key: channels of the queries and keys.
        norm: factory of the batch normalizations.
        dtype: compute type; logits and softmax are float32.
    """

    attending: int
    key: int = 16
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape.

        Raises:
            ValueError: there are fewer channels than are to attend.
        """
        width = x.shape[-1]
        if self.attending > width:
            raise ValueError(f'{self.attending} of {width} channels cannot attend: change attending or widths.')
        first, rest = jnp.split(x, (self.attending,), axis=-1)
        first = GroupNorm(1, dtype=self.dtype, name='norm')(first)
        qkv = PointNorm(2 * self.key + self.attending, self.norm, self.dtype, name='qkv')(first, train=train)
        q, k, v = jnp.split(qkv.reshape(x.shape[0], 1, -1, qkv.shape[-1]), (self.key, 2 * self.key), axis=-1)
        y = attend(q, k, v).reshape(first.shape)
        from_zero = functools.partial(self.norm, scale_init=_ZERO)
        out = PointNorm(width, from_zero, self.dtype, name='out')
        return out(nn.relu(jnp.concatenate([y, rest.astype(y.dtype)], axis=-1)), train=train)


class Block(nn.Module):
    """``x += norm(conv(x))`` with a 3x3 kernel per channel, ``x += mixer(x)``, ``x += norm(down(relu(norm(up(x)))))``.

    Attributes:
        mixer: factory of what mixes pixels far apart; None for none.
        scale_init: initial values of the scale of the first norm.
        merged: whether the kernels have taken up the first shortcut; see `deploy`.
        norm: factory of the batch normalizations.
        dtype: compute type.
    """

    mixer: Callable[..., nn.Module] | None = None
    scale_init: init.Initializer = _ONE
    merged: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        parts = {'norm': self.norm, 'dtype': self.dtype}
        local = DepthNorm(norm=functools.partial(self.norm, scale_init=self.scale_init), dtype=self.dtype, name='local')
        y = local(x, train=train)
        x = y if self.merged else x + drop_path(y, mask)
        if self.mixer is not None:
            x = x + drop_path(self.mixer(**parts, name='mixer')(x, train=train), mask)
        y = nn.relu(PointNorm(2 * x.shape[-1], **parts, name='up')(x, train=train))
        from_zero = functools.partial(self.norm, scale_init=_ZERO)
        return x + drop_path(PointNorm(x.shape[-1], from_zero, self.dtype, name='down')(y, train=train), mask)


class Shrink(nn.Module):
    """An inverted residual without shortcut: 1x1 to four times the width, 3x3 of stride 2 per channel, squeeze, 1x1.

    Attributes:
        features: output channels.
        squeeze: factory of squeeze-and-excitation.
        norm: factory of the batch normalizations.
        dtype: compute type.
    """

    features: int
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 0.25)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up; there is nothing to skip."""
        del mask
        parts = {'norm': self.norm, 'dtype': self.dtype}
        x = nn.relu(PointNorm(4 * x.shape[-1], **parts, name='up')(x, train=train))
        x = nn.relu(DepthNorm(stride=2, **parts, name='local')(x, train=train))
        x = self.squeeze(dtype=self.dtype, name='squeeze')(x)
        return PointNorm(self.features, **parts, name='down')(x, train=train)


class Stem(nn.Module):
    """Four 3x3 convolutions with norms, and ReLU between them.

    Attributes:
        features: output channels; the convolutions before have an eighth, a quarter and a half of them.
        stride: 16 as published, or 8, 4, 2 or 1: then only the first convolutions have a stride.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    features: int
    stride: int = 16
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up.

        Raises:
            ValueError: another stride, or a width that does not divide by 8.
        """
        if self.stride not in (1, 2, 4, 8, 16) or self.features % 8:
            raise ValueError(
                f'stem_stride is {self.stride} and the first width {self.features}: use 16 as published, or 8, 4, 2 '
                'or 1 for small images, and a multiple of 8.'
            )
        for index in range(4):
            features, step = self.features >> (3 - index), 2 if self.stride >> index > 1 else 1
            x = nn.relu(x) if index else x
            x = _StemConv(features, step, self.norm, self.dtype, name=f'conv{index}')(x, train=train)
        return x


class _StemConv(nn.Module):
    """``norm(conv(x))`` with a 3x3 kernel that starts as torch's do."""

    features: int
    stride: int
    norm: Callable[..., nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool) -> Float[Array, 'b h2 w2 d']:
        x = Conv(self.features, 3, self.stride, 1, self.dtype, use_bias=False, name='conv')(x)
        return self.norm(dtype=self.dtype, name='norm')(x, train=train)


class SHViT(ft.HalvingBackbone):
    """The network; before each stage but the first a `Shrink` halves the resolution, with a `Block` before and after.

    Attributes:
        widths: channels of each stage.
        depths: blocks of each stage, without those three.
        attending: channels of each stage that attend; 0 for a stage without attention.
        key: channels of queries and keys.
        stem_stride: 16, or 8, 4, 2 or 1 for small images.
        squeeze: factory of squeeze-and-excitation.
        norm: factory of every batch normalization.
        merged: whether the variables are those that `deploy` made.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (128, 224, 320)
    depths: Sequence[int] = (2, 4, 5)
    attending: Sequence[int] = (0, 48, 68)
    key: int = 16
    stem_stride: int = 16
    squeeze: Callable[..., nn.Module] = functools.partial(SqueezeExcite, 0.25)
    norm: Callable[..., nn.Module] = BatchNorm
    merged: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; the last norm has no parameters."""
        return pyramid.layers([depth + (3 if index else 0) for index, depth in enumerate(self.depths)])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``, the normalized mean of the pixels."""
        norm = Shift if self.merged else self.norm
        stem = Stem(self.widths[0], self.stem_stride, norm, self.dtype, name='stem')(x, train=train)
        stages = self._stages({'norm': norm, 'dtype': self.dtype})
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.STEM: stem, **{ft.stage(index): value for index, value in enumerate(maps)}, ft.MAP: maps[-1]}
        pooled = global_mean(maps[-1])
        if not self.merged:  # the head has the scale and the bias of this norm
            pooled = self.norm(affine=False, name='norm')(pooled[:, None, None], train=train)[:, 0, 0]
        return {**features, ft.POOLED: pooled}

    def _stages(self, parts: Mapping[str, Any]) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of what each stage does in turn."""
        block = functools.partial(Block, merged=self.merged, **parts)
        stages = []
        for width, depth, channels in zip(self.widths, self.depths, self.attending, strict=True):
            mixer = functools.partial(SingleHead, channels, self.key) if channels else None
            shrink = [block, functools.partial(Shrink, width, self.squeeze, **parts), block] if stages else []
            stages.append([*shrink, *[functools.partial(block, mixer, _ZERO)] * depth])
        return stages


class DeployedSHViT(SHViT):
    """The network without batch normalizations; its variables are those that `deploy` makes."""

    merged: bool = True


def deploy(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables with which a classifier of `DeployedSHViT` equals the trained one in evaluation.

    A pure function of arrays; see the head of this file.

    Args:
        variables: ``params`` and ``batch_stats`` of a classifier, backbone and head.
    """
    params, stats = variables['params'], variables['batch_stats']['backbone']
    head, norm = params['head'], stats['norm']
    gain = head['scale'] / jnp.sqrt(norm['var'] + BatchNorm.epsilon)
    shift = head['shift'] - norm['mean'] * gain
    head = {'kernel': head['kernel'] * gain[:, None], 'bias': head['bias'] + shift @ head['kernel']}
    return {'params': {'backbone': _merged(params['backbone'], stats), 'head': head}}


def _merged(params: Any, stats: Mapping[str, Any]) -> Any:
    """Returns a part of the network without its batch normalizations."""
    if not isinstance(params, Mapping):
        return params
    if 'norm' in stats and 'conv' in params:
        gain = params['norm']['scale'] / jnp.sqrt(stats['norm']['var'] + BatchNorm.epsilon)
        kernel = params['conv']['kernel']
        kernel = kernel * gain.reshape((1,) * (kernel.ndim - 1) + (-1,))
        return {'conv': {'kernel': kernel}, 'norm': {'bias': params['norm']['bias'] - stats['norm']['mean'] * gain}}
    parts = {name: _merged(child, stats.get(name, {})) for name, child in params.items()}
    if 'local' in parts and 'squeeze' not in parts:  # around the kernels of a `Shrink` there is no shortcut
        parts['local']['conv']['kernel'] = parts['local']['conv']['kernel'].at[1, 1].add(1.0)
    return parts


# Table 2 of the paper: each size as it is trained, and deployed.
_TRAINED = {
    'shvit_s1': SHViT(),
    'shvit_s2': SHViT((128, 308, 448), (2, 4, 5), (0, 66, 96)),
    'shvit_s3': SHViT((192, 352, 448), (3, 5, 5), (0, 75, 96)),
    'shvit_s4': SHViT((224, 336, 448), (4, 7, 6), (0, 72, 96)),
}
_FIELDS = ('widths', 'depths', 'attending', 'stem_stride')


def _deployed(backbone: SHViT) -> DeployedSHViT:
    return DeployedSHViT(**{field: getattr(backbone, field) for field in _FIELDS})


_TEST = SHViT((8, 16), (1, 1), (0, 8), stem_stride=4)
VARIANTS = {
    **_TRAINED,
    **{f'{name}_deploy': _deployed(backbone) for name, backbone in _TRAINED.items()},
    'shvit_test': _TEST,
    'shvit_deploy_test': _deployed(_TEST),
}

# The heads of the published classifiers.
HEADS = {'SHViT': NormedLinear, 'DeployedSHViT': Linear}

# Table 3, and the README.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2401.16456')
PUBLISHED = {
    'shvit_s1': _PAPER((224, 224), 6.3, 0.241, 72.8),
    'shvit_s2': _PAPER((224, 224), 11.4, 0.366, 75.2),
    'shvit_s3': _PAPER((224, 224), 14.2, 0.601, 77.4),
    'shvit_s4': _PAPER((256, 256), 16.5, 0.986, 79.4),
}

# Published names of a classifier's parameters and statistics, and ours; see weights.py. 1x1 convolutions are matrices
# here. What a stage does in turn is numbered by the authors as here; timm has the first three things apart. Deployed
# networks have the names that the authors' and timm's `fuse` gives them.
_STATISTICS = (('running_mean', 'mean'), ('running_var', 'var'))
_BATCH = (('weight', 'scale'), ('bias', 'bias'), *_STATISTICS)
_DEEPEST = 8  # more blocks than any stage has


def _unit(there: str, here: str, *axes: int, merged: bool) -> list[tuple]:
    """Names of a kernel and of the norm behind it."""
    if merged:
        return [(f'{there}.weight', f'{here}/conv/kernel', *axes), (f'{there}.bias', f'{here}/norm/bias')]
    return [
        (f'{there}.c.weight', f'{here}/conv/kernel', *axes),
        *((f'{there}.bn.{a}', f'{here}/norm/{b}') for a, b in _BATCH),
    ]


def _block(conv: str, ffn: str, here: str, *, merged: bool) -> list[tuple]:
    """Names of a block without attention; torch knows a kernel that has taken up its shortcut by a shorter name."""
    units = (
        (conv if merged else f'{conv}.m', 'local'),
        (f'{ffn}.m.pw1', 'up', 2),
        (f'{ffn}.m.pw2', 'down', 2),
    )
    return [name for a, b, *axes in units for name in _unit(a, f'{here}/{b}', *axes, merged=merged)]


def _attending_block(there: str, here: str, *, merged: bool) -> list[tuple]:
    units = ('mixer.m.qkv', 'mixer/qkv'), ('mixer.m.proj.1', 'mixer/out')
    return [
        *_block(f'{there}.conv', f'{there}.ffn', here, merged=merged),
        *(name for a, b in units for name in _unit(f'{there}.{a}', f'{here}/{b}', 2, merged=merged)),
        *((f'{there}.mixer.m.pre_norm.{a}', f'{here}/mixer/norm/{b}') for a, b in _BATCH[:2]),
    ]


def _shrink(before: tuple[str, str], there: str, after: tuple[str, str], here: str, *, merged: bool) -> list[tuple]:
    units = ('conv1', 'up', 2), ('conv2', 'local'), ('conv3', 'down', 2)
    squeeze, shrink = ((1, 'down'), (2, 'up')), f'{here}/block01'
    return [
        *_block(*before, f'{here}/block00', merged=merged),
        *(name for a, b, *axes in units for name in _unit(f'{there}.{a}', f'{shrink}/{b}', *axes, merged=merged)),
        *((f'{there}.se.fc{k}.weight', f'{shrink}/squeeze/{a}/kernel', 2) for k, a in squeeze),
        *((f'{there}.se.fc{k}.bias', f'{shrink}/squeeze/{a}/bias') for k, a in squeeze),
        *_block(*after, f'{here}/block02', merged=merged),
    ]


def _names(*, merged: bool) -> tuple[tuple, ...]:
    here, down = 'backbone/stage{s}', [f'stages.{{s}}.downsample.{k}' for k in range(5)]
    first, blocks = 'backbone/stage0/block{i:02d}', 'blocks{s+1}'
    return (
        *(name for k in range(4) for name in _unit(f'patch_embed.{2 * k}', f'backbone/stem/conv{k}', merged=merged)),
        *_attending_block('blocks1.{i}', first, merged=merged),
        *_shrink(_pair(f'{blocks}.0'), f'{blocks}.1', _pair(f'{blocks}.2'), here, merged=merged),
        *_attending_block(f'{blocks}.{{i}}', f'{here}/block{{i:02d}}', merged=merged),
        *_head_names(merged=merged),
        *_attending_block('stages.0.blocks.{i}', first, merged=merged),
        *_shrink((down[0], down[1]), down[2], (down[3], down[4]), here, merged=merged),
        *(
            name
            for k in range(_DEEPEST)
            for name in _attending_block(f'stages.{{s}}.blocks.{k}', f'{here}/block{k + 3:02d}', merged=merged)
        ),
    )


def _pair(there: str) -> tuple[str, str]:
    return f'{there}.0', f'{there}.1'


def _head_names(*, merged: bool) -> list[tuple[str, str]]:
    if merged:
        return [('head.weight', 'head/kernel'), ('head.bias', 'head/bias')]
    affine = (('bn.weight', 'scale'), ('bn.bias', 'shift'), ('l.weight', 'kernel'), ('l.bias', 'bias'))
    return [
        *((f'head.{a}', f'head/{b}') for a, b in affine),
        *((f'head.bn.{a}', f'backbone/norm/{b}') for a, b in _STATISTICS),
    ]


NAMES = {'SHViT': _names(merged=False), 'DeployedSHViT': _names(merged=True)}
