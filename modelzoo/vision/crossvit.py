"""CrossViT: two transformers on patches of two sizes, whose class tokens attend to each other's patches.

Chen et al., 2021, "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification",
https://arxiv.org/abs/2103.14899. References: https://github.com/IBM/CrossViT (Apache-2.0) and timm 1.0.31
(https://github.com/huggingface/pytorch-image-models, Apache-2.0), with the same parameters; outputs agree with timm's.

The second branch has larger patches, more channels and more blocks. Behind each group of blocks the class token of a
branch is projected to the width of the other, attends to that branch's patches as their only query, is projected back
and replaces itself; no connection passes by the two projections. The second branch sees the image resized by the cubic
convolution of `posemb.cubic_matrix`, without antialiasing, so that both patch sizes divide. Daggers stand for three
convolutions in the place of a matrix on each patch. LayerNorm's epsilon is 1e-6, GELU is the exact one. The classifier
is the mean of a linear one on each class token (`BranchHeads`).

Where we differ: images of other sizes are taken, for which the tables of positions are resized as those of timm's ViT;
each branch sees such an image in the nearest size that its patch divides.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import posemb
from longview.modelzoo.layers.attention.attention import Attention, attend, merge_heads, split_heads
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame import init, trunk
from longview.modelzoo.layers.frame.block import PreNorm, in_turn
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import Patches, pair
from longview.modelzoo.layers.norms.norm import LayerNorm
from longview.modelzoo.layers.residuals.residual import Add

_NORM = functools.partial(LayerNorm, epsilon=1e-6)
# The class token and the patches of each branch.
Branches = tuple[Array, ...]
# In each row of stochastic depth: two of a block of the first branch, two of the second, one of each fusion.
_MASKS = 6


class ConvPatches(nn.Module):
    """Three convolutions with ReLU between them, as a patch embedding.

    Attributes:
        features: output channels; the first two convolutions have a quarter and a half of them.
        patch: 12 or 16, the total stride.
        dtype: compute type.
    """

    features: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """Returns h / patch by w / patch pixels.

        Raises:
            ValueError: another patch.
        """
        if self.patch not in (12, 16):
            raise ValueError(f'a patch of {self.patch} has no convolutions: use 12 or 16, or convolved=False.')
        second, third = ((3, 0), (1, 1)) if self.patch == 12 else ((2, 1), (2, 1))
        x = nn.relu(Conv(self.features // 4, 7, 4, 3, self.dtype, name='conv0')(x))
        x = nn.relu(Conv(self.features // 2, 3, *second, self.dtype, name='conv1')(x))
        return Conv(self.features, 3, *third, self.dtype, name='conv2')(x)


class Embedding(nn.Module):
    """Patches of an image, with a class token before them and a table of positions.

    Attributes:
        features: output channels.
        patch: side of the patches.
        table: rows and columns of the table.
        convolved: whether patches are embedded by `ConvPatches`.
        dtype: compute type.
    """

    features: int
    patch: int
    table: ft.Grid
    convolved: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> tuple[Float[Array, 'b h2 w2 d'], Float[Array, 'b n d']]:
        """Returns the map of patches without positions, and the tokens."""
        patches = ConvPatches if self.convolved else Patches
        stem = patches(self.features, self.patch, dtype=self.dtype, name='patches')(x)
        token = self.param('cls_token', init.trunc_normal(0.02), (1, 1, self.features))
        places = self.table[0] * self.table[1]
        table = self.param('pos_embed', init.trunc_normal(0.02), (1, 1 + places, self.features))
        rest = posemb.resize(table[:, 1:], self.table, stem.shape[1:3], matrix=posemb.smooth_cubic_matrix)
        tokens = stem.reshape(x.shape[0], -1, self.features) + rest.astype(self.dtype)
        first = jnp.broadcast_to(token + table[:, :1], (x.shape[0], 1, self.features)).astype(self.dtype)
        return stem, jnp.concatenate([first, tokens], axis=1)


class CrossAttention(nn.Module):
    """Attention of the first token, as the only query, to all tokens.

    Attributes:
        heads: number of heads; divides the width.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b 1 d']:
        """Returns what the first token gets."""
        width = x.shape[-1]
        read = lambda name, x: split_heads(Dense(width, dtype=self.dtype, name=name)(x), self.heads)
        mixed = attend(read('q', x[:, :1]), read('k', x), read('v', x))
        return Dense(width, dtype=self.dtype, name='out')(merge_heads(mixed))


