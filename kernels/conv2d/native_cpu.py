"""Convolution of channels in groups in native code for CPUs (kernels/native.cc): outputs and gradients of images.

The cotangent of the image is a convolution too: of the cotangent of the output, with zeros between its pixels where
there is a stride, and with the kernel reversed and transposed group by group. The gradient of the kernel is a product
per tap and group (products.py).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch, native
from longview.kernels.conv2d import products
from longview.kernels.conv2d.plan import Pair, Plan

_LANES = 4  # of the narrowest vectors; a vector has outputs of one group
_CHANNELS = 64  # of a group, from which on XLA's convolution is as fast (measured, see docs/results.md)


def convolve(plan: Plan, x: Float[Array, 'b h w c'], kernel: Float[Array, 'i j d n']) -> Float[Array, 'b p q n']:
    """See `reference.convolve`."""
    return derivatives.own_product('conv2d', partial(_outputs, plan), partial(_gradients, plan))(x, kernel)


def missing(plan: Plan, x: jax.Array, kernel: jax.Array) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    groups, depth = plan.groups(x, kernel), kernel.shape[2]
    each = kernel.shape[3] // groups
    if groups == 1:
        return 'the channels are one group; wanted several'
    if max(depth, each) >= _CHANNELS:
        return f'a group has {depth} channels and {each} outputs; wanted fewer than {_CHANNELS}'
    if (depth, each) != (1, 1) and (depth % _LANES or each % _LANES):
        return f'a group has {depth} channels and {each} outputs; wanted multiples of {_LANES}, or one and one'
    return dispatch.lacking((x, kernel), ('float32',)) or native.missing()


def _outputs(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    geometry = (plan.stride, (1, 1), _before(plan), (1, 1))
    return _called(plan.sizes(x, kernel), geometry, x, kernel)


def _gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, columns, depth, _ = kernel.shape
    apart = kernel[::-1, ::-1].reshape(rows, columns, depth, plan.groups(x, kernel), -1)
    turned = apart.transpose(0, 1, 4, 3, 2).reshape(rows, columns, -1, x.shape[3])
    top, left = _before(plan)
    geometry = ((1, 1), (1, 1), (rows - 1 - top, columns - 1 - left), plan.stride)
    dx = _called(x.shape[1:3], geometry, dy, turned)
    return dx, products.grouped_kernel_gradient(plan, x, kernel, dy)


def _before(plan: Plan) -> Pair:
    return plan.padding[0][0], plan.padding[1][0]


def _called(sizes: Pair, geometry: tuple[Pair, ...], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Calls the function; a mapped axis of vmap joins the batch, or the groups if kernels are mapped."""

    @jax.custom_batching.custom_vmap
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return native.call('convolve', (x.shape[0], *sizes, kernel.shape[3]), geometry, x, kernel)

    @run.def_vmap
    def _(size: int, mapped: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        if not mapped[1]:
            y = _called(sizes, geometry, x.reshape(-1, *x.shape[2:]), kernel)
            return y.reshape(size, -1, *y.shape[1:]), True
        x = x if mapped[0] else jnp.broadcast_to(x, (size, *x.shape))
        join = lambda array: jnp.moveaxis(array, 0, 3).reshape(*array.shape[1:4], -1)
        y = _called(sizes, geometry, join(x), join(kernel))
        return jnp.moveaxis(y.reshape(*y.shape[:3], size, -1), 3, 0), True

    return run(x, kernel)
