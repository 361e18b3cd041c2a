"""Attention by kernels that others keep: jax's splash attention on TPUs, cuDNN's on GPUs, and tokamax.

None of them lays down the weights of queries and keys. They run where they are named (`config.kernels.attention`,
`dispatch.prefer`), since none was timed here beside plain XLA on the device that it is for.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels import dispatch, pallas
from longview.kernels.attention.arrays import Bias, Keys, Mask, Outputs, Queries, Values

_LANES = 128


def splash(
    q: Queries, k: Keys, v: Values, bias: Bias | None, mask: Mask | None, *, scale: float, reach: tuple[int, int] | None
) -> Outputs:
    """`jax.experimental.pallas.ops.tpu.splash_attention`, which skips blocks of keys that no query of a block sees.

    Tokens are filled up to whole blocks, whose segment no token of the sequence sees.
    """
    # Its module takes half a second to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

    assert bias is None and mask is None
    queries, keys = q.shape[1], k.shape[1]
    rows, columns = (pallas.round_up(size, _LANES) for size in (queries, keys))
    fill = lambda x, size: jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)))
    q, k, v = (fill(x.swapaxes(1, 2), size) for x, size in ((q * scale, rows), (k, columns), (v, columns)))
    ids = lambda size, filled: (np.arange(filled) >= size).astype(np.int32)
    segments = kernels.SegmentIds(ids(queries, rows), ids(keys, columns))

    def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        mask, sizes = _splash_mask((rows, columns), q.shape[1], reach, keys), _block_sizes(rows, columns)
        kernel = kernels.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
        return jax.vmap(kernel, (0, 0, 0, None))(q, k, v, segments)

    return _narrow(run)(q, k, v)[:, :, :queries].swapaxes(1, 2)


def _narrow(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the function with numbers of 32 bits, in its gradient too, whatever `jax_enable_x64` says."""
    in_32_bits = partial(jax.enable_x64, False)

    @jax.custom_vjp
    def run(*args: jax.Array) -> jax.Array:
        with in_32_bits():
            return function(*args)

    def forward(*args: jax.Array) -> tuple[jax.Array, Callable]:
        with in_32_bits():
            return jax.vjp(function, *args)

    def backward(pull: Callable, dy: jax.Array) -> tuple[jax.Array, ...]:
        with in_32_bits():
            return pull(dy)

    run.defvjp(forward, backward)
    return run


def _splash_mask(shape: tuple[int, int], heads: int, reach: tuple[int, int] | None, keys: int) -> object:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if reach is None:
        one = masks.FullMask(shape)
    elif _causal_alone(reach, keys):
        one = masks.CausalMask(shape)
    else:
        one = masks.LocalMask(shape, reach, 0)
    return masks.MultiHeadMask([one] * heads)


def _causal_alone(reach: tuple[int, int], keys: int) -> bool:
    """Whether a query sees itself and every key before it."""
    return reach[0] >= keys - 1 and reach[1] == 0


def _block_sizes(rows: int, columns: int) -> object:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

    row, column = (next(size for size in (512, 256, _LANES) if filled % size == 0) for filled in (rows, columns))
    return kernels.BlockSizes(
        block_q=row,
        block_kv=column,
        block_q_dkv=row,
        block_kv_dkv=column,
        block_q_dq=row,
        block_kv_dq=column,
    )


def lacking_splash(q: jax.Array, k: jax.Array, v: jax.Array, bias: Bias | None, mask: Mask | None) -> str | None:
    """Returns why splash attention cannot serve a call, in words, or None."""
    for name, x in (('bias', bias), ('mask', mask)):
        if x is not None:
            return f'there is a {name} of shape {x.shape}; wanted none, only causal= and window='
    if jax.typeof(q).manual_axis_type.varying:
        return 'it is inside of a jax.shard_map that checks what varies; wanted check_vma=False'
    return dispatch.lacking((q, k, v), ('float32', 'bfloat16'))


def cudnn(
    q: Queries, k: Keys, v: Values, bias: Bias | None, mask: Mask | None, *, scale: float, reach: tuple[int, int] | None
) -> Outputs:
    """cuDNN's fused attention, by `jax.nn.dot_product_attention`."""
    how = {} if reach is None else {'is_causal': True}
    if reach is not None and not _causal_alone(reach, k.shape[1]):
        how['local_window_size'] = reach
    return jax.nn.dot_product_attention(q, k, v, _whole(bias, q, k), mask, scale=scale, implementation='cudnn', **how)


def _whole(bias: Bias | None, q: Queries, k: Keys) -> Bias | None:
    """Returns the bias with an entry for each query and key, as cuDNN wants it, in the type of the queries."""
    if bias is None:
        return None
    return jnp.broadcast_to(bias, (*bias.shape[:2], q.shape[1], k.shape[1])).astype(q.dtype)


def lacking_cudnn(
    reach: tuple[int, int] | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
) -> str | None:
    """Returns why cuDNN cannot serve a call, in words, or None."""
    if reach is not None and reach[1]:
        return f'queries see {reach[1]} tokens after them; wanted a window together with causal=True, or none'
    width = q.shape[-1]
    if width % 8 or width > 256 or v.shape[-1] != width:
        return f'heads have {width} and {v.shape[-1]} channels; wanted both the same multiple of 8, up to 256'
    if bias is not None and (q.shape[1] % 2 or k.shape[1] % 2):
        return f'there is a bias for {q.shape[1]} queries and {k.shape[1]} keys; wanted even numbers of them'
    if len({x.dtype for x in (q, k, v)}) > 1:
        return f'queries, keys and values are {q.dtype}, {k.dtype} and {v.dtype}; wanted one type'
    return dispatch.lacking((q, k, v), ('bfloat16', 'float16')) or _not_installed()


def _not_installed() -> str | None:
    if importlib.util.find_spec('nvidia') is None:
        return 'cuDNN is not installed; wanted: pip install "jax[cuda13]", on a machine with an NVIDIA GPU'
    return None


def tokamax(
    q: Queries, k: Keys, v: Values, bias: Bias | None, mask: Mask | None, *, scale: float, reach: tuple[int, int] | None
) -> Outputs:
    """`tokamax.dot_product_attention`, which takes the kernel for the device (github.com/openxla/tokamax)."""
    import tokamax as library

    how = {}
    if reach is not None:
        how['is_causal'] = reach[1] == 0
        if not _causal_alone(reach, k.shape[1]):
            how['local_window_size'] = reach
    return library.dot_product_attention(q, k, v, bias, mask, scale=scale, **how)


def lacking_tokamax(*arrays: jax.Array | None) -> str | None:
    """Returns that tokamax is not installed, in words, or None."""
    if importlib.util.find_spec('tokamax') is None:
        return 'tokamax is not installed; wanted: pip install tokamax'
    return dispatch.lacking(arrays[:3], ('bfloat16', 'float16', 'float32'))
