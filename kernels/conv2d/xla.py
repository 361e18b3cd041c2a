"""Convolution in plain XLA, with gradients, in the form that suits the platform.

On other platforms than CPUs it is XLA's convolution and its derivatives. On a CPU a 1 x 1 kernel is a matrix product,
and so is the gradient of a larger kernel on a large image, and of one whose channels are in groups (products.py). Only
the inputs are kept for the gradients, which may be differentiated again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import derivatives, dispatch
from longview.kernels.conv2d import products
from longview.kernels.conv2d.plan import Plan

# From this many output pixels and input channels on, and up to this many taps, the gradient of the kernel is faster tap
# by tap on a CPU (measured, see docs/kernels.md). Otherwise a program with one product per tap costs more than it
# saves.
_PIXELS, _CHANNELS, _TAPS = 400, 32, 9


def convolve(
    plan: Plan,
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j d n'],
    form: str | None = None,
) -> Float[Array, 'b p q n']:
    """See `reference.convolve`. form: 'products' or 'conv', or None to choose by platform and size."""
    pays = form == 'products' or (form is None and _pays(plan, x, kernel))
    return _convolve(plan, form, x, kernel) if pays else conv(plan, x, kernel)


def conv(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's convolution."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        plan.stride,
        plan.padding,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=plan.groups(x, kernel),
    )


def gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cotangents of images and kernel, for forms that have none of their own."""
    return jax.vjp(partial(convolve, plan), x, kernel)[1](dy)


def _pays(plan: Plan, x: jax.Array, kernel: jax.Array) -> bool:
    rows, columns = plan.sizes(x, kernel)
    if plan.is_matrix(kernel) or plan.groups(x, kernel) > 1:
        return True
    large = rows * columns >= _PIXELS and x.shape[3] >= _CHANNELS
    # XLA's partitioner would gather the arrays that a loop over the batch reads.
    return large and kernel.shape[0] * kernel.shape[1] <= _TAPS and not dispatch.sharded(x)


@derivatives.own_derivative('conv2d', 2)
def _convolve(plan: Plan, form: str | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    default = partial(conv, plan)
    if plan.groups(x, kernel) > 1:
        ours = products.per_channel if _is_per_channel(x, kernel) else None
    else:
        ours = products.matrix if plan.is_matrix(kernel) else None
    return default(x, kernel) if ours is None else _on_cpus(form, partial(ours, plan), default, x, kernel)


def _convolve_forward(
    plan: Plan, form: str | None, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(plan, form, x, kernel), (x, kernel)


def _convolve_backward(plan: Plan, form: str | None, kept: tuple, dy: jax.Array) -> tuple:
    xla_s = lambda x, kernel, dy: jax.vjp(partial(conv, plan), x, kernel)[1](dy)
    if plan.groups(*kept) > 1:
        ours = _grouped_gradients
    else:
        ours = products.matrix_gradients if plan.is_matrix(kept[1]) else _area_gradients
    return _on_cpus(form, partial(ours, plan), xla_s, *kept, dy)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _area_gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    (dx,) = jax.vjp(lambda x: conv(plan, x, kernel), x)[1](dy)
    return dx, products.kernel_gradient(plan, x, kernel, dy)


def _grouped_gradients(plan: Plan, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    output = partial(products.per_channel if _is_per_channel(x, kernel) else conv, plan)
    (dx,) = jax.vjp(lambda x: output(x, kernel), x)[1](dy)
    return dx, products.grouped_kernel_gradient(plan, x, kernel, dy)


def _is_per_channel(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether each channel has one kernel and one output."""
    return kernel.shape[2] == 1 and kernel.shape[3] == x.shape[3]


def _on_cpus(form: str | None, ours: Callable[..., Any], default: Callable[..., Any], *arrays: jax.Array) -> Any:
    return ours(*arrays) if form else lax.platform_dependent(*arrays, cpu=ours, default=default)
