"""The geometry of a convolution: the static arguments of a call, and sizes that follow from them."""

from typing import NamedTuple

import jax
from jax import lax

Pair = tuple[int, int]


class Plan(NamedTuple):
    """Stride and zero padding (before, after), along height and width."""

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
        """The number of groups of channels."""
        return x.shape[3] // kernel.shape[2]

    def is_matrix(self, kernel: jax.Array) -> bool:
        """Whether each output pixel is a matrix times one input pixel."""
        return kernel.shape[:2] == (1, 1) and self.padding == ((0, 0), (0, 0))

    def read(self, padded: jax.Array, tap: Pair, sizes: Pair) -> jax.Array:
        """Returns what a tap reads of one padded image (H, W, C) for `sizes` rows and columns of the output."""
        stop = [n + (size - 1) * step + 1 for n, size, step in zip(tap, sizes, self.stride)]
        return lax.slice(padded, (*tap, 0), (*stop, padded.shape[2]), (*self.stride, 1))
