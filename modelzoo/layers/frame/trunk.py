"""A stack of equal blocks, with two options for running it, `remat` and `scan`, that change no number.

Parameters are always stored block by block (``block00``, ``block01``, ...), so initial values, checkpoints, name
maps and path rules do not depend on the options. `remat` recomputes the activations of a block in the backward pass.
`scan` stacks the parameters of the blocks while tracing and runs one compiled body; it costs a copy of the parameters.
Both apply the blocks as pure functions of their variables, batch statistics among them, so blocks may not draw from
rngs or record intermediates. On a CPU the compiler undoes most of `remat` unless `scan` is on as well: the gradient of
12 ViG blocks of width 64 (batch 32, 25 tokens) needs 114 MB, with remat 105, with scan 133, with both 21.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from longview.modelzoo.layers.residuals.residual import Stream


def names(depth: int) -> list[str]:
    """Returns the names of a trunk's blocks."""
    return [f'block{index:02d}' for index in range(depth)]


def forms(
    block: Callable[..., nn.Module], first: Callable[..., nn.Module] | None, depth: int
) -> list[Callable[..., nn.Module]]:
    """Returns the factory of each block, of which the first may be of another form."""
    return [first or block, *[block] * (depth - 1)]


def stage_paths(depths: Sequence[int], between: Sequence[str] = ()) -> list[list[str]]:
    """Returns the parameter paths of each block of a pyramid, from the first to the last.

    Args:
        depths: blocks of each stage.
        between: name of the module between each stage and the next; it counts as part of the block before it.
    """
    paths = [[f'stage{stage}/{name}'] for stage, depth in enumerate(depths) for name in names(depth)]
    for stage, name in enumerate(between):
        paths[sum(depths[: stage + 1]) - 1].append(name)
    return paths


def run(
    trunk: nn.Module,
    blocks: Sequence[nn.Module],
    s: Stream,
    masks: Any,
    *,
    train: bool,
    remat: bool,
    scan: bool,
) -> Stream:
    """Passes the stream `s` through the blocks.

    Args:
        trunk: the bound module whose children the blocks are.
        blocks: bound and named modules; called as ``block(s, mask, train=train)``.
        s: the residual stream; a block keeps its shape and type.
        masks: from `drop.path_masks`, one entry per block; or a tree of these and of other arrays with one entry per
            block, such as the keys of `dropout.dropout_keys`.
        train: passed to the blocks.
        remat: whether to recompute the activations of each block in the backward pass.
        scan: whether all blocks share one compiled body, that of the first block. Only their variables are compared:
            blocks that differ in a field without variables, such as a stride, must not be given.

    Raises:
        NotImplementedError: `scan` with blocks whose variables have different shapes.
    """
    block_masks = [jax.tree.map(lambda mask: mask[index], masks) for index in range(len(blocks))]
    if trunk.is_initializing() or not (remat or scan):
        for block, mask in zip(blocks, block_masks):
            s = block(s, mask, train=train)
        return s
    kept = [_variables(trunk, block) for block in blocks]
    changing = [kind for kind in trunk.variables if kind != 'params' and trunk.is_mutable_collection(kind)]
    if not scan:
        for block, variables, mask in zip(blocks, kept, block_masks):
            s, changed = jax.checkpoint(_pure(block, train, changing))(s, (variables, mask))
            _keep(trunk, block, changed)
        return s
    if any(jax.tree.map(jnp.shape, tree) != jax.tree.map(jnp.shape, kept[0]) for tree in kept):
        raise NotImplementedError('blocks with different variables cannot run with scan: switch it off.')
    apply = _pure(blocks[0], train, changing)
    apply = jax.checkpoint(apply) if remat else apply
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
    s, changed = jax.lax.scan(apply, s, (stacked, masks))
    for index, block in enumerate(blocks):
        _keep(trunk, block, jax.tree.map(lambda leaf: leaf[index], changed))
    return s


def _pure(
    block: nn.Module, train: bool, changing: Sequence[str]
) -> Callable[[Stream, tuple[dict, Any]], tuple[Stream, dict]]:
    """Returns the block as a pure function of the stream and of (variables, mask).

    It returns the next stream and, of the collections named in `changing`, the variables after the block.
    """
    block = block.clone(parent=None, name=None)
    return lambda s, inputs: block.apply(inputs[0], s, inputs[1], train=train, mutable=changing)


def _variables(trunk: nn.Module, block: nn.Module) -> dict[str, Any]:
    """Returns the variables of a block by collection."""
    return {kind: values[block.name] for kind, values in trunk.variables.items() if block.name in values}


def _keep(trunk: nn.Module, block: nn.Module, changed: dict[str, Any]) -> None:
    """Stores what a block has changed."""
    for kind, values in changed.items():
        trunk.put_variable(kind, block.name, values)


class Stage(nn.Module):
    """The blocks of one resolution.

    Attributes:
        block: factory of a block.
        depth: number of blocks.
        residual: factory of the connection that opens and closes the stream.
        remat, scan: see `run`.
    """

    block: Callable[..., nn.Module]
    depth: int
    residual: Callable[..., nn.Module]
    remat: bool
    scan: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b h w d'], masks: Float[Array, 'l r b'] | None, *, train: bool = False
    ) -> Float[Array, 'b h w d']:
        """Returns the map after the stage, of the same shape; `masks` are those of its blocks."""
        blocks = [self.block(name=name) for name in names(self.depth)]
        join = self.residual(name='residual')
        s = run(self, blocks, join.open(x), masks, train=train, remat=self.remat, scan=self.scan)
        return join.close(s)
