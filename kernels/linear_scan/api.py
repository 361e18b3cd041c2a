"""The linear scan: the public functions, their checks and their implementations.

B batch, T tokens, D independent channels:

    h_t = a_t h_{t-1} + x_t

It is the core of diagonal state spaces with fixed decay (S4D, https://arxiv.org/abs/2206.11893; LRU,
https://arxiv.org/abs/2303.06349) and of gated recurrences that are linear in the state. No code was taken from others.

Complex numbers are complex arrays, not pairs of reals, so that real and complex scans have the same signature.
Gradients follow JAX's convention, so `jax.grad` of a real loss works as for any other op.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from longview.kernels import dispatch
from longview.kernels.linear_scan import pallas_gpu, pallas_tpu, reference, sharded, xla
from longview.kernels.linear_scan.arrays import Constant, State, Tokens


@partial(jax.jit, static_argnames=('reverse', 'implementation'))
def linear_scan(
    a: Tokens | Constant,
    x: Tokens,
    *,
    initial_state: State | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> tuple[Tokens, State]:
    """The linear recurrence over a sequence, independently in each channel.

    Args:
      a: decays, (B, T, D), or (D,) if they are the same for all tokens; real or complex. Absolute values above 1
        overflow on long sequences.
      x: inputs; real or complex.
      initial_state: the state before the first token; zero by default.
      reverse: whether to scan from the last token to the first. Then `initial_state` is the state after the last token,
        and the last state is the one at token 0.
      implementation: 'reference', 'xla', 'pallas_tpu', 'pallas_gpu' (not measured on any GPU, so never the default), or
        None for the default of the platform.

    Returns:
      The state after each token, and the last state. If any input is complex both are complex64 (complex128 for double
      precision inputs). Otherwise the states have the dtype of `x`, and the last one is float32 (float64 for float64
      inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(('batch', 'tokens'), a, x, initial_state)
    static = {'reverse': reverse}
    forms = {
        'xla': dispatch.Form(partial(xla.linear_scan, **static)),
        'reference': dispatch.Form(partial(reference.linear_scan, **static)),
        'pallas_tpu': dispatch.Form(partial(pallas_tpu.linear_scan, **static), 'tpu', pallas_tpu.missing),
        'pallas_gpu': dispatch.Form(
            partial(pallas_gpu.linear_scan, **static), 'cuda', pallas_gpu.missing, proven=False
        ),
    }
    tokens, state = (dispatch.BATCH, dispatch.TIME, dispatch.WIDTH), (dispatch.BATCH, dispatch.WIDTH)
    decays = tokens if a.ndim == 3 else (dispatch.WIDTH,)

    def over_time(axis: str, a: jax.Array, x: jax.Array, state: jax.Array | None) -> tuple[Tokens, State]:
        how = {'initial_state': state, 'implementation': implementation, **static}
        return sharded.sequence_parallel_linear_scan(a, x, axis_name=axis, **how)

    split = dispatch.Split((decays, tokens, state), (tokens, state), over_time)
    return dispatch.run('linear_scan', implementation, forms, a, x, initial_state, split=split)


def linear_scan_step(a: Inexact[Array, 'b d'] | Constant, x: Inexact[Array, 'b d'], *, state: State) -> State:
    """One token of `linear_scan`, given the state before it; for decoding in constant memory.

    Returns the state after the token, which is also the output, in the dtype of `state`.
    Raises ValueError for shapes that do not fit, and for complex inputs with a real state.
    """
    _check(('batch',), a, x, state)
    for name, given in (('a', a), ('x', x)):
        if given.dtype.kind == 'c' and state.dtype.kind != 'c':
            raise ValueError(f'{name} is {given.dtype} but the state {state.dtype}; wanted a complex state.')
    return reference.step(a, x, state)


def _check(axes: tuple[str, ...], a: jax.Array, x: jax.Array, state: jax.Array | None) -> None:
    """Raises ValueError for shapes that do not fit, and for integers."""
    dispatch.check_floats(jnp.inexact, a=a, x=x, state=state)
    if x.ndim != len(axes) + 1:
        raise ValueError(f'x has shape {x.shape}; wanted ({", ".join(axes)}, channels).')
    if not all(x.shape[1:]):
        raise ValueError(f'x has shape {x.shape}, which is empty; wanted at least one of each.')
    if a.shape not in (x.shape, x.shape[-1:]):
        raise ValueError(
            f'a has shape {a.shape}; wanted {x.shape}, a decay per token, or {x.shape[-1:]}, one for all tokens.'
        )
    wanted = (x.shape[0], x.shape[-1])
    if state is not None and state.shape != wanted:
        raise ValueError(f'The state has shape {state.shape}; wanted (batch, channels), here {wanted}.')
