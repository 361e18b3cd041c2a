"""Stages of convolutional pyramids, whose first block changes resolution and width.

`trunk.run` runs equal blocks. Here a block may be of any kind; `remat` recomputes each block in the backward pass all
the same. Where the blocks of a stage after the first are equal, `scan` leaves them to `trunk.run`.
"""

import functools
from collections.abc import Callable, Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame import trunk
from longview.modelzoo.layers.frame.block import in_turn
from longview.modelzoo.layers.frame.drop import path_masks
from longview.modelzoo.layers.residuals.residual import Add, Single, Stream, along

# A factory for all blocks of a network or a stage, or one for each.
Blocks = Callable[..., nn.Module] | Sequence[Callable[..., nn.Module]]


class Stage(nn.Module):
    """The blocks of one resolution.

    Attributes:
        blocks: a factory for each block; blocks are called as ``block(s, mask, train=train)``.
        remat: whether to recompute the activations of each block in the backward pass.
        scan: whether all blocks but the first share one compiled body; see `trunk.run`.
    """

    blocks: Sequence[Callable[..., nn.Module]]
    remat: bool
    scan: bool = False

    @nn.compact
    def __call__(self, s: Stream, masks: Float[Array, 'l *r b'] | None, *, train: bool = False) -> Stream:
        """Runs the blocks; `masks` has an entry for each."""
        blocks = [block(name=name) for block, name in zip(self.blocks, trunk.names(len(self.blocks)))]
        alone = 1 if self.scan else len(blocks)
        s = in_turn(blocks[:alone], s, masks, train=train, remat=self.remat)
        if alone == len(blocks):
            return s
        rest = None if masks is None else masks[alone:]
        return trunk.run(self, blocks[alone:], s, rest, train=train, remat=self.remat, scan=True)


def run(
    module: nn.Module,
    x: Float[Array, 'b h w c'],
    stages: Sequence[Sequence[Callable[..., nn.Module]]],
    *,
    drop_path: float,
    remat: bool,
    train: bool,
    residual: Callable[..., nn.Module] = Add,
    scan: bool = False,
    across: Callable[[int, str, Array, list[Array]], Array] | None = None,
) -> list[Float[Array, 'b h2 w2 d']]:
    """Runs the stages as children ``stage0``, ``stage1``, ... of `module`; returns the output of each.

    Args:
        module: the bound network, inside its compact ``__call__``.
        x: the output of the stem.
        stages: factories of the blocks of each stage.
        drop_path: stochastic depth of the last block; over the blocks it rises linearly from 0.
        remat: see `Stage`.
        train: passed to the blocks.
        residual: factory of the connection that opens and closes the stream; by default the stream is the map itself.
        scan: see `Stage`.
        across: (stage, 'input' or 'output', the map at this place, outputs of the earlier stages) -> the map that takes
            its place; None for no such connections.

    Raises:
        NotImplementedError: `scan` with blocks whose variables have different shapes, or `across` with a connection
            whose stream is not the map itself.
    """
    masks = path_masks(module, drop_path, sum(map(len, stages)), x.shape[0], branches=1, train=train)
    join = residual(name='residual')
    if across is not None and not isinstance(join, Single):
        raise NotImplementedError(
            f'{type(join).__name__} carries more than one map from block to block, and connections across stages add '
            'to one: use residual.Add, or leave out `across`.'
        )
    s, maps, first = join.open(x), [], 0
    for index, blocks in enumerate(stages):
        stage_masks = None if masks is None else masks[first : first + len(blocks), 0]
        if across is not None:
            s = across(index, 'input', s, maps)
        s = Stage(blocks, remat, scan, name=f'stage{index}')(s, stage_masks, train=train)
        if across is not None:
            s = across(index, 'output', s, maps)
        maps.append(join.close(s))
        first += len(blocks)
    return maps


def layers(depths: Sequence[int], last: Sequence[str] = ()) -> tuple[tuple[str, ...], ...]:
    """Returns the parameter paths of a pyramid by depth: the stem, each block, and the `last` modules."""
    return (('stem',), *map(tuple, trunk.stage_paths(depths)), tuple(last))


def each(block: Blocks, depth: int) -> list[Callable[..., nn.Module]]:
    """Returns the factory of each of so many blocks, of which one is given for all, or one for each.

    Raises:
        ValueError: there are several, and not one for each.
    """
    if callable(block):
        return [block] * depth
    if len(block) != depth:
        raise ValueError(f'there are {len(block)} factories for {depth} blocks: give one for all, or one for each.')
    return list(block)


def with_stride(block: Blocks, features: int, depth: int, stride: int) -> list[Callable[..., nn.Module]]:
    """Returns the factories of a stage whose first block has the stride.

    Args:
        block: factory that takes `features`, `stride` and a name, or one for each block.
        features: output channels of every block.
        depth: number of blocks.
        stride: of the first block; the others have stride 1.
    """
    return [
        functools.partial(one, features=features, stride=1 if index else stride)
        for index, one in enumerate(each(block, depth))
    ]


def halving(block: Blocks, widths: Sequence[int], depths: Sequence[int]) -> list[list[Callable[..., nn.Module]]]:
    """Returns the factories of stages; each stage but the first halves the resolution. See `with_stride`."""
    blocks = iter(each(block, sum(depths)))
    return [
        with_stride([next(blocks) for _ in range(depth)], width, depth, 2 if index else 1)
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True))
    ]


def connected(
    stages: Sequence[Sequence[Callable[..., nn.Module]]], residual: Callable[..., nn.Module]
) -> list[list[Callable[..., nn.Module]]]:
    """Returns the factories of the stages, each with the connection of its block as its `residual`."""
    each = iter(along(residual, sum(map(len, stages))))
    return [[functools.partial(block, residual=next(each)) for block in blocks] for blocks in stages]
