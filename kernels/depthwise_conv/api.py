"""Depthwise 2-D convolution: the public functions, their checks and their implementations.

The spatial half of a separable convolution (Chollet, Xception, 2016,
https://arxiv.org/abs/1610.02357); with large kernels in ConvNeXt (Liu et al., 2022,
https://arxiv.org/abs/2201.03545), RepLKNet (Ding et al., 2022,
https://arxiv.org/abs/2203.06717) and UniRepLKNet; split into a small square and two bands in
InceptionNeXt (Yu et al., 2023,
https://arxiv.org/abs/2303.16900). No code was taken from others.

B batch, H W image, C channels, kernels (I, J, 1, D) as XLA's and Flax's, D a multiple of C; s
strides, d dilations, zeros outside of the image:

    y[p, q, n] = sum_ij kernel[i, j, 0, n] x[s p + d i - before, s q + d j - before, n // (D / C)]

It is a correlation, as usual in convolutional networks. The ops are jitted so that they are traced once for equal
layers of a network.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from longview.kernels import dispatch, native
from longview.kernels.depthwise_conv import native_cpu, pallas_tpu, reference, xla
from longview.kernels.depthwise_conv.plan import Plan

Images = Float[Array, 'b h w c']
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]

# Most taps for which the vector unit of a TPU is fast enough; larger kernels use XLA's convolution (docs/kernels.md).
_FEW = 49

_IMAGES = (dispatch.BATCH, None, None, dispatch.WIDTH)
_KERNELS = (None, None, None, dispatch.WIDTH)
_WHOLE = (dispatch.BATCH, None, None, None)


@partial(jax.jit, static_argnames=('stride', 'dilation', 'padding', 'implementation'))
def depthwise_conv(
    x: Images,
    kernel: Float[Array, 'i j 1 d'],
    *,
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    padding: Padding = 'SAME',
    implementation: str | None = None,
) -> Float[Array, 'b p q d']:
    """Correlates each channel of images with its own kernel.

    Args:
      x: images.
      kernel: kernels of any height and width, also bands (1 x k or k x 1); D / C kernels per channel.
      stride: distance between outputs in pixels, along height and width.
      dilation: distance between taps in pixels.
      padding: 'SAME' (H / stride outputs, rounded up; an odd pixel is padded at the end), 'VALID', a number of zeros on
        every side, or ((top, bottom), (left, right)).
      implementation: 'xla'; 'shift', 'spectral' or 'conv', from which 'xla' chooses by platform and size; 'reference';
        'pallas_tpu'; 'native_cpu' (kernels/native.py); or None for the default of the platform.

    Returns:
      The outputs in the dtype of `x`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    dispatch.check_floats(x=x, kernel=kernel)
    _check_image(x)
    _check_kernel('kernel', kernel, x.shape[3])
    plan = _plan(x, kernel, _pair('stride', stride), _pair('dilation', dilation), padding)
    if kernel.shape[3] > x.shape[3]:
        x = jnp.repeat(x, kernel.shape[3] // x.shape[3], axis=3)
    forms = {
        'xla': dispatch.Form(partial(xla.convolve, plan)),
        **{name: dispatch.Form(partial(xla.convolve, plan, form=name)) for name in xla.FORMS},
        'reference': dispatch.Form(partial(reference.convolve, plan)),
        'pallas_tpu': dispatch.Form(
            partial(pallas_tpu.convolve, plan),
            'tpu',
            partial(pallas_tpu.missing, plan),
            proven=kernel.shape[0] * kernel.shape[1] <= _FEW,
        ),
        'native_cpu': dispatch.Form(
            partial(native_cpu.convolve, plan),
            'cpu',
            partial(native_cpu.missing, plan),
            proven=native.enabled() and min(kernel.shape[:2]) > 1,  # of a band the shifts are faster
        ),
    }
    split = dispatch.Split((_IMAGES, _KERNELS), _IMAGES)
    return dispatch.run('depthwise_conv', implementation, forms, x, kernel, split=split)


@partial(jax.jit, static_argnames=('implementation',))
def inception_conv(
    x: Images,
    square: Float[Array, 'i i 1 n'],
    row: Float[Array, '1 j 1 n'],
    column: Float[Array, 'k 1 1 n'],
    *,
    bias: Float[Array, '3 n'] | None = None,
    implementation: str | None = None,
) -> Images:
    """InceptionNeXt's mixer: most channels pass unchanged, the last 3 N channels are convolved.

    The last 3 N channels are convolved with the square, the row and the column, in this order, with stride 1 and zero
    padding that keeps the size.

    Args:
      x: images of at least 3 N channels.
      square, row, column: kernels of odd sides.
      bias: biases of the square, the row and the column; none by default.
      implementation: 'xla', 'reference', 'pallas_tpu', 'native_cpu' (kernels/native.py), or None for the default of the
        platform.

    Returns:
      Images like `x`, and in its dtype.

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    kernels = {'square': square, 'row': row, 'column': column}
    dispatch.check_floats(x=x, bias=bias, **kernels)
    _check_image(x)
    for name, kernel in kernels.items():
        _check_kernel(name, kernel, square.shape[-1])
        if not kernel.shape[0] % 2 or not kernel.shape[1] % 2:
            raise ValueError(f'{name} is {kernel.shape[0]} x {kernel.shape[1]}; wanted odd sides.')
    if bias is not None and bias.shape != (3, square.shape[3]):
        raise ValueError(f'bias has shape {bias.shape}; wanted {(3, square.shape[3])}.')
    if x.shape[3] < 3 * square.shape[3]:
        raise ValueError(
            f'x has {x.shape[3]} channels; wanted at least {3 * square.shape[3]}, three times those of the kernels.'
        )
    forms = {
        'xla': dispatch.Form(partial(_inception, xla.convolve)),
        'reference': dispatch.Form(partial(_inception, reference.convolve)),
        'pallas_tpu': dispatch.Form(pallas_tpu.inception, 'tpu', pallas_tpu.inception_missing),
        'native_cpu': dispatch.Form(
            partial(_inception, native_cpu.convolve),
            'cpu',
            native_cpu.inception_missing,
            proven=False,  # two thirds of it are bands
        ),
    }
    split = dispatch.Split((_WHOLE, (None,)) + (_WHOLE[1:],) * 3, _WHOLE)
    arrays = (x, bias, *kernels.values())
    return dispatch.run('inception_conv', implementation, forms, *arrays, split=split)


def _inception(core: Callable[..., jax.Array], x: jax.Array, bias: jax.Array | None, *kernels: jax.Array) -> jax.Array:
    """Computes each part with an implementation `core` of the convolution."""
    part = kernels[0].shape[3]
    whole, *parts = jnp.split(x, [x.shape[3] - n * part for n in (3, 2, 1)], axis=3)
    plans = [_plan(x, kernel, (1, 1), (1, 1), 'SAME') for kernel in kernels]
    mixed = [core(plan, y, kernel) for plan, y, kernel in zip(plans, parts, kernels)]
    if bias is not None:
        mixed = [y + b.astype(y.dtype)[None, None, None] for y, b in zip(mixed, bias)]
    return jnp.concatenate([whole, *mixed], axis=3)


def _plan(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: Padding,
) -> Plan:
    plan = Plan(stride, dilation, ((0, 0), (0, 0)))
    spans = plan.spans(kernel)
    if isinstance(padding, str):
        if padding not in ('SAME', 'VALID'):
            raise ValueError(f"padding is {padding!r}; wanted 'SAME', 'VALID', a number, or one for each side.")
        padding = tuple(lax.padtype_to_pads(x.shape[1:3], spans, stride, padding))
    elif isinstance(padding, int):
        padding = ((padding, padding),) * 2
    if min(map(min, padding)) < 0:
        raise ValueError(f'padding is {padding}; wanted no number below 0: cut the image instead.')
    plan = plan._replace(padding=tuple(map(tuple, padding)))
    if min(plan.sizes(x, kernel)) < 1:
        raise ValueError(
            f'kernel spans {spans[0]} x {spans[1]} pixels; the image with its padding has only '
            f'{x.shape[1] + sum(padding[0])} x {x.shape[2] + sum(padding[1])}: pad more.'
        )
    return plan


def _pair(name: str, given: int | Sequence[int]) -> tuple[int, int]:
    pair = (given, given) if isinstance(given, int) else tuple(given)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f'{name} is {given}; wanted 1 or more, or two such numbers.')
    return pair


def _check_image(x: jax.Array) -> None:
    if x.ndim != 4 or not all(x.shape[1:]):
        raise ValueError(f'x has shape {x.shape}; wanted (batch, height, width, channels), none 0.')


def _check_kernel(name: str, kernel: jax.Array, channels: int) -> None:
    fits = kernel.ndim == 4 and kernel.size and kernel.shape[2] == 1
    if not fits or kernel.shape[3] % channels:
        raise ValueError(
            f'{name} has shape {kernel.shape}; wanted (height, width, 1, channels), none 0, with '
            f'{channels} channels or a multiple.'
        )
