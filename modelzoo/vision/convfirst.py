"""ConvFirst: residual blocks that begin with their convolution, so that one kernel can compute all their layers.

Lavin, 2024, "On the Efficiency of Convolutional Neural Networks", https://arxiv.org/abs/2404.03617.
Reference: https://github.com/andravin/spio (Apache-2.0), commit 6f95a0e, scripts/profile_block.py: the author's two
blocks, `ConvFirst` and `MBConv`. Neither the network ConvFirstNet nor weights are published: sizes are ours, and so are
the stem, one convolution, and the blocks of another stride or width, which begin each stage.

Both blocks have a convolution of groups of 8 channels and two matrices with four times the width between them. The
mobile convolution has it between the matrices, on the wide map; ConvFirst has it before them, where it costs a quarter
and is the only layer that looks at other pixels. So rows of the output depend on a few rows of the narrow map alone:
with `fused`, `kernels.fused_block` computes the whole block from these in evaluation. There batch normalization is
folded into the weights; in training its statistics are those of the batch, and the layers run one by one.

Details of the published code kept here: there is no activation behind the convolution of ConvFirst and behind the sum.
We differ in initial kernels, He's by the fan-out here and torch's default there.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.fused_block import fused_block
from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


class ConvFirst(nn.Module):
    """``x + down(silu(up(conv(x))))``, a norm behind each layer; where the shape changes there is no sum.

    Attributes:
        features: output channels.
        stride: of the convolution.
        kernel_size: odd side of the kernel.
        group_width: channels of a group of the convolution.
        ratio: hidden channels of the matrices over those of the input.
        norm: factory of the normalizations.
        dtype: compute type.
        fused: whether a block that keeps its shape runs as one op in evaluation (`kernels.fused_block`).
    """

    features: int
    stride: int = 1
    kernel_size: int = 3
    group_width: int = 8
    ratio: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32
    fused: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`, and of use where the block adds.

        Raises:
            ValueError: the groups do not divide the channels, or `fused` with a norm that cannot be folded.
        """
        keeps, width = _keeps(self, x), x.shape[-1]
        if self.fused and keeps:
            epsilon = _epsilon(self.norm)
            if not train and not self.is_initializing():
                return self._fused(x, epsilon)
        layer = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        groups = _groups(width, self.group_width)
        y = layer(width, self.kernel_size, self.stride, groups=groups, name='conv')(x, train=train)
        y = nn.silu(layer(self.ratio * width, 1, name='up')(y, train=train))
        y = layer(self.features, 1, name='down')(y, train=train)
        return x + drop_path(y, mask) if keeps else y

    def _fused(self, x: Float[Array, 'b h w c'], epsilon: float) -> Float[Array, 'b h w c']:
        conv, up, down = (_folded(self, name, epsilon) for name in ('conv', 'up', 'down'))
        cast = lambda kernel: kernel.astype(self.dtype)
        (up, up_bias), (down, down_bias) = ((cast(kernel[0, 0]), bias) for kernel, bias in (up, down))
        return fused_block(x.astype(self.dtype), cast(conv[0]), conv[1], up, up_bias, down, down_bias)


