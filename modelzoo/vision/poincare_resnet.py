"""Poincaré ResNet: a residual network all of whose layers are of hyperbolic space.

Van Spengler et al., 2023, "Poincaré ResNet", https://arxiv.org/abs/2303.14027. Reference:
https://github.com/maxvanspengler/poincare-resnet (Apache-2.0), commit fbbbbf8, models; `NAMES` maps its parameter
names. The numbers of the ball are in layers/poincare.py.

Between layers features are tangents at the origin, where ReLU acts; every layer goes into the ball and comes out. A
convolution makes one point of the pixels of a window and measures its distances to hyperplanes; normalization moves the
midpoint of the batch to a learned point and scales distances to it; a residual block is a Möbius sum. Weights start as
half of the identity, which keeps the norms of what passes.

As the length of a window is a sum of the lengths of its pixels, and going into the ball only scales it, a hyperbolic
convolution is computed as an ordinary one and a sum over windows: no window is stored.

Details of the published code, kept here: convolutions make no point of a map's rim but fill it up with zeros, which are
the origin; the identity is of windows, channel by channel, so that the first outputs are shifts of the first channel;
shortcuts that change the shape have no norm; the curvature is -0.1 and fixed.

Where the published code differs from its paper, `published` has the code: the metric's scale in linear layers and
convolutions is inverted; in a Möbius sum vectors run along the width of a map, not over its channels; normalization
takes the batch's statistics in evaluation, too. By default there are running averages, in the tangent space at the
origin.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers import poincare
from longview.modelzoo.layers.convolutions.conv import convolve
from longview.modelzoo.layers.frame import pyramid
from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.norms.batchnorm import COUNT, MOMENTS

CURVATURE = 0.1


def _half_identity(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    del key
    return 0.5 * jnp.eye(*shape, dtype=dtype)


class PoincareConv(nn.Module):
    """Distances of windows, each a point of the ball, to hyperplanes; from tangents to tangents.

    Attributes:
        features: number of hyperplanes, the output's channels.
        kernel_size: odd side of the windows; the map is filled up so that it keeps its size at stride 1.
        stride: step of the output grid.
        c: curvature of the ball, with its sign changed.
        published: see `poincare.fully_connected`.
        dtype: compute type of the products; all else is float32.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    c: float = CURVATURE
    published: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns a map of h / stride by w / stride pixels, rounded up."""
        side, channels, padding = self.kernel_size, x.shape[-1], self.kernel_size // 2
        planes = self.param('direction', _half_identity, (channels * side**2, self.features))
        offsets = self.param('bias', jax.nn.initializers.zeros, (self.features,))
        # So that the norm of a window is in expectation that of a pixel; see Shimizu et al., section 3.3.
        x = x.astype(jnp.float32) * (_beta(channels * side**2) / _beta(channels))
        kernel = jnp.transpose(planes.reshape(channels, side, side, -1), (1, 2, 0, 3))
        products = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, padding)
        squares = _window_sum(jnp.sum(x * x, axis=-1, keepdims=True), side, self.stride, padding)
        y = _hyperbolic(products.astype(jnp.float32), squares, planes, offsets, self.c, self.published)
        return y.astype(self.dtype)


def _hyperbolic(
    products: Array, squares: Array, planes: Array, offsets: Array, c: float, published: bool
) -> Float[Array, '*n o']:
    """Returns the layer's tangents from the products and squares of tangents that were not in the ball yet."""
    # Going into the ball scales a vector, and its products with it.
    size = jnp.sqrt(jnp.maximum(squares, 1e-30)) * c**0.5
    ratio = jnp.minimum(jnp.tanh(size), poincare.RIM) / size
    sizes = poincare.length(planes.T)[:, 0]
    y = poincare.fully_connected(products * ratio, squares * ratio**2, sizes, offsets, c, published=published)
    return poincare.to_origin(y, c).value()


def _beta(size: int) -> float:
    """Returns the beta function of ``size / 2`` and 1 / 2."""
    return math.exp(math.lgamma(size / 2) + math.lgamma(0.5) - math.lgamma((size + 1) / 2))


def _window_sum(x: Float[Array, 'b h w 1'], side: int, stride: int, padding: int) -> Float[Array, 'b h2 w2 1']:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, 0.0, lax.add, (1, side, side, 1), (1, stride, stride, 1), sides)


