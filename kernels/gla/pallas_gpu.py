"""Gated linear attention as Pallas kernels for GPUs (the Triton backend), forward and backward.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635. No code was taken from others.

Each program scans the chunks of one head of one sequence with the state in registers. The computation inside of a chunk
is that of the TPU kernels, with one head per tile, except for the decays: Triton cannot slice tiles, so sums of log
decays over parts of a chunk are products with matrices of zeros and ones. Two directions are two calls.

It has not been measured on a GPU: it lowers for CUDA, and its numbers were checked in the interpreter. So it runs only
when it is named.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import derivatives, dispatch, pallas, scans
from longview.kernels.gla import pallas_tpu_chunk as chunk_of
from longview.kernels.gla.arrays import Gate, Keys, Start, State, Values
from longview.kernels.gla.pallas_tpu_chunk import Decays
from longview.kernels.gla.pallas_tpu_tile import Tile, advance

_LEAST = 16  # rows and columns of the smallest matrix product
_CHUNK = 32
_STATE = 2**15  # most numbers of a state, K x V: it must fit into the registers of a block of threads
_LOWEST = -1e30  # bound of log decays: unlike -inf, its product with zero is zero


class Plan(NamedTuple):
    """Static arguments: the tile, the direction of the scan, the factor on the queries."""

    tile: Tile
    direction: int
    scale: float
    interpret: bool

    def spec(self, x: Any) -> pl.BlockSpec:
        """The block of an array for a head: its tokens, its state, or its states at the edges of the chunks."""
        zeros = (0,) * (x.ndim - 2)
        return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, h: (b, h, *zeros))


def gla(
    q: Keys,
    k: Keys,
    v: Values,
    g: Gate,
    start: Start = None,
    *,
    scale: float,
    reverse: bool = False,
    interpret: bool = False,
) -> tuple[Values, State]:
    """One direction; see `kernels.gla.gla`. `interpret` runs the kernels as XLA programs, on any platform."""
    batch, tokens, heads, keys = q.shape
    values = v.shape[-1]
    g = g if g.ndim == q.ndim else jnp.broadcast_to(g[..., None], q.shape)
    chunk = min(_CHUNK, max(_LEAST, scans.power_of_two(tokens)))
    wide, deep = (max(_LEAST, scans.power_of_two(size)) for size in (keys, values))
    narrow = q.dtype == v.dtype == jnp.bfloat16
    plan = Plan(Tile(chunk, 1, wide, deep, narrow, shared=False, cut=False), int(reverse), scale, interpret)
    start = jnp.zeros_like(q, jnp.float32, (batch, heads, keys, values)) if start is None else start.astype(jnp.float32)
    start = _pad(start, (heads, wide, deep)).swapaxes(2, 3)
    rows = (x.swapaxes(1, 2) for x in (q, k, v, g))
    filled = -(-tokens // chunk) * chunk
    rows = (_pad(x, (heads, filled, n)) for x, n in zip(rows, (wide, wide, deep, wide)))
    o, last = _attend(plan, *rows, start)
    return o[:, :, :tokens, :values].swapaxes(1, 2), last.swapaxes(2, 3)[:, :, :keys, :values]


def bidirectional_gla(
    q: Keys, k: Keys, v: Values, g_forward: Gate, g_backward: Gate, *, scale: float, interpret: bool = False
) -> Values:
    """The sum of both directions; see `kernels.gla.bidirectional_gla`."""
    how = {'scale': scale, 'interpret': interpret}
    forward, _ = gla(q, k, v, g_forward, **how)
    backward, _ = gla(q, k, v, g_backward, reverse=True, **how)
    return forward + backward


def missing(q: jax.Array, k: jax.Array, v: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((q, k, v, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    if scans.power_of_two(q.shape[-1]) * scans.power_of_two(v.shape[-1]) > _STATE:
        return f'heads of {q.shape[-1]} x {v.shape[-1]} channels do not fit into the registers'
    return None


def _pad(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    pads = [(0, 0), *((0, size - n) for size, n in zip(sizes, x.shape[1:]))]
    return jnp.pad(x, pads)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple, tuple]:
    """The outputs and the last state of q, k, v, g (B, H, T, ..) and a state (B, H, V, K), all padded to the tile."""
    ins = dict(zip(('q', 'k', 'v', 'g', 'start'), inputs))
    outs = {'o': pallas.output_like(ins['v']), 'last': pallas.output_like(ins['start'])}
    found = _call(_outputs_kernel, plan, ins, outs)
    return (found['o'], found['last']), inputs


def _cotangents(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    ins = dict(zip(('q', 'k', 'v', 'g', 'start'), inputs))
    outs = {name: pallas.output_like(x) for name, x in ins.items()}
    batch, heads, *state = ins['start'].shape
    shape = (batch, heads, ins['q'].shape[2] // plan.tile.tokens, *state)
    kept = {name: ins[name] for name in ('k', 'v', 'g', 'start')}
    edges = _call(_edges_kernel, plan, kept, {'edges': pallas.output(shape, jnp.float32, ins['v'])})
    found = _call(_cotangents_kernel, plan, ins | dict(zip(('do', 'dlast'), cotangents)) | edges, outs)
    return tuple(found[name] for name in outs)


_attend = derivatives.with_rule(_outputs, _cotangents)


def _outputs_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    def chunk(n: jax.Array, state: jax.Array) -> jax.Array:
        rows = _rows(plan, n)
        q, k, v = (_read(ins[name], rows) for name in 'qkv')
        fading = _decays(plan, _read(ins['g'], rows))
        pair = _place(plan, fading), _place(plan, state)
        outs['o'][rows, :] = chunk_of.outputs(plan.tile, q * plan.scale, k, v, *pair).astype(outs['o'].dtype)
        return advance(plan.tile, state, k * fading.key[-1], v, fading.total)

    outs['last'][...] = _walk(plan, plan.direction, chunk, ins['start'][...], ins['q'])


def _edges_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    def chunk(n: jax.Array, state: jax.Array) -> jax.Array:
        outs['edges'][n] = state
        rows = _rows(plan, n)
        k, v = (_read(ins[name], rows) for name in 'kv')
        fading = _decays(plan, _read(ins['g'], rows))
        return advance(plan.tile, state, k * fading.key[-1], v, fading.total)

    _walk(plan, plan.direction, chunk, ins['start'][...], ins['k'])


def _cotangents_kernel(plan: Plan, ins: dict, outs: dict) -> None:
    def chunk(n: jax.Array, costate: jax.Array) -> jax.Array:
        rows = _rows(plan, n)
        q, k, v, do = (_read(ins[name], rows) for name in ('q', 'k', 'v', 'do'))
        do = do * plan.scale
        fading = _decays(plan, _read(ins['g'], rows))
        pair = _place(plan, fading), _place(plan, (ins['edges'][n], costate))
        *found, dgates = chunk_of.cotangents(plan.tile, q, k, v, do, *pair)
        for name, x in zip('qkvg', (*found, dgates[plan.direction])):
            outs[name][rows, :] = x.astype(outs[name].dtype)
        return advance(plan.tile, costate, q * fading.query[-1], do, fading.total)

    against = 1 - plan.direction
    outs['start'][...] = _walk(plan, against, chunk, ins['dlast'][...], ins['q'])


def _walk(plan: Plan, direction: int, body: Callable, carry: jax.Array, rows: Any) -> jax.Array:
    chunks = rows.shape[0] // plan.tile.tokens
    step = lambda n, carry: body(chunks - 1 - n if direction else n, carry)
    return lax.fori_loop(0, chunks, step, carry)


def _rows(plan: Plan, n: jax.Array) -> Any:
    return pl.ds(n * plan.tile.tokens, plan.tile.tokens)


def _read(ref: Any, rows: Any) -> jax.Array:
    return ref[rows, :].astype(jnp.float32)


def _place(plan: Plan, x: Any) -> tuple:
    """Returns a pair with `x` as the entry of the direction of the scan, and None as the other one."""
    return (None, x) if plan.direction else (x, None)


def _decays(plan: Plan, g: jax.Array) -> Decays:
    """Returns the products of decays, given log decays (C, K): sums up to each token in its block, and after it."""
    size = plan.tile.tokens
    g = jnp.maximum(g, _LOWEST)
    token, other = (lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))
    upto = other >= token if plan.direction else other <= token
    query, key = [], []
    block = 1
    while block <= size:
        same = (token ^ other) < block
        query.append(jnp.exp(_sum(same & upto, g)))
        key.append(jnp.exp(_sum(same & ~upto, g)))
        block *= 2
    return Decays(query, key, jnp.exp(jnp.sum(g, axis=0, keepdims=True)))


def _sum(which: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.dot(which.astype(jnp.float32), x, precision=lax.Precision.HIGHEST)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict) -> dict:
    """Runs a kernel with one program per head."""
    batch, heads, tokens = ins['k'].shape[:3]
    arrays = jax.tree.leaves((ins, outs))
    rows, levels = batch * heads * tokens, plan.tile.tokens.bit_length()
    state = plan.tile.keys * plan.tile.values
    products = 3 * levels * plan.tile.tokens * plan.tile.keys + 2 * state
    return pallas.call(
        partial(kernel, plan),
        out_shape=outs,
        grid=(batch, heads),
        in_specs=[jax.tree.map(plan.spec, ins)],
        out_specs=jax.tree.map(plan.spec, outs),
        interpret=plan.interpret,
        compiler_params=pallas.gpu_params(8 if state > 4096 else 4),
        cost_estimate=pallas.CostEstimate(
            flops=2 * rows * products * (3 if 'do' in ins else 1),
            transcendentals=2 * levels * rows * plan.tile.keys,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        ),
        name=f'gla{kernel.__name__.removesuffix("_kernel")}',
    )(ins)
