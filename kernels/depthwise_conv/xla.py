"""Depthwise convolution in plain XLA, with gradients, in the form that suits the platform.

On a CPU XLA's grouped convolution is tens of times slower than necessary, and the gradient of its kernel even more so;
there the op is a sum of shifted images (shift.py) or, for large kernels, a product of spectra (spectral.py). On other
platforms it is XLA's convolution: on a TPU shifts would write an array per tap to HBM. Only the inputs are kept for the
gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import derivatives
from longview.kernels.depthwise_conv import shift, spectral
from longview.kernels.depthwise_conv.alone import on_each_device
from longview.kernels.depthwise_conv.plan import Plan

# Up to this many taps shifts are faster on a CPU (measured, see docs/kernels.md).
_SHIFTS = 81

_CPU = {'shift': shift, 'spectral': spectral}
FORMS = (*_CPU, 'conv')


def convolve(
    plan: Plan,
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j 1 c'],
    form: str | None = None,
) -> Float[Array, 'b p q c']:
    """See `reference.convolve`. form: one of `FORMS`, or None for what suits the platform."""
    product = partial(_chosen, plan, form, 'convolve', partial(_conv, plan))
    by_conv = lambda x, kernel, dy: jax.vjp(partial(_conv, plan), x, kernel)[1](dy)
    cotangents = partial(_chosen, plan, form, 'gradients', by_conv)
    return derivatives.own_product('depthwise_conv', product, cotangents)(x, kernel)


def _chosen(plan: Plan, form: str | None, walk: str, conv: Callable[..., Any], *arrays: jax.Array) -> Any:
    if form == 'conv':
        return conv(*arrays)
    by_shifts = arrays[1].shape[0] * arrays[1].shape[1] <= _SHIFTS
    module = _CPU[form or ('shift' if by_shifts else 'spectral')]
    alone = partial(on_each_device, partial(getattr(module, walk), plan))
    return alone(*arrays) if form else lax.platform_dependent(*arrays, cpu=alone, default=conv)


def _conv(plan: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    wide = jnp.result_type(x, kernel)
    y = lax.conv_general_dilated(
        x.astype(wide),
        kernel.astype(wide),
        plan.stride,
        plan.padding,
        rhs_dilation=plan.dilation,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[3],
    )
    return y.astype(x.dtype)
