"""RepMLPNet: matrices over the pixels of each channel, trained with convolutions that can be merged into them.

Ding et al., 2021, "RepMLP: Re-parameterizing Convolutions into Fully-connected Layers for Image Recognition",
https://arxiv.org/abs/2105.01883; its later version "RepMLPNet: Hierarchical Vision MLP with Re-parameterized Locality",
https://arxiv.org/abs/2112.11081, has the network. Reference: https://github.com/DingXiaoH/RepMLP (MIT), commit 3eff13f;
`NAMES` maps its parameter names.

A map is cut into partitions of a fixed size. In each, a matrix mixes the pixels of a channel; channels whose numbers
leave the same remainder by the number of sets share a matrix. In training a 1x1 and a 3x3 convolution with zero padding
around each partition are added, each with a batch norm of its own. `deploy` turns the parameters of a trained network
into those of an equivalent one that has the matrix alone ("locality injection"), whose blocks have `Injected`.

Details of the published code that are not in the papers, kept here: no activation follows the matrix, and the gate
multiplies it; where a map has several partitions, their axis and that of the groups of channels are written in one
order and read in the other, so that they change places (the published sizes have one partition). Where we differ: the
biases of the gate start from 0, a head has the initial values of modelzoo/heads, and there is stochastic depth, 0 as
published.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.depthwise_conv import depthwise_conv
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv
from longview.modelzoo.layers.frame import init, meta_next
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.residuals.residual import Add


class PixelMatrix(nn.Module):
    """A matrix on the pixels of each channel: ``out[n, o, s] = sum_i x[n, i, s] kernel[i, s, o]``.

    Attributes:
        use_bias: whether there is a bias for each pixel.
        dtype: compute type.
    """

    use_bias: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'n h w s']) -> Float[Array, 'n h w s']:
        """Returns partitions of the same shape."""
        _, height, width, sets = x.shape
        pixels = height * width
        kernel = self.param('kernel', init.uniform_fan_in(pixels), (pixels, sets * pixels))
        kernel = kernel.astype(self.dtype).reshape(pixels, sets, pixels)
        y = jnp.einsum('nis,iso->nos', x.astype(self.dtype).reshape(-1, pixels, sets), kernel)
        if self.use_bias:
            bias = self.param('bias', jax.nn.initializers.zeros, (sets * pixels,)).astype(self.dtype)
            y = y + bias.reshape(sets, pixels).T[None]
        return y.reshape(x.shape)


class Perceptron(nn.Module):
    """``norm(matrix(x)) + norm(scale * x) + norm(conv(x))`` with a 3x3 convolution, the form in training.

    The scale is the 1x1 convolution of the paper: one number for each set.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'n h w s'], *, train: bool = False) -> Float[Array, 'n h w s']:
        """Returns partitions of the same shape."""
        norm = functools.partial(BatchNorm, dtype=self.dtype)
        scale = self.param('scale', init.uniform_fan_in(1), (x.shape[-1],)).astype(self.dtype)
        y = norm(name='matrix_norm')(PixelMatrix(False, self.dtype, name='matrix')(x), train=train)
        y = y + norm(name='scale_norm')(x * scale[None, None, None], train=train)
        return y + norm(name='conv_norm')(DepthwiseConv(3, dtype=self.dtype, name='conv')(x), train=train)


class Injected(nn.Module):
    """The matrix alone, with a bias: the form after `deploy`.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'n h w s'], *, train: bool = False) -> Float[Array, 'n h w s']:
        """Returns partitions of the same shape."""
        del train
        return PixelMatrix(True, self.dtype, name='matrix')(x)


class Gate(nn.Module):
    """``sigmoid(up(relu(down(global_mean(x)))))`` with a quarter of the channels between.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b 1 1 c']:
        """Returns a factor for each channel."""
        channels = x.shape[-1]
        hidden = channels // 4
        y = Dense(hidden, True, init.uniform_fan_in(channels), self.dtype, name='down')(global_mean(x))
        y = Dense(channels, True, init.uniform_fan_in(hidden), self.dtype, name='up')(nn.relu(y))
        return nn.sigmoid(y)[:, None, None]


