"""MaxViT: each block is a mobile convolution, attention inside of windows, and attention to a grid of far pixels.

Tu et al., 2022, "MaxViT: Multi-Axis Vision Transformer", https://arxiv.org/abs/2204.01697. References:
https://github.com/google-research/maxvit (Apache-2.0, TensorFlow) and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), models/maxxvit.py, with whose parameters and outputs
these agree: ``_tf`` are the authors' networks, ``_rw`` timm's own.

A window has ``image / 32`` pixels per side, and so has a grid, whose pixels stand ``map / grid`` apart: in the last
stage both are the whole map. Attention has a learned bias per relative offset and head. The authors' networks pad like
TensorFlow; their batch normalization has an epsilon of 1e-3, their layer normalization one of 1e-5, GELU is the
approximation by tanh, and a hidden layer with tanh stands before the classifier. For images of another size windows
grow, and their tables are resized linearly.

Where we differ: biases of the feed-forward layers start at 0, in timm with a deviation of 1e-6.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import relative, window
from longview.modelzoo.layers.attention.relative import RelativeAttention
from longview.modelzoo.layers.convolutions import mbconv
from longview.modelzoo.layers.convolutions.mbconv import MobileConv
from longview.modelzoo.layers.frame import init, pyramid
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import by_stage, drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import pair
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm

_tanh_gelu = functools.partial(jax.nn.gelu, approximate=True)
# Branches of a block: the convolution, and attention and feed-forward layer of each axis.
_BRANCHES = 5


class Axis(nn.Module):
    """Attention inside of each window, or of each grid, then a feed-forward layer; both have norms before them.

    Attributes:
        cut: rows and columns of a window or grid; they divide the map's.
        spread: whether grids are cut, whose pixels stand apart, in place of windows.
        norm, mixer, mlp: factories of the parts.
    """

    cut: window.Pair
    spread: bool
    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, s: Float[Array, 'b h w d'], masks: Float[Array, '2 b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same shape; `masks` is this part's part of `drop.path_masks`."""
        mixer_mask, mlp_mask = (None, None) if masks is None else masks
        size, (split, join) = s.shape[1:3], (grids, ungrid) if self.spread else (windows, unwindow)
        y = self.mixer(name='mixer')(split(self.norm(name='mixer_norm')(s), self.cut), train=train)
        s = s + drop_path(join(y, size), mixer_mask)
        return s + drop_path(self.mlp(name='mlp')(self.norm(name='mlp_norm')(s)), mlp_mask)


def windows(x: Float[Array, 'b h w c'], cut: window.Pair) -> Float[Array, 'v i j c']:
    """Returns the windows of all images, row by row, each as a map."""
    return window.partition(x, cut).reshape(-1, *cut, x.shape[-1])


def unwindow(x: Float[Array, 'v i j c'], size: window.Pair) -> Float[Array, 'b h w c']:
    """Undoes `windows` for maps of `size`."""
    return window.merge(x.reshape(x.shape[0], -1, x.shape[-1]), x.shape[1:3], size)


