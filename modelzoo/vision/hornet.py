"""HorNet: recursive gated convolutions, for spatial interactions of high order.

Rao et al., 2022, "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
https://arxiv.org/abs/2207.14284. Reference: https://github.com/raoyongming/HorNet (MIT), commit ac9e210; `NAMES` maps
its parameter names.

ConvNeXt's pyramid with the block of a transformer: norm and recursive gated convolution, norm and feed-forward layer,
both with LayerScale. The order of the recursion rises with the stage; the output of the depthwise convolution is
divided by three. In the variants "gf" the depthwise convolution of the last two stages is replaced: a norm, a global
filter on one half of the channels and a 3x3 convolution on the other half, interleaved channel by channel, a norm.
LayerNorm's epsilon is 1e-6 everywhere. The classifier reads the normalized mean of the last stage, not the mean of
``map``.

Global filters are resized for images of another size as the reference resizes them. Where sides do not divide we
differ: images are then padded with zeros, where the reference crops them.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.long_conv2d import global_filter
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import DepthwiseConv
from longview.modelzoo.layers.frame import init, meta_next, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.frame.patch import pair, patch_grid
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.layer_scale import LayerScale

_Norm = functools.partial(LayerNorm, epsilon=1e-6)
_Depthwise = functools.partial(DepthwiseConv, kernel_init=init.trunc_normal(0.02))
Wide = functools.partial(_Depthwise, 7, use_bias=True, bias_init=jax.nn.initializers.zeros)


class GlobalFilter(nn.Module):
    """``irfft2(rfft2(x) * kernel)`` with orthonormal transforms.

    The kernel has one complex number per frequency and channel. It is stored as (columns, 2, rows, channels), with the
    real and the imaginary part in the second axis.

    Attributes:
        image: height and width of the map that the kernel is for. For another size the kernel is resized bilinearly
            with aligned corners.
    """

    image: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Filters each channel in float32."""
        height, width = self.image
        kernel = self.param('kernel', init.trunc_normal(0.02), (width // 2 + 1, 2, height, x.shape[-1]))
        kernel = resize(kernel, (x.shape[2] // 2 + 1, x.shape[1]))
        return global_filter(x.astype(jnp.float32), kernel)


def resize(kernel: Float[Array, 'q 2 k c'], size: tuple[int, int]) -> Float[Array, 'q2 2 k2 c']:
    """Returns the kernel resized to `size` by torch's bilinear interpolation with ``align_corners=True``."""
    if size == (kernel.shape[0], kernel.shape[2]):
        return kernel
    columns, rows = (aligned_matrix(*sides) for sides in zip((kernel.shape[0], kernel.shape[2]), size))
    return _einsum('qrhc,hk->qrkc', _einsum('qrkc,qp->prkc', kernel, columns.T), rows.T)


def aligned_matrix(source: int, target: int) -> Float[np.ndarray, 't s']:
    """Returns the matrix that interpolates `source` points at `target` points with aligned ends."""
    position = np.linspace(0, source - 1, target)
    return np.maximum(0, 1 - abs(position[:, None] - np.arange(source)[None]))


def _einsum(form: str, x: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum(form, x, jnp.asarray(matrix, jnp.float32), precision=lax.Precision.HIGHEST)


class GlobalLocal(nn.Module):
    """``norm(interleave(conv(first half), global_filter(second half)))`` of the normalized input.

    Attributes:
        image: height and width of the map that the filter is for; see `GlobalFilter`.
        dtype: compute type; that of the filter is float32.
    """

    image: ft.Grid
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; the number of channels must be even."""
        near, far = jnp.split(_Norm(dtype=self.dtype, name='before')(x), 2, axis=-1)
        near = _Depthwise(3, dtype=self.dtype, name='local')(near)
        far = GlobalFilter(self.image, name='global')(far)
        both = jnp.stack([near, far.astype(near.dtype)], axis=-1).reshape(x.shape)
        return _Norm(dtype=self.dtype, name='after')(both)


class GatedConv(nn.Module):
    """``out(g_n)`` with ``g_0 = a * f_0`` and ``g_k = up_k(g_(k-1)) * f_k``, where ``[a | f] = conv(in(x))``.

    Attributes:
        order: number of products; the first has width / 2^(order - 1) channels, each further one twice as many.
        filter: factory of the convolution, which acts on all f together and not on a.
        scale: factor on the output of the convolution.
        kernel_init: initial values of the matrices.
        dtype: compute type.
    """

    order: int
    filter: Callable[..., nn.Module] = Wide
    scale: float = 1 / 3
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w c']:
        """Keeps the shape.

        Raises:
            ValueError: the width is not divisible by 2^(order - 1).
        """
        del train
        width = x.shape[-1]
        if width % 2 ** (self.order - 1):
            raise ValueError(f'width {width} does not divide by 2^{self.order - 1}: change width or the orders.')
        widths = [width // 2 ** (self.order - 1 - index) for index in range(self.order)]
        dense = functools.partial(Dense, use_bias=True, kernel_init=self.kernel_init, dtype=self.dtype)
        gate, rest = jnp.split(dense(2 * width, name='in')(x), [widths[0]], axis=-1)
        filtered = self.filter(dtype=self.dtype, name='filter')(rest) * self.scale
        first, *others = jnp.split(filtered, np.cumsum(widths)[:-1], axis=-1)
        y = gate * first
        for index, factor in enumerate(others):
            y = dense(widths[index + 1], name=f'up{index}')(y) * factor
        return dense(width, name='out')(y)


class HorNet(ft.PyramidBackbone):
    """The network.

    Attributes:
        width: channels of the first stage; each stage doubles them.
        depths: blocks of each stage.
        orders: order of the recursion in each stage.
        global_from: index of the first stage with global filters; the number of stages for none.
        image_size: image size of the filters, a side or (height, width). For images of any other size that the patch
            divides the filters are resized.
        patch: stride of the stem; each further stage doubles the stride.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        norm, mlp, residual: factories of the blocks' parts.
        dtype: compute type; parameters are float32.
        remat, scan: how the blocks of a stage run; see layers/frame/trunk.py.
    """

    width: int = 64
    depths: Sequence[int] = (2, 3, 18, 2)
    orders: Sequence[int] = (2, 3, 4, 5)
    global_from: int = 4
    image_size: int | tuple[int, int] = 224
    patch: int = 4
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = _Norm
    mlp: Callable[..., nn.Module] = Mlp
    residual: Callable[..., nn.Module] = functools.partial(LayerScale, 1e-6)
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.patch * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """64, 128, 256, 512 for the smallest."""
        return tuple(self.width * 2**index for index in range(len(self.depths)))

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the last norm; downsampling belongs to the block before it."""
        return meta_next.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the patch does not divide the image.
        """
        patch_grid(*x.shape[1:3], self.patch)
        x = meta_next.PatchStem(self.width, self.patch, self.norm, self.dtype, name='stem')(x)
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], train=train)
        features = {ft.STEM: x}
        for index, stage_masks in enumerate(by_stage(masks, self.depths)):
            if index:
                x = meta_next.PatchDown(self.channels[index], self.norm, self.dtype, name=f'down{index - 1}')(x)
            x = self._stage(index)(x, stage_masks, train=train)
            features[ft.stage(index)] = x
        norm = self.norm(name='norm')
        return {**features, ft.MAP: norm(x).astype(self.dtype), ft.POOLED: norm(global_mean(x))}

    def _stage(self, index: int) -> trunk.Stage:
        norm, mlp = (functools.partial(part, dtype=self.dtype) for part in (self.norm, self.mlp))
        mixer = functools.partial(GatedConv, self.orders[index], dtype=self.dtype)
        if index >= self.global_from:
            height, width = (-(-side // self.strides[index]) for side in pair(self.image_size))
            mixer = functools.partial(mixer, filter=functools.partial(GlobalLocal, (height, width)))
        block = functools.partial(PreNorm, norm, mixer, mlp, self.residual)
        return trunk.Stage(block, self.depths[index], self.residual, self.remat, self.scan, name=ft.stage(index))


# Table 1 of the paper. The filters of "img384" are for images of 384 pixels.
_WIDTHS = {'tiny': 64, 'small': 96, 'base': 128, 'large': 192}
VARIANTS = {
    **{f'hornet_{size}_7x7': HorNet(width) for size, width in _WIDTHS.items()},
    **{f'hornet_{size}_gf': HorNet(width, global_from=2) for size, width in _WIDTHS.items()},
    **{f'hornet_{size}_gf_img384': HorNet(_WIDTHS[size], global_from=2, image_size=384) for size in ('base', 'large')},
    'hornet_test': HorNet(16, (1, 2), (2, 3), 1, image_size=16),
}

# The repository's table: T to B trained on ImageNet-1k, L on ImageNet-22k. It lists 209, 211 and 216 M for L, which is
# the count with a head of 10,450 classes.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2207.14284', (224, 224))
PUBLISHED = {
    'hornet_tiny_7x7': _PAPER(22, 4.0, 82.8),
    'hornet_small_7x7': _PAPER(50, 8.8, 83.8),
    'hornet_base_7x7': _PAPER(87, 15.6, 84.2),
    'hornet_large_7x7': _PAPER(macs=34.8),
    'hornet_tiny_gf': _PAPER(23, 3.9, 83.0),
    'hornet_small_gf': _PAPER(50, 8.7, 84.0),
    'hornet_base_gf': _PAPER(88, 15.5, 84.3),
    'hornet_large_gf': _PAPER(macs=34.7),
    'hornet_large_gf_img384': ft.Published('https://arxiv.org/abs/2207.14284', (384, 384), macs=101.8),
}


# Published names of a classifier's parameters, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_THERE, _HERE = 'stages.{s}.{i}', 'backbone/stage{s}/block{i:02d}'
_DENSE = (('proj_in', 'in'), ('proj_out', 'out'), ('pws.{k}', 'up{k}'))
_MIXER = (
    *((f'{there}.weight', f'{here}/kernel', 2) for there, here in _DENSE),
    *((f'{there}.bias', f'{here}/bias') for there, here in _DENSE),
    *((f'dwconv.{a}', f'filter/{b}') for a, b in _AFFINE),
    ('dwconv.dw.weight', 'filter/local/kernel'),
    ('dwconv.complex_weight', 'filter/global/kernel'),
    *(
        (f'dwconv.{there}.{a}', f'filter/{here}/{b}')
        for a, b in _NORM
        for there, here in (('pre_norm', 'before'), ('post_norm', 'after'))
    ),
)
NAMES = {
    'HorNet': (
        *((f'downsample_layers.0.0.{a}', f'backbone/stem/patches/{b}') for a, b in _AFFINE),
        *((f'downsample_layers.0.1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *((f'downsample_layers.{s + 1}.0.{a}', f'backbone/down{s}/norm/{b}') for s in range(3) for a, b in _NORM),
        *((f'downsample_layers.{s + 1}.1.{a}', f'backbone/down{s}/patches/{b}') for s in range(3) for a, b in _AFFINE),
        *((f'{_THERE}.gnconv.{a}', f'{_HERE}/mixer/{b}', *units) for a, b, *units in _MIXER),
        *(
            (f'{_THERE}.norm{k}.{a}', f'{_HERE}/{part}_norm/{b}')
            for k, part in ((1, 'mixer'), (2, 'mlp'))
            for a, b in _NORM
        ),
        *(
            (f'{_THERE}.pwconv{k}.{a}', f'{_HERE}/mlp/{part}/{b}')
            for k, part in ((1, 'up'), (2, 'down'))
            for a, b in _AFFINE
        ),
        *((f'{_THERE}.gamma{k}', f'{_HERE}/{part}_residual/scale') for k, part in ((1, 'mixer'), (2, 'mlp'))),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        *((f'head.{a}', f'head/{b}') for a, b in _AFFINE),
    ),
}