class PoincareLinear(nn.Module):
    """Distances of the pooled features, a point of the ball, to hyperplanes, as tangents: logits.

    Attributes:
        num_classes: number of logits.
        c, published: as in `PoincareConv`.
    """

    num_classes: int
    c: float = CURVATURE
    published: bool = False

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``."""
        x = features[ft.POOLED].astype(jnp.float32)
        planes = self.param('direction', _half_identity, (x.shape[-1], self.num_classes))
        offsets = self.param('bias', jax.nn.initializers.zeros, (self.num_classes,))
        squares = jnp.sum(x * x, axis=-1, keepdims=True)
        return _hyperbolic(x @ planes, squares, planes, offsets, self.c, self.published)


class PoincareNorm(nn.Module):
    """Moves the midpoint of all pixels of a batch to a learned point and scales their distances from it.

    Lou et al., 2020, "Differentiating through the Fréchet Mean", https://arxiv.org/abs/2003.00335, with the midpoint in
    the place of Fréchet's mean.

    Attributes:
        c: curvature of the ball, with its sign changed.
        published: whether the batch's own statistics are taken in evaluation, too.
        momentum: weight of the old running average.
        learned: whether the mean squared distance that is set is learned, as ``scale``; else it is 1.
        dtype: of the result.
    """

    c: float = CURVATURE
    published: bool = False
    momentum: float = 0.9
    learned: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Returns tangents.

        Training updates ``batch_stats``: the midpoint, as a tangent, and the mean squared distance to it.
        """
        c = self.c
        target = poincare.from_origin(self.param('bias', jax.nn.initializers.zeros, (x.shape[-1],)), c)
        scale = self.param('scale', jax.nn.initializers.ones, ()) if self.learned else 1.0
        old_mean = self.variable('batch_stats', 'mean', jnp.zeros, (x.shape[-1],))
        old_var = self.variable('batch_stats', 'var', jnp.ones, ())
        x, count = poincare.from_origin(x.astype(jnp.float32), c), x.size // x.shape[-1]
        if train or self.published:
            center = poincare.midpoint(x, c)
        else:
            center = poincare.from_origin(old_mean.value, c)
        vector = lambda point: point.reshape((1,) * (x.ndim - 1) + (-1,))
        # The difference, and not x itself: where it is small its inner products would not be exact.
        apart, middle, target = poincare.span(x - vector(center), vector(center), vector(target))
        x = middle + apart
        spread = jnp.mean(poincare.distance(x, middle, c) ** 2) if train or self.published else old_var.value
        if train:
            new_mean, new_var = self._merged(poincare.to_origin(center, c), spread, count)
            old_mean.value = self.momentum * old_mean.value + (1 - self.momentum) * new_mean
            old_var.value = self.momentum * old_var.value + (1 - self.momentum) * new_var
        tangents = poincare.transport(middle, target, poincare.aim(middle, x, c), c)
        y = poincare.shoot(target, jnp.sqrt(scale / (spread + 1e-6)) * tangents, c)
        return poincare.to_origin(y, c).value().astype(self.dtype)

    def _merged(self, mean: Float[Array, ' d'], var: Float[Array, ''], count: int) -> tuple[Array, Array]:
        """Returns the averages over the microbatches of this step so far; see layers/norms/batchnorm.py."""
        if not self.has_variable(MOMENTS, COUNT):
            return mean, var
        seen = self.variable(MOMENTS, COUNT, None)
        means, variances = (
            self.variable(MOMENTS, name, jnp.zeros_like, like) for name, like in (('mean', mean), ('var', var))
        )
        seen.value += count
        share = count / seen.value
        means.value += share * (mean - means.value)
        variances.value += share * (var - variances.value)
        return means.value, variances.value


class Stem(nn.Module):
    """A convolution, normalization and ReLU.

    Attributes:
        features: output channels.
        conv, norm: factories of the parts.
    """

    features: int
    conv: Callable[..., nn.Module] = PoincareConv
    norm: Callable[..., nn.Module] = PoincareNorm

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b h w d']:
        """Returns a map of the same size."""
        return nn.relu(self.norm(name='norm')(self.conv(self.features, name='conv')(x), train=train))


