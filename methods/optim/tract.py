"""TrAct: the first layer is updated so that its activations, not its weights, take a gradient step.

Petersen et al., 2024, "TrAct: Making First-layer Pre-Activations Trainable", https://arxiv.org/abs/2410.23970: with the
first layer's inputs X, n rows, its gradient G becomes ``(X^T X / n + lambda I)^-1 G``, the closed form of the weights
nearest to a gradient step on the layer's outputs; then any optimizer takes over. Reference:
https://github.com/Felix-Petersen/tract (MIT). Its rows are examples for a matrix and, for a convolution, all windows of
all images; ours are always all windows. Of a step in microbatches each has its own X.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from longview.methods.reparam import on_selected, select
from longview.methods.task import Batch, Given, Metrics, Variables, Wrapper
from longview.modelzoo import features as ft
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class TrAct(Wrapper):
    """Task -> Task: `inner`, with another gradient for the kernel that reads the image.

    Attributes:
        inner: the task to train; its network computes a convolution with this kernel of a column as it is.
        stride: of that convolution; None for the kernel's side, as patch embeddings have it.
        padding: zeros around the image.
        shrinkage: lambda above.
        kernel: regular expression of its path.
        column: of the batch that the convolution reads.
    """

    stride: int | None = None
    padding: int = 0
    shrinkage: float = 0.1
    kernel: str = 'backbone/stem/kernel'
    column: str = ft.IMAGE

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        v = self.inner.init(rng, batch, given)
        path = self._path(v.params)
        shape = by_path(v.params)[path].shape
        if len(shape) != 4 or shape[2] != batch[self.column].shape[-1]:
            raise ValueError(
                f'TrAct: {path} has shape {tuple(shape)}, and a kernel (height, width, '
                f'{batch[self.column].shape[-1]}, out) that reads the {self.column} is wanted: name another.'
            )
        return v

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        path = self._path(v.params)
        kernel = by_path(v.params)[path]
        gram = self._gram(batch[self.column].astype(jnp.float32), kernel.shape)
        params = on_selected(lambda _, leaf: preconditioned(leaf, gram), (path,), v.params)
        return self.inner.loss(v._replace(params=params), batch, rng, step)

    def _path(self, params: Any) -> str:
        found = select(params, self.kernel, 'TrAct')
        if len(found) > 1:
            raise ValueError(f'TrAct: {self.kernel!r} matches {found[0]} and {found[1]}; there is one first layer.')
        return found[0]

    def _gram(self, image: Float[Array, 'b h w c'], shape: tuple[int, ...]) -> Float[Array, 'i i']:
        side = shape[:2]
        stride = side if self.stride is None else (self.stride, self.stride)
        windows = jax.lax.conv_general_dilated_patches(
            image, side, stride, [(self.padding, self.padding)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        # They come with the channel slowest; kernels have it fastest.
        windows = windows.reshape(-1, shape[2], side[0] * side[1]).swapaxes(1, 2).reshape(-1, windows.shape[-1])
        gram = windows.T @ windows / len(windows)
        return gram + self.shrinkage * jnp.eye(len(gram))


@jax.custom_vjp
def preconditioned(kernel: Float[Array, '*n o'], matrix: Float[Array, 'i i']) -> Float[Array, '*n o']:
    """Returns the kernel; its gradient is multiplied by the inverse of the matrix, over all axes but the last."""
    del matrix
    return kernel


def _backward(residual: tuple[Array], g: Array) -> tuple[Array, Array]:
    (matrix,) = residual
    flat = g.reshape(-1, g.shape[-1]).astype(jnp.float32)
    solved = jax.scipy.linalg.solve(matrix, flat, assume_a='pos')
    return solved.reshape(g.shape).astype(g.dtype), jnp.zeros_like(matrix)


preconditioned.defvjp(lambda kernel, matrix: (kernel, (matrix,)), _backward)
