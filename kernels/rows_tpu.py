"""Blocks of rows of images for TPU kernels that convolve: each with the rows above and below it that taps reach."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from longview.kernels import pallas


class Rows(NamedTuple):
    """Which rows of an image a grid step reads for its block of rows of the output.

    Blocks overlap by the reach of the taps. None begins before the image or ends behind it; rows out of it are zeros.

    height: rows of the image.
    block: rows of the output in a block.
    taps, stride: of the kernel, along the height.
    before: rows of zeros above the image.
    """

    height: int
    block: int
    taps: int
    stride: int = 1
    before: int = 0

    @property
    def read(self) -> int:
        """Rows of the image in a block."""
        return min(self.height, (self.block - 1) * self.stride + self.taps)

    def spec(self, x: jax.Array) -> pl.BlockSpec:
        """The block of images (B, H, W, C) of a grid that begins with the batch and the blocks."""
        sides = (1, self.read, *x.shape[2:])
        return pl.BlockSpec(tuple(map(pallas.Element, sides)), lambda b, p, *_: (b, self._first(p), 0, 0))

    def row(self, image: Any, block: jax.Array, place: jax.Array) -> jax.Array:
        """Inside of a kernel: row `place` of what the block's taps see, in float32."""
        at = self._wanted(block) + place
        line = image[0, jnp.clip(at - self._first(block), 0, self.read - 1)].astype(jnp.float32)
        return jnp.where((at >= 0) & (at < self.height), line, 0)

    def _wanted(self, block: jax.Array) -> jax.Array:
        return block * (self.block * self.stride) - self.before

    def _first(self, block: jax.Array) -> jax.Array:
        return jnp.clip(self._wanted(block), 0, self.height - self.read)
