"""Long convolution by way of spectra: plain XLA, any length, with gradients.

Spectra are not kept for the gradients but made again: what is kept is the inputs. The transform is
large enough for nothing to come around; what a circular convolution brings around is added by hand.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from kernels import dispatch
from kernels.long_conv.transforms import FFT, Monarch, fft_size, monarch_sides

Transform = FFT | Monarch


class Plan(NamedTuple):
    """What is static. before: how many taps reach forwards; order: of the Monarch, or by size."""

    before: int
    circular: bool
    order: int | None
    monarch: bool | None  # None: as suits the platform


def convolve(
    x: Float[Array, 'b t d'],
    kernel: Float[Array, 'k d'] | Float[Array, 'b k d'],
    before: int,
    circular: bool,
    order: int | None = None,
    monarch: bool | None = None,
) -> Float[Array, 'b t d']:
    """See `reference.convolve`; in float32, in float64 where an input is."""
    plan = Plan(before, circular, order, monarch)
    shared = kernel.ndim == 2
    return _convolve(plan, shared, x, kernel[None] if shared else kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(plan: Plan, shared: bool, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _where_it_runs(_forward, plan, shared, x, kernel)


def _convolve_forward(plan: Plan, shared: bool, *inputs: jax.Array) -> tuple[jax.Array, tuple]:
    return _convolve(plan, shared, *inputs), inputs


def _convolve_backward(plan: Plan, shared: bool, inputs: tuple, dy: jax.Array) -> tuple:
    pullback = partial(_where_it_runs, _backward, plan, shared)
    return dispatch.first_order('long_conv', pullback)(*inputs, dy)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _where_it_runs(walk, plan: Plan, shared: bool, x: jax.Array, kernel: jax.Array, *more):
    size = x.shape[1] + max(kernel.shape[1] - plan.before - 1, plan.before)
    wide = jnp.result_type(x.dtype, kernel.dtype, jnp.float32)
    narrow = x.dtype == kernel.dtype == jnp.bfloat16
    by_fft = partial(walk, plan, FFT(fft_size(size)), False, shared)
    by_matrices = by_fft
    if wide == jnp.float32:
        # Sequences with the same kernel go in pairs, as one complex sequence.
        pairs = shared and x.shape[0] % 2 == 0
        operands = jnp.bfloat16 if narrow else jnp.float32
        transform = Monarch(monarch_sides(size, plan.order), operands)
        by_matrices = partial(walk, plan, transform, pairs, shared)
    if plan.monarch is not None:
        return (by_matrices if plan.monarch else by_fft)(x, kernel, *more)
    return lax.platform_dependent(x, kernel, *more, tpu=by_matrices, default=by_fft)


def _forward(
    plan: Plan, transform: Transform, pairs: bool, shared: bool, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """The convolution in the wide type."""
    tokens = x.shape[1]
    spectrum = transform.product(
        transform.forward(_wide(x), pairs), transform.forward(_wide(kernel), False)
    )
    if not plan.circular:
        return transform.backward(spectrum, plan.before + tokens, pairs)[:, plan.before :]
    whole = transform.backward(spectrum, tokens + kernel.shape[1] - 1, pairs)
    return whole[:, :tokens].at[:, : kernel.shape[1] - 1].add(whole[:, tokens:])


def _backward(
    plan: Plan,
    transform: Transform,
    pairs: bool,
    shared: bool,
    x: jax.Array,
    kernel: jax.Array,
    dy: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The cotangents of the sequence and the kernel."""
    tokens, taps = x.shape[1], kernel.shape[1]
    dy = _wide(dy)
    if plan.circular:
        dy = jnp.concatenate([dy, dy[:, : taps - 1]], axis=1)
    else:
        dy = jnp.pad(dy, ((0, 0), (plan.before, 0), (0, 0)))
    found = transform.forward(dy, pairs)
    with_kernel = transform.correlation(found, transform.forward(_wide(kernel), False))
    dx = transform.backward(with_kernel, tokens, pairs)
    with_x = transform.correlation(found, transform.forward(_wide(x), pairs))
    if shared:
        # Of a pair the real part is the sum over both.
        with_x = transform.over_batch(with_x)
    dkernel = transform.backward(with_x, taps, False)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
