"""FractalNet: columns of different depth between the same two points, joined by their mean, with no residual.

Larsson et al., 2016, "FractalNet: Ultra-Deep Neural Networks without Residuals", https://arxiv.org/abs/1605.07648.
References: https://github.com/gustavla/fractalnet (the authors', Caffe, BSD-2-Clause), which has the joins and a
generator of networks for CIFAR, and https://github.com/khanrc/pt.fractalnet (no licence), whose parameter names these
are.

A block of C columns is ``f_C(x) = join(f_{C-1}(f_{C-1}(x)), conv(x))``: column 0 has one convolution, and each column
two times as many as the one before. Columns meet wherever they have the same depth, and go on from the mean of all that
meet. In training, local drop-path drops each input of a join by chance, but never all; global drop-path leaves one
column alone, the same in every block. So each column learns to answer by itself, and the shallow ones early: `column`
runs one of them.

Details of the second reference that are not in the paper, kept here:
  * drop-path is drawn for each example, and the column that is left alone is the same in every block; every column is
    computed for all examples, and a join that this column takes no part in passes zeros on, which norms see;
  * the last join comes before the pooling; the authors' generator pools each column first;
  * on CIFAR there is no stem, and maximum pooling follows every block, the last included.
Where we differ:
  * each example is left to one column with a probability; there it is an exact share of the batch;
  * dropout, between a convolution and its norm, is by element as in the authors' code, there by channel;
  * where a side is odd, pooling keeps its last pixels, which both cut off; a map of more than one pixel that is left
    is averaged, not flattened; a head has the initial values of modelzoo/heads;
  * norms have a scale and a bias as in the second reference, which Caffe's lack; convolutions have no bias.
The paper prints 38.6 M parameters of the network for CIFAR, of which both codes make one with 33.7 M. Of the network
for ImageNet no code was published.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from longview.modelzoo import features as ft
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.conv_norm import Stem
from longview.modelzoo.layers.frame.drop import example_keys
from longview.modelzoo.layers.frame.dropout import dropout, dropout_keys
from longview.modelzoo.layers.frame.pool import global_mean, max_pool
from longview.modelzoo.layers.norms.batchnorm import BatchNorm


def present(columns: int) -> Bool[np.ndarray, 'l m']:
    """Returns which columns have a convolution that ends at each depth of a block; where two or more do, they meet."""
    depths = np.arange(1, 2 ** (columns - 1) + 1)[:, None]
    return depths % 2 ** np.arange(columns)[::-1] == 0


def draw_joins(
    keys: Key[Array, ' b'], blocks: int, columns: int, *, local: float, alone: float
) -> Float[Array, 'k l m b']:
    """Draws the share of each column in each join of each block; those of a join have the sum 1, or are all 0.

    Args:
        keys: one per example.
        blocks: number of blocks.
        columns: number of columns.
        local: probability that a join drops an input; if it would drop all, one is kept.
        alone: probability that one column alone is kept, in all blocks; in joins that it takes no part in, none is.
    """
    here = present(columns)

    def draw(key: Key[Array, '']) -> Float[Array, 'k l m']:
        of_kind, of_column, of_joins = jax.random.split(key, 3)
        chance = jnp.where(here[None], jax.random.uniform(of_joins, (blocks, *here.shape)), -1.0)
        kept = (chance >= local) | (chance == chance.max(-1, keepdims=True))
        column = jnp.arange(columns)[None, None] == jax.random.randint(of_column, (), 0, columns)
        kept = jnp.where(jax.random.uniform(of_kind) < alone, column, kept) & here[None]
        return kept / jnp.maximum(kept.sum(-1, keepdims=True), 1)

    return jax.vmap(draw, out_axes=-1)(keys)


_Conv = functools.partial(Conv, use_bias=False, kernel_init=jax.nn.initializers.xavier_uniform())


class Unit(nn.Module):
    """``relu(norm(dropout(conv(x))))``.

    Attributes:
        features: output channels.
        size: odd side of the kernel.
        dropout: rate.
        norm: factory of the normalization.
        dtype: compute type.
    """

    features: int
    size: int = 3
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w c'], keys: Key[Array, ' b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns a map of the same size; `keys` are of dropout, None for none."""
        x = _Conv(self.features, self.size, 1, self.size // 2, self.dtype, name='conv')(x)
        x = dropout(x, keys, self.dropout)
        return nn.relu(self.norm(dtype=self.dtype, name='norm')(x, train=train))


class Fractal(nn.Module):
    """A block: columns with 1, 2, 4, ... convolutions.

    Attributes:
        features: output channels of every convolution.
        columns: number of columns.
        column: the column to run alone; None for all.
        doubling: whether a 1x1 convolution to the features comes before all columns.
        dropout, norm, dtype: see `Unit`.
    """

    features: int
    columns: int
    column: int | None = None
    doubling: bool = False
    dropout: float = 0.0
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'b h w c'],
        joins: Float[Array, 'l m b'] | None,
        keys: Key[Array, 'p b'] | None,
        *,
        train: bool = False,
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the last join.

        Args:
            x: what every column begins with.
            joins: this block's part of `draw_joins`; None for the mean of all.
            keys: of dropout, for each convolution; None for none.
            train: passed to the norms.
        """
        unit = functools.partial(Unit, self.features, dropout=self.dropout, norm=self.norm, dtype=self.dtype)
        if self.doubling:
            x = unit(size=1, name='doubler')(x, None, train=train)
        maps, place = [x] * self.columns, 0
        for depth, here in enumerate(present(self.columns)):
            meeting = [column for column in np.flatnonzero(here) if self.column in (None, column)]
            for column in meeting:
                layer = unit(name=f'column{column}_layer{depth}')
                maps[column] = layer(maps[column], None if keys is None else keys[place], train=train)
                place += 1
            if len(meeting) > 1:
                joined = _join([maps[column] for column in meeting], None if joins is None else joins[depth, here])
                maps = [joined if column in meeting else map_ for column, map_ in enumerate(maps)]
        return maps[self.column or 0]


def _join(maps: Sequence[Float[Array, 'b h w c']], shares: Float[Array, 'm b'] | None) -> Float[Array, 'b h w c']:
    """Returns the mean, or the sum of the shares of each map."""
    if shares is None:
        return sum(maps[1:], maps[0]) / len(maps)
    parts = [map_ * share[:, None, None, None].astype(map_.dtype) for map_, share in zip(maps, shares, strict=True)]
    return sum(parts[1:], parts[0])


class FractalNet(ft.PyramidBackbone):
    """The network; 2x2 maximum pooling follows each block.

    Attributes:
        widths: output channels of each block.
        columns: number of columns in every block.
        column: the one to run alone, from 0, the shallowest; None for all. Parameters are those of all all the same.
        stem_width: channels of a stem of stride 4 as in ResNets, after which the last block's map is averaged without
            pooling; 0 for none, as on CIFAR.
        doubling: see `Fractal`; an option of the second reference.
        norm: factory of every normalization.
        drop_path: probability that a join drops an input; the same in every block.
        global_drop: probability that one column alone answers an example in training.
        dropout: rate in the last block; over the blocks it rises linearly from 0.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each block in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 256, 512, 512)
    columns: int = 3
    column: int | None = None
    stem_width: int = 0
    doubling: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    drop_path: float = 0.0
    global_drop: float = 0.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """1, 2, 4, 8, 16 on CIFAR and 4, 8, 16, 32 on ImageNet."""
        first = 4 if self.stem_width else 1
        return tuple(first * 2**index for index in range(len(self.widths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block; no other layer follows."""
        return (('stem',), *((f'stage{index}',) for index in range(len(self.widths))), ())

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, which without a stem is the image, ``stage0`` and so on, ``map`` and ``pooled``.

        Raises:
            ValueError: there is no such column, or a rate is out of range.
        """
        self._check()
        if self.stem_width:
            x = Stem(self.stem_width, 4, self.norm, self.dtype, name='stem')(x, train=train)
        features = {ft.STEM: x.astype(self.dtype)}
        run = lambda block, x, joins, keys: block(x, joins, keys, train=train)
        run = nn.remat(run) if self.remat else run
        joins, keys = self._draws(x.shape[0], train)
        for index, block in enumerate(self._blocks()):
            x = _halve(x) if index else x
            x = run(block, x, *(None if draws is None else draws[index] for draws in (joins, keys)))
            features[ft.stage(index)] = x
        last = x if self.stem_width else _halve(x)
        return {**features, ft.MAP: x, ft.POOLED: global_mean(last)}

    def _check(self) -> None:
        if self.column is not None and not 0 <= self.column < self.columns:
            last = self.columns - 1
            raise ValueError(f'FractalNet.column is {self.column}: use 0 to {last}, or None for all columns.')
        for name, top in (('drop_path', self.drop_path), ('global_drop', self.global_drop)):
            if not 0 <= top <= 1:
                raise ValueError(f'FractalNet.{name} is {top}: it is a probability, from 0 to 1.')

    def _draws(self, batch: int, train: bool) -> tuple[Float[Array, 'k l m b'] | None, Key[Array, 'k p b'] | None]:
        """Returns what joins keep, and the keys of dropout."""
        blocks, joins = len(self.widths), None
        if train and (self.drop_path or self.global_drop):
            keys = example_keys(self, batch)
            joins = draw_joins(keys, blocks, self.columns, local=self.drop_path, alone=self.global_drop)
        return joins, dropout_keys(self, self.dropout, blocks, batch, places=2**self.columns - 1, train=train)

    def _blocks(self) -> list[Fractal]:
        # All columns get their parameters, whichever runs.
        column = None if self.is_initializing() else self.column
        rates = np.linspace(0, self.dropout, len(self.widths)).tolist()
        return [
            Fractal(width, self.columns, column, self.doubling, rate, self.norm, self.dtype, name=f'stage{index}')
            for index, (width, rate) in enumerate(zip(self.widths, rates, strict=True))
        ]


def _halve(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """2x2 maximum pooling; where a side is odd, windows at the end have the pixels that exist."""
    over = [(0, side % 2) for side in x.shape[1:3]]
    return max_pool(jnp.pad(x, ((0, 0), *over, (0, 0)), constant_values=-jnp.inf), 2, 2, 0)


# Sections 4.1 and 4.2: 20 convolutions deep on CIFAR; 34 layers on ImageNet, the stem and the head included.
VARIANTS = {
    'fractalnet20_cifar': FractalNet(),
    'fractalnet34': FractalNet((128, 256, 512, 1024), 4, stem_width=64),
    'fractalnet_test': FractalNet((8, 16), 2),
    'fractalnet_stem_test': FractalNet((8, 8), 2, stem_width=4, doubling=True),
}

PUBLISHED = {
    'fractalnet20_cifar': ft.Published('https://arxiv.org/abs/1605.07648', (32, 32)),
    'fractalnet34': ft.Published('https://arxiv.org/abs/1605.07648', (224, 224)),
}


# Published names of a classifier's parameters and statistics, and ours; see weights.py. Pooling counts among the layers
# there, so blocks have even numbers. The stem, which that code has not, is named as in torchvision's ResNets.
_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
_UNIT = (('conv.weight', 'conv/kernel'), *((f'bn.{a}', f'norm/{b}') for a, b in _NORM))
_PARTS = (('columns.{c}.{i}', 'column{c}_layer{i}'), ('doubler', 'doubler'))
NAMES = {
    'FractalNet': (
        ('conv1.weight', 'backbone/stem/conv/kernel'),
        *((f'bn1.{a}', f'backbone/stem/norm/{b}') for a, b in _NORM),
        *(
            (f'layers.{2 * block}.{there}.{a}', f'backbone/stage{block}/{here}/{b}')
            for block in range(5)
            for there, here in _PARTS
            for a, b in _UNIT
        ),
        ('layers.11.weight', 'head/kernel'),
        ('layers.11.bias', 'head/bias'),
    ),
}