class MBConv(nn.Module):
    """``x + down(silu(conv(silu(up(x)))))``, a norm behind each layer; where the shape changes there is no sum.

    Attributes:
        features, stride, kernel_size, group_width, ratio, norm, dtype: as in `ConvFirst`.
    """

    features: int
    stride: int = 1
    kernel_size: int = 3
    group_width: int = 8
    ratio: int = 4
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`, and of use where the block adds.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        layer = functools.partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        hidden = self.ratio * x.shape[-1]
        groups = _groups(hidden, self.group_width)
        y = nn.silu(layer(hidden, 1, name='up')(x, train=train))
        y = nn.silu(layer(hidden, self.kernel_size, self.stride, groups=groups, name='conv')(y, train=train))
        y = layer(self.features, 1, name='down')(y, train=train)
        return x + drop_path(y, mask) if _keeps(self, x) else y


def _keeps(block: ConvFirst | MBConv, x: Float[Array, 'b h w c']) -> bool:
    """Whether the block's output has the shape of its input.

    Raises:
        ValueError: the kernel has no middle.
    """
    if block.kernel_size % 2 == 0:
        raise ValueError(f'kernel_size is {block.kernel_size}: use an odd side.')
    return block.stride == 1 and block.features == x.shape[-1]


def _groups(channels: int, width: int) -> int:
    if channels % width:
        raise ValueError(f'group_width is {width} and does not divide the {channels} channels: change one of them.')
    return channels // width


def _epsilon(norm: Callable[..., nn.Module]) -> float:
    """Returns the epsilon of a batch normalization."""
    found = norm(parent=None)
    if not isinstance(found, BatchNorm) or not found.affine:
        raise ValueError(
            f'ConvFirst.fused is True and the norm is {type(found).__name__}, which cannot be folded into weights: '
            'take BatchNorm with scale and bias, or fused=False.'
        )
    return found.epsilon


def _folded(block: nn.Module, name: str, epsilon: float) -> tuple[Float[Array, 'i j c d'], Float[Array, ' d']]:
    """Returns kernel and bias of a layer of the block, with its norm and running averages folded into them."""
    params, averages = block.variables['params'][name], block.variables['batch_stats'][name]['norm']
    gain = params['norm']['scale'] * jax.lax.rsqrt(averages['var'] + epsilon)
    return params['conv']['kernel'] * gain[None, None, None], params['norm']['bias'] - averages['mean'] * gain


class ConvFirstNet(ft.HalvingBackbone):
    """Stages of blocks of which the first halves the resolution.

    Attributes:
        widths, depths: channels and blocks of each stage.
        block: factory of the blocks, `ConvFirst` or `MBConv`.
        norm: factory of every normalization.
        stem_stride: 4, where the stem and the first stage halve the resolution, or 1 for small images.
        fused: whether blocks run as one op in evaluation; see `ConvFirst`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 256, 512)
    depths: Sequence[int] = (3, 3, 9, 3)
    block: Callable[..., nn.Module] = ConvFirst
    norm: Callable[..., nn.Module] = BatchNorm
    stem_stride: int = 4
    fused: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem and each block; no other layer follows."""
        return pyramid.layers(self.depths)[:-1]

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage3``, ``map`` and ``pooled``.

        Raises:
            ValueError: a stem of another stride than 4 and 1, or `fused` with blocks that have no such op.
        """
        if self.stem_stride not in (1, 4):
            raise ValueError(f'ConvFirstNet.stem_stride is {self.stem_stride}: use 4, or 1 for small images.')
        stride = 1 if self.stem_stride == 1 else 2
        stem = ConvNorm(self.widths[0], 3, stride, self.norm, self.dtype, name='stem')
        x = nn.silu(stem(x, train=train))
        strides = (stride, *[2] * (len(self.depths) - 1))
        stages = [
            pyramid.with_stride(self._block(), width, depth, step)
            for width, depth, step in zip(self.widths, self.depths, strides, strict=True)
        ]
        maps = pyramid.run(self, x, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: x, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}

    def _block(self) -> Callable[..., nn.Module]:
        block = functools.partial(self.block, norm=self.norm, dtype=self.dtype)
        if not self.fused:
            return block
        kind = self.block.func if isinstance(self.block, functools.partial) else self.block
        if 'fused' not in kind.__dataclass_fields__:
            raise ValueError(f'ConvFirstNet.fused is True, and {kind.__name__} has no fused form: use fused=False.')
        return functools.partial(block, fused=True)


_TINY = {'ratio': 2, 'group_width': 4}

VARIANTS = {
    'convfirst_ours': ConvFirstNet(),
    'convfirst_mbconv_ours': ConvFirstNet(block=functools.partial(MBConv)),
    'convfirst_mbconv_test': ConvFirstNet((4, 8), (1, 1), functools.partial(MBConv, **_TINY), stem_stride=1),
    'convfirst_test': ConvFirstNet((4, 8), (1, 2), functools.partial(ConvFirst, **_TINY)),
}

PUBLISHED: dict[str, ft.Published] = {}

# Names of a block's layers in the reference, for its goldens, and ours.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


def _block_names(conv: int, up: int, down: int) -> tuple[tuple[str, str], ...]:
    """Returns a block's names, of which the reference has numbers only; a norm comes next to its layer."""
    places = (('conv', conv), ('up', up), ('down', down))
    return (
        *((f'layers.{place}.weight', f'{name}/conv/kernel') for name, place in places),
        *((f'layers.{place + 1}.{a}', f'{name}/norm/{b}') for name, place in places for a, b in _NORM),
    )


_CONV_FIRST_NAMES, _MBCONV_NAMES = _block_names(0, 2, 5), _block_names(3, 0, 6)

# No weights of networks were published: names are ours, in the layout of PyTorch.
_BLOCK = 'stage{s}.block{i:02d}'
_LAYERS = ('stem', *(f'{_BLOCK}.{name}' for name in ('conv', 'up', 'down')))
NAMES = {
    'ConvFirstNet': (
        *((f'{layer}.conv.weight', f'backbone/{layer.replace(".", "/")}/conv/kernel') for layer in _LAYERS),
        *((f'{layer}.norm.{a}', f'backbone/{layer.replace(".", "/")}/norm/{b}') for layer in _LAYERS for a, b in _NORM),
        ('head.weight', 'head/kernel'),
        ('head.bias', 'head/bias'),
    )
}
