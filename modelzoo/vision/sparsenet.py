"""SparseNet: each layer reads the outputs 1, 2, 4, 8, ... layers back, where DenseNet reads all of them.

Zhu et al., 2018, "Sparsely Aggregated Convolutional Networks", https://arxiv.org/abs/1801.05895.
Huang et al., 2016, "Densely Connected Convolutional Networks", https://arxiv.org/abs/1608.06993, for what is aggregated
densely, bottlenecks and compression.
Reference: https://github.com/Lyken17/SparseNet (the authors', MIT), src/pytorch/denselink.py, whose names these are.

Details of the published code that are not in the paper, kept here:
  * the input of a stage counts as its first output, and the newest output is first among the channels; in a dense
    network it is last;
  * a stage ends with what a further layer would read, and only this goes on;
  * the stem has as many channels as a layer, and two times as many in a dense network;
  * compression goes with bottlenecks alone.
Where we differ: where a side is odd, the means between stages keep its last pixels, which the reference cuts off, and a
head has the initial values of modelzoo/heads. The paper's networks that add what they aggregate, and its networks for
ImageNet, are not in the reference and not built.
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
from longview.modelzoo.layers.frame.pool import global_mean, halve
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

# What a stage has made so far: its input, and the output of each layer.
Outputs = tuple[Array, ...]


def aggregated(count: int, dense: bool = False) -> tuple[int, ...]:
    """Returns which of a number of outputs are read, in the order of their channels; 0 is the oldest."""
    if dense:
        return tuple(range(count))
    return tuple(count - 2**power for power in range(count.bit_length()))


class Aggregate(nn.Module):
    """What `pyramid.run` opens and closes: a stream that is the stem's map, and after a layer all outputs of its stage.

    Attributes:
        dense: see `aggregated`.
    """

    dense: bool = False

    def open(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """Returns the map of the stem, the only output before the first layer."""
        return x

    def close(self, s: Float[Array, 'b h w c'] | Outputs) -> Float[Array, 'b h w c']:
        """Returns what the next layer reads."""
        if not isinstance(s, tuple):
            return s
        return jnp.concatenate([s[index] for index in aggregated(len(s), self.dense)], axis=-1)


class NormConv(nn.Module):
    """``conv(relu(norm(x)))`` without bias.

    Attributes:
        features, kernel_size: of the convolution; the padding keeps the size.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    kernel_size: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Returns a map of the same size."""
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))
        return PlainConv(self.features, self.kernel_size, 1, self.kernel_size // 2, self.dtype, name='conv')(x)


class Layer(nn.Module):
    """A 3x3 convolution of aggregated outputs.

    Attributes:
        features: output channels.
        transition: channels of the 1x1 convolution, followed by 2x2 means, with which a stage but the first begins;
            None in all other layers.
        bottleneck: whether a 1x1 convolution to four times the features comes before.
        dense: see `aggregated`.
        norm: factory of every normalization.
        dtype: compute type.
    """

    features: int
    transition: int | None = None
    bottleneck: bool = False
    dense: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, s: Float[Array, 'b h w c'] | Outputs, mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Outputs:
        """Returns the outputs of the stage with this layer's; `mask` is this layer's part of `drop.path_masks`."""
        conv = functools.partial(NormConv, norm=self.norm, dtype=self.dtype)
        x = Aggregate(self.dense, parent=None).close(s)
        if self.transition is not None:
            x = halve(conv(self.transition, 1, name='transition')(x, train=train))
        begins = self.transition is not None or not isinstance(s, tuple)
        y = conv(4 * self.features, 1, name='conv1')(x, train=train) if self.bottleneck else x
        y = conv(self.features, 3, name='conv2' if self.bottleneck else 'conv1')(y, train=train)
        return (*((x,) if begins else s), drop_path(y, mask))


class SparseNet(ft.PyramidBackbone):
    """The network; each stage but the first begins with a transition, which halves the resolution.

    Attributes:
        depths: layers of each stage.
        growth: output channels of the layers of each stage.
        stem_width: channels after the stem.
        bottleneck, dense: see `Layer`.
        reduction: share of the channels that a transition keeps, rounded down.
        norm: factory of every normalization.
        drop_path: stochastic depth of the last layer, whose output is 0 then; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each layer in the backward pass.
    """

    depths: Sequence[int] = (12, 12, 12)
    growth: Sequence[int] = (24, 24, 24)
    stem_width: int = 24
    bottleneck: bool = False
    dense: bool = False
    reduction: float = 1.0
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4."""
        return tuple(2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Those that are aggregated at the end of each stage."""
        channels, width = [], self.stem_width
        for depth, growth in zip(self.depths, self.growth, strict=True):
            read = aggregated(depth + 1, self.dense)
            channels.append(sum(growth if index else width for index in read))
            width = self._kept(channels[-1])
        return tuple(channels)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each layer with the transition before it, the last norm."""
        return pyramid.layers(self.depths, ['norm'])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``."""
        stem = PlainConv(self.stem_width, 3, 1, 1, self.dtype, name='stem')(x)
        aggregate = functools.partial(Aggregate, self.dense)
        maps = pyramid.run(
            self, stem, self._stages(), drop_path=self.drop_path, remat=self.remat, train=train, residual=aggregate
        )
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = nn.relu(self.norm(dtype=self.dtype, name='norm')(maps[-1], train=train))
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: global_mean(x)}

    def _kept(self, channels: int) -> int:
        return int(channels * self.reduction)

    def _stages(self) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the layers of each stage."""
        stages = []
        for index, (depth, growth) in enumerate(zip(self.depths, self.growth, strict=True)):
            layer = functools.partial(
                Layer, growth, bottleneck=self.bottleneck, dense=self.dense, norm=self.norm, dtype=self.dtype
            )
            first = functools.partial(layer, transition=self._kept(self.channels[index - 1])) if index else layer
            stages.append([first, *[layer] * (depth - 1)])
        return stages


def _cifar(layers: int, *growth: int, bottleneck: bool = False) -> SparseNet:
    """So many layers are those of three stages, the stem, two transitions and the head."""
    depth = (layers - 4) // (6 if bottleneck else 3)
    return SparseNet((depth,) * 3, growth, growth[0], bottleneck, reduction=0.5 if bottleneck else 1.0)


# The table of the authors' repository; "bc" has bottlenecks and compression.
VARIANTS = {
    'sparsenet40_k24_cifar': _cifar(40, 24, 24, 24),
    'sparsenet100_k36_cifar': _cifar(100, 36, 36, 36),
    'sparsenet100_k16_32_64_cifar': _cifar(100, 16, 32, 64),
    'sparsenet_bc100_k24_cifar': _cifar(100, 24, 24, 24, bottleneck=True),
    'sparsenet_bc100_k16_32_64_cifar': _cifar(100, 16, 32, 64, bottleneck=True),
    'sparsenet_bc100_k32_64_128_cifar': _cifar(100, 32, 64, 128, bottleneck=True),
    'sparsenet_test': SparseNet((3, 1), (4, 6), 4, bottleneck=True, reduction=0.5),
    'sparsenet_dense_test': SparseNet((3, 2), (6, 8), 12, dense=True),
}

# The authors' table has 0.76, 5.65, 7.22, 1.46, 4.38 and 16.72 million parameters with 100 classes; their code and
# ours make 0.74, 5.57, 7.20, 1.45, 4.36 and 17.32.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1801.05895', (32, 32))
PUBLISHED = {name: _FIGURES() for name in VARIANTS if not name.endswith('_test')}


# Published names of a classifier's parameters and statistics, and ours; see weights.py. Layers count from 1.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))


_PARTS = (
    *((f'bn{{k}}.{a}', f'conv{{k}}/norm/{b}') for a, b in _NORM),
    ('conv{k}.weight', 'conv{k}/conv/kernel'),
)


def _stage_names(stage: int) -> list[tuple[str, str]]:
    there, here = f'features.transition-{stage - 1}', f'backbone/stage{stage}/block00/transition'
    found = [(f'{there}.bn1.{a}', f'{here}/norm/{b}') for a, b in _NORM]
    found += [(f'{there}.conv1.weight', f'{here}/conv/kernel')]
    for index in range(32):
        there, here = f'features.dense-stage-{stage}.block-{index + 1}', f'backbone/stage{stage}/block{index:02d}'
        found += [(f'{there}.{a}', f'{here}/{b}') for a, b in _PARTS]
    return found


NAMES = {
    'SparseNet': (
        ('features.conv0.weight', 'backbone/stem/kernel'),
        *(pair for stage in range(3) for pair in _stage_names(stage)),
        *((f'features.norm_last.{a}', f'backbone/norm/{b}') for a, b in _NORM),
        ('classifier.linear.weight', 'head/kernel'),
        ('classifier.linear.bias', 'head/bias'),
    ),
}