class Fusion(nn.Module):
    """A class token visits another branch: ``back(t + attention(norm([t, patches])))`` with ``t = go(token)``.

    Both projections are ``dense(gelu(norm(x)))``.

    Attributes:
        heads: heads of the attention.
        norm: factory of the normalizations.
        dtype: compute type.
    """

    heads: int
    norm: Callable[..., nn.Module] = _NORM
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, token: Float[Array, 'b 1 c'], patches: Float[Array, 'b n d'], mask: Float[Array, ' b'] | None
    ) -> Float[Array, 'b 1 c']:
        """Returns the class token that replaces `token`."""
        visitor = self._project('go', token, patches.shape[-1])
        tokens = self.norm(dtype=self.dtype, name='norm')(jnp.concatenate([visitor, patches], axis=1))
        visitor += drop_path(CrossAttention(self.heads, self.dtype, name='mixer')(tokens), mask)
        return self._project('back', visitor, token.shape[-1])

    def _project(self, name: str, x: Float[Array, 'b 1 c'], features: int) -> Float[Array, 'b 1 d']:
        x = self.norm(dtype=self.dtype, name=f'{name}_norm')(x)
        return Dense(features, dtype=self.dtype, name=name)(gelu(x))


class Group(nn.Module):
    """Blocks of each branch, then the exchange of the class tokens.

    Attributes:
        blocks: factory of a block of each branch.
        fusions: factory of the visit of each branch's token to the other branch.
        depths: number of blocks of each branch.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    fusions: Sequence[Callable[..., nn.Module]]
    depths: Sequence[int]

    @nn.compact
    def __call__(self, tokens: Branches, masks: Float[Array, 'l 6 b'] | None, *, train: bool = False) -> Branches:
        """Returns the tokens of both branches after the group."""
        mask = lambda block, rows: None if masks is None else masks[block, rows]
        tokens = list(tokens)
        for branch, depth in enumerate(self.depths):
            rows = slice(2 * branch, 2 * branch + 2)
            for index, name in enumerate(trunk.names(depth)):
                block = self.blocks[branch](name=f'branch{branch}_{name}')
                tokens[branch] = block(tokens[branch], mask(index, rows), train=train)
        visited = [
            fusion(name=f'fuse{branch}')(tokens[branch][:, :1], tokens[1 - branch][:, 1:], mask(-1, 4 + branch))
            for branch, fusion in enumerate(self.fusions)
        ]
        return tuple(jnp.concatenate([new, old[:, 1:]], axis=1) for new, old in zip(visited, tokens))


class CrossViT(ft.Backbone):
    """The network. Pairs are of the first branch, of small patches, and of the second.

    Attributes:
        widths, heads: channels of the tokens and heads of each branch.
        depths: blocks of each branch in a group.
        groups: number of groups.
        patches: side of the patches of each branch.
        scales: side of the image that a branch sees, over the image's.
        image_size: image size of the tables of positions, a side or (height, width). For images of any other size the
            tables are resized.
        convolved: whether patches are embedded by `ConvPatches`.
        drop_path: stochastic depth of the last blocks and fusions; it rises with the place in a branch's row of blocks.
        norm, mixer, mlp: factories of a block's parts.
        dtype: compute type; parameters are float32.
        remat: whether to recompute the activations of each group in the backward pass.
    """

    widths: Sequence[int] = (128, 256)
    heads: Sequence[int] = (4, 4)
    depths: Sequence[int] = (1, 3)
    groups: int = 3
    patches: Sequence[int] = (12, 16)
    scales: Sequence[float] = (1.0, 224 / 240)
    image_size: int | tuple[int, int] = 240
    convolved: bool = False
    drop_path: float = 0.0
    norm: Callable[..., nn.Module] = _NORM
    mixer: Callable[..., nn.Module] = Attention
    mlp: Callable[..., nn.Module] = functools.partial(Mlp, ratio=3.0)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Both embeddings, each group, both last norms."""
        return (('embed0', 'embed1'), *((f'group{index}',) for index in range(self.groups)), ('norm0', 'norm1'))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem`` and ``map``, both of the second branch, and ``pooled``, the class tokens of both."""
        tables, grids = self.grids(*pair(self.image_size)), self.grids(*x.shape[1:3])
        embedded = []
        for branch, grid in enumerate(grids):
            embed = Embedding(
                self.widths[branch],
                self.patches[branch],
                tables[branch],
                self.convolved,
                self.dtype,
                name=f'embed{branch}',
            )
            embedded.append(embed(resized(x, tuple(side * self.patches[branch] for side in grid))))
        stems, tokens = zip(*embedded)
        tokens = in_turn(self._groups(), tokens, self._masks(x.shape[0], train=train), train=train, remat=self.remat)
        last = [self.norm(dtype=self.dtype, name=f'norm{branch}')(s) for branch, s in enumerate(tokens)]
        return {
            ft.STEM: stems[-1],
            ft.MAP: last[-1][:, 1:].reshape(x.shape[0], *grids[-1], -1),
            ft.POOLED: jnp.concatenate([s[:, 0].astype(jnp.float32) for s in last], axis=-1),
        }

    def grids(self, height: int, width: int) -> list[ft.Grid]:
        """Returns rows and columns of patches of each branch."""
        sizes = zip(self.patches, self.scales)
        return [tuple(max(1, round(side * scale / patch)) for side in (height, width)) for patch, scale in sizes]

    def _groups(self) -> list[Group]:
        norm, dtype = functools.partial(self.norm, dtype=self.dtype), self.dtype
        block = lambda heads: functools.partial(
            PreNorm,
            norm,
            functools.partial(self.mixer, heads=heads, dtype=dtype),
            functools.partial(self.mlp, dtype=dtype),
            Add,
        )
        blocks = tuple(block(heads) for heads in self.heads)
        fusions = tuple(functools.partial(Fusion, heads, self.norm, dtype) for heads in reversed(self.heads))
        return [Group(blocks, fusions, self.depths, name=f'group{index}') for index in range(self.groups)]

    def _masks(self, batch: int, *, train: bool) -> Float[Array, 'g l 6 b'] | None:
        """Returns the masks of each group; a fusion has the rate of the last block before it."""
        depth = max(self.depths)
        masks = path_masks(self, self.drop_path, self.groups * depth, batch, branches=_MASKS, train=train)
        return None if masks is None else masks.reshape(self.groups, depth, _MASKS, batch)


def resized(x: Float[Array, 'b h w c'], size: ft.Grid) -> Float[Array, 'b h2 w2 c']:
    """Returns images of this height and width: torch's ``interpolate(mode='bicubic', align_corners=False)``."""
    if x.shape[1:3] == size:
        return x
    rows, columns = (jnp.asarray(posemb.cubic_matrix(*sides), x.dtype) for sides in zip(x.shape[1:3], size))
    return jnp.einsum('ph,bhwc,qw->bpqc', rows, x, columns, precision=lax.Precision.HIGHEST)


