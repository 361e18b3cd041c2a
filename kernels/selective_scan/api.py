"""The selective scan (S6): the public functions, their checks and their implementations.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752. The conventions are those of state-spaces/mamba (Apache-2.0,
`selective_scan_interface`); no code was taken.

B batch, T tokens, D channels, N states per channel, G groups of channels that share B and C:

    delta_t = softplus(delta_t + delta_bias)
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t
    y_t = (C_t . h_t + D u_t) silu(z_t)

Where we differ: channels are last (B T D, not B D T), the scan may go in reverse and takes an initial state, and A is
real; for a complex diagonal without selection see `kernels.linear_scan`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from longview.kernels import dispatch
from longview.kernels.selective_scan import pallas_gpu, pallas_tpu, reference, sharded, xla
from longview.kernels.selective_scan.arrays import Channels, Rates, State, Tokens, Weights


@partial(jax.jit, static_argnames=('softplus', 'reverse', 'implementation'))
def selective_scan(
    u: Tokens,
    delta: Tokens,
    A: Rates,
    B: Weights,
    C: Weights,
    D: Channels | None = None,
    *,
    z: Tokens | None = None,
    delta_bias: Channels | None = None,
    softplus: bool = False,
    initial_state: State | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> tuple[Tokens, State]:
    """Mamba's scan over a sequence.

    Args:
      u: inputs.
      delta: step sizes, positive after `delta_bias` and `softplus`.
      A: decay rates, negative.
      B, C: input and output weights of the states, (B, T, N) for all channels, or (B, T, G, N), where channels g D/G to
        (g + 1) D/G - 1 share row g.
      D: weight of the skip connection from `u`; none by default.
      z: gate, applied as silu(z) after the skip; none by default.
      delta_bias: added to `delta` before `softplus`; none by default.
      softplus: whether to pass `delta` through softplus.
      initial_state: the state before the first token; zero by default.
      reverse: whether to scan from the last token to the first. Then `initial_state` is the state after the last token,
        and the last state is the one at token 0.
      implementation: 'reference', 'xla', 'pallas_tpu', 'pallas_gpu' (not measured on any GPU, so never the default), or
        None for the default of the platform.

    Returns:
      The outputs in the dtype of `u`, and the last state in float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(('batch', 'tokens'), u, {'delta': delta, 'z': z}, {'D': D, 'delta_bias': delta_bias})
    _check_states(u, A, {'B': B, 'C': C}, initial_state)
    static = {'softplus': softplus, 'reverse': reverse}
    forms = {
        'xla': dispatch.Form(partial(xla.selective_scan, **static)),
        'reference': dispatch.Form(partial(reference.selective_scan, **static)),
        'pallas_tpu': dispatch.Form(partial(pallas_tpu.selective_scan, **static), 'tpu', pallas_tpu.missing),
        'pallas_gpu': dispatch.Form(
            partial(pallas_gpu.selective_scan, **static), 'cuda', pallas_gpu.missing, proven=False
        ),
    }
    arrays = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    over_time = partial(_over_time, implementation=implementation, **static)
    return dispatch.run('selective_scan', implementation, forms, *arrays, split=_split(B, over_time))


def _split(B: jax.Array, over_time: Callable[..., tuple[Tokens, State]]) -> dispatch.Split:
    """Channels are split with their groups; B and C without groups are for all channels."""
    batch, time, width = dispatch.BATCH, dispatch.TIME, dispatch.WIDTH
    tokens, state = (batch, time, width), (batch, width)
    weights = tokens if B.ndim == 4 else (batch, time)
    inputs = (tokens, tokens, (width,), weights, weights, (width,), tokens, (width,), state)
    return dispatch.Split(inputs, (tokens, state), over_time)


def _over_time(axis: str, *arrays: jax.Array | None, **static: Any) -> tuple[Tokens, State]:
    how = dict(zip(('z', 'delta_bias', 'initial_state'), arrays[6:])) | static
    return sharded.sequence_parallel_selective_scan(*arrays[:6], axis_name=axis, **how)


def selective_scan_step(
    u: Float[Array, 'b d'],
    delta: Float[Array, 'b d'],
    A: Float[Array, 'd n'],
    B: Float[Array, 'b n'] | Float[Array, 'b g n'],
    C: Float[Array, 'b n'] | Float[Array, 'b g n'],
    D: Channels | None = None,
    *,
    state: State,
    z: Float[Array, 'b d'] | None = None,
    delta_bias: Channels | None = None,
    softplus: bool = False,
) -> tuple[Float[Array, 'b d'], State]:
    """One token of `selective_scan`, given the state before it; for decoding in constant memory.

    Returns the output in the dtype of `u`, and the state after the token in the dtype of `state`.
    Raises ValueError for shapes that do not fit, and for integers.
    """
    _check(('batch',), u, {'delta': delta, 'z': z}, {'D': D, 'delta_bias': delta_bias})
    _check_states(u, A, {'B': B, 'C': C}, state)
    y, state = reference.step(u, delta, A, B, C, D, z, delta_bias, state, softplus=softplus)
    return y.astype(u.dtype), state


def _check(
    axes: tuple[str, ...],
    u: jax.Array,
    tokens: dict[str, jax.Array | None],
    channels: dict[str, jax.Array | None],
) -> None:
    """Raises ValueError for shapes that do not match that of `u`, and for integers."""
    dispatch.check_floats(u=u, **tokens, **channels)
    if u.ndim != len(axes) + 1:
        raise ValueError(f'u has shape {u.shape}; wanted ({", ".join(axes)}, channels).')
    if not all(u.shape[1:]):
        raise ValueError(f'u has shape {u.shape}, which is empty; wanted at least one of each.')
    for name, x in tokens.items():
        if x is not None and x.shape != u.shape:
            raise ValueError(f'{name} has shape {x.shape}; wanted that of u, {u.shape}.')
    for name, x in channels.items():
        if x is not None and x.shape != u.shape[-1:]:
            raise ValueError(f'{name} has shape {x.shape}; wanted {u.shape[-1:]}, one number a channel of u.')


def _check_states(u: jax.Array, A: jax.Array, weights: dict[str, jax.Array], state: jax.Array | None) -> None:
    """Raises ValueError for states and groups that do not fit, and for integers."""
    dispatch.check_floats(A=A, **weights, state=state)
    *rows, channels = u.shape
    if A.ndim != 2 or A.shape[0] != channels or not A.size:
        raise ValueError(f'A has shape {A.shape}; wanted ({channels}, states), to go with u.')
    states = A.shape[1]
    first = weights['B']
    for name, x in weights.items():
        fits = x.shape in ((*rows, states), (*rows, *x.shape[-2:-1], states))
        groups = 1 if x.ndim == u.ndim else x.shape[-2]
        if not fits or not groups or channels % groups or x.shape != first.shape:
            wanted = ', '.join(map(str, rows))
            raise ValueError(
                f'{name} has shape {x.shape}; wanted ({wanted}, {states}), or ({wanted}, groups, '
                f'{states}) with groups that divide the {channels} channels, B and C alike.'
            )
    if state is not None and state.shape != (rows[0], channels, states):
        raise ValueError(
            f'The state has shape {state.shape}; wanted (batch, channels, states), here {(rows[0], channels, states)}.'
        )
