"""Convolution of images: the public function, its checks and its implementations.

The layer of LeCun et al., 1989 (https://doi.org/10.1162/neco.1989.1.4.541) as XLA defines it. No
code was taken from others. For one kernel per channel see `kernels.depthwise_conv`.

B batch, H W image, C channels, kernels (I, J, D, N) as XLA's and Flax's, D dividing C: the channels are C / D groups
with N D / C outputs each; s strides, zeros outside of the image:

    y[p, q, n] = sum_ijd kernel[i, j, d, n] x[s p + i - before, s q + j - before, g(n) D + d]

It is a correlation, as usual in convolutional networks. The op is jitted so that it is traced once for equal layers of
a network.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import dispatch, native
from longview.kernels.conv2d import im2win, native_cpu, pallas_tpu, reference, xla
from longview.kernels.conv2d.plan import Plan

Padding = str | int | tuple[tuple[int, int], tuple[int, int]]

_IMAGES = (dispatch.BATCH, None, None, None)


@partial(jax.jit, static_argnames=('stride', 'padding', 'implementation'))
def conv2d(
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'i j d n'],
    *,
    stride: int | tuple[int, int] = 1,
    padding: Padding = 0,
    implementation: str | None = None,
) -> Float[Array, 'b p q n']:
    """Correlates images with a kernel.

    Args:
      x: images.
      kernel: a kernel of any height and width; the number of groups is the channels of `x` over those of the kernel.
      stride: distance between outputs in pixels, along height and width.
      padding: 'SAME' (H / stride outputs, rounded up; an odd pixel is padded at the end), 'VALID', a number of zeros on
        every side, or ((top, bottom), (left, right)).
      implementation: 'xla'; 'products' or 'conv', from which 'xla' chooses by platform and size; 'im2win', on windows
        of rows that are laid down, and 'im2win_fused', a TPU kernel that keeps them in VMEM (one group); 'reference';
        'native_cpu' (channels in groups, kernels/native.py); or None for the default of the platform.

    Returns:
      The outputs in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(x, kernel)
    plan = _plan(x, kernel, _pair(stride), padding)
    forms = {
        'xla': dispatch.Form(partial(xla.convolve, plan)),
        'products': dispatch.Form(partial(xla.convolve, plan, form='products')),
        'conv': dispatch.Form(partial(xla.conv, plan)),
        'im2win': dispatch.Form(partial(im2win.convolve, plan)),
        'im2win_fused': dispatch.Form(
            partial(pallas_tpu.convolve, plan),
            'tpu',
            partial(pallas_tpu.missing, plan),
            proven=False,  # not timed on a TPU
        ),
        'reference': dispatch.Form(partial(reference.convolve, plan)),
        'native_cpu': dispatch.Form(
            partial(native_cpu.convolve, plan), 'cpu', partial(native_cpu.missing, plan), proven=native.enabled()
        ),
    }
    split = dispatch.Split((_IMAGES, (None,) * 4), _IMAGES)
    # Of two types the wider one is computed with: XLA's convolution has one type, and the kernel may not be cut.
    wide = jnp.result_type(x, kernel)
    y = dispatch.run('conv2d', implementation, forms, x.astype(wide), kernel.astype(wide), split=split)
    return y.astype(x.dtype)


def _plan(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], padding: Padding) -> Plan:
    if isinstance(padding, str):
        if padding not in ('SAME', 'VALID'):
            raise ValueError(f"padding is {padding!r}; wanted 'SAME', 'VALID', a number, or one for each side.")
        padding = tuple(lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], stride, padding))
    elif isinstance(padding, int):
        padding = ((padding, padding),) * 2
    if min(map(min, padding)) < 0:
        raise ValueError(f'padding is {padding}; wanted no number below 0: cut the image instead.')
    plan = Plan(stride, tuple(map(tuple, padding)))
    if min(plan.sizes(x, kernel)) < 1:
        raise ValueError(
            f'kernel is {kernel.shape[0]} x {kernel.shape[1]} pixels; the image with its padding '
            f'has only {x.shape[1] + sum(padding[0])} x {x.shape[2] + sum(padding[1])}: pad more.'
        )
    return plan


def _pair(stride: int | Sequence[int]) -> tuple[int, int]:
    pair = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f'stride is {stride}; wanted 1 or more, or two such numbers.')
    return pair


def _check(x: jax.Array, kernel: jax.Array) -> None:
    dispatch.check_floats(x=x, kernel=kernel)
    if x.ndim != 4 or not all(x.shape[1:]):
        raise ValueError(f'x has shape {x.shape}; wanted (batch, height, width, channels), none 0.')
    if kernel.ndim != 4 or not kernel.size or x.shape[3] % kernel.shape[2]:
        raise ValueError(
            f'kernel has shape {kernel.shape}; wanted (height, width, inputs, outputs), none 0, '
            f'with inputs that divide the {x.shape[3]} channels of the images.'
        )
    groups = x.shape[3] // kernel.shape[2]
    if kernel.shape[3] % groups:
        raise ValueError(f'kernel has {kernel.shape[3]} outputs for {groups} groups; wanted a multiple.')
