"""Fixup ResNet: residual networks without any normalization, for CIFAR.

Zhang et al., 2019, "Fixup Initialization: Residual Learning Without Normalization", https://arxiv.org/abs/1901.09321.
Reference: https://github.com/hongyi-zhang/Fixup (BSD-3-Clause), cifar/models/fixup_resnet_cifar.py at f3fa449, read for
facts; `NAMES` maps its parameter names. For the initial values of branches see layers/residuals/fixup.py.

Details of the published code that are not in the paper, kept here: L is the number of blocks; where a block halves the
resolution, its shortcut adds the first scalar of the block to the map, takes every second pixel and appends channels
of zeros.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads import Linear
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.residuals import fixup


class Block(nn.Module):
    """``relu(shortcut(x) + branch(x))`` with two 3x3 convolutions; scalars are added before each and before the ReLU.

    Attributes:
        features: output channels.
        stride: stride of the first convolution.
        residual: factory of the connection, which knows the index of the block.
        dtype: compute type.
    """

    features: int
    stride: int
    residual: Callable[..., fixup.Fixup]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, s: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        del train
        join = self.residual(name='residual')
        conv = functools.partial(Conv, self.features, 3, padding=1, dtype=self.dtype, use_bias=False)
        initial = fixup.kernel_init(join.blocks, mode='fan_out')
        x = join.read(s)
        y = conv(stride=self.stride, kernel_init=initial, name='conv1')(x)
        y = fixup.Offset(name='before2')(nn.relu(fixup.Offset(name='after1')(y)))
        y = conv(kernel_init=jax.nn.initializers.zeros, name='conv2')(y)
        if self.stride != 1 or s.shape[-1] != self.features:
            s = _widened(x[:, :: self.stride, :: self.stride], self.features)
        return nn.relu(join.write(s.astype(y.dtype), drop_path(y, mask)))


def _widened(x: Float[Array, 'b h w c'], features: int) -> Float[Array, 'b h w d']:
    """Returns the map padded with channels of zeros."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class FixupResNet(ft.PyramidBackbone):
    """The network: a 3x3 convolution, stages that halve the resolution (except the first), a scalar added to the mean.

    Attributes:
        depths: blocks of each stage.
        widths: output channels of each stage.
        stem_width: channels after the stem.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
        scan: whether the blocks of a stage, except its first, share one compiled body.
    """

    depths: Sequence[int] = (3, 3, 3)
    widths: Sequence[int] = (16, 32, 64)
    stem_width: int = 16
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4."""
        return tuple(2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem with its scalar, each block, the scalar of the mean."""
        stem, *blocks = pyramid.layers(self.depths, ['pool'])
        return ((*stem, 'after_stem'), *blocks)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``."""
        stem = Conv(self.stem_width, 3, padding=1, dtype=self.dtype, use_bias=False, name='stem')(x)
        stem = nn.relu(fixup.Offset(name='after_stem')(stem))
        block = functools.partial(Block, dtype=self.dtype)
        stages = pyramid.connected(pyramid.halving(block, self.widths, self.depths), fixup.Fixup)
        maps = pyramid.run(
            self,
            stem,
            stages,
            drop_path=self.drop_path,
            remat=self.remat,
            train=train,
            residual=fixup.Fixup,
            scan=self.scan,
        )
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        pooled = fixup.Offset(name='pool')(global_mean(maps[-1]))
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: pooled}


# Section 5.1: the ResNets for CIFAR with 6 n + 2 layers.
VARIANTS = {
    **{f'fixup_resnet{6 * n + 2}': FixupResNet((n, n, n)) for n in (3, 5, 7, 9, 18)},
    'fixup_resnet_test': FixupResNet((3, 1), (8, 16), stem_width=8),
}

# The published classifier starts at 0.
HEADS = {'FixupResNet': functools.partial(Linear, kernel_init=jax.nn.initializers.zeros)}

PUBLISHED = {name: ft.Published('https://arxiv.org/abs/1901.09321', (32, 32)) for name in list(VARIANTS)[:-1]}


# Published names of a classifier's parameters, and ours; see weights.py.
_NUMBERS = (
    ('bias1a', 'residual/before'),
    ('bias1b', 'after1/bias'),
    ('bias2a', 'before2/bias'),
    ('scale', 'residual/scale'),
    ('bias2b', 'residual/after'),
)
NAMES = {
    'FixupResNet': (
        ('conv1.weight', 'backbone/stem/kernel'),
        ('bias1', 'backbone/after_stem/bias'),
        *(
            (f'layer{stage + 1}.{{i}}.{there}', f'backbone/stage{stage}/block{{i:02d}}/{here}')
            for stage in range(3)
            for there, here in (*_NUMBERS, ('conv{k}.weight', 'conv{k}/kernel'))
        ),
        ('bias2', 'backbone/pool/bias'),
        ('fc.weight', 'head/kernel'),
        ('fc.bias', 'head/bias'),
    ),
}
