"""The geometry of a convolution: what is static about a call, and what follows."""

from typing import NamedTuple

import jax
from jax import lax

Pair = tuple[int, int]


class Plan(NamedTuple):
    """Pixels from one output to the next, and zeros before and after, along height and width."""

    stride: Pair
    padding: tuple[Pair, Pair]

    def sizes(self, x: jax.Array, kernel: jax.Array) -> Pair:
        """Height and width of the output."""
        rows, columns = (
            (side + sum(pads) - taps) // step + 1
            for side, pads, taps, step in zip(x.shape[1:3], self.padding, kernel.shape[:2], self.stride)
        )
        return rows, columns

    def groups(self, x: jax.Array, kernel: jax.Array) -> int:
        """Parts of the channels that do not see each other."""
        return x.shape[3] // kernel.shape[2]

    def is_matrix(self, kernel: jax.Array) -> bool:
        """Whether each output is a matrix times one pixel."""
        return kernel.shape[:2] == (1, 1) and self.padding == ((0, 0), (0, 0))

    def read(self, padded: jax.Array, tap: Pair, sizes: Pair) -> jax.Array:
        """What a tap reads of one padded image (H, W, C) for so many rows and columns."""
        stop = [n + (size - 1) * step + 1 for n, size, step in zip(tap, sizes, self.stride)]
        return lax.slice(padded, (*tap, 0), (*stop, padded.shape[2]), (*self.stride, 1))
