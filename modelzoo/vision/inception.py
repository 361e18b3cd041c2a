"""Inception-v4 and Inception-ResNet: blocks of parallel convolutions, concatenated, or added to their input.

Szegedy et al., 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
https://arxiv.org/abs/1602.07261.
References: the authors' https://github.com/tensorflow/models (Apache-2.0), research/slim/nets/inception_v4.py and
inception_resnet_v2.py, and timm 1.0.31 (https://github.com/huggingface/pytorch-image-models, Apache-2.0), which has
their weights and whose parameter names these are. Of Inception-ResNet-v1 the authors published no code;
https://github.com/davidsandberg/facenet (MIT), src/models/inception_resnet_v1.py, is another's.

The published code of Inception-ResNet-v2 is not the network of the paper: it has a smaller stem with 320 channels after
it, twice as many blocks, whose last one adds without scale and rectifier, and a 1x1 convolution after them. Here
``inception_resnet_v2`` is the code's, for which there are weights, and ``inception_resnet_v2_paper`` that of the
figures 3, 10 to 13 and 15 to 19, whose blocks keep the channels that they are given (figures 17 and 19 say 1,154 and
2,048, but branches and pooling make 1,152 and 2,144). The scales of added blocks, which the paper has between 0.1 and
0.3, are the code's in all versions; the norms' epsilon is 1e-3.

Most convolutions that change the size are not padded: of 299 pixels the stages have 35, 17 and 8. So the networks are
no pyramids, whose sizes are those of the image over a stride. With `aligned` they are padded, as with
``align_feature_maps`` in the authors' code, but by as much on both sides, and images may be small.

Where we differ: initial kernels before a norm are He's by the fan-out as in our ResNets, there by the fan-in; a head
has the initial values of modelzoo/heads. Dropout before it, of 0.2 in the figures, is a field, which is 0.
"""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.dropout import Dropout
from longview.modelzoo.layers.frame.pool import avg_pool, global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

Norm = functools.partial(BatchNorm, epsilon=1e-3)
_he = jax.nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal')


class Layer(NamedTuple):
    """A convolution with norm and ReLU, as the figures have it.

    Attributes:
        features: output channels.
        kernel: side of the kernel, or (height, width).
        stride: step of the output grid.
        valid: whether it is not padded; the figures mark it with a V.
    """

    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    valid: bool = False


# Layers in turn: convolutions, 3x3 pooling, and forks, which are tuples of chains whose outputs are concatenated.
MAX, MEAN = 'max', 'mean'
Layers = tuple[Any, ...]


class Style(NamedTuple):
    """What all layers of a network have in common.

    Attributes:
        width: factor on the channels of each convolution, of which at least 8 remain.
        strided: whether strides are those of the figures; otherwise all are 1.
        aligned: whether everything is padded.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    width: float = 1.0
    strided: bool = True
    aligned: bool = False
    norm: Callable[..., nn.Module] = Norm
    dtype: DTypeLike = jnp.float32

    def conv(self, layer: Layer, name: str) -> ConvNorm:
        """Returns a layer's convolution with its norm."""
        return ConvNorm(
            max(8, round(layer.features * self.width)),
            layer.kernel,
            layer.stride if self.strided else 1,
            self.norm,
            self.dtype,
            padding=0 if layer.valid and not self.aligned else None,
            name=name,
        )


class Chain(nn.Module):
    """Layers one after the other.

    Attributes:
        layers: convolutions, pooling and forks.
        style: of all of them.
    """

    layers: Layers
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h2 w2 d']:
        """Returns the output of the last layer."""
        for index, layer in enumerate(self.layers):
            if layer == MEAN:
                x = local_mean(x)
            elif layer == MAX:
                x = max_pool(x, 3, 2 if self.style.strided else 1, int(self.style.aligned))
            elif isinstance(layer, Layer):
                x = nn.relu(self.style.conv(layer, f'conv{index}')(x, train=train))
            else:
                x = Fork(layer, self.style, name=f'fork{index}')(x, train=train)
        return x


