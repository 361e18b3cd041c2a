"""LiResNet: residual networks without norms whose Lipschitz constant is bounded closely, for certified robustness.

Hu et al., 2023, "Unlocking Deterministic Robustness Certification on ImageNet", https://arxiv.org/abs/2301.12549.
Reference: https://github.com/klasleino/gloro (MIT) at f04fd23, snapshots/hu23_snapshot.zip, models/model.py, read for
facts; `NAMES` maps its parameter names. methods/robust/gloro.py trains and certifies it.

All maps are linear but for `min_max`, which makes no distance larger. So the product of the spectral norms of the
linear maps bounds the Lipschitz constant of everything below the head (layers/lipschitz.py).

Details of the published code that are not in the paper, kept here: 0.5 is subtracted from the image, whose pixels are
from 0 to 1; the vector is flattened channel by channel.

Where we differ: a map whose sides do not divide by 4 is padded with zeros before the neck, so any image size will do
(the published ones divide); there is stochastic depth, off by default, which no certificate depends on. Of the
follow-up (https://arxiv.org/abs/2310.02513; reference: https://github.com/hukkai/liresnet, MIT, at 0c0611a) only the
neck with orthogonal kernels is here, as `orthogonal`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.heads.unit import UnitLinear
from longview.modelzoo.layers.convolutions.conv import out_size
from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.lipschitz import (
    BoundedConv,
    BoundedDense,
    LinearResidual,
    min_max,
    spectral_norm,
)

_POOL = 4  # side of the neck's windows
_AT_ONCE = 3  # blocks whose norms are found together: the more, the more memory, and the fewer products


class LiResNet(ft.Bounded):
    """The network: a strided convolution, blocks of one width, and a neck of a strided convolution and a matrix.

    Images of another size than the first cannot be read, for the neck's matrix reads all pixels.

    Attributes:
        depth: number of blocks.
        width: channels of the blocks; the neck's map has twice as many.
        stem_kernel, stem_stride, stem_padding: of the first convolution.
        neck_width: size of the vector that the head reads.
        block: factory of a block, which takes the number of blocks; `LinearResidual` or `BasicResidual` of
            layers/lipschitz.py.
        orthogonal: whether the kernels of the neck that are used are orthogonal; see `BoundedConv`.
        drop_path: stochastic depth of the last block; see layers/frame/drop.py.
        dtype: compute type; parameters and bounds are float32.
        remat, scan: see layers/frame/trunk.py.
    """

    depth: int = 18
    width: int = 256
    stem_kernel: int = 5
    stem_stride: int = 2
    stem_padding: int = 2
    neck_width: int = 512
    block: Callable[..., nn.Module] = LinearResidual
    orthogonal: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The stem, each block, the neck."""
        return (('stem',), *((name,) for name in trunk.names(self.depth)), ('neck', 'vector'))

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``map``, the last block's, and ``pooled``, the neck's vector; pixels are from 0 to 1."""
        stem, blocks, neck, vector = self._parts()
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], branches=1, train=train)
        first = min_max(stem(x - 0.5))
        masks = None if masks is None else masks[:, 0]
        last = trunk.run(self, blocks, first, masks, train=train, remat=self.remat, scan=self.scan)
        below = min_max(neck(_divisible(last)))
        # Channel by channel, as the published matrix has its columns.
        flat = jnp.moveaxis(below, -1, 1).reshape(x.shape[0], -1)
        return {ft.STEM: first, ft.MAP: last, ft.POOLED: min_max(vector(flat)).astype(jnp.float32)}

    @nn.nowrap
    def iterates(self, shape: tuple[int, int, int]) -> dict[str, Any]:
        sides = [out_size(side, self.stem_kernel, self.stem_stride, self.stem_padding) for side in shape[:2]]
        inner = (1, *sides, self.width)
        rows, columns = (-(-side // _POOL) for side in sides)
        return {
            'stem': (1, *shape),
            'blocks': self._alone().iterates((self.depth, *inner)),
            'neck': (1, rows * _POOL, columns * _POOL, self.width),
            'vector': (1, 2 * self.width * rows * columns),
        }

    def lipschitz(
        self, iterates: dict[str, Any], *, iterations: int, through: bool = True
    ) -> tuple[Float[Array, ''], dict[str, Any]]:
        stem, _, neck, vector = self._parts()
        power = functools.partial(spectral_norm, iterations=iterations, through=through)
        kept = [self.variables['params'][name] for name in trunk.names(self.depth)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        of_block = lambda block: self._alone().apply({'params': block[0]}, block[1], power, method='bound')
        norms, moved = jax.lax.map(of_block, (stacked, iterates['blocks']), batch_size=_AT_ONCE)
        bound, after = jnp.prod(norms), {'blocks': moved}
        for layer in (stem, neck, vector):
            norm, after[layer.name] = layer.bound(iterates[layer.name], power)
            bound = bound * norm
        return bound, after

    @nn.nowrap
    def _alone(self) -> nn.Module:
        """Returns a block that is part of no network."""
        return self.block(self.depth, parent=None)

    @nn.compact
    def _parts(self) -> tuple[nn.Module, list[nn.Module], nn.Module, nn.Module]:
        """Returns the stem, the blocks, and the neck's convolution and matrix."""
        shape = (self.stem_kernel, self.stem_stride, self.stem_padding)
        neck = functools.partial(BoundedConv, 2 * self.width, _POOL, _POOL, orthogonal=self.orthogonal)
        return (
            BoundedConv(self.width, *shape, self.dtype, name='stem'),
            [self.block(self.depth, dtype=self.dtype, name=name) for name in trunk.names(self.depth)],
            neck(dtype=self.dtype, name='neck'),
            BoundedDense(self.neck_width, self.dtype, self.orthogonal, name='vector'),
        )


