"""Attention: the public function, its checks and its implementations.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; shared heads of keys and values: Ainslie et al., 2023,
https://arxiv.org/abs/2305.13245. Its arguments are those of `jax.nn.dot_product_attention` (B T H K, a bias and a mask
of four dimensions); where we differ: values may have another width than keys, and `causal` wants as many keys as
queries, since libraries disagree about which query is the last one.

B batch, T queries, S keys, H heads, G heads of keys and values, each for H / G neighbouring heads, K and V channels:

    y_t = sum_s w_ts v_s,    w_t = softmax_s(scale q_t k_s + bias_ts), over the keys s that query t sees

Plain XLA is the default everywhere. Kernels of libraries, which do not lay down the weights, run by name
(libraries.py): `python train.py --config ... --config.kernels.attention=splash`.
"""

import math
from functools import partial

import jax
from jaxtyping import Array, Bool, Float

from longview.kernels import dispatch
from longview.kernels.attention import libraries, reference, xla


@partial(jax.jit, static_argnames=('scale', 'causal', 'window', 'implementation'))
def attention(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b s g k'],
    v: Float[Array, 'b s g v'],
    *,
    bias: Float[Array, '#b #h #t #s'] | None = None,
    mask: Bool[Array, '#b #h #t #s'] | None = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, 'b t h v']:
    """Mixes the values that each query sees.

    Args:
      q, k, v: queries, keys and values.
      bias: added to the logits; dimensions of 1 are broadcast.
      mask: which keys a query sees, True for those that it does; dimensions of 1 are broadcast. All by default. A
        query that sees none gets the mean of all values.
      causal: whether a query sees no key after itself; there are as many keys as queries.
      window: how many tokens before and after itself a query sees; all by default.
      scale: factor of the products of queries and keys; 1 / sqrt(K) by default.
      implementation: 'xla', 'reference', 'splash' (TPU), 'cudnn' (NVIDIA GPU), 'tokamax', or None for the default.

    Returns:
      The outputs, in the dtype of `q`; the softmax is float32 (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, integers, or an unknown implementation.
      NotImplementedError: the named implementation cannot serve this call.
    """
    _check(q, k, v, bias, mask, causal, window)
    reach = _reach(k.shape[1], causal, window)
    how = {'scale': q.shape[-1] ** -0.5 if scale is None else scale, 'reach': reach}
    forms = {
        'xla': dispatch.Form(partial(xla.attend, **how)),
        'splash': dispatch.Form(
            partial(libraries.splash, **how),
            platform='tpu',
            missing=libraries.lacking_splash,
            proven=False,
            varies=False,
        ),
        'cudnn': dispatch.Form(
            partial(libraries.cudnn, **how),
            platform='cuda',
            missing=partial(libraries.lacking_cudnn, reach),
            proven=False,
        ),
        'tokamax': dispatch.Form(partial(libraries.tokamax, **how), missing=libraries.lacking_tokamax, proven=False),
        'reference': dispatch.Form(partial(reference.attend, **how)),
    }
    heads = (dispatch.BATCH, None, dispatch.WIDTH)
    # A dimension that is broadcast stays whole on all devices.
    extra = lambda x: () if x is None else tuple(None if d == 1 else n for n, d in zip(_LOGITS, x.shape))
    split = dispatch.Split((heads, heads, heads, extra(bias), extra(mask)), heads)
    return dispatch.run('attention', implementation, forms, q, k, v, bias, mask, split=split)


_LOGITS = (dispatch.BATCH, dispatch.WIDTH)


@partial(jax.jit, static_argnames=('scale', 'causal', 'window'))
def attention_weights(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b s g k'],
    *,
    bias: Float[Array, '#b #h #t #s'] | None = None,
    mask: Bool[Array, '#b #h #t #s'] | None = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    scale: float | None = None,
) -> Float[Array, 'b h t s']:
    """Returns the weights w of `attention`, in float32 (float64), for who wants to see or to change them."""
    _check(q, k, k, bias, mask, causal, window)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    heads_first = (x.swapaxes(1, 2) for x in (q, k))
    return xla.weights(*heads_first, bias, mask, scale=scale, reach=_reach(k.shape[1], causal, window))


def _reach(keys: int, causal: bool, window: tuple[int, int] | None) -> tuple[int, int] | None:
    """Returns how many tokens before and after itself a query sees; None for all."""
    if window is None and not causal:
        return None
    before, after = (keys, keys) if window is None else window
    return min(before, keys), 0 if causal else min(after, keys)


def _check(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    causal: bool,
    window: tuple[int, int] | None,
) -> None:
    """Raises ValueError for shapes that do not fit, and for integers."""
    dispatch.check_floats(q=q, k=k, v=v, bias=bias)
    if q.ndim != 4 or not all(q.shape[1:]):
        raise ValueError(f'q has shape {q.shape}; wanted (batch, queries, heads, channels), none 0 but the batch.')
    batch, queries, heads, width = q.shape
    if k.ndim != 4 or (k.shape[0], k.shape[3]) != (batch, width) or not math.prod(k.shape[1:]) or heads % k.shape[2]:
        raise ValueError(
            f'k has shape {k.shape}; wanted ({batch}, keys, heads, {width}), none 0, with a number of heads that '
            f'divides the {heads} of q.'
        )
    if v.ndim != 4 or v.shape[:3] != k.shape[:3] or not v.shape[3]:
        raise ValueError(f'v has shape {v.shape}; wanted {(*k.shape[:3], "channels")}, the first three those of k.')
    full = (batch, heads, queries, k.shape[1])
    for name, x in (('bias', bias), ('mask', mask)):
        if x is not None and (x.ndim != 4 or any(size not in (1, wanted) for size, wanted in zip(x.shape, full))):
            raise ValueError(f'{name} has shape {x.shape}; wanted {full}, or 1 in the place of any of them.')
    if mask is not None and mask.dtype != bool:
        raise ValueError(f'mask is {mask.dtype}; wanted bool, True for what is seen: pass mask.astype(bool).')
    if causal and queries != k.shape[1]:
        raise ValueError(f'causal=True with {queries} queries and {k.shape[1]} keys; wanted as many: pass a mask.')
    if window is not None and (len(window) != 2 or min(window) < 0):
        raise ValueError(f'window is {window}; wanted (tokens before, tokens after), none negative.')
