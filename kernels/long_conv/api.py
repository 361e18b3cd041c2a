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

The sequence is zero outside, or repeats itself if `circular`. As in the published layers, the
backward kernel starts one token ahead. Where we differ: channels are last (B T D, not B D T).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import dispatch, gates
from longview.kernels.long_conv import pallas_tpu, reference, xla

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
      kernel: taps from lag 0 on, (K, D), or (B, K, D), one for each sequence. K may be anything;
        taps that reach behind the sequence do nothing.
      skip: weight of the sequence itself, a number a channel; none by default.
      pre_gate, post_gate: factors before and after the convolution; none by default.
      backward_kernel: taps from lag -1 on, into the future; none by default.
      circular: the sequence repeats itself, and no kernel is longer than it.
      frequencies: the share of the kernel's frequencies that count, the lowest: 1, or 1/2, 1/4 or
        1/8, where matrix forms leave out the blocks of the others. They are those of the transform,
        whose length is the least power of two, from 512 on, that is no shorter than sequence and
        taps together. What is left of the kernel is no longer zero ahead of its first tap.
      implementation: 'xla', 'fft' or 'monarch' (the two ways that 'xla' chooses from by platform),
        'pallas_tpu', 'reference', or None for what suits the platform.

    Returns:
      The outputs in the dtype of `u`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, or an unknown implementation.
      NotImplementedError: the implementation named cannot serve.
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
    rows, width = (dispatch.BATCH, None, dispatch.WIDTH), dispatch.WIDTH
    shared = rows if taps.ndim == 3 else (None, width)
    split = dispatch.Split((rows, shared, rows, rows, (width,)), rows)
    arrays = (u, taps, pre_gate, post_gate, skip)
    return dispatch.run('long_conv', implementation, forms, *arrays, split=split)


def _joined(tokens: int, kernel: jax.Array, backward: jax.Array | None, circular: bool) -> tuple[jax.Array, int]:
    """One kernel, from the furthest lag into the future on, and how many of its taps are there."""
    kernel = kernel[..., :tokens, :]
    if circular:
        around = [(0, 0)] * (kernel.ndim - 2) + [(0, tokens - kernel.shape[-2]), (0, 0)]
        kernel = jnp.pad(kernel, around)
        if backward is not None:
            # Lag -1 - j is lag T - 1 - j of a sequence that repeats itself.
            taps = jnp.flip(backward, -2)
            kernel = kernel.at[..., tokens - taps.shape[-2] :, :].add(taps)
        # What comes around is what taps ahead of a sequence that does not would meet.
        return jnp.concatenate([kernel[..., 1:, :], kernel], axis=-2), tokens - 1
    if backward is None:
        return kernel, 0
    backward = backward[..., : tokens - 1, :]
    return jnp.concatenate([jnp.flip(backward, -2), kernel], axis=-2), backward.shape[-2]


def _check(u: jax.Array, kernels: dict[str, jax.Array | None], circular: bool) -> None:
    """Refuses in words kernels that do not go with `u` and with each other."""
    if u.ndim != 3 or not u.size:
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