def _divisible(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Returns the map padded with zeros, below and to the right, to sides that divide into the neck's windows."""
    return jnp.pad(x, ((0, 0), *((0, -side % _POOL) for side in x.shape[1:3]), (0, 0)))


_IMAGENET = functools.partial(LiResNet, stem_kernel=14, stem_stride=14, stem_padding=0, neck_width=2048)
# Depth x width: the snapshot's for CIFAR and ImageNet, with its stems for images of 32, 64 and 224.
VARIANTS = {
    'liresnet18_w256_cifar': LiResNet(),
    'liresnet18_w256_tiny_imagenet': LiResNet(stem_kernel=7, stem_stride=4, stem_padding=3),
    'liresnet12_w588': _IMAGENET(12, 588),
    'liresnet18_w588': _IMAGENET(18, 588),
    'liresnet_test': LiResNet(2, 8, neck_width=16),
}

HEADS = {'LiResNet': UnitLinear}

_PAPER = 'https://arxiv.org/abs/2301.12549'
PUBLISHED = {
    'liresnet18_w256_cifar': ft.Published(_PAPER, (32, 32)),
    'liresnet18_w256_tiny_imagenet': ft.Published(_PAPER, (64, 64)),
    'liresnet12_w588': ft.Published(_PAPER, (224, 224)),
    'liresnet18_w588': ft.Published(_PAPER, (224, 224)),
}


# Published names of a classifier's parameters, and ours; see weights.py. There blocks and activations are counted
# together.
_BLOCK = (
    ('weight', 'kernel'),
    ('affine', 'scale'),
    ('bias', 'bias'),
    ('identity', ''),
    ('init_x', ''),
    ('residual.0.weight', 'conv1/kernel'),
    ('residual.0.bias', 'conv1/bias'),
    ('residual.0.init_x', ''),
    ('residual.2.weight', 'conv2/kernel'),
    ('residual.2.bias', 'conv2/bias'),
    ('residual.2.init_x', ''),
    ('residual.3.scale', 'branch_scale'),
)
NAMES = {
    'LiResNet': (
        *(
            (f'{there}.{name}', here and f'backbone/{place}/{here}')
            for there, place in (('stem.0', 'stem'), ('neck.0', 'neck'), ('neck.3', 'vector'))
            for name, here in (('weight', 'kernel'), ('bias', 'bias'), ('init_x', ''))
        ),
        *(
            (f'backbone.{2 * index}.{there}', here and f'backbone/{name}/{here}')
            for index, name in enumerate(trunk.names(100))
            for there, here in _BLOCK
        ),
        ('init_layer', ''),
        ('head.weight', 'head/kernel'),
        ('head.bias', 'head/bias'),
    )
}
