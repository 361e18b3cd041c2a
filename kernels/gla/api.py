"""Gated linear attention (GLA): the public functions, their checks and their implementations.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635. In two directions: Liao et al., ViG: Linear-complexity Visual Sequence Learning with
Gated Linear Attention, 2024, https://arxiv.org/abs/2405.18425. Shapes and conventions are those of
flash-linear-attention (MIT licence); no code was taken.

B batch, T tokens, H heads, K key channels, V value channels. The state of a head is a (K, V) matrix S:

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T        o_t = scale * q_t S_t

The decay is applied before a token is added, so the weight of a token for itself has no decay. Where we differ: the
decay may be one number per head (as in RetNet and Mamba-2), and a log decay of -inf is allowed.

The ops are jitted so that they are traced once for equal layers of a network.
"""

from functools import partial

import jax
from jaxtyping import Array, Float

from longview.kernels import dispatch
from longview.kernels.gla import pallas_gpu, pallas_tpu, reference, sharded, xla
from longview.kernels.gla.arrays import Gate, Keys, State, Values

_AXES = ('batch', 'tokens', 'heads')
_ROWS, _STATE = (dispatch.BATCH, dispatch.TIME, dispatch.WIDTH), (dispatch.BATCH, dispatch.WIDTH)


@partial(jax.jit, static_argnames=('scale', 'reverse', 'implementation', 'chunk'))
def gla(
    q: Keys,
    k: Keys,
    v: Values,
    g: Gate,
    *,
    scale: float | None = None,
    initial_state: State | None = None,
    reverse: bool = False,
    implementation: str | None = None,
    chunk: int | None = None,
) -> tuple[Values, State]:
    """Gated linear attention in one direction.

    Args:
      q, k: queries and keys.
      v: values.
      g: log decay, at most 0, per key channel or one per head.
      scale: factor on the queries; K ** -0.5 by default.
      initial_state: the state before the first token; zero by default.
      reverse: whether to scan from the last token to the first. Then `initial_state` is the state after the last token,
        and the last state is the one at token 0.
      implementation: 'reference', 'xla', 'pallas_tpu', 'pallas_gpu' (not measured on any GPU, so never the default), or
        None for the default of the platform.
      chunk: tokens per chunk of 'xla', rounded up to a power of two; by default chosen from the shapes. It affects
        results by rounding only.

    Returns:
      The outputs in the dtype of `v`, and the last state in float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(_AXES, q, k, v, {'g': g}, initial_state)
    _check_chunk(chunk)
    static = {'scale': _scale(scale, q), 'reverse': reverse}
    forms = {
        'xla': dispatch.Form(partial(xla.gla, chunk=chunk, **static)),
        'reference': dispatch.Form(partial(reference.gla, **static)),
        'pallas_tpu': dispatch.Form(partial(pallas_tpu.gla, **static), 'tpu', partial(pallas_tpu.missing, 1)),
        'pallas_gpu': dispatch.Form(partial(pallas_gpu.gla, **static), 'cuda', pallas_gpu.missing, proven=False),
    }

    def over_time(axis: str, *arrays: jax.Array | None) -> tuple[Values, State]:
        how = {'initial_state': arrays[4], 'implementation': implementation, 'chunk': chunk, **static}
        return sharded.sequence_parallel_gla(*arrays[:4], axis_name=axis, **how)

    split = dispatch.Split((_ROWS,) * 4 + (_STATE,), (_ROWS, _STATE), over_time)
    return dispatch.run('gla', implementation, forms, q, k, v, g, initial_state, split=split)


@partial(jax.jit, static_argnames=('scale', 'implementation', 'chunk'))
def bidirectional_gla(
    q: Keys,
    k: Keys,
    v: Values,
    g_forward: Gate,
    g_backward: Gate,
    *,
    scale: float | None = None,
    implementation: str | None = None,
    chunk: int | None = None,
) -> Values:
    """The sum of gated linear attention in both directions, computed in one pass.

    Both directions include the current token, which therefore counts twice; halve the sum for the mean of the two, as
    in ViG. Pass the same array twice to share gates. Arguments and errors are as in `gla`.
    """
    _check(_AXES, q, k, v, {'g_forward': g_forward, 'g_backward': g_backward}, None)
    _check_chunk(chunk)
    static = {'scale': _scale(scale, q)}
    forms = {
        'xla': dispatch.Form(partial(xla.bidirectional_gla, chunk=chunk, **static)),
        'reference': dispatch.Form(partial(reference.bidirectional_gla, **static)),
        'pallas_tpu': dispatch.Form(
            partial(pallas_tpu.bidirectional_gla, **static), 'tpu', partial(pallas_tpu.missing, 2)
        ),
        'pallas_gpu': dispatch.Form(
            partial(pallas_gpu.bidirectional_gla, **static), 'cuda', pallas_gpu.missing, proven=False
        ),
    }
    arrays = (q, k, v, g_forward, g_backward)

    def over_time(axis: str, *arrays: jax.Array) -> Values:
        how = {'implementation': implementation, 'chunk': chunk, **static}
        return sharded.sequence_parallel_bidirectional_gla(*arrays, axis_name=axis, **how)

    split = dispatch.Split((_ROWS,) * 5, _ROWS, over_time)
    return dispatch.run('bidirectional_gla', implementation, forms, *arrays, split=split)


def gla_step(
    q: Float[Array, 'b h k'],
    k: Float[Array, 'b h k'],
    v: Float[Array, 'b h v'],
    g: Float[Array, 'b h k'] | Float[Array, 'b h'],
    state: State,
    *,
    scale: float | None = None,
) -> tuple[Float[Array, 'b h v'], State]:
    """One token of `gla`, given the state before it; for decoding in constant memory.

    Returns the output in the dtype of `v`, and the state after the token in the dtype of `state`.
    Raises ValueError for shapes that do not fit, and for integers.
    """
    _check(('batch', 'heads'), q, k, v, {'g': g}, state)
    o, state = reference.step(q, k, v, g, state, scale=_scale(scale, q))
    return o.astype(v.dtype), state


def _scale(scale: float | None, q: jax.Array) -> float:
    return q.shape[-1] ** -0.5 if scale is None else float(scale)


def _check(
    axes: tuple[str, ...],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    gates: dict[str, jax.Array],
    state: jax.Array | None,
) -> None:
    """Raises ValueError for shapes that do not fit, and for integers."""
    dispatch.check_floats(q=q, k=k, v=v, **gates, state=state)
    rows = q.shape[:-1]
    if len(rows) != len(axes):
        raise ValueError(f'q has shape {q.shape}; wanted ({", ".join(axes)}, channels).')
    if not all(q.shape[1:]):
        raise ValueError(f'q has shape {q.shape}, which is empty; wanted at least one of each.')
    if k.shape != q.shape:
        raise ValueError(f'k has shape {k.shape}; wanted that of q, {q.shape}.')
    if v.shape[:-1] != rows:
        wanted = ', '.join(map(str, rows))
        raise ValueError(f'v has shape {v.shape}; wanted ({wanted}, channels), to go with q.')
    for name, g in gates.items():
        if g.shape not in (q.shape, rows):
            raise ValueError(
                f'{name} has shape {g.shape}; wanted {q.shape}, a log decay per key channel, or {rows}, one per head.'
            )
    wanted = (q.shape[0], *q.shape[-2:], v.shape[-1])
    if state is not None and state.shape != wanted:
        raise ValueError(f'The state has shape {state.shape}; wanted (batch, heads, K, V), here {wanted}.')


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ValueError(f'chunk is {chunk}; wanted 1 or more, or None to choose by the shapes.')
