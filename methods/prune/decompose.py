"""One layer as two: a kernel's best approximation of some rank, and networks that run so.

Two schemes, as in Xu et al., 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks",
https://arxiv.org/abs/2004.14566, section 3.1. By channels (Zhang et al., 2015, https://arxiv.org/abs/1505.06798): a
convolution to r channels, then a 1x1 one. By space (Jaderberg et al., 2014, https://arxiv.org/abs/1405.3866): a column
of the window to r channels, then a row. Reference: https://github.com/yuhuixu1993/Trained-Rank-Pruning (it names no
licence). Where we differ: layers with a stride are decomposed too, its first convolution has it where it can.

A matrix (in, out) counts as a 1x1 convolution; by channels, it becomes two matrices.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from longview.methods.forward import answer
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.dense import Dense

# Whether the first layer, and the second, moves over rows and over columns.
SCHEMES = {'channel': ((True, True), (False, False)), 'spatial': ((True, False), (False, True))}


class Factors(NamedTuple):
    """Kernels of the two layers.

    Attributes:
        first: (height, width, in, rank) by channels, (height, 1, in, rank) by space.
        second: (1, 1, rank, out) by channels, (1, width, rank, out) by space.
    """

    first: Float[Array, '*window i r']
    second: Float[Array, '*window r o']


def matrix_of(kernel: Float[Array, '*window i o'], scheme: str) -> Float[Array, 'm n']:
    """Returns the matrix whose rank is that of a kernel.

    Args:
        kernel: (*window, in, out).
        scheme: 'channel' for (height * width * in, out), 'spatial' for (in * height, out * width).
    """
    if scheme == 'channel':
        return kernel.reshape(-1, kernel.shape[-1])
    height, width, inputs, outputs = kernel.shape
    return kernel.transpose(2, 0, 3, 1).reshape(inputs * height, outputs * width)


def kernel_of(matrix: Float[Array, 'm n'], shape: tuple[int, ...], scheme: str) -> Float[Array, '*window i o']:
    """Returns the kernel of a shape whose `matrix_of` is `matrix`."""
    if scheme == 'channel':
        return matrix.reshape(shape)
    height, width, inputs, outputs = shape
    return matrix.reshape(inputs, height, outputs, width).transpose(1, 3, 0, 2)


def factors_of(kernel: Float[Array, '*window i o'], rank: int, scheme: str) -> Factors:
    """Returns the two layers that are nearest to one, by singular values; both have the same share of these."""
    u, s, vt = jnp.linalg.svd(matrix_of(kernel, scheme).astype(jnp.float32), full_matrices=False)
    root = jnp.sqrt(s[:rank])
    left, right = (u[:, :rank] * root[None]).astype(kernel.dtype), (root[:, None] * vt[:rank]).astype(kernel.dtype)
    if scheme == 'channel':
        window = (1,) * (kernel.ndim - 2)
        return Factors(left.reshape(*kernel.shape[:-1], rank), right.reshape(*window, rank, kernel.shape[-1]))
    height, width, inputs, outputs = kernel.shape
    return Factors(
        left.reshape(inputs, height, 1, rank).transpose(1, 2, 0, 3),
        right.reshape(rank, outputs, width, 1).transpose(3, 2, 0, 1),
    )


def run(
    module: nn.Module, params: Any, state: Any, image: Float[Array, 'b h w c'], factors: dict[str, Factors], scheme: str
) -> Any:
    """Runs a module as it would be deployed, each of some layers as two; to be jitted as a whole.

    Args:
        module: takes `image` and ``train``.
        params, state: as `methods.forward.answer`'s; kernels that are in `factors` are not read.
        image: its input.
        factors: by the path that the kernel has in `params`.
        scheme: which made them.

    Raises:
        ValueError: the module has no such layer.
        NotImplementedError: a layer is no plain convolution or matrix.
    """
    used = set()

    def replace(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path = '/'.join((*context.module.path, 'kernel'))
        if path not in factors or context.method_name != '__call__':
            return call(*args, **kwargs)
        used.add(path)
        return _two_layers(context.module, path, args[0], factors[path], scheme)

    with nn.intercept_methods(replace):
        outputs = answer(module, params, state, image)
    unused = sorted(factors.keys() - used)
    if unused:
        raise ValueError(f'{type(module).__name__} runs no layer with the kernel {unused[0]}: give paths below it.')
    return outputs


def _two_layers(layer: nn.Module, path: str, x: Array, factors: Factors, scheme: str) -> Array:
    first, second = (kernel.astype(layer.dtype) for kernel in factors)
    if isinstance(layer, Dense):
        y = x.astype(layer.dtype) @ first @ second
    elif isinstance(layer, Conv) and layer.groups == 1:
        y = x.astype(layer.dtype)
        for kernel, moves in zip((first, second), SCHEMES[scheme]):
            y = _convolve(y, kernel, layer, moves)
    else:
        raise NotImplementedError(
            f'{path} belongs to a {type(layer).__name__}, and only plain convolutions and '
            'matrices become two: leave it out of the pattern.'
        )
    if not layer.use_bias:
        return y
    return y + jnp.expand_dims(layer.get_variable('params', 'bias').astype(layer.dtype), range(y.ndim - 1))


def _convolve(x: Array, kernel: Array, layer: Conv, moves: tuple[bool, bool]) -> Array:
    """Convolves with the layer's stride and padding on the axes on which this part of it moves."""
    stride = [layer.stride if move else 1 for move in moves]
    same = isinstance(layer.padding, str)
    padding = layer.padding if same else [(layer.padding if move else 0,) * 2 for move in moves]
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