class BranchHeads(nn.Module):
    """The mean of a linear classifier on each branch's class token.

    Attributes:
        num_classes: number of logits.
        shares: widths of the branches over that of the first one.
    """

    num_classes: int
    shares: Sequence[int] = (1, 2)

    @nn.compact
    def __call__(self, features: ft.Features) -> Float[Array, 'b k']:
        """Returns logits; `features` must hold ``pooled``.

        Raises:
            ValueError: the width of ``pooled`` does not divide into the shares.
        """
        pooled = features[ft.POOLED]
        unit, rest = divmod(pooled.shape[-1], sum(self.shares))
        if rest:
            raise ValueError(
                f'{pooled.shape[-1]} channels do not divide into shares of {tuple(self.shares)}: change the widths of '
                'the branches, or shares.'
            )
        tokens = jnp.split(pooled, [unit * sum(self.shares[:end]) for end in range(1, len(self.shares))], axis=-1)
        logits = [Dense(self.num_classes, name=f'branch{branch}')(token) for branch, token in enumerate(tokens)]
        return sum(logits) / len(logits)


# Table 1 of the paper. For 408 pixels the second branch sees 384.
_WIDE = {'depths': (1, 4), 'mlp': Mlp}
_SIZES = {
    'tiny': {'widths': (96, 192), 'heads': (3, 3), **_WIDE},
    'small': {'widths': (192, 384), 'heads': (6, 6), **_WIDE},
    'base': {'widths': (384, 768), 'heads': (12, 12), **_WIDE},
    '9': {},
    '15': {'widths': (192, 384), 'heads': (6, 6), 'depths': (1, 5)},
    '18': {'widths': (224, 448), 'heads': (7, 7), 'depths': (1, 6)},
}
VARIANTS = {
    **{f'crossvit_{size}_240': CrossViT(**fields) for size, fields in _SIZES.items()},
    **{f'crossvit_{size}_dagger_240': CrossViT(**_SIZES[size], convolved=True) for size in ('9', '15', '18')},
    **{
        f'crossvit_{size}_dagger_408': CrossViT(**_SIZES[size], convolved=True, image_size=408, scales=(1.0, 384 / 408))
        for size in ('15', '18')
    },
    'crossvit_test': CrossViT((8, 16), (2, 2), (1, 2), 1, (4, 4), (0.75, 1.0), 16),
}

