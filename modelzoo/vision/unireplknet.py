"""UniRepLKNet: 13x13 depthwise convolutions, trained with parallel dilated convolutions that can be merged into them.

Ding et al., 2023, "UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud, Time-Series
and Image Recognition", https://arxiv.org/abs/2311.15599. Reference: https://github.com/AILab-CVC/UniRepLKNet
(Apache-2.0), commit b5677d8; `NAMES` maps its parameter names.

A block is a depthwise convolution, batch norm, squeeze-and-excitation, a feed-forward layer with global response
normalization, batch norm, LayerScale. In training, dilated convolutions of about the same extent are added to the large
one, each with a batch norm of its own. `deploy` turns the parameters of a trained network into those of an equivalent
one without these branches, batch norms and LayerScale, whose blocks are `Deployed`. LayerNorm's epsilon is 1e-6
everywhere. The classifier reads the normalized mean of the last stage, not the mean of ``map``.
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
from longview.modelzoo.layers.convolutions.conv import Conv, DepthwiseConv, spread
from longview.modelzoo.layers.convolutions.squeeze_excite import SqueezeExcite
from longview.modelzoo.layers.frame import init, meta_next
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import gelu
from longview.modelzoo.layers.frame.patch import patch_grid
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import GlobalResponseNorm, LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.residual import Add

_Norm = functools.partial(LayerNorm, epsilon=1e-6)
_Depthwise = functools.partial(DepthwiseConv, kernel_init=init.trunc_normal(0.02))
_ZEROS = jax.nn.initializers.zeros

# Side of a large kernel -> side and dilation of the kernels added to it; smaller kernels have none.
BRANCHES = {
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


class Block(nn.Module):
    """``s += norm(down(response(gelu(up(squeeze(norm(conv(s))))))))``, the block in training.

    For a kernel size in `BRANCHES`, conv is ``norm(large(s)) + norm(dilated(s)) + ...``.

    Attributes:
        kernel_size: side of the depthwise kernel.
        ratio: hidden width over width.
        residual: factory of the connection.
        dtype: compute type.
    """

    kernel_size: int
    ratio: float = 4.0
    residual: Callable[..., nn.Module] = functools.partial(LayerScale, 1e-6)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, s: Array, mask: Float[Array, '1 b'] | None, *, train: bool = False) -> Array:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        norm = functools.partial(BatchNorm, dtype=self.dtype)
        join = self.residual(name='residual')
        x = join.read(s)
        y = _Depthwise(self.kernel_size, dtype=self.dtype, name=_name(self.kernel_size))(x)
        if self.kernel_size in BRANCHES:
            y = norm(name='large_norm')(y, train=train)
            for side, dilation in BRANCHES[self.kernel_size]:
                name = f'k{side}_{dilation}'
                branch = _Depthwise(side, dtype=self.dtype, dilation=dilation, name=f'dilated_{name}')(x)
                y = y + norm(name=f'dilated_norm_{name}')(branch, train=train)
        y = _hidden(norm(name='norm')(y, train=train), self.ratio, self.dtype, use_bias=True)
        y = Dense(x.shape[-1], False, dtype=self.dtype, name='down')(y)
        y = norm(name='down_norm')(y, train=train)
        return join.write(s, drop_path(y, None if mask is None else mask[0]))


class Deployed(nn.Module):
    """``s += down(response(gelu(up(squeeze(conv(s))))))``, the block after `deploy`.

    Attributes:
        kernel_size, ratio, residual, dtype: as in `Block`.
    """

    kernel_size: int
    ratio: float = 4.0
    residual: Callable[..., nn.Module] = Add
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, s: Array, mask: Float[Array, '1 b'] | None, *, train: bool = False) -> Array:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        del train
        join = self.residual(name='residual')
        x = join.read(s)
        y = _Depthwise(
            self.kernel_size, dtype=self.dtype, use_bias=True, bias_init=_ZEROS, name=_name(self.kernel_size)
        )(x)
        y = Dense(x.shape[-1], dtype=self.dtype, name='down')(_hidden(y, self.ratio, self.dtype, use_bias=False))
        return join.write(s, drop_path(y, None if mask is None else mask[0]))


def _name(kernel_size: int) -> str:
    return 'large' if kernel_size in BRANCHES else 'conv'


def _hidden(x: Array, ratio: float, dtype: DTypeLike, *, use_bias: bool) -> Array:
    """Returns ``response(gelu(up(squeeze(x))))`` inside a block's ``__call__``."""
    y = SqueezeExcite(1 / 4, 1, dtype, name='squeeze')(x)
    y = gelu(Dense(int(x.shape[-1] * ratio), dtype=dtype, name='up')(y))
    return GlobalResponseNorm(use_bias, dtype=dtype, name='response')(y)


