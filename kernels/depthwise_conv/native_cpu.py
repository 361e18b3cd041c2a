"""Depthwise convolution in native code for CPUs (kernels/native.cc), outputs and both gradients.

The cotangent of the image is a convolution of that of the output, with the taps reversed, which native.cc reads with
zeros between its pixels where there is a stride. The gradient of the kernel is summed for each image apart there, and
over the images here. On devices of a mesh, and under vmap, see alone.py.
"""

from functools import partial

import jax
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch, native
from longview.kernels.depthwise_conv.alone import on_each_device
from longview.kernels.depthwise_conv.plan import Pair, Plan

# Up to this many taps it is faster than Fourier transforms (measured, see docs/results.md).
_TAPS = 169


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j 1 c']) -> Float[Array, 'b p q c']:
    """See `reference.convolve`."""
    product, cotangents = (partial(on_each_device, partial(function, plan)) for function in (_outputs, _gradients))
    return derivatives.own_product('depthwise_conv', product, cotangents)(x, kernel)


def missing(plan: Plan, x: jax.Array, kernel: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    taps = kernel.shape[0] * kernel.shape[1]
    if taps > _TAPS:
        return f'the kernel has {taps} taps; wanted at most {_TAPS}'
    return dispatch.lacking((x, kernel), ('float32',)) or native.missing()


def inception_missing(x: jax.Array, bias: jax.Array | None, *kernels: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    return dispatch.lacking((x, *kernels), ('float32',)) or native.missing()


def _outputs(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    shape = (x.shape[0], *plan.sizes(x, kernel), x.shape[3])
    return native.call('convolve', shape, _geometry(plan), x, kernel)


def _gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    back = _geometry(plan.adjoint(x, kernel, dy), plan.stride)
    dx = native.call('convolve', x.shape, back, dy, kernel[::-1, ::-1])
    shape = (x.shape[0], *kernel.shape[:2], x.shape[3])
    return dx, native.call('kernel_gradient', shape, _geometry(plan), x, dy).sum(0)[:, :, None]


def _geometry(plan: Plan, holes: Pair = (1, 1)) -> tuple[Pair, ...]:
    before = plan.padding[0][0], plan.padding[1][0]
    return plan.stride, plan.dilation, before, holes