# Tables 2 to 4.
_PAPER = functools.partial(ft.Published, 'https://arxiv.org/abs/2103.14899')
_AT_240 = functools.partial(_PAPER, (240, 240))
PUBLISHED = {
    'crossvit_tiny_240': _AT_240(params=6.9, macs=1.6, top1=73.4),
    'crossvit_small_240': _AT_240(params=26.7, macs=5.6, top1=81.0),
    'crossvit_base_240': _AT_240(params=104.7, macs=21.2, top1=82.2),
    'crossvit_9_240': _AT_240(params=8.6, macs=1.8, top1=73.9),
    'crossvit_15_240': _AT_240(params=27.4, macs=5.8, top1=81.5),
    'crossvit_18_240': _AT_240(params=43.3, macs=9.0, top1=82.5),
    'crossvit_9_dagger_240': _AT_240(params=8.8, macs=2.0, top1=77.1),
    'crossvit_15_dagger_240': _AT_240(params=28.2, macs=6.1, top1=82.3),
    'crossvit_18_dagger_240': _AT_240(params=44.3, macs=9.5, top1=82.8),
    'crossvit_15_dagger_408': _PAPER((408, 408), params=28.5, macs=21.4, top1=83.5),
    'crossvit_18_dagger_408': _PAPER((408, 408), params=44.6, macs=32.4, top1=83.9),
}

# The head of the published classifiers.
HEADS = {'CrossViT': BranchHeads}


def _refit(backbone: CrossViT, path: str, table: np.ndarray) -> np.ndarray:
    branch = int(path.split('embed', 1)[1][0])
    grid = backbone.grids(*pair(backbone.image_size))[branch]
    return posemb.refit(table, grid, before=1, matrix=posemb.smooth_cubic_matrix)


RESIZE = {'CrossViT': _refit}

# Published names of a classifier's parameters, and ours; see weights.py.
_SCALE = (('weight', 'scale'), ('bias', 'bias'))
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_BLOCK = (
    (_SCALE, 'norm1', 'mixer_norm'),
    (_AFFINE, 'attn.qkv', 'mixer/qkv'),
    (_AFFINE, 'attn.proj', 'mixer/out'),
    (_SCALE, 'norm2', 'mlp_norm'),
    (_AFFINE, 'mlp.fc1', 'mlp/up'),
    (_AFFINE, 'mlp.fc2', 'mlp/down'),
)
_FUSION = (
    (_SCALE, 'projs.{b}.0', 'go_norm'),
    (_AFFINE, 'projs.{b}.2', 'go'),
    (_SCALE, 'fusion.{b}.norm1', 'norm'),
    *((_AFFINE, f'fusion.{{b}}.attn.w{name}', f'mixer/{name}') for name in 'qkv'),
    (_AFFINE, 'fusion.{b}.attn.proj', 'mixer/out'),
    (_SCALE, 'revert_projs.{b}.0', 'back_norm'),
    (_AFFINE, 'revert_projs.{b}.2', 'back'),
)
_EMBED = 'backbone/embed{b}'
NAMES = {
    'CrossViT': (
        *((f'patch_embed.{{b}}.proj.{a}', f'{_EMBED}/patches/{b}') for a, b in _AFFINE),
        *(
            (f'patch_embed.{{b}}.proj.{2 * index}.{a}', f'{_EMBED}/patches/conv{index}/{b}')
            for index in range(3)
            for a, b in _AFFINE
        ),
        # timm's names, and the authors'.
        *((f'{name}{sep}{{b}}', f'{_EMBED}/{name}') for sep in '_.' for name in ('pos_embed', 'cls_token')),
        *(
            (
                f'blocks.{{g}}.blocks.{{b}}.{{i}}.{there}.{a}',
                f'backbone/group{{g}}/branch{{b}}_block{{i:02d}}/{here}/{b}',
            )
            for pairs, there, here in _BLOCK
            for a, b in pairs
        ),
        *(
            (f'blocks.{{g}}.{there}.{a}', f'backbone/group{{g}}/fuse{{b}}/{here}/{b}')
            for pairs, there, here in _FUSION
            for a, b in pairs
        ),
        *((f'norm.{{b}}.{a}', f'backbone/norm{{b}}/{b}') for a, b in _SCALE),
        *((f'head.{{b}}.{a}', f'head/branch{{b}}/{b}') for a, b in _AFFINE),
    ),
}
