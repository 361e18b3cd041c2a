"""Dual path networks: each block adds to some channels, as in ResNets, and appends others, as in DenseNets.

Chen et al., 2017, "Dual Path Networks", https://arxiv.org/abs/1707.01629.
References: https://github.com/cypw/DPNs (the authors', MXNet, no licence) and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), which has the authors' weights under other names.

Details of the published code that are not in the paper, kept here: DPN-68 with a "b" normalizes the end of a branch
once and has a convolution for each path; the norms' epsilon is 1e-3. The authors pool the mean and the maximum for
larger images in evaluation; here as in timm it is the mean. Initial kernels are He's by the fan-out, as in our ResNets;
the authors' are not published. Where we differ: a head has the initial values of modelzoo/heads.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import PlainConv
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

# The channels that are added to, and those that are appended to, of maps (B, H, W, C).
Paths = tuple[Array, Array]
Norm = functools.partial(BatchNorm, epsilon=1e-3)


class BothPaths(nn.Module):
    """What `pyramid.run` opens and closes: a stream that is the stem's map, and after a block both paths."""

    def open(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the map of the stem, which the first block splits."""
        return x

    def close(self, s: Float[Array, 'b h w c'] | Paths) -> Float[Array, 'b h w c']:
        """Returns all channels."""
        return jnp.concatenate(s, axis=-1) if isinstance(s, tuple) else s


class NormConv(nn.Module):
    """``conv(relu(norm(x)))`` without bias.

    Attributes:
        features, kernel_size, stride, groups: of the convolution; the padding keeps the size at stride 1.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    norm: Callable[..., nn.Module] = Norm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        pad, size = self.kernel_size // 2, self.kernel_size
        return PlainConv(self.features, size, self.stride, pad, self.dtype, self.groups, name='conv')(x)


class NormConvs(nn.Module):
    """The end of a branch with a convolution for each path: ``conv(relu(norm(x)))`` twice, with one norm.

    Attributes:
        added, appended: output channels of the two convolutions.
        norm, dtype: as in `NormConv`.
    """

    added: int
    appended: int
    norm: Callable[..., nn.Module] = Norm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Paths:
        """Returns what is added and what is appended."""
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        conv = functools.partial(PlainConv, kernel_size=1, dtype=self.dtype)
        return conv(self.added, name='added')(x), conv(self.appended, name='appended')(x)


class Block(nn.Module):
    """A 1x1, a grouped 3x3 and a 1x1 convolution, whose output is added to one path and appended to the other.

    Attributes:
        added: channels of the path that is added to.
        appended: channels that the block appends; the first block of a stage appends two times as many besides.
        width: channels inside.
        groups: of the 3x3 convolution.
        stride: of the 3x3 convolution.
        first: whether the block begins a stage, and makes the paths anew.
        apart: whether each path has a last convolution of its own.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    added: int
    appended: int
    width: int
    groups: int
    stride: int = 1
    first: bool = False
    apart: bool = False
    norm: Callable[..., nn.Module] = Norm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, s: Float[Array, 'b h w c'] | Paths, mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Paths:
        """Returns the paths after the block; `mask` is this block's part of `drop.path_masks`."""
        conv = functools.partial(NormConv, norm=self.norm, dtype=self.dtype)
        x = BothPaths(parent=None).close(s)
        if self.first:
            both = conv(self.added + 2 * self.appended, 1, self.stride, name='shortcut')(x, train=train)
            s = both[..., : self.added], both[..., self.added :]
        y = conv(self.width, name='reduce')(x, train=train)
        y = conv(self.width, 3, self.stride, self.groups, name='group')(y, train=train)
        one, more = self._ends(y, train)
        return s[0] + drop_path(one, mask), jnp.concatenate((s[1], drop_path(more, mask)), axis=-1)

    def _ends(self, y: Float[Array, 'b h w d'], train: bool) -> Paths:
        """Returns what is added and what is appended."""
        if self.apart:
            last = NormConvs(self.added, self.appended, self.norm, self.dtype, name='last')
            return last(y, train=train)
        both = NormConv(self.added + self.appended, norm=self.norm, dtype=self.dtype, name='last')(y, train=train)
        return both[..., : self.added], both[..., self.added :]


class DPN(ft.PyramidBackbone):
    """The network; each stage halves the resolution of the one before, doubles the width and appends anew.

    Attributes:
        depths: blocks of each stage.
        appended: channels that each block of a stage appends.
        added: channels of the path that is added to, in the first stage.
        width: channels inside a block of the first stage.
        groups: of the 3x3 convolutions.
        stem_width: channels after the stem.
        stem_size: side of the stem's kernel.
        stem_stride: 4, or 1 for small images: no pooling, and no stride.
        apart, norm, dtype: see `Block`.
        drop_path: stochastic depth of the last block; what it would append is 0 then. See layers/frame/drop.py.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (3, 4, 20, 3)
    appended: Sequence[int] = (16, 32, 24, 128)
    added: int = 256
    width: int = 96
    groups: int = 32
    stem_width: int = 64
    stem_size: int = 7
    stem_stride: int = 4
    apart: bool = False
    norm: Callable[..., nn.Module] = Norm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """4, 8, 16, 32 as published."""
        return tuple(self.stem_stride * 2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Those of both paths at the end of each stage."""
        stages = enumerate(zip(self.depths, self.appended, strict=True))
        return tuple(self.added * 2**index + (depth + 2) * appended for index, (depth, appended) in stages)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with its norm, each block, the last norm."""
        stem, *rest = pyramid.layers(self.depths, ['norm'])
        return ((*stem, 'stem_norm'), *rest)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: a stem of another stride than 4 and 1.
        """
        stem = self._stem(x, train)
        maps = pyramid.run(
            self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train, residual=BothPaths
        )
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _stem(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 d']:
        if self.stem_stride not in (1, 4):
            raise ValueError(f'DPN.stem_stride is {self.stem_stride}: use 4 as published or 1 for small images.')
        small, size = self.stem_stride == 1, self.stem_size
        conv = PlainConv(self.stem_width, size, 1 if small else 2, size // 2, self.dtype, name='stem')
        x = nn.relu(self.norm(dtype=self.dtype, name='stem_norm')(conv(x), train=train))
        return x if small else max_pool(x, 3, 2, 1)

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        stages = []
        for index, (depth, appended) in enumerate(zip(self.depths, self.appended, strict=True)):
            block = functools.partial(
                Block,
                self.added * 2**index,
                appended,
                self.width * 2**index,
                self.groups,
                apart=self.apart,
                norm=self.norm,
                dtype=self.dtype,
            )
            first = functools.partial(block, stride=2 if index else 1, first=True)
            stages.append([first, *[block] * (depth - 1)])
        return stages


_SMALL = {'appended': (16, 32, 32, 64), 'added': 64, 'width': 128, 'stem_width': 10, 'stem_size': 3}

# Table 1; DPN-68, DPN-107 and the second form of DPN-68 are of the authors' repository.
VARIANTS = {
    'dpn68': DPN((3, 4, 12, 3), **_SMALL),
    'dpn68b': DPN((3, 4, 12, 3), **_SMALL, apart=True),
    'dpn92': DPN(),
    'dpn98': DPN((3, 6, 20, 3), (16, 32, 32, 128), width=160, groups=40, stem_width=96),
    'dpn131': DPN((4, 8, 28, 3), (16, 32, 32, 128), width=160, groups=40, stem_width=128),
    'dpn107': DPN((4, 8, 20, 3), (20, 64, 64, 128), width=200, groups=50, stem_width=128),
    'dpn_test': DPN((1, 2), (4, 8), 16, 8, 4, stem_width=8, apart=True),
}

# Multiply-adds and one-crop accuracies of the authors' table: trained on ImageNet-1k alone, but for DPN-107 and the
# second DPN-68, which were trained on ImageNet-5k before.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1707.01629', (224, 224))
PUBLISHED = {
    'dpn68': _FIGURES(macs=2.5, top1=76.43),
    'dpn68b': _FIGURES(macs=2.5, top1=77.55),
    'dpn92': _FIGURES(params=37.8, macs=6.5, top1=79.27),
    'dpn98': _FIGURES(params=61.7, macs=11.7, top1=79.85),
    'dpn131': _FIGURES(macs=16.0, top1=80.07),
    'dpn107': _FIGURES(macs=18.3, top1=80.25),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py. Stages count from 2, blocks
# from 1.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_CONVS = (('c1x1_a', 'reduce'), ('c3x3_b', 'group'), ('c1x1_c', 'last'))


def _block_names(there: str, here: str, shortcut: str) -> list[tuple[str, str]]:
    convs = ((shortcut, 'shortcut'), *_CONVS)
    return [
        *((f'{there}.{a}.conv.weight', f'{here}/{b}/conv/kernel') for a, b in convs),
        *((f'{there}.{a}.bn.{c}', f'{here}/{b}/norm/{d}') for a, b in convs for c, d in _NORM),
        (f'{there}.c1x1_c1.weight', f'{here}/last/added/kernel'),
        (f'{there}.c1x1_c2.weight', f'{here}/last/appended/kernel'),
    ]


NAMES = {
    'DPN': (
        ('features.conv1_1.conv.weight', 'backbone/stem/kernel'),
        *((f'features.conv1_1.bn.{a}', f'backbone/stem_norm/{b}') for a, b in _NORM),
        *(
            pair
            for stage, blocks in enumerate((4, 8, 28, 3))  # the most that a published network has
            for index in range(blocks)
            for pair in _block_names(
                f'features.conv{stage + 2}_{index + 1}',
                f'backbone/stage{stage}/block{index:02d}',
                'c1x1_w_s2' if stage else 'c1x1_w_s1',
            )
        ),
        *((f'features.conv5_bn_ac.bn.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('classifier.weight', 'head/kernel', 2),
        ('classifier.bias', 'head/bias'),
    ),
}
