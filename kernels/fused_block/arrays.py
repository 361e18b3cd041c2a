"""The weights of a block, as its forms are given them."""

from typing import NamedTuple

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class Block(NamedTuple):
    """The kernel of the convolution and the two matrices, with biases; see `kernels.fused_block`."""

    kernel: Float[Array, 'i j d c']
    kernel_bias: Float[Array, ' c']
    up: Float[Array, 'c e']
    up_bias: Float[Array, ' e']
    down: Float[Array, 'e c']
    down_bias: Float[Array, ' c']

    @property
    def reach(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The zeros on each side of an image that keep its size."""
        rows, columns = (side // 2 for side in self.kernel.shape[:2])
        return (rows, rows), (columns, columns)

    def rounded(self, dtype: DTypeLike) -> 'Block':
        """Returns the block with kernel and matrices in this type; biases are added to wider sums."""
        cast = lambda array: array.astype(dtype) if array.ndim > 1 else array
        return Block(*map(cast, self))


def wide(x: jax.Array) -> DTypeLike:
    """The type of sums over numbers of the type of `x`."""
    return jax.numpy.result_type(x, jax.numpy.float32)