class Stem(nn.Module):
    """Two 3x3 convolutions, each with LayerNorm, and GELU between them.

    Attributes:
        features: output channels; the first convolution has half as many.
        patch: total stride, an even number; the second convolution has stride 2.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / patch by w / patch pixels."""
        x = _conv(self.features // 2, self.patch // 2, self.dtype, 'conv0')(x)
        x = gelu(_Norm(dtype=self.dtype, name='norm0')(x))
        x = _conv(self.features, 2, self.dtype, 'conv1')(x)
        return _Norm(dtype=self.dtype, name='norm1')(x)


class Down(nn.Module):
    """A 3x3 convolution of stride 2, then LayerNorm.

    Attributes:
        features: output channels.
        dtype: compute type.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of half the sides, rounded up."""
        return _Norm(dtype=self.dtype, name='norm')(_conv(self.features, 2, self.dtype, 'conv')(x))


def _conv(features: int, stride: int, dtype: DTypeLike, name: str) -> Conv:
    return Conv(features, 3, stride, 1, dtype, kernel_init=init.trunc_normal(0.02), bias_init=_ZEROS, name=name)


class UniRepLKNet(ft.PyramidBackbone):
    """The network.

    Attributes:
        widths, depths: channels and blocks of each stage.
        periods: for each stage the n with which blocks 0, n, 2n, ... have a large kernel; 0 for none.
        kernel_size: side of the large kernels; other kernels are 3x3.
        block: factory of a block: `Block`, or `Deployed` for parameters that `deploy` made.
        patch: stride of the stem, an even number; each further stage doubles the stride.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 27, 3)
    periods: Sequence[int] = (0, 1, 3, 1)
    kernel_size: int = 13
    block: Callable[..., nn.Module] = Block
    patch: int = 4
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling belongs to the block before it."""
        return meta_next.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch is odd or does not divide the image, or `BRANCHES` lacks the kernel size.
        """
        if self.patch % 2 or self.kernel_size not in BRANCHES:
            raise ValueError(
                f'patch is {self.patch} and kernel_size {self.kernel_size}: use an even patch and one of '
                f'{", ".join(map(str, BRANCHES))}.'
            )
        patch_grid(*x.shape[1:3], self.patch)
        x = Stem(self.widths[0], self.patch, self.dtype, name='stem')(x)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], branches=1, train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                x = Down(self.widths[index], self.dtype, name=f'down{index - 1}')(x)
            stage = meta_next.Stage(self._blocks(index), Add, self.remat, name=ft.stage(index))
            x = stage(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        norm = _Norm(name='norm')
        return {**features, ft.MAP: norm(x).astype(self.dtype), ft.POOLED: norm(global_mean(x))}

    def _blocks(self, index: int) -> tuple[Callable[..., nn.Module], ...]:
        period = self.periods[index]
        large = [period > 0 and place % period == 0 for place in range(self.depths[index])]
        return tuple(functools.partial(self.block, self.kernel_size if one else 3, dtype=self.dtype) for one in large)


def deploy(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables with which the network of `Deployed` blocks equals the trained network in evaluation.

    A pure function of arrays: batch norms are merged into the kernels before them, dilated kernels into the large one,
    and the bias of the response norm and LayerScale into the matrix after it.

    Args:
        variables: ``params`` and ``batch_stats`` of the backbone, or of a network that contains it.
    """
    return {'params': _walk(variables['params'], variables['batch_stats'])}


def _walk(params: Any, stats: Mapping[str, Any]) -> Any:
    if not isinstance(params, Mapping):
        return params
    if 'down_norm' in params:
        return _deploy_block(params, stats)
    return {name: _walk(child, stats.get(name, {})) for name, child in params.items()}


def _deploy_block(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
    name = 'large' if 'large' in params else 'conv'
    kernel, bias = _merge_branches(params, stats) if name == 'large' else (params[name]['kernel'], 0.0)
    gain, shift = _affine(params['norm'], stats['norm'])
    conv = {'kernel': kernel * gain[None, None, None], 'bias': bias * gain + shift}
    gain, shift = (value * params['residual']['scale'] for value in _affine(params['down_norm'], stats['down_norm']))
    down, response = params['down']['kernel'], params['response']
    down = {'kernel': down * gain[None], 'bias': response['bias'].ravel() @ down * gain + shift}
    return {
        name: conv,
        'squeeze': params['squeeze'],
        'up': params['up'],
        'response': {'scale': response['scale']},
        'down': down,
    }


def _merge_branches(params: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[Array, Array]:
    """Returns the kernel and bias equivalent to the large kernel and its branches."""
    kernel = params['large']['kernel']
    gain, bias = _affine(params['large_norm'], stats['large_norm'])
    size, kernel = len(kernel), kernel * gain[None, None, None]
    for side, dilation in BRANCHES[size]:
        name = f'k{side}_{dilation}'
        gain, shift = _affine(params[f'dilated_norm_{name}'], stats[f'dilated_norm_{name}'])
        branch = spread(params[f'dilated_{name}']['kernel'] * gain[None, None, None], dilation)
        border = (size - len(branch)) // 2
        kernel = kernel + jnp.pad(branch, ((border, border), (border, border), (0, 0), (0, 0)))
        bias = bias + shift
    return kernel, bias


def _affine(norm: Mapping[str, Array], stats: Mapping[str, Array]) -> tuple[Array, Array]:
    """Returns a and b with which a batch norm in evaluation is ``a x + b``."""
    gain = norm['scale'] / jnp.sqrt(stats['var'] + BatchNorm.epsilon)
    return gain, norm['bias'] - stats['mean'] * gain


# Table 2 and section 3.3 of the paper, and its appendix for the small ones; each in its training and deployed form.
_SMALL = {'depths': (2, 2, 6, 2), 'periods': (0, 1, 1, 1)}
_TRAINED = {
    'unireplknet_a': UniRepLKNet((40, 80, 160, 320), **_SMALL),
    'unireplknet_f': UniRepLKNet((48, 96, 192, 384), **_SMALL),
    'unireplknet_p': UniRepLKNet((64, 128, 256, 512), **_SMALL),
    'unireplknet_n': UniRepLKNet((80, 160, 320, 640), (2, 2, 8, 2), (0, 1, 1, 1)),
    'unireplknet_t': UniRepLKNet((80, 160, 320, 640), (3, 3, 18, 3), (0, 1, 2, 1)),
    'unireplknet_s': UniRepLKNet(),
    'unireplknet_b': UniRepLKNet((128, 256, 512, 1024)),
    'unireplknet_l': UniRepLKNet((192, 384, 768, 1536)),
    'unireplknet_xl': UniRepLKNet((256, 512, 1024, 2048)),
}
_TEST = UniRepLKNet((16, 32), (1, 2), (0, 2), 7)
VARIANTS = {
    **_TRAINED,
    **{f'{name}_deploy': backbone.clone(block=Deployed) for name, backbone in _TRAINED.items()},
    'unireplknet_test': _TEST,
    'unireplknet_deploy_test': _TEST.clone(block=Deployed),
}

# The tables of the repository: parameters are those of the deployed form; B, L and XL were pre-trained on ImageNet-22k.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2311.15599', (224, 224))
PUBLISHED = {
    'unireplknet_a_deploy': _PAPER(4.4, 0.6, 77.0),
    'unireplknet_f_deploy': _PAPER(6.2, 0.9, 78.6),
    'unireplknet_p_deploy': _PAPER(10.7, 1.6, 80.2),
    'unireplknet_n_deploy': _PAPER(18.3, 2.8, 81.6),
    'unireplknet_t_deploy': _PAPER(31, 4.9, 83.2),
    'unireplknet_s_deploy': _PAPER(56, 9.1, 83.9),
    'unireplknet_b_deploy': ft.Published('https://arxiv.org/abs/2311.15599', (384, 384), 98, 47.2, 87.4),
    'unireplknet_l_deploy': ft.Published('https://arxiv.org/abs/2311.15599', (384, 384), 218, 105.4, 87.9),
    'unireplknet_xl_deploy': ft.Published('https://arxiv.org/abs/2311.15599', (384, 384), 386, 187, 88.0),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_LAYER_NORM = (('weight', 'scale'), ('bias', 'bias'))
_NORM = (*_LAYER_NORM, ('running_mean', 'mean'), ('running_var', 'var'))
_THERE, _HERE = 'stages.{s}.{i}', 'backbone/stage{s}/block{i:02d}'
_BLOCK = (
    *((f'dwconv.{a}', f'conv/{b}') for a, b in _AFFINE),
    *((f'dwconv.lk_origin.{a}', f'large/{b}') for a, b in _AFFINE),
    ('dwconv.dil_conv_k{k}_{r}.weight', 'dilated_k{k}_{r}/kernel'),
    *(
        (f'dwconv.{there}.{a}', f'{here}/{b}')
        for a, b in _NORM
        for there, here in (('origin_bn', 'large_norm'), ('dil_bn_k{k}_{r}', 'dilated_norm_k{k}_{r}'))
    ),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _NORM
        for there, here in (('norm', 'norm'), ('pwconv2.2', 'down_norm'))
    ),
    *((f'se.{part}.weight', f'squeeze/{part}/kernel', 2) for part in ('down', 'up')),
    *((f'se.{part}.bias', f'squeeze/{part}/bias') for part in ('down', 'up')),
    *(
        (f'{there}.{a}', f'{here}/{b}')
        for a, b in _AFFINE
        for there, here in (('pwconv1.1', 'up'), ('pwconv2.0', 'down'))
    ),
    ('act.1.gamma', 'response/scale'),
    ('act.1.beta', 'response/bias'),
    ('gamma', 'residual/scale'),
)
NAMES = {
    'UniRepLKNet': (
        *((f'downsample_layers.0.{3 * k}.{a}', f'backbone/stem/conv{k}/{b}') for k in range(2) for a, b in _AFFINE),
        *(
            (f'downsample_layers.0.{3 * k + 1}.{a}', f'backbone/stem/norm{k}/{b}')
            for k in range(2)
            for a, b in _LAYER_NORM
        ),
        *((f'downsample_layers.{s + 1}.0.{a}', f'backbone/down{s}/conv/{b}') for s in range(3) for a, b in _AFFINE),
        *((f'downsample_layers.{s + 1}.1.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _LAYER_NORM),
        *((f'{_THERE}.{a}', f'{_HERE}/{b}', *units) for a, b, *units in _BLOCK),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _LAYER_NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
