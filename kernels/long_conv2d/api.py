"""Convolution of images with kernels as large as the image: the public functions and their checks.

Rao et al., Global Filter Networks for Image Classification, 2021,
https://arxiv.org/abs/2107.00645 (GFNet), also in HorNet, https://arxiv.org/abs/2207.14284. No code
was taken from others.

B batch, H rows, W columns, C channels:

    x = pre_gate u        c[h, w] = sum_ij kernel[i, j] x[h + oh - i, w + ow - j]
    y = post_gate (c + skip x)

where (oh, ow) is the `origin`. Outside of its borders the image is zero, or periodic if `circular`. A global filter is
a circular convolution whose kernel is given, and learned, as its spectrum.
"""

from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array, Float

from longview.kernels import dispatch, gates
from longview.kernels.long_conv2d import pallas_tpu, reference, xla
from longview.kernels.long_conv2d.transforms import Grid

Image = Float[Array, 'b h w c']
Kernel = Float[Array, 'i j c'] | Float[Array, 'b i j c']

_IMAGE, _WIDTH = (dispatch.BATCH, None, None, dispatch.WIDTH), dispatch.WIDTH


@partial(jax.jit, static_argnames=('origin', 'circular', 'implementation'))
def long_conv2d(
    u: Image,
    kernel: Kernel,
    *,
    skip: Float[Array, ' c'] | None = None,
    pre_gate: Image | None = None,
    post_gate: Image | None = None,
    origin: tuple[int, int] = (0, 0),
    circular: bool = False,
    implementation: str | None = None,
) -> Image:
    """Convolves each channel of an image with its own kernel.

    Args:
      u: images.
      kernel: taps (I, J, C), or (B, I, J, C) for one kernel per image, of any size.
      skip: weight of the image itself, one number per channel; none by default.
      pre_gate, post_gate: factors before and after the convolution; none by default.
      origin: index of the tap with lag 0: (I // 2, J // 2) for a centered kernel.
      circular: whether the image is periodic; then no kernel may be larger than it.
      implementation: 'xla', 'pallas_tpu', 'reference', or None for the default of the platform.

    Returns:
      The outputs in the dtype of `u`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(u, kernel, origin, circular)
    gates.check(u, {'pre_gate': pre_gate, 'post_gate': post_gate}, skip)
    size = u.shape[1:3]
    reach = zip(size, kernel.shape[-3:-1], origin)
    period = size if circular else tuple(n + max(k - 1 - o, o) for n, k, o in reach)
    grid = Grid(size, period, origin)
    missing = partial(pallas_tpu.missing, grid)
    by_kernels = gates.gated(partial(pallas_tpu.convolve, grid=grid))
    forms = {
        'pallas_tpu': dispatch.Form(by_kernels, 'tpu', missing),
        'xla': dispatch.Form(gates.gated(partial(xla.convolve, grid=grid))),
        'reference': dispatch.Form(gates.gated(partial(reference.convolve, grid=grid, circular=circular))),
    }
    taps = _IMAGE if kernel.ndim == 4 else _IMAGE[1:]
    split = dispatch.Split((_IMAGE, taps, _IMAGE, _IMAGE, (_WIDTH,)), _IMAGE)
    arrays = (u, kernel, pre_gate, post_gate, skip)
    return dispatch.run('long_conv2d', implementation, forms, *arrays, split=split)


@partial(jax.jit, static_argnames=('implementation',))
def global_filter(u: Image, spectrum: Float[Array, 'q 2 k c'], *, implementation: str | None = None) -> Image:
    """`irfft2(rfft2(u) * spectrum)` over rows and columns.

    Args:
      u: images.
      spectrum: one complex number per frequency and channel, (W // 2 + 1 columns, real and imaginary part, H rows,
        channels).
      implementation: as in `long_conv2d`.

    Returns:
      The outputs in the dtype of `u`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    dispatch.check_floats(u=u, spectrum=spectrum)
    _check_image(u)
    size, channels = u.shape[1:3], u.shape[3]
    wanted = (size[1] // 2 + 1, 2, size[0], channels)
    if spectrum.shape != wanted:
        raise ValueError(f'spectrum has shape {spectrum.shape}; wanted {wanted} for {u.shape}.')
    grid = Grid(size, size)
    missing = partial(pallas_tpu.missing, grid)
    by_kernels = _typed(partial(pallas_tpu.filtered, grid=grid))
    forms = {
        'pallas_tpu': dispatch.Form(by_kernels, 'tpu', missing),
        'xla': dispatch.Form(_typed(partial(xla.filtered, grid=grid))),
        'reference': dispatch.Form(_typed(partial(reference.filtered, grid=grid))),
    }
    split = dispatch.Split((_IMAGE, (None, None, None, _WIDTH)), _IMAGE)
    return dispatch.run('global_filter', implementation, forms, u, spectrum, split=split)


def _typed(core: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns `core` with outputs of the type of its first input."""
    return lambda u, *others: core(u, *others).astype(u.dtype)


def _check_image(u: jax.Array) -> None:
    if u.ndim != 4 or not all(u.shape[1:]):
        raise ValueError(f'u has shape {u.shape}; wanted (batch, rows, columns, channels), none 0.')


def _check(u: jax.Array, kernel: jax.Array, origin: tuple[int, int], circular: bool) -> None:
    """Raises ValueError for a kernel that does not fit `u`, and for an origin outside of the kernel."""
    dispatch.check_floats(u=u, kernel=kernel)
    _check_image(u)
    fits = kernel.ndim in (3, 4) and kernel.shape[-1] == u.shape[-1] and all(kernel.shape[-3:])
    if not fits or kernel.shape[:-3] not in ((), u.shape[:1]):
        raise ValueError(
            f'kernel has shape {kernel.shape}; wanted (rows, columns, {u.shape[-1]}), or '
            f'({u.shape[0]}, rows, columns, {u.shape[-1]}) for a kernel an image.'
        )
    sides = kernel.shape[-3:-1]
    if not all(0 <= o < side for o, side in zip(origin, sides)):
        raise ValueError(f'origin is {origin}; wanted a tap of the kernel, which is {sides}.')
    if circular and any(side > n for side, n in zip(sides, u.shape[1:3])):
        raise ValueError(
            f'kernel is {sides}; a circular convolution of {u.shape[1:3]} pixels wants no more: '
            'cut the kernel or add up what comes around.'
        )
