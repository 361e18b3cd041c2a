"""Long convolution: the public function, its checks and its implementations.

Kernels as long as the sequence: Romero et al., CKConv, 2021, https://arxiv.org/abs/2102.02611; Fu
et al., Simple Hardware-Efficient Long Convolutions for Sequence Modeling, 2023,
https://arxiv.org/abs/2302.06646. By matrix products: Fu et al., FlashFFTConv, 2023,
https://arxiv.org/abs/2311.05908 (code: HazyResearch/flash-fft-conv, Apache-2.0; facts only). No
code was taken from others.

B batch, T tokens, D channels, K taps:

    x_t = pre_gate_t u_t
    c_t = sum_{j = 0..K-1} kernel_j x_{t-j} + sum_{j = 0..} backward_kernel_j x_{t+1+j}
    y_t = post_gate_t (c_t + skip x_t)

Outside of its length the sequence is zero, or periodic if `circular`. As in the published layers, the backward kernel
starts one token ahead. Where we differ: channels are last (B T D, not B D T).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import dispatch, gates
from longview.kernels.long_conv import pallas_tpu, reference, sharded, xla

Tokens = Float[Array, 'b t d']
Kernel = Float[Array, 'k d'] | Float[Array, 'b k d']
Backward = Float[Array, 'l d'] | Float[Array, 'b l d']

_SHARES = (1.0, 0.5, 0.25, 0.125)


@partial(jax.jit, static_argnames=('circular', 'frequencies', 'implementation'))
def long_conv(
    u: Tokens,
    kernel: Kernel,
    *,
    skip: Float[Array, ' d'] | None = None,
    pre_gate: Tokens | None = None,
    post_gate: Tokens | None = None,
    backward_kernel: Backward | None = None,
    circular: bool = False,
    frequencies: float = 1.0,
    implementation: str | None = None,
) -> Tokens:
    """Convolves each channel of a sequence with its own kernel.

    Args:
      u: inputs.
      kernel: taps from lag 0 on, (K, D), or (B, K, D) for one kernel per sequence. K may be any number; taps beyond the
        length of the sequence have no effect.
      skip: weight of the sequence itself, one number per channel; none by default.
      pre_gate, post_gate: factors before and after the convolution; none by default.
      backward_kernel: taps from lag -1 on, into the future; none by default.
      circular: whether the sequence is periodic; then no kernel may be longer than it.
      frequencies: share of the lowest frequencies of the kernel that are kept: 1, or 1/2, 1/4 or 1/8, for which matrix
        forms skip the blocks of the other frequencies. The frequencies are those of a transform whose length is the
        least power of two, at least 512, that is no shorter than sequence and taps together. The low-pass kernel is no
        longer zero before its first tap.
      implementation: 'xla', 'fft' or 'monarch' (from which 'xla' chooses by platform), 'pallas_tpu', 'reference', or
        None for the default of the platform.

    Returns:
      The outputs in the dtype of `u`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(u, {'kernel': kernel, 'backward_kernel': backward_kernel}, circular)
    if frequencies not in _SHARES:
        raise ValueError(f'frequencies is {frequencies}; wanted one of {_SHARES}.')
    gates.check(u, {'pre_gate': pre_gate, 'post_gate': post_gate}, skip)
    taps, before = _joined(u.shape[1], kernel, backward_kernel, circular)
    static = {'before': before, 'keep': frequencies}
    plain = lambda core, **how: dispatch.Form(gates.gated(partial(core, **static, **how)))
    kernels = partial(pallas_tpu.convolve, **static)
    forms = {
        'pallas_tpu': dispatch.Form(kernels, 'tpu', pallas_tpu.missing),
        'xla': plain(xla.convolve),
        'fft': plain(xla.convolve, way='fft'),
        'monarch': plain(xla.convolve, way='monarch'),
        'reference': plain(reference.convolve),
    }
    rows, width = (dispatch.BATCH, dispatch.TIME, dispatch.WIDTH), dispatch.WIDTH
    shared = rows if taps.ndim == 3 else (dispatch.TIME, width)
    split = dispatch.Split((rows, shared, rows, rows, (width,)), rows, _over_time, _whole(u, taps, before, frequencies))
    arrays = (u, taps, pre_gate, post_gate, skip)
    return dispatch.run('long_conv', implementation, forms, *arrays, split=split)


def _over_time(axis: str, u: Tokens, taps: Kernel, *gated: jax.Array | None) -> Tokens:
    how = dict(zip(('pre_gate', 'post_gate', 'skip'), gated))
    return sharded.sequence_parallel_long_conv(u, taps, axis_name=axis, **how)


def _whole(u: jax.Array, taps: jax.Array, before: int, frequencies: float) -> str | None:
    """Returns why the tokens cannot be split over devices, in words, or None if they can."""
    if before:
        return 'has taps into the future'
    if taps.ndim == 3:
        return 'has a kernel for each sequence'
    if len(taps) != u.shape[1]:
        return f'has {len(taps)} taps for {u.shape[1]} tokens'
    return None if frequencies == 1 else f'keeps {frequencies} of the frequencies'


def _joined(tokens: int, kernel: jax.Array, backward: jax.Array | None, circular: bool) -> tuple[jax.Array, int]:
    """Returns one kernel, which starts with the furthest lag into the future, and the number of its future taps."""
    kernel = kernel[..., :tokens, :]
    if circular:
        around = [(0, 0)] * (kernel.ndim - 2) + [(0, tokens - kernel.shape[-2]), (0, 0)]
        kernel = jnp.pad(kernel, around)
        if backward is not None:
            # In a periodic sequence lag -1 - j is lag T - 1 - j.
            taps = jnp.flip(backward, -2)
            kernel = kernel.at[..., tokens - taps.shape[-2] :, :].add(taps)
        # A circular convolution is a linear one with a periodic kernel, whose taps also reach into the future.
        return jnp.concatenate([kernel[..., 1:, :], kernel], axis=-2), tokens - 1
    if backward is None:
        return kernel, 0
    backward = backward[..., : tokens - 1, :]
    return jnp.concatenate([jnp.flip(backward, -2), kernel], axis=-2), backward.shape[-2]


def _check(u: jax.Array, kernels: dict[str, jax.Array | None], circular: bool) -> None:
    """Raises ValueError for kernels that do not fit `u` or each other, and for integers."""
    dispatch.check_floats(u=u, **kernels)
    if u.ndim != 3 or not all(u.shape[1:]):
        raise ValueError(f'u has shape {u.shape}; wanted (batch, tokens, channels), none 0.')
    batch, tokens, channels = u.shape
    kinds = {x.ndim for x in kernels.values() if x is not None}
    for name, x in kernels.items():
        if x is None:
            continue
        fits = x.ndim in (2, 3) and x.shape[-1] == channels and x.shape[:-2] in ((), (batch,))
        if not fits or not x.shape[-2] or len(kinds) > 1:
            raise ValueError(
                f'{name} has shape {x.shape}; wanted (taps, {channels}), or ({batch}, taps, '
                f'{channels}) for a kernel a sequence, and both kernels of one kind.'
            )
        if circular and x.shape[-2] > tokens:
            raise ValueError(
                f'{name} has {x.shape[-2]} taps; a circular convolution of {tokens} tokens wants '
                'no more of them: cut the kernel or add up what comes around.'
            )
