"""Sequence mixers and the block around them: in parallel over a whole sequence, or a few elements at a time.

A mixer reads a whole sequence, or continues from a state; both compute the same numbers, and the size of the state does
not depend on the number of elements read. Blocks: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, with norms
after the sums, and Wang et al., 2019, https://arxiv.org/abs/1906.01787, with norms before the branches.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.frame.drop import drop_path
from longview.modelzoo.layers.residuals.residual import Stream, connect, extend_mixer, initialized, run_mixer


class Mixer(nn.Module, abc.ABC):
    """A causal mixer: each element sees itself and the elements before it. mamba.Mamba has the same methods.

    A final class implements `init_state` and `_mix`, and `_sequence_state` where `_mix` wants a state for a whole
    sequence too.
    """

    def __call__(self, x: Float[Array, 'b t d'], *, train: bool = False) -> Float[Array, 'b t d']:
        """Mixes a sequence.

        Raises:
            ValueError: the sequence is longer than the mixer allows.
        """
        del train
        return self._mix(x, self._sequence_state(x))[0]

    @property
    def longest(self) -> int | None:
        """The number of elements that can be read step by step; None if there is no limit."""
        return None

    @abc.abstractmethod
    def init_state(self, batch: int, width: int) -> Any:
        """Returns the state before the first element."""

    def extend(self, x: Float[Array, 'b t d'], state: Any) -> tuple[Float[Array, 'b t d'], Any]:
        """Returns the outputs of the next elements, one or many, and the state after them."""
        return self._mix(x, state)

    def _sequence_state(self, x: Float[Array, 'b t d']) -> Any:
        """Returns the state that `_mix` gets for a whole sequence; for None it may return None as the next state."""
        del x

    @abc.abstractmethod
    def _mix(self, x: Float[Array, 'b t d'], state: Any) -> tuple[Float[Array, 'b t d'], Any]:
        """Returns the outputs for `x`, and the state after its last element."""


class Identity(nn.Module):
    """The identity; as a feed-forward layer it leaves a branch that is a norm alone.

    Attributes:
        dtype: unused, for the signature that layers share.
    """

    dtype: DTypeLike = jnp.float32

    def __call__(self, x: Array) -> Array:
        """Returns `x`."""
        return x


class Block(nn.Module):
    """A block of one or two residual branches: a mixer and a feed-forward layer.

    Attributes:
        norm, mixer, residual: factories of the parts.
        mlp: factory of the feed-forward layer, which may be another `Mixer`; None for no second branch.
        pre_norm: whether a branch is ``s += f(norm(s))``; else it is ``s = norm(s + f(s))``.
    """

    norm: Callable[..., nn.Module]
    mixer: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module] | None
    residual: Callable[..., nn.Module]
    pre_norm: bool = True

    def setup(self) -> None:
        """Makes the branches."""
        made = {'mixer': self.mixer} | ({} if self.mlp is None else {'mlp': self.mlp})
        self.branches = [
            (join, self._norm(name), initialized(join, part)(name=name))
            for join, (name, part) in zip(connect(self.residual, list(made)), made.items())
        ]

    def __call__(self, s: Stream, mask: Float[Array, 'r b'] | None, *, train: bool = False) -> Stream:
        """Returns the stream after the block; `mask` is this block's part of `drop.path_masks`."""
        branch_masks = [None] * len(self.branches) if mask is None else mask
        for (join, norm, part), branch_mask in zip(self.branches, branch_masks):
            s, x = self._before(s, join, norm)
            s, y = run_mixer(join, part, s, x, train=train) if _keeps_state(part) else (s, part(x))
            s = self._after(s, drop_path(y, branch_mask), join, norm)
        return s

    def init_state(self, batch: int, width: int) -> list[Any]:
        """Returns the states of the branches before the first element."""
        return [part.init_state(batch, width) if _keeps_state(part) else () for _, _, part in self.branches]

    def extend(self, s: Stream, states: list[Any]) -> tuple[Stream, list[Any]]:
        """Returns the stream of the next elements after the block, and the states after them."""
        after = []
        for (join, norm, part), state in zip(self.branches, states):
            s, x = self._before(s, join, norm)
            s, y, state = extend_mixer(join, part, s, x, state) if _keeps_state(part) else (s, part(x), state)
            s = self._after(s, y, join, norm)
            after.append(state)
        return s, after

    def _norm(self, branch: str) -> nn.Module | None:
        return self.norm(name=f'{branch}_norm')

    def _before(self, s: Stream, join: nn.Module, norm: nn.Module | None) -> tuple[Stream, Array]:
        return s, norm(join.read(s)) if self.pre_norm else join.read(s)

    def _after(self, s: Stream, y: Array, join: nn.Module, norm: nn.Module | None) -> Stream:
        s = join.write(s, y)
        return s if self.pre_norm else join.carry(s, norm)


def _keeps_state(part: nn.Module) -> bool:
    return callable(getattr(part, 'extend', None))