class Fork(nn.Module):
    """The outputs of several chains, concatenated.

    Attributes:
        branches: the layers of each chain.
        style: of all of them.
    """

    branches: Layers
    style: Style

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None = None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask`, this block's part of `drop.path_masks`, has nothing to skip here."""
        del mask
        chains = [Chain(layers, self.style, name=f'branch{index}') for index, layers in enumerate(self.branches)]
        return jnp.concatenate([chain(x, train=train) for chain in chains], axis=-1)


def local_mean(x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns the mean over 3x3 pixels around each, of those that there are."""
    return avg_pool(x, 3, 1, 1) / avg_pool(jnp.ones((1, *x.shape[1:3], 1), x.dtype), 3, 1, 1)


class Residual(nn.Module):
    """``relu(x + scale * up(fork(x)))``.

    Attributes:
        branches: those of the fork.
        style: of its layers.
        scale: factor on what is added; about 0.1 to 0.3 keeps wide networks from dying early in training.
        rectified: whether there is the ReLU.
    """

    branches: Layers
    style: Style
    scale: float
    rectified: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w c']:
        """Returns a map of the same shape; `mask` is this block's part of `drop.path_masks`."""
        y = Fork(self.branches, self.style, name='fork')(x, train=train)
        up = Conv(
            x.shape[-1], 1, dtype=self.style.dtype, kernel_init=_he, bias_init=jax.nn.initializers.zeros, name='up'
        )
        x = x + drop_path(self.scale * up(y), mask)
        return nn.relu(x) if self.rectified else x


class Plan(NamedTuple):
    """The figures of a network.

    Attributes:
        stem: its layers.
        blocks: the branches of a block of each stage.
        reductions: those of the blocks before the second and the third stage.
        scales: factors on what each stage's blocks add; None where blocks concatenate.
        plain_end: whether the last block adds without scale and rectifier.
        last: a layer after the last block; None for none.
    """

    stem: Layers
    blocks: Layers
    reductions: Layers
    scales: tuple[float, float, float] | None = None
    plain_end: bool = False
    last: Layer | None = None


_valid = functools.partial(Layer, kernel=3, valid=True)
_STEM_V4 = (
    _valid(32, stride=2),
    _valid(32),
    Layer(64, 3),
    ((MAX,), (_valid(96, stride=2),)),
    ((Layer(64), _valid(96)), (Layer(64), Layer(64, (1, 7)), Layer(64, (7, 1)), _valid(96))),
    ((_valid(192, stride=2),), (MAX,)),
)
_STEM_V1 = (
    _valid(32, stride=2),
    _valid(32),
    Layer(64, 3),
    MAX,
    Layer(80),
    _valid(192),
    _valid(256, stride=2),
)
_STEM_V2 = (
    *_STEM_V1[:-1],
    MAX,
    ((Layer(96),), (Layer(48), Layer(64, 5)), (Layer(64), Layer(96, 3), Layer(96, 3)), (MEAN, Layer(64))),
)
_WAYS = ((Layer(256, (1, 3)),), (Layer(256, (3, 1)),))
_V4 = Plan(
    _STEM_V4,
    (
        (
            (Layer(96),),
            (Layer(64), Layer(96, 3)),
            (Layer(64), Layer(96, 3), Layer(96, 3)),
            (MEAN, Layer(96)),
        ),
        (
            (Layer(384),),
            (Layer(192), Layer(224, (1, 7)), Layer(256, (7, 1))),
            (Layer(192), Layer(192, (7, 1)), Layer(224, (1, 7)), Layer(224, (7, 1)), Layer(256, (1, 7))),
            (MEAN, Layer(128)),
        ),
        (
            (Layer(256),),
            (Layer(384), _WAYS),
            (Layer(384), Layer(448, (3, 1)), Layer(512, (1, 3)), _WAYS),
            (MEAN, Layer(256)),
        ),
    ),
    (
        ((_valid(384, stride=2),), (Layer(192), Layer(224, 3), _valid(256, stride=2)), (MAX,)),
        (
            (Layer(192), _valid(192, stride=2)),
            (Layer(256), Layer(256, (1, 7)), Layer(320, (7, 1)), _valid(320, stride=2)),
            (MAX,),
        ),
    ),
)
_SCALES = (0.17, 0.10, 0.20)
_V1 = Plan(
    _STEM_V1,
    (
        ((Layer(32),), (Layer(32), Layer(32, 3)), (Layer(32), Layer(32, 3), Layer(32, 3))),
        ((Layer(128),), (Layer(128), Layer(128, (1, 7)), Layer(128, (7, 1)))),
        ((Layer(192),), (Layer(192), Layer(192, (1, 3)), Layer(192, (3, 1)))),
    ),
    (
        ((_valid(384, stride=2),), (Layer(192), Layer(192, 3), _valid(256, stride=2)), (MAX,)),
        (
            (Layer(256), _valid(384, stride=2)),
            (Layer(256), _valid(256, stride=2)),
            (Layer(256), Layer(256, 3), _valid(256, stride=2)),
            (MAX,),
        ),
    ),
    _SCALES,
)
_V2_PAPER = Plan(
    _STEM_V4,
    (
        ((Layer(32),), (Layer(32), Layer(32, 3)), (Layer(32), Layer(48, 3), Layer(64, 3))),
        ((Layer(192),), (Layer(128), Layer(160, (1, 7)), Layer(192, (7, 1)))),
        ((Layer(192),), (Layer(192), Layer(224, (1, 3)), Layer(256, (3, 1)))),
    ),
    (
        ((_valid(384, stride=2),), (Layer(256), Layer(256, 3), _valid(384, stride=2)), (MAX,)),
        (
            (Layer(256), _valid(384, stride=2)),
            (Layer(256), _valid(288, stride=2)),
            (Layer(256), Layer(288, 3), _valid(320, stride=2)),
            (MAX,),
        ),
    ),
    _SCALES,
)
_V2 = _V2_PAPER._replace(stem=_STEM_V2, plain_end=True, last=Layer(1536))
_PLANS = {'v1': _V1, 'v2': _V2, 'v2_paper': _V2_PAPER}


class Inception(ft.Backbone):
    """A network by its plan; the second and the third stage begin with a block that halves the resolution.

    Attributes:
        depths: Inception blocks of each of the three stages.
        width: factor on the channels of each convolution, of which at least 8 remain.
        stem_stride: 8 as published, or 1 for small images: no layer of the stem has a stride.
        aligned: whether everything is padded, so that sizes are halved and rounded up.
        norm: factory of the normalizations.
        drop_path: stochastic depth of the last block, where blocks add; see layers/frame/drop.py.
        dropout: rate of dropout on ``pooled``, before the head; 0.2 in the paper's training.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    depths: Sequence[int] = (4, 7, 3)
    width: float = 1.0
    stem_stride: int = 8
    aligned: bool = False
    norm: Callable[..., nn.Module] = Norm
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    @abc.abstractmethod
    def plan(self) -> Plan:
        """The figures of the network."""

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, and the last layer if there is one."""
        first, *others = self.depths
        return pyramid.layers((first, *(depth + 1 for depth in others)), ['last'] if self.plan.last else [])

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``.

        Raises:
            ValueError: an image too small to remain unpadded, a stem of another stride than 8 and 1, not three stages,
                or stochastic depth where no block adds.
        """
        self._check(*x.shape[1:3])
        style = Style(self.width, True, self.aligned, self.norm, self.dtype)
        stem = Chain(self.plan.stem, style._replace(strided=self.stem_stride == 8), name='stem')(x, train=train)
        stages = self._stages(style)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        x = maps[-1]
        if self.plan.last is not None:
            x = nn.relu(style.conv(self.plan.last, 'last')(x, train=train))
        pooled = Dropout(self.dropout, name='dropout')(global_mean(x), train=train)
        return {ft.STEM: stem, **features, ft.MAP: x, ft.POOLED: pooled}

    def _check(self, height: int, width: int) -> None:
        if self.stem_stride not in (1, 8):
            raise ValueError(f'stem_stride is {self.stem_stride}: use 8 as published or 1 for small images.')
        if len(self.depths) != 3:
            raise ValueError(f'depths is {tuple(self.depths)}: give three numbers of blocks, one for each stage.')
        if self.drop_path and self.plan.scales is None:
            raise ValueError(f'drop_path is {self.drop_path}, but no block of Inception-v4 adds to its input: use 0.')
        least = 75 if self.stem_stride == 8 else 17
        if not self.aligned and min(height, width) < least:
            raise ValueError(
                f'an image of {height}x{width} pixels is too small for convolutions without padding: '
                f'use at least {least}x{least}, or aligned=True.'
            )

    def _stages(self, style: Style) -> list[list[Callable[..., nn.Module]]]:
        """Returns the factories of the blocks of each stage."""
        plan, stages = self.plan, []
        for index, (depth, branches) in enumerate(zip(self.depths, plan.blocks, strict=True)):
            if plan.scales is None:
                block = functools.partial(Fork, branches, style)
            else:
                block = functools.partial(Residual, branches, style, plan.scales[index])
            first = [functools.partial(Fork, plan.reductions[index - 1], style)] if index else []
            stages.append([*first, *[block] * depth])
        if plan.plain_end:
            stages[-1][-1] = functools.partial(Residual, plan.blocks[-1], style, 1.0, rectified=False)
        return stages


class InceptionV4(Inception):
    """Blocks concatenate; nothing is added."""

    @property
    def plan(self) -> Plan:
        return _V4


class InceptionResNet(Inception):
    """Blocks add to their input.

    Attributes:
        version: 'v1', 'v2' or 'v2_paper'; see the file's docstring.
    """

    version: str = 'v2'

    @property
    def plan(self) -> Plan:
        """The figures of the version.

        Raises:
            ValueError: there is no such version.
        """
        if self.version not in _PLANS:
            raise ValueError(f'version is {self.version!r}: use one of {", ".join(_PLANS)}.')
        return _PLANS[self.version]


VARIANTS = {
    'inception_v4': InceptionV4(),
    'inception_resnet_v1': InceptionResNet((5, 10, 5), version='v1'),
    'inception_resnet_v2': InceptionResNet((10, 20, 10)),
    'inception_resnet_v2_paper': InceptionResNet((5, 10, 5), version='v2_paper'),
    'inception_resnet_test': InceptionResNet((0, 0, 1), 1 / 32, 1, True, version='v1'),
    'inception_resnet_stem_test': InceptionResNet((1, 1, 1), 1 / 32, 1, True, version='v2_paper'),
}

# Table 2: one crop of one network, on the images of ImageNet-1k's validation set that are not on its black list.
# These accuracies were not compared with the paper's text, which was not at hand. Parameters are timm's of the authors'
# weights.
_FIGURES = functools.partial(ft.Published, 'https://arxiv.org/abs/1602.07261', (299, 299))
PUBLISHED = {
    'inception_v4': _FIGURES(params=42.7, top1=80.0),
    'inception_resnet_v1': _FIGURES(top1=78.7),
    'inception_resnet_v2': _FIGURES(params=55.8),
    'inception_resnet_v2_paper': _FIGURES(top1=80.1),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))


def _conv_names(there: str, here: str) -> Iterator[tuple[str, str]]:
    yield f'{there}.conv.weight', f'{here}/conv/kernel'
    for a, b in _NORM:
        yield f'{there}.bn.{a}', f'{here}/norm/{b}'


def _fork_names(there: str, here: str, branches: Layers) -> Iterator[tuple[str, str]]:
    for number, layers in enumerate(branches):
        branch, ours, last = f'{there}.branch{number}', f'{here}/branch{number}', len(layers) - 1
        if isinstance(layers[-1], Layer) and last == 0:
            yield from _conv_names(branch, f'{ours}/conv0')
        elif not isinstance(layers[-1], (Layer, str)):  # a fork
            for index in range(last):
                yield from _conv_names(f'{branch}_{index}', f'{ours}/conv{index}')
            for way, letter in enumerate('ab'):
                yield from _conv_names(f'{branch}_{last}{letter}', f'{ours}/fork{last}/branch{way}/conv0')
    yield from _conv_names(f'{there}.branch{{n}}.{{i}}', f'{here}/branch{{n}}/conv{{i}}')


def _stem_v4_names() -> Iterator[tuple[str, str]]:
    for index in range(3):
        yield from _conv_names(f'features.{index}', f'backbone/stem/conv{index}')
    yield from _conv_names('features.3.conv', 'backbone/stem/fork3/branch1/conv0')
    yield from _fork_names('features.4', 'backbone/stem/fork4', _STEM_V4[4])
    yield from _conv_names('features.5.conv', 'backbone/stem/fork5/branch0/conv0')


def _v4_names() -> Iterator[tuple[str, str]]:
    yield from _stem_v4_names()
    number = 6
    for stage, (depth, branches) in enumerate(zip(InceptionV4.depths, _V4.blocks, strict=True)):
        blocks = [branches] * depth
        for index, block in enumerate([_V4.reductions[stage - 1], *blocks] if stage else blocks):
            yield from _fork_names(f'features.{number}', f'backbone/stage{stage}/block{index:02d}', block)
            number += 1
    yield from ((f'last_linear.{a}', f'head/{b}') for a, b in _AFFINE)


def _residual_names(there: str, here: str, branches: Layers) -> Iterator[tuple]:
    yield from _fork_names(there, f'{here}/fork', branches)
    yield f'{there}.conv2d.weight', f'{here}/up/kernel', 2
    yield f'{there}.conv2d.bias', f'{here}/up/bias'


def _resnet_names() -> Iterator[tuple]:
    """Names of the published second version, of which the others have the first blocks, or the stem of figure 3."""
    for name, index in (('1a', 0), ('2a', 1), ('2b', 2), ('3b', 4), ('4a', 5), ('4b', 6)):
        yield from _conv_names(f'conv2d_{name}', f'backbone/stem/conv{index}')
    yield from _fork_names('mixed_5b', 'backbone/stem/fork7', _STEM_V2[7])
    yield from _stem_v4_names()
    for stage, (name, depth) in enumerate((('repeat', 10), ('repeat_1', 20), ('repeat_2', 9))):
        first = 1 if stage else 0
        for index in range(depth):
            path = f'backbone/stage{stage}/block{first + index:02d}'
            yield from _residual_names(f'{name}.{index}', path, _V2.blocks[stage])
    yield from _residual_names('block8', 'backbone/stage2/block10', _V2.blocks[2])
    for stage, name in ((1, 'mixed_6a'), (2, 'mixed_7a')):
        yield from _fork_names(name, f'backbone/stage{stage}/block00', _V2.reductions[stage - 1])
    yield from _conv_names('conv2d_7b', 'backbone/last')
    yield from ((f'classif.{a}', f'head/{b}') for a, b in _AFFINE)


NAMES = {'InceptionV4': tuple(_v4_names()), 'InceptionResNet': tuple(_resnet_names())}
