"""The short causal convolution: the public functions, their checks and their implementations.

The depthwise convolution of a few taps before Mamba's scan (Gu & Dao, 2023,
https://arxiv.org/abs/2312.00752), in Hyena (Poli et al., 2023, https://arxiv.org/abs/2302.10866)
and in the published layer of gated linear attention. Its definition is Dao-AILab/causal-conv1d's
(BSD-3-Clause; facts only, no code was taken). Where we differ: channels are last (B T D, not B D T), the kernel is
(K, D), and an activation is left to the caller, where XLA fuses it with the sum.

B batch, T tokens, D channels, K taps, the last of which is for the token itself:

    y_t = bias + sum_{j = 0..K-1} kernel_j x_{t - (K-1) + j}

There is no Pallas kernel: XLA's single fusion moves each array once, and a kernel could not do better. The ops are
jitted so that they are traced once for equal layers of a network.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from longview.kernels import dispatch
from longview.kernels.causal_conv1d import reference, sharded, xla

Tokens = Float[Array, 'b t d']
Kernel = Float[Array, 'k d']
State = Float[Array, 'b s d']


@partial(jax.jit, static_argnames=('implementation',))
def causal_conv1d(
    x: Tokens,
    kernel: Kernel,
    *,
    bias: Float[Array, ' d'] | None = None,
    initial_state: State | None = None,
    implementation: str | None = None,
) -> tuple[Tokens, State]:
    """Convolves each channel causally with its own K taps.

    Args:
      x: the sequence, of any length.
      kernel: taps, that of the oldest token first.
      bias: added to each token; none by default.
      initial_state: the K - 1 tokens before the first one; zeros by default.
      implementation: 'xla', 'reference', or None for the default of the platform.

    Returns:
      The outputs, and the last K - 1 tokens (including those before the sequence if it is shorter), both in the dtype
      of `x`; sums are float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
    """
    _check(('batch', 'tokens'), x, kernel, bias, initial_state)
    forms = {
        'xla': dispatch.Form(xla.convolve),
        'reference': dispatch.Form(reference.convolve),
    }

    def over_time(axis: str, x: Tokens, kernel: Kernel, bias: jax.Array | None, state: State | None) -> Tokens:
        how = {'bias': bias, 'initial_state': state, 'implementation': implementation}
        return sharded.sequence_parallel_causal_conv1d(x, kernel, axis_name=axis, **how)[0]

    rows, width = (dispatch.BATCH, dispatch.TIME, dispatch.WIDTH), dispatch.WIDTH
    state = (dispatch.BATCH, None, width)
    split = dispatch.Split((rows, (None, width), (width,), state), rows, over_time)
    arrays = (x, kernel, bias, initial_state)
    y = dispatch.run('causal_conv1d', implementation, forms, *arrays, split=split)
    return y, _last(x, initial_state, len(kernel) - 1)


@jax.jit
def causal_conv1d_step(
    x: Float[Array, 'b d'],
    kernel: Kernel,
    *,
    bias: Float[Array, ' d'] | None = None,
    state: State,
) -> tuple[Float[Array, 'b d'], State]:
    """One token of `causal_conv1d`, given the K - 1 before it; for decoding in constant memory.

    Returns the output in the dtype of `x`, and the last K - 1 tokens in the dtype of `state`.
    Raises ValueError for shapes that do not fit, and for integers.
    """
    _check(('batch',), x, kernel, bias, state)
    return reference.step(x, kernel, bias, state)


def _last(x: jax.Array, before: jax.Array | None, count: int) -> jax.Array:
    """Returns the last `count` tokens, including those before the sequence if it is shorter."""
    tokens = x.shape[1]
    if tokens >= count:
        return x[:, tokens - count :]
    if before is None:
        return jnp.pad(x, ((0, 0), (count - tokens, 0), (0, 0)))
    return jnp.concatenate([before[:, tokens:].astype(x.dtype), x], axis=1)


def _check(
    axes: tuple[str, ...],
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    state: jax.Array | None,
) -> None:
    """Raises ValueError for shapes that do not fit, and for integers."""
    dispatch.check_floats(x=x, kernel=kernel, bias=bias, state=state)
    if x.ndim != len(axes) + 1 or not all(x.shape[1:]):
        raise ValueError(f'x has shape {x.shape}; wanted ({", ".join(axes)}, channels), none 0.')
    channels = x.shape[-1]
    if kernel.ndim != 2 or kernel.shape[1] != channels or not len(kernel):
        raise ValueError(f'kernel has shape {kernel.shape}; wanted (taps, {channels}), taps not 0.')
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f'bias has shape {bias.shape}; wanted ({channels},), a number a channel.')
    wanted = (x.shape[0], len(kernel) - 1, channels)
    if state is not None and state.shape != wanted:
        raise ValueError(f'The state has shape {state.shape}; wanted (batch, taps - 1, channels), here {wanted}.')
