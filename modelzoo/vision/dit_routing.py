"""DiT with dynamic token routing: at every layer each token chooses to stay, to move to a coarser scale, or both.

Ma et al., 2023, "DiT: Efficient Vision Transformers with Dynamic Token Routing", https://arxiv.org/abs/2308.03409. No
code was published (https://github.com/Maycbj/DiT has a README alone). The routing space is the paper's: layers times
scales; from the node of a layer and a scale a token may take the transformer block of its scale, the patch embedding to
the next scale, or neither, and then goes on as it is. What the paper's abstract leaves open is chosen here:

  * Gates are those of dynamic routing for segmentation (Li et al., 2020, https://arxiv.org/abs/2003.10401; reference:
    https://github.com/Megvii-BaseDetection/DynamicRouting, commit e401a19, facts only), a token at a time:
    ``alpha = max(0, tanh(logit))``, a logit for each path, whose bias begins at 1.5 so that all paths begin open. A
    path's result is multiplied by alpha, and a token whose alphas are all 0 takes none.
  * A token that takes the path down alone leaves its scale: it is absent there from then on, neither mixed nor
    counted. Tokens of 2x2 places become one, weighted by the mean of their alphas.
  * What attends are present tokens with an open gate, to each other; in finer scales to the means over squares of them.
    So an implementation that gathers these tokens computes the same; this one computes all and multiplies by 0.
  * The vector for a classifier is the sum over scales of a matrix times the mean of the tokens present at the end.
    Positions are fixed sines, added where a token enters a scale.

Features beside the usual: ``gates`` (B, G), the mean alpha of each node's paths, ``cost`` and ``hard_cost`` (B,): the
multiply-adds of the paths taken over those of all, weighted by alpha or where alpha is above 0 (methods/exits/skip.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention import attention, posemb
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.frame.mlp import Mlp, gelu
from longview.modelzoo.layers.frame.patch import Patches, patch_grid
from longview.modelzoo.layers.norms.norm import LayerNorm

# Below this sum of alphas a token takes no path.
_CLOSED = 1e-4
_OPEN_AT_FIRST = jax.nn.initializers.constant(1.5)


def gate(logits: Float[Array, '*n p']) -> Float[Array, '*n p']:
    """Returns ``max(0, tanh(logits))``, a number for each path; its gradient is 0 where a path is closed."""
    return jnp.maximum(0.0, jnp.tanh(logits))


def expected_cost(
    alpha: Float[Array, '*n p'], path_cost: Float[Array, '... p'], cell_cost: Float[Array, '...']
) -> Float[Array, '*n']:
    """Returns what a node costs: its gate's share as far as any path is open, and each path's by its alpha."""
    return jnp.max(alpha, axis=-1) * cell_cost + jnp.sum(alpha * path_cost, axis=-1)


def hard(alpha: Float[Array, '*n p']) -> Float[Array, '*n p']:
    """Returns 1 for the paths that are taken and 0 for the others."""
    return (alpha > _CLOSED).astype(jnp.float32)


class _Tokens(NamedTuple):
    """The tokens of a scale.

    Attributes:
        x: their vectors, 0 where a token is absent.
        present: whether there is one.
    """

    x: Float[Array, 'b h w d']
    present: Bool[Array, 'b h w']


class RoutedAttention(nn.Module):
    """Attention among the tokens of a map that take part, to the means over squares of them.

    Attributes:
        heads: number of heads; divides the width.
        reduction: side of the squares; 1 for the tokens themselves.
        dtype: compute type; the softmax is float32.
    """

    heads: int
    reduction: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w d'], taking: Bool[Array, 'b h w']) -> Float[Array, 'b h w d']:
        """Returns a map; of tokens that do not take part it means nothing."""
        batch, width = x.shape[0], x.shape[-1]
        memory, seen = x, taking
        if self.reduction > 1:
            memory, count = _square_means(x, taking, self.reduction)
            memory = LayerNorm(dtype=self.dtype, name='memory_norm')(memory)
            seen = count > 0
        q = Dense(width, dtype=self.dtype, name='q')(x.reshape(batch, -1, width))
        kv = Dense(2 * width, dtype=self.dtype, name='kv')(memory.reshape(batch, -1, width))
        q, k, v = (attention.split_heads(part, self.heads) for part in (q, *jnp.split(kv, 2, axis=-1)))
        y = attention.merge_heads(attention.attend(q, k, v, mask=seen.reshape(batch, 1, 1, -1)))
        return Dense(width, dtype=self.dtype, name='out')(y).reshape(x.shape)


class Block(nn.Module):
    """``x += attend(norm(x))``, ``x += mlp(norm(x))`` of the tokens that take part.

    Attributes:
        heads, reduction: see `RoutedAttention`.
        ratio: hidden width over width of the feed-forward layer.
        dtype: compute type.
    """

    heads: int
    reduction: int
    ratio: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], taking: Bool[Array, 'b h w'], mask: Float[Array, ' b'] | None
    ) -> Float[Array, 'b h w d']:
        """Keeps the shape; `mask` is this block's of stochastic depth."""
        norm = lambda name: LayerNorm(1e-6, self.dtype, name=name)
        mixer = RoutedAttention(self.heads, self.reduction, self.dtype, name='mixer')
        x = x + drop_path(mixer(norm('mixer_norm')(x), taking), mask)
        return x + drop_path(Mlp(self.ratio, dtype=self.dtype, name='mlp')(norm('mlp_norm')(x)), mask)

    def cost(self, width: int, tokens: int) -> float:
        """Returns multiply-adds a token, of a map with so many."""
        square = self.reduction**2
        attending = 2 * width**2 + 2 * width**2 / square + 2 * width * tokens / square
        return attending + 2 * self.ratio * width**2