def grids(x: Float[Array, 'b h w c'], cut: window.Pair) -> Float[Array, 'v i j c']:
    """Returns the grids of all images: the pixels at one place in each of ``rows * columns`` equal tiles."""
    (rows, columns), (batch, height, width, channels) = cut, x.shape
    x = x.reshape(batch, rows, height // rows, columns, width // columns, channels)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)


def ungrid(x: Float[Array, 'v i j c'], size: window.Pair) -> Float[Array, 'b h w c']:
    """Undoes `grids` for maps of `size`."""
    (rows, columns), (height, width) = x.shape[1:3], size
    x = x.reshape(-1, height // rows, width // columns, rows, columns, x.shape[-1])
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(-1, height, width, x.shape[-1])


class Block(nn.Module):
    """A mobile convolution, attention inside of windows, attention to grids.

    Attributes:
        features: output channels.
        conv: factory of the convolution, given `features` and `stride`.
        axis: factory of an `Axis`, given `spread`.
        stride: 2 halves the resolution.
        spread: as in `MaxViT`.
    """

    features: int
    conv: Callable[..., nn.Module]
    axis: Callable[..., nn.Module]
    stride: int = 1
    spread: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], masks: Float[Array, '5 b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `masks` is this block's part of `drop.path_masks`."""
        conv_mask, near_masks, far_masks = (None,) * 3 if masks is None else (masks[0], masks[1:3], masks[3:])
        x = self.conv(features=self.features, stride=self.stride, name='conv')(x, conv_mask, train=train)
        x = self.axis(spread=False, name='window')(x, near_masks, train=train)
        return self.axis(spread=self.spread, name='grid')(x, far_masks, train=train)


class MaxViT(ft.PyramidBackbone):
    """The network.

    Attributes:
        stem_widths: channels of the stem's two convolutions.
        widths, depths: channels and blocks of each stage.
        hidden: whether ``pooled`` is the hidden layer before the published classifier, of the last width.
        spread: whether the second attention of a block goes to grids; else to windows once more.
        stem_stride: stride of the stem; 1 for small images.
        image_size: image size of the tables of biases, a side or (height, width).
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        act: activation of the stem and the mobile convolutions.
        padding, stem_bias: of the convolutions, and whether those of the stem have a bias.
        batch_norm, norm: factories of the normalizations of convolutions, and of the others.
        conv, mixer, mlp: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    stem_widths: Sequence[int] = (64, 64)
    widths: Sequence[int] = (64, 128, 256, 512)
    depths: Sequence[int] = (2, 2, 5, 2)
    hidden: bool = True
    spread: bool = True
    stem_stride: int = 2
    image_size: int | tuple[int, int] = 224
    drop_path: float = 0.0
    act: Callable[[Array], Array] = _tanh_gelu
    padding: int | str = 'SAME'
    stem_bias: bool = True
    batch_norm: Callable[..., nn.Module] = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.99)
    norm: Callable[..., nn.Module] = LayerNorm
    conv: Callable[..., nn.Module] = MobileConv
    mixer: Callable[..., nn.Module] = functools.partial(RelativeAttention, heads_first=False, by_key=True)
    mlp: Callable[..., nn.Module] = functools.partial(Mlp, activation=_tanh_gelu, kernel_init=init.xavier_uniform())
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
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: the last stride does not divide the image, or the image of the tables.
        """
        block = self._block(self.cut(*x.shape[1:3]))
        parts = {'norm': self.batch_norm, 'act': self.act, 'padding': self.padding, 'dtype': self.dtype}
        stem = mbconv.Stem(tuple(self.stem_widths), self.stem_stride, use_bias=self.stem_bias, **parts, name='stem')
        x = stem(x, train=train)
        features = {ft.STEM: x}
        masks = path_masks(self, self.drop_path, sum(self.depths), x.shape[0], branches=_BRANCHES, train=train)
        for index, rows in enumerate(by_stage(masks, self.depths)):
            blocks = pyramid.with_stride(block, self.widths[index], self.depths[index], 2)
            x = pyramid.Stage(blocks, self.remat, name=ft.stage(index))(x, rows, train=train)
            features[ft.stage(index)] = x
        norm = self.norm(dtype=self.dtype, name='head_norm' if self.hidden else 'norm')
        features[ft.MAP] = norm(x)
        if not self.hidden:
            return {**features, ft.POOLED: global_mean(features[ft.MAP])}
        dense = Dense(x.shape[-1], True, init.uniform_fan_in(x.shape[-1]), self.dtype, name='hidden')
        return {**features, ft.POOLED: jnp.tanh(dense(norm(global_mean(x)))).astype(jnp.float32)}

    def cut(self, height: int, width: int) -> ft.Grid:
        """Returns the rows and columns of windows and grids for an image size.

        Raises:
            ValueError: the last stride does not divide it.
        """
        last = self.strides[-1]
        if height % last or width % last:
            near = [max(side - side % last, last) for side in (height, width)]
            raise ValueError(
                f'image {height}x{width} does not divide by {last}, so its maps do not divide into windows: use e.g. '
                f'{near[0]}x{near[1]}.'
            )
        return height // last, width // last

    def _block(self, cut: ft.Grid) -> Callable[..., nn.Module]:
        part = lambda factory, **fields: functools.partial(factory, dtype=self.dtype, **fields)
        mixer = part(self.mixer, table=self.cut(*pair(self.image_size)))
        axis = functools.partial(Axis, cut, norm=part(self.norm), mixer=mixer, mlp=part(self.mlp))
        conv = part(self.conv, norm=self.batch_norm, act=self.act, padding=self.padding)
        return functools.partial(Block, conv=conv, axis=axis, spread=self.spread)


def _authors(stem: int, width: int, depths: Sequence[int], image_size: int) -> MaxViT:
    widths = tuple(width * 2**index for index in range(4))
    return MaxViT((stem, stem), widths, depths, image_size=image_size)


def _own(stem: int, width: int, depths: Sequence[int], image_size: int) -> MaxViT:
    """Returns one of timm's own: SiLU, padding as in torch, hidden widths of a convolution those of its input."""
    fields: dict[str, Any] = {
        'hidden': False,
        'act': nn.silu,
        'padding': 1,
        'stem_bias': False,
        'batch_norm': BatchNorm,
        'norm': functools.partial(LayerNorm, epsilon=1e-6),
        'conv': functools.partial(MobileConv, of_output=False, use_bias=False),
        'mixer': RelativeAttention,
        'mlp': functools.partial(Mlp, activation=gelu, kernel_init=init.xavier_uniform()),
    }
    widths = tuple(width * 2**index for index in range(4))
    return MaxViT((stem, width), widths, depths, image_size=image_size, **fields)


# Table 1 of the paper, and timm's own.
_DEPTHS, _DEEP = (2, 2, 5, 2), (2, 6, 14, 2)
_SIZES = {
    'tiny': (64, 64, _DEPTHS),
    'small': (64, 96, _DEPTHS),
    'base': (64, 96, _DEEP),
    'large': (128, 128, _DEEP),
    'xlarge': (192, 192, _DEEP),
}
_SIDES = (224, 384, 512)
VARIANTS = {
    **{f'maxvit_{size}_tf_{side}': _authors(*shape, side) for size, shape in _SIZES.items() for side in _SIDES},
    'maxvit_pico_rw_256': _own(24, 32, _DEPTHS, 256),
    'maxvit_nano_rw_256': _own(32, 64, (1, 2, 3, 1), 256),
    'maxvit_tiny_rw_224': _own(32, 64, _DEPTHS, 224),
    'maxvit_tiny_rw_256': _own(32, 64, _DEPTHS, 256),
    'maxvit_test': MaxViT(
        (8, 8),
        (8, 16),
        (1, 2),
        stem_stride=1,
        image_size=16,
        mixer=functools.partial(RelativeAttention, head_width=8, heads_first=False, by_key=True),
    ),
}

# The repository's list of checkpoints; accuracies of those trained on ImageNet-1k alone.
_PARAMS = {'tiny': 31, 'small': 69, 'base': 119, 'large': 212, 'xlarge': 475}
_FIGURES = {
    'tiny': ((5.6, 83.62), (17.7, 85.24), (33.7, 85.72)),
    'small': ((11.7, 84.45), (36.1, 85.74), (67.6, 86.19)),
    'base': ((24.2, 84.95), (74.2, 86.34), (138.5, 86.66)),
    'large': ((43.9, 85.17), (133.1, 86.40), (245.4, 86.70)),
    'xlarge': ((97.8, None), (293.7, None), (535.2, None)),
}
PUBLISHED = {
    f'maxvit_{size}_tf_{side}': ft.Published(
        'https://arxiv.org/abs/2204.01697', (side, side), _PARAMS[size], macs, top1
    )
    for size, figures in _FIGURES.items()
    for side, (macs, top1) in zip(_SIDES, figures)
}


def _refit(backbone: MaxViT, path: str, table: np.ndarray) -> np.ndarray:
    return relative.refit(table, backbone.cut(*pair(backbone.image_size)))


RESIZE = {'MaxViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_SCALE = (('weight', 'scale'), ('bias', 'bias'))
_THERE, _HERE = 'stages.{s}.blocks.{i}', 'backbone/stage{s}/block{i:02d}'
_AXES = (('attn_block', 'window'), ('attn_grid', 'grid'))
_NORMS = (('norm1', 'mixer_norm'), ('norm2', 'mlp_norm'))
NAMES = {
    'MaxViT': (
        *mbconv.STEM_NAMES,
        *mbconv.names(f'{_THERE}.conv', f'{_HERE}/conv'),
        *(pair for there, here in _AXES for pair in relative.names(f'{_THERE}.{there}', f'{_HERE}/{here}')),
        *(
            (f'{_THERE}.{there}.{a}.{c}', f'{_HERE}/{here}/{b}/{d}')
            for there, here in _AXES
            for a, b in _NORMS
            for c, d in _SCALE
        ),
        *((f'norm.{a}', f'backbone/norm/{b}') for a, b in _SCALE),
        *((f'head.norm.{a}', f'backbone/head_norm/{b}') for a, b in _SCALE),
        ('head.pre_logits.fc.weight', 'backbone/hidden/kernel'),
        ('head.pre_logits.fc.bias', 'backbone/hidden/bias'),
        ('head.fc.weight', 'head/kernel'),
        ('head.fc.bias', 'head/bias'),
    ),
}