class FeedForward(nn.Module):
    """``norm(down(gelu(norm(up(x)))))`` with four times the channels between.

    Attributes:
        dtype: compute type.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape."""
        norm = functools.partial(BatchNorm, dtype=self.dtype)
        channels = x.shape[-1]
        hidden = 4 * channels
        y = Dense(hidden, False, init.uniform_fan_in(channels), self.dtype, name='up')(x)
        y = gelu(norm(name='up_norm')(y, train=train))
        y = Dense(channels, False, init.uniform_fan_in(hidden), self.dtype, name='down')(y)
        return norm(name='down_norm')(y, train=train)


class Block(nn.Module):
    """``s += gate(x) * perceptron(x)`` with ``x = norm(s)``, then ``s += mlp(norm(s))``.

    Attributes:
        partition: height and width of the partitions.
        sets: number of matrices; it divides the channels.
        perceptron: factory of what mixes pixels: `Perceptron`, or `Injected`.
        dtype: compute type.
    """

    partition: Sequence[int]
    sets: int
    perceptron: Callable[..., nn.Module] = Perceptron
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, s: Array, masks: Float[Array, '2 b'] | None, *, train: bool = False) -> Array:
        """Returns the map after the block; `masks` are this block's part of `drop.path_masks`."""
        first, second = (None, None) if masks is None else masks
        x = BatchNorm(dtype=self.dtype, name='norm1')(s, train=train)
        y = self.perceptron(dtype=self.dtype, name='perceptron')(_cut(x, self.partition, self.sets), train=train)
        y = _together(y, x.shape) * Gate(self.dtype, name='gate')(x)
        s = s + drop_path(y, first)
        x = BatchNorm(dtype=self.dtype, name='norm2')(s, train=train)
        return s + drop_path(FeedForward(self.dtype, name='mlp')(x, train=train), second)


def _cut(x: Float[Array, 'b h w c'], partition: Sequence[int], sets: int) -> Float[Array, 'n i j s']:
    """Returns the partitions of each group of `sets` successive channels."""
    (rows, columns), (batch, height, width, channels) = partition, x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels // sets, sets)
    return x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, rows, columns, sets)