class Node(nn.Module):
    """The paths that leave one layer at one scale.

    Attributes:
        block: the transformer block of the scale.
        features: channels of the next scale; None at the last one, from where no path goes down.
        forced: whether the gates are 1, whatever their logits: the static network of the same paths.
        dtype: compute type.
    """

    block: Block
    features: int | None = None
    forced: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: _Tokens, mask: Float[Array, ' b'] | None
    ) -> tuple[_Tokens, _Tokens | None, Float[Array, 'b h w p']]:
        """Returns the tokens that stay, those that go down, and alpha of each token and path."""
        x, present = tokens
        width, paths = x.shape[-1], 1 if self.features is None else 2
        y = gelu(Dense(width // 2, dtype=self.dtype, name='gate_up')(LayerNorm(dtype=self.dtype, name='gate_norm')(x)))
        logits = Dense(paths, False, name='gate')(y.astype(jnp.float32))
        logits = logits + self.param('gate_bias', _OPEN_AT_FIRST, (paths,))[None, None, None]
        alpha = jnp.ones_like(logits) if self.forced else gate(logits)
        alpha = alpha * present[..., None]
        keep = alpha[..., :1].astype(self.dtype)
        kept = keep * self.block(x, alpha[..., 0] > _CLOSED, mask)
        idle = present & (jnp.sum(alpha, axis=-1) < _CLOSED)
        staying = _Tokens(jnp.where(idle[..., None], x, kept), idle | (alpha[..., 0] > _CLOSED))
        if self.features is None:
            return staying, None, alpha
        down = alpha[..., 1]
        moved = Patches(self.features, 2, dtype=self.dtype, name='down')(x * (down > _CLOSED)[..., None])
        moved = LayerNorm(dtype=self.dtype, name='down_norm')(moved)
        share = _squares(down, 2).mean(axis=3)
        return staying, _Tokens(share[..., None].astype(self.dtype) * moved, share > 0), alpha


class RoutedTransformer(ft.PyramidBackbone):
    """The network.

    Attributes:
        widths, heads, reductions: channels, heads and squares of keys and values at each scale.
        depth: number of layers.
        ratio: hidden width over width of the feed-forward layers.
        patch: side of the patches of the first scale.
        forced: see `Node`.
        drop_path: stochastic depth of the last layer; see layers/frame/drop.py.
        dtype: compute type; parameters are float32.
        remat: whether to recompute each node in the backward pass.
    """

    widths: Sequence[int] = (64, 128, 320, 512)
    heads: Sequence[int] = (1, 2, 5, 8)
    reductions: Sequence[int] = (8, 4, 2, 1)
    depth: int = 8
    ratio: float = 4.0
    patch: int = 4
    forced: bool = False
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """That of the patches, doubled from scale to scale."""
        return tuple(self.patch * 2**scale for scale in range(len(self.widths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The widths."""
        return tuple(self.widths)

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The patches, each layer with the nodes of all its scales, the norms and matrices of the end."""
        scales = range(len(self.widths))
        nodes = [tuple(_name(layer, scale) for scale in scales if scale <= layer) for layer in range(self.depth)]
        return (('stem', 'stem_norm'), *nodes, tuple(f'{part}{scale}' for scale in scales for part in ('norm', 'sum')))

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns ``stem``, ``stage0``, ..., ``map``, ``pooled``, ``gates``, ``cost`` and ``hard_cost``.

        Raises:
            ValueError: the patch does not divide the image, or there is not one of each number for every scale.
        """
        self._check()
        patch_grid(*x.shape[1:3], self.patch)
        x = Patches(self.widths[0], self.patch, dtype=self.dtype, name='stem')(x)
        x = LayerNorm(dtype=self.dtype, name='stem_norm')(x)
        first = _Tokens(_placed(x), jnp.ones(x.shape[:3], bool))
        masks = path_masks(self, self.drop_path, self.depth, x.shape[0], branches=1, train=train)
        scales, spent = {0: first}, _Spent([], [], [], 0.0)
        node = nn.remat(Node) if self.remat else Node
        for layer in range(self.depth):
            mask = None if masks is None else masks[layer, 0]
            following: dict[int, list[_Tokens]] = {scale: [] for scale in range(len(self.widths))}
            for scale, tokens in scales.items():
                last = scale == len(self.widths) - 1
                block = Block(self.heads[scale], self.reductions[scale], self.ratio, self.dtype, parent=None)
                features = None if last else self.widths[scale + 1]
                leaving = node(block, features, self.forced, self.dtype, name=_name(layer, scale))
                staying, moved, alpha = leaving(tokens, mask)
                following[scale].append(staying)
                if moved is not None:
                    following[scale + 1].append(
                        _Tokens(jnp.where(moved.present[..., None], _placed(moved.x), 0), moved.present)
                    )
                spent = spent.with_node(alpha, tokens, block, features)
            scales = {scale: _together(found) for scale, found in following.items() if found}
        return {ft.STEM: x, **self._answer(scales, x), **spent.features()}

    def _answer(self, scales: dict[int, _Tokens], stem: Float[Array, 'b h w d']) -> ft.Features:
        """Returns the maps of all scales, with nothing where no layer leads, and the vector."""
        found: ft.Features = {}
        pooled = 0.0
        for scale, width in enumerate(self.widths):
            rows, columns = (-(-side // 2**scale) for side in stem.shape[1:3])
            nothing = _Tokens(
                jnp.zeros((stem.shape[0], rows, columns, width), stem.dtype),
                jnp.zeros((stem.shape[0], rows, columns), bool),
            )
            x, present = scales.get(scale, nothing)
            x = LayerNorm(1e-6, self.dtype, name=f'norm{scale}')(x) * present[..., None].astype(self.dtype)
            count = jnp.maximum(1, present.sum(axis=(1, 2)))[:, None]
            mean = x.astype(jnp.float32).sum(axis=(1, 2)) / count
            pooled += Dense(self.widths[-1], scale == 0, name=f'sum{scale}')(mean)
            found[ft.stage(scale)] = x
        return {**found, ft.MAP: x, ft.POOLED: pooled}

    def _check(self) -> None:
        sizes = {len(self.widths), len(self.heads), len(self.reductions)}
        if len(sizes) > 1:
            raise ValueError(
                f'RoutedTransformer has {len(self.widths)} widths, {len(self.heads)} heads and {len(self.reductions)} '
                'reductions: give one of each for every scale.'
            )


class _Spent(NamedTuple):
    """The gates and the costs of the nodes so far; costs are multiply-adds, `all` those of every path."""

    gates: list[Float[Array, 'b p']]
    expected: list[Float[Array, ' b']]
    taken: list[Float[Array, ' b']]
    all: float

    def with_node(
        self, alpha: Float[Array, 'b h w p'], tokens: _Tokens, block: Block, features: int | None
    ) -> '_Spent':
        """Returns the lists with a node's."""
        number, width = alpha.shape[1] * alpha.shape[2], tokens.x.shape[-1]
        paths = [block.cost(width, number)] + ([] if features is None else [float(width * features)])
        cell = width * (width // 2) + (width // 2) * len(paths)
        cost = lambda alpha: expected_cost(
            alpha, jnp.asarray(paths, jnp.float32)[None, None, None], jnp.float32(cell)
        ).sum(axis=(1, 2))
        return _Spent(
            [*self.gates, alpha.mean(axis=(1, 2)).astype(tokens.x.dtype)],
            [*self.expected, cost(alpha)],
            [*self.taken, cost(hard(alpha))],
            self.all + number * (cell + sum(paths)),
        )

    def features(self) -> ft.Features:
        """Returns all of it as features; costs as shares of that of all paths."""
        gates = jnp.concatenate(self.gates, axis=1)
        share = lambda costs: sum(costs) / self.all
        return {ft.GATES: gates, ft.COST: share(self.expected), ft.HARD_COST: share(self.taken)}


def _name(layer: int, scale: int) -> str:
    return f'layer{layer:02d}_scale{scale}'


def _placed(x: Float[Array, 'b h w d']) -> Float[Array, 'b h w d']:
    """Returns the tokens with their positions."""
    table = posemb.sincos2d(x.shape[1:3], x.shape[-1]).reshape(1, *x.shape[1:])
    return x + jnp.asarray(table, x.dtype)


def _together(found: list[_Tokens]) -> _Tokens:
    """Returns the tokens of a scale: those that stayed and those that came, added where both are."""
    return _Tokens(sum(tokens.x for tokens in found), jnp.any(jnp.stack([tokens.present for tokens in found]), axis=0))


def _squares(x: Float[Array, 'b h w *n'], side: int) -> Float[Array, 'b h2 w2 k *n']:
    """Returns the squares of a map, each with its pixels in one axis; sides are filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % side), (0, -x.shape[2] % side), *[(0, 0)] * (x.ndim - 3)))
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, *rest).swapaxes(2, 3)
    return x.reshape(batch, height // side, width // side, side * side, *rest)


def _square_means(
    x: Float[Array, 'b h w d'], taking: Bool[Array, 'b h w'], side: int
) -> tuple[Float[Array, 'b h2 w2 d'], Float[Array, 'b h2 w2']]:
    """Returns the means over the tokens of each square that take part, and how many these are."""
    weight = taking.astype(x.dtype)
    count = _squares(weight, side).sum(axis=3)
    return _squares(x * weight[..., None], side).sum(axis=3) / jnp.maximum(1, count)[..., None], count


# Ours: the paper's table of sizes was not at hand. Widths, heads and reductions are those of PVT v2.
VARIANTS = {
    'dit_routing_ours': RoutedTransformer(),
    'dit_routing_test': RoutedTransformer((8, 16), (1, 2), (2, 1), 2, patch=4),
}

PUBLISHED: dict[str, ft.Published] = {}

# No weights were published: names are ours, in the layout of PyTorch.
_AFFINE = ('kernel', 'bias')
_MATRICES = ('block/mixer/q', 'block/mixer/kv', 'block/mixer/out', 'block/mlp/up', 'block/mlp/down', 'gate_up', 'down')
_NORMS = ('block/mixer_norm', 'block/mixer/memory_norm', 'block/mlp_norm', 'gate_norm', 'down_norm')
_NODE = (
    *(f'{name}/{a}' for name in _MATRICES for a in _AFFINE),
    *(f'{name}/{a}' for name in _NORMS for a in ('scale', 'bias')),
    'gate/kernel',
    'gate_bias',
)
_PATHS = (
    *(f'stem/{a}' for a in _AFFINE),
    *(f'{name}/{a}' for name in ('stem_norm', 'norm{s}') for a in ('scale', 'bias')),
    *(f'sum{{s}}/{a}' for a in _AFFINE),
    *(f'layer{{l:02d}}_scale{{s}}/{name}' for name in _NODE),
)
NAMES = {
    'RoutedTransformer': (
        *((path.replace('/', '.'), f'backbone/{path}') for path in _PATHS),
        *((f'head.{a}', f'head/{a}') for a in _AFFINE),
    )
}