class Block(nn.Module):
    """Two convolutions with normalization; the Möbius sum of what they make and the shortcut.

    Attributes:
        features: output channels.
        stride: of the first convolution, and of the shortcut's.
        conv, norm: factories of the parts.
        c, published: as in `PoincareResNet`.
    """

    features: int
    stride: int = 1
    conv: Callable[..., nn.Module] = PoincareConv
    norm: Callable[..., nn.Module] = PoincareNorm
    c: float = CURVATURE
    published: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], mask: Float[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h2 w2 d']:
        """Returns the next map; `mask` is this block's part of `drop.path_masks`."""
        y = self.norm(name='norm1')(self.conv(self.features, stride=self.stride, name='conv1')(x), train=train)
        y = self.norm(name='norm2')(self.conv(self.features, name='conv2')(nn.relu(y)), train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, self.stride, name='shortcut')(x)
        vectors = lambda x: x.astype(jnp.float32).swapaxes(2, 3) if self.published else x.astype(jnp.float32)
        branch, shortcut = (poincare.from_origin(vectors(part), self.c) for part in (drop_path(y, mask), x))
        total = poincare.to_origin(poincare.add(branch, shortcut, self.c), self.c)
        return nn.relu(total.swapaxes(2, 3) if self.published else total).astype(y.dtype)


class PoincareResNet(ft.PyramidBackbone):
    """The network; each stage but the first halves the resolution.

    Attributes:
        widths, depths: output channels and blocks of each stage.
        c: curvature of all balls, with its sign changed.
        published: whether it is what the published code computes; see the top of the file.
        learned: whether the scales of the normalizations are learned.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type of the products; all else is float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (8, 16, 32)
    depths: Sequence[int] = (3, 3, 3)
    c: float = CURVATURE
    published: bool = False
    learned: bool = True
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4 as published."""
        return tuple(2**index for index in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return pyramid.layers(self.depths)

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0`` to ``stage2``, ``map`` and ``pooled``, all tangents at the origin.

        Raises:
            ValueError: the curvature is not positive.
        """
        if self.c <= 0:
            raise ValueError(f'c is {self.c}: a ball has curvature -c, so that it must be positive.')
        ball = {'c': self.c, 'published': self.published, 'dtype': self.dtype}
        parts = {
            'conv': functools.partial(PoincareConv, **ball),
            'norm': functools.partial(PoincareNorm, learned=self.learned, **ball),
        }
        stem = Stem(self.widths[0], name='stem', **parts)(x, train=train)
        block = functools.partial(Block, c=self.c, published=self.published, **parts)
        stages = pyramid.halving(block, self.widths, self.depths)
        maps = pyramid.run(self, stem, stages, drop_path=self.drop_path, remat=self.remat, train=train)
        features = {ft.stage(index): value for index, value in enumerate(maps)}
        return {ft.STEM: stem, **features, ft.MAP: maps[-1], ft.POOLED: global_mean(maps[-1])}


HEADS = {'PoincareResNet': PoincareLinear}

# The repository calls them hyperbolic-8-16-32-resnet-20 and -32.
VARIANTS = {
    'poincare_resnet20_cifar': PoincareResNet(),
    'poincare_resnet32_cifar': PoincareResNet(depths=(5, 5, 5)),
    'poincare_resnet_test': PoincareResNet((8, 16), (1, 1)),
}

_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2303.14027', (32, 32))
PUBLISHED = {'poincare_resnet20_cifar': _PAPER(), 'poincare_resnet32_cifar': _PAPER()}

# Published names of a classifier's parameters and statistics, and ours; see weights.py.
CONV_NAMES = (('weights', 'direction'), ('bias', 'bias'), ('ball.isp_c', ''))
NORM_NAMES = (
    ('norm.mean', 'bias'),
    ('norm.var', 'scale'),
    ('norm.running_mean', 'mean'),
    ('norm.running_var', 'var'),
    ('ball.isp_c', ''),
)
_BLOCK = (
    *(
        (f'{there}.{a}', f'{here}/{b}' if b else '')
        for there, here in (('conv1', 'conv1'), ('conv2', 'conv2'), ('downsample', 'shortcut'))
        for a, b in CONV_NAMES
    ),
    *((f'bn{k}.{a}', f'norm{k}/{b}' if b else '') for k in (1, 2) for a, b in NORM_NAMES),
)
NAMES = {
    'PoincareResNet': (
        *((f'conv.{a}', f'backbone/stem/conv/{b}' if b else '') for a, b in CONV_NAMES),
        *((f'bn.{a}', f'backbone/stem/norm/{b}' if b else '') for a, b in NORM_NAMES),
        *((f'group{{s+1}}.{{i}}.{a}', f'backbone/stage{{s}}/block{{i:02d}}/{b}' if b else '') for a, b in _BLOCK),
        ('fc.z', 'head/direction'),
        ('fc.bias', 'head/bias'),
        ('fc.ball.isp_c', ''),
        *((f'{ball}_ball.isp_c', '') for ball in ('conv', 'bn', 'linear')),
    ),
}