def _together(y: Float[Array, 'n i j s'], shape: Sequence[int]) -> Float[Array, 'b h w c']:
    """Returns a map of partitions, read with the groups of channels before the partitions as published."""
    (_, rows, columns, sets), (batch, height, width, channels) = y.shape, shape
    y = y.reshape(batch, channels // sets, height // rows, width // columns, rows, columns, sets)
    return y.transpose(0, 2, 4, 3, 5, 1, 6).reshape(shape)


class Embed(nn.Module):
    """``relu(norm(conv(x)))`` with a convolution whose stride is the side of its kernel.

    Attributes:
        features: output channels.
        stride: side of the squares.
        dtype: compute type.
    """

    features: int
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels."""
        x = Conv(self.features, self.stride, self.stride, dtype=self.dtype, use_bias=False, name='conv')(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name='norm')(x, train=train))


class RepMLPNet(ft.HalvingBackbone):
    """The network; each stage but the first halves the resolution, and the partitions with it.

    Attributes:
        widths, depths: channels and blocks of each stage.
        sets: number of matrices of a block of each stage.
        partition: height and width of a partition of the first stage.
        perceptron: see `Block`; `Injected` for parameters that `deploy` made.
        stem_stride: side of the squares of the stem.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    depths: Sequence[int] = (2, 2, 6, 2)
    sets: Sequence[int] = (1, 4, 16, 128)
    partition: Sequence[int] = (56, 56)
    perceptron: Callable[..., nn.Module] = Perceptron
    stem_stride: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling belongs to the block before it."""
        return meta_next.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the image is not whole partitions, or these cannot be halved in each stage.
        """
        self._check(*x.shape[1:3])
        x = Embed(self.widths[0], self.stem_stride, self.dtype, name='stem')(x, train=train)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                x = Embed(self.widths[index], dtype=self.dtype, name=f'down{index - 1}')(x, train=train)
            stage = meta_next.Stage(self._blocks(index), Add, self.remat, name=ft.stage(index))
            x = stage(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        x = BatchNorm(dtype=self.dtype, name='norm')(x, train=train)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _blocks(self, index: int) -> list[Callable[..., nn.Module]]:
        sides = [side // 2**index for side in self.partition]
        block = functools.partial(Block, sides, self.sets[index], self.perceptron, self.dtype)
        return [block] * self.depths[index]

    def _check(self, height: int, width: int) -> None:
        halvings = 2 ** (len(self.depths) - 1)
        if any(side % halvings or not side for side in self.partition):
            raise ValueError(f'RepMLPNet.partition is {tuple(self.partition)}: use multiples of {halvings}.')
        rows, columns = (side * self.stem_stride for side in self.partition)
        if height % rows or width % columns or not height or not width:
            raise ValueError(
                f'image {height}x{width} is not whole partitions of RepMLPNet: use multiples of {rows}x{columns} or '
                f'change the partition, {tuple(self.partition)} pixels of stride {self.stem_stride}.'
            )


def deploy(variables: Mapping[str, Any], partition: Sequence[int]) -> dict[str, Any]:
    """Returns variables with which the network of `Injected` equals the trained network in evaluation.

    A pure function of arrays: the batch norms of each `Perceptron` are merged into its matrix and convolutions, and
    these into the matrix, of which they are a part: the answers to all images of one bright pixel.

    Args:
        variables: ``params`` and ``batch_stats`` of the backbone, or of a network that contains it.
        partition: the network's.
    """
    params, stats = _walk(variables['params'], variables['batch_stats'], partition)
    return {'params': params, 'batch_stats': stats}


def _walk(
    params: Mapping[str, Any], stats: Mapping[str, Any], partition: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    new_params, new_stats = dict(params), dict(stats)
    for name, child in params.items():
        if name == 'perceptron':
            new_params[name] = {'matrix': _inject(child, new_stats.pop(name), partition)}
        elif isinstance(child, Mapping) and name in stats:
            new_params[name], new_stats[name] = _walk(child, stats[name], partition)
    return new_params, new_stats


def _inject(params: Mapping[str, Any], stats: Mapping[str, Any], partition: Sequence[int]) -> dict[str, Array]:
    """Returns kernel and bias of the matrix that is equivalent to a `Perceptron`."""
    gains, shifts = zip(*(_affine(params[norm], stats[norm]) for norm in ('matrix_norm', 'scale_norm', 'conv_norm')))
    kernel, sets = params['matrix']['kernel'], len(params['scale'])
    pixels = len(kernel)
    halvings = math.isqrt(math.prod(partition) // pixels)
    matrix = kernel.reshape(pixels, sets, pixels) * gains[0][None, :, None]
    conv = params['conv']['kernel'] * gains[2][None, None, None]
    conv = conv.at[1, 1, 0].add(params['scale'] * gains[1])
    matrix = matrix + _as_matrix(conv, [side // halvings for side in partition])
    return {'kernel': matrix.reshape(kernel.shape), 'bias': jnp.repeat(sum(shifts), pixels)}


def _affine(norm: Mapping[str, Array], stats: Mapping[str, Array]) -> tuple[Array, Array]:
    """Returns a and b with which a batch norm in evaluation is ``a x + b``."""
    gain = norm['scale'] / jnp.sqrt(stats['var'] + BatchNorm.epsilon)
    return gain, norm['bias'] - stats['mean'] * gain


def _as_matrix(kernel: Float[Array, '3 3 1 s'], sides: Sequence[int]) -> Float[Array, 'i s o']:
    """Returns the matrix of a depthwise convolution: its answers to all images of one bright pixel."""
    pixels, sets = sides[0] * sides[1], kernel.shape[-1]
    bright = jnp.broadcast_to(jnp.eye(pixels).reshape(pixels, *sides, 1), (pixels, *sides, sets))
    return depthwise_conv(bright, kernel).reshape(pixels, pixels, sets).swapaxes(1, 2)


# The authors' six sizes, each in its training and deployed form.
_256 = {'partition': (64, 64)}
_B = {'widths': (96, 192, 384, 768), 'depths': (2, 2, 12, 2), 'sets': (1, 4, 32, 128)}
_TRAINED = {
    'repmlpnet_t224': RepMLPNet(),
    'repmlpnet_t256': RepMLPNet(**_256),
    'repmlpnet_b224': RepMLPNet(**_B),
    'repmlpnet_b256': RepMLPNet(**_B, **_256),
    'repmlpnet_d256': RepMLPNet((80, 160, 320, 640), (2, 2, 18, 2), **_256),
    'repmlpnet_l256': RepMLPNet((96, 192, 384, 768), (2, 2, 18, 2), (1, 4, 32, 256), **_256),
}
_TEST = RepMLPNet((16, 32), (1, 1), (2, 4), (4, 4))
VARIANTS = {
    **_TRAINED,
    **{f'{name}_deploy': backbone.clone(perceptron=Injected) for name, backbone in _TRAINED.items()},
    'repmlpnet_test': _TEST,
    'repmlpnet_deploy_test': _TEST.clone(perceptron=Injected),
}

# The table of the repository.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2112.11081')
_FIGURES = {
    'repmlpnet_t224': _PAPER((224, 224), params=38.3, top1=76.62),
    'repmlpnet_t256': _PAPER((256, 256), params=58.7, top1=77.44),
    'repmlpnet_b224': _PAPER((224, 224), params=68.2, top1=80.32),
    'repmlpnet_b256': _PAPER((256, 256), params=96.5, top1=81.03),
    'repmlpnet_d256': _PAPER((256, 256), params=86.9, top1=80.83),
    'repmlpnet_l256': _PAPER((256, 256), params=117.7, top1=81.68),
}
PUBLISHED = {**_FIGURES, **{f'{name}_deploy': figures for name, figures in _FIGURES.items()}}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_NORMS = (
    ('repmlp_block.fc3_bn', 'perceptron/matrix_norm'),
    ('repmlp_block.repconv1.bn', 'perceptron/scale_norm'),
    ('repmlp_block.repconv3.bn', 'perceptron/conv_norm'),
    ('ffn_block.ffn_fc1.bn', 'mlp/up_norm'),
    ('ffn_block.ffn_fc2.bn', 'mlp/down_norm'),
    ('prebn1', 'norm1'),
    ('prebn2', 'norm2'),
)
_BLOCK = (
    *((f'{there}.{a}', f'{here}/{b}') for there, here in _NORMS for a, b in _NORM),
    *(
        (f'repmlp_block.gp.{there}.weight', f'gate/{here}/kernel', 2)
        for there, here in (('fc1', 'down'), ('fc2', 'up'))
    ),
    *((f'repmlp_block.gp.{there}.bias', f'gate/{here}/bias') for there, here in (('fc1', 'down'), ('fc2', 'up'))),
    *(
        (f'ffn_block.ffn_{there}.conv.weight', f'mlp/{here}/kernel', 2)
        for there, here in (('fc1', 'up'), ('fc2', 'down'))
    ),
    ('repmlp_block.fc3.weight', 'perceptron/matrix/kernel', 2),
    ('repmlp_block.fc3.bias', 'perceptron/matrix/bias'),
    ('repmlp_block.repconv1.conv.weight', 'perceptron/scale', 3),
    ('repmlp_block.repconv3.conv.weight', 'perceptron/conv/kernel'),
)
_EMBEDS = (('conv_embedding', 'stem'), *((f'embeds.{k}', f'down{k}') for k in range(3)))
NAMES = {
    'RepMLPNet': (
        *((f'{there}.conv.weight', f'backbone/{here}/conv/kernel') for there, here in _EMBEDS),
        *((f'{there}.bn.{a}', f'backbone/{here}/norm/{b}') for there, here in _EMBEDS for a, b in _NORM),
        *((f'stages.{{s}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}', *units) for a, b, *units in _BLOCK),
        *((f'head_norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
