"""Gated linear attention as Pallas kernels for TPUs, forward and backward, one direction or both.

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023,
https://arxiv.org/abs/2312.06635; both directions in one pass: Liao et al., ViG, 2024,
https://arxiv.org/abs/2405.18425. No code was taken from others.

Arrays are (B, T, H K) with dense lanes. A grid step loads a group of heads and a block of tokens into VMEM and loops
over its chunks there (`pallas_tpu_chunk.py`). The (K, V) states stay in VMEM from block to block, in float32.

A kernel may need two recurrent quantities that are carried in opposite directions: the states of the two directions, or
a state and its cotangent. Then one of them is carried from block to block, and the other one is first computed and
stored for all chunks of a block, from its value at the edge of the block. If the sequence is a single block, nothing
else is needed; otherwise a first kernel, `_edges`, computes the values at the edges of all blocks. So the outputs take
one pass and the gradients another one, and only the inputs are kept in between.

"Forward" and "backward" (0 and 1) are directions of the scan below; derivatives are "cotangents". With bfloat16 inputs
the operands of matrix products are rounded to bfloat16.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from longview.kernels import dispatch, pallas, scan_tpu
from longview.kernels.gla import pallas_tpu_chunk as chunk_of
from longview.kernels.gla import pallas_tpu_head as per_head
from longview.kernels.gla import pallas_tpu_mild as mild
from longview.kernels.gla.pallas_tpu_layout import (
    Plan,
    from_gate,
    plan_for,
    to_gate,
    to_heads,
    to_lanes,
    to_states,
    with_channels,
)
from longview.kernels.gla.pallas_tpu_tile import LOWEST, Pair, advance, each_alone

# Kinds of blocks: all decays are mild, any decays, any decays and a NaN.
MILD, ANY, EXACT = 'mild', 'any', 'exact'


class Memory(NamedTuple):
    """A quantity that is carried along the sequence: the state of a direction, or its cotangent."""

    direction: int
    cotangent: bool = False

    @property
    def walk(self) -> int:
        return 1 - self.direction if self.cotangent else self.direction


def gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    initial_state: Float[Array, 'b h k v'] | None = None,
    *,
    scale: float,
    reverse: bool = False,
    sizes: tuple[int, int] | None = None,
) -> tuple[Float[Array, 'b t h v'], Float[Array, 'b h k v']]:
    """One direction; see `kernels.gla.gla`.

    sizes: tokens of a chunk (a power of two, 16 or more) and of a block (a multiple of that); by default what fits the
      matrix units and VMEM.
    """
    plan = plan_for(q, v, (g,), scale, sizes)
    gate = with_channels(plan, g, q)
    start = None if initial_state is None else to_states(plan, initial_state)
    qkv = (to_lanes(plan, x) for x in (q, k, v))
    o, last = _attend(plan, *qkv, (None, gate) if reverse else (gate, None), start)
    return to_heads(plan, o, v), to_heads(plan, last, v)


def bidirectional_gla(
    q: Float[Array, 'b t h k'],
    k: Float[Array, 'b t h k'],
    v: Float[Array, 'b t h v'],
    g_forward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    g_backward: Float[Array, 'b t h k'] | Float[Array, 'b t h'],
    *,
    scale: float,
    sizes: tuple[int, int] | None = None,
) -> Float[Array, 'b t h v']:
    """The sum of both directions; see `kernels.gla.bidirectional_gla`, and `gla` in this file for `sizes`."""
    plan = plan_for(q, v, (g_forward, g_backward), scale, sizes)
    gates = tuple(with_channels(plan, g, q) for g in (g_forward, g_backward))
    o, _ = _attend(plan, *(to_lanes(plan, x) for x in (q, k, v)), gates, None)
    return to_heads(plan, o, v)


def missing(directions: int, q: jax.Array, k: jax.Array, v: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None; the gates are the first of `others`."""
    lacking = dispatch.lacking((q, k, v, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    if plan_for(q, v, others[:directions], 1.0).coblock == 0:
        return f'heads of {q.shape[-1]} x {v.shape[-1]} channels do not fit into the vector memory'
    return None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    plan: Plan, q: jax.Array, k: jax.Array, v: jax.Array, gates: Pair, start: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the outputs and, for a single direction, its last states."""
    return _outputs(plan, {'q': q, 'k': k, 'v': v, 'gates': gates, 'start': start})


def _attend_forward(plan: Plan, *inputs: Any) -> tuple[tuple, tuple]:
    return _attend(plan, *inputs), inputs


def _attend_backward(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    return _cotangents(plan._replace(block=plan.coblock), inputs, cotangents)


_attend.defvjp(_attend_forward, _attend_backward)


def _order(gates: Pair) -> tuple[int, int]:
    """Returns the direction in which the outputs are computed, and the other one."""
    return (0, 1) if gates[0] is not None else (1, 0)


def _laid_out(plan: Plan, gates: Pair) -> Pair:
    return jax.tree.map(partial(to_gate, plan), gates) if plan.tile.shared else gates


def _outputs(plan: Plan, inputs: dict) -> tuple[jax.Array, jax.Array | None]:
    inputs |= {'gates': _laid_out(plan, inputs['gates'])}
    first, other = _order(inputs['gates'])
    two = inputs['gates'][other] is not None
    if two and plan.blocks > 1:
        inputs |= _edges(plan, inputs, {'edge': Memory(other)})
    scratch = {'held': plan.tile.state}
    if two:
        scratch['others'] = (plan.chunks, *plan.tile.state)
    v = inputs['v']
    out = {'o': pallas.output_like(v), 'last': None if two else pallas.output(plan.states, jnp.float32, v)}
    found = _call(_outputs_kernel, plan, inputs, out, scratch, first)
    return found['o'], found['last']


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    first, other = _order(ins['gates'])
    block = Block(plan, step, ins)
    step.begin(scratch['held'], ins['start'])
    if 'others' in scratch:
        block.store_states(Memory(other), ins.get('edge'), scratch['others'])

    def chunk(kind: str, n: Any, _: None) -> None:
        q, k, v = (step.read(ins[name], n) for name in 'qkv')
        fading = block.decays(n, kind)
        states = [None, None]
        states[first] = scratch['held'][...]
        if 'others' in scratch:
            states[other] = scratch['others'][n]
        given = q * plan.scale, k, v, fading
        if kind == EXACT:
            o = each_alone(plan.tile, chunk_of.exact_outputs, v, given, tuple(states))
        else:
            o = chunk_of.outputs(plan.tile, *given, tuple(states))
        step.write(outs['o'], n, o)
        kept = k * fading[first].leaving, v, fading[first].total
        scratch['held'][...] = advance(plan.tile, states[first], *kept)

    block.walk_by_kind(first, chunk, tuple(scratch.values()), True)
    step.end(scratch['held'], outs['last'])


def _cotangents(plan: Plan, inputs: tuple, cotangents: tuple) -> tuple:
    q, k, v, gates, start = inputs
    do, dlast = cotangents
    first, other = _order(gates)
    laid_out = _laid_out(plan, gates)
    ins = {'q': q, 'k': k, 'v': v, 'gates': laid_out, 'start': start, 'do': do, 'dlast': dlast}
    memories = {'edge': Memory(first)}
    if gates[other] is not None:
        memories['coedge'] = Memory(other, cotangent=True)
    if plan.blocks > 1:
        ins |= _edges(plan, ins, memories)
    scratch = {'costate': plan.tile.state, 'states': (plan.chunks, *plan.tile.state)}
    if len(memories) > 1:
        scratch |= {'state': plan.tile.state, 'costates': (plan.chunks, *plan.tile.state)}
    out = jax.tree.map(pallas.output_like, {'q': q, 'k': k, 'v': v, 'gates': laid_out, 'start': start})
    found = _call(_cotangents_kernel, plan, ins, out, scratch, other)
    if plan.tile.shared:
        found['gates'] = jax.tree.map(partial(from_gate, plan), found['gates'], gates)
    return tuple(found[name] for name in ('q', 'k', 'v', 'gates', 'start'))


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    first, other = _order(ins['gates'])
    block = Block(plan, step, ins)
    step.begin(scratch['costate'], ins['dlast'])
    block.store_states(Memory(first), ins.get('edge', ins['start']), scratch['states'])
    two = 'state' in scratch
    if two:
        step.begin(scratch['state'], None)
        block.store_states(Memory(other, cotangent=True), ins.get('coedge'), scratch['costates'])

    def chunk(kind: str, n: Any, _: None) -> None:
        q, k, v, do = (step.read(ins[name], n) for name in ('q', 'k', 'v', 'do'))
        q = q * plan.scale
        fading = block.decays(n, kind)
        edges = [None, None]
        edges[first] = (scratch['states'][n], scratch['costate'][...])
        if two:
            edges[other] = (scratch['state'][...], scratch['costates'][n])
        given = q, k, v, do, fading
        if kind == EXACT:
            like = (q, k, v, tuple(None if g is None else block.read_gate(g, n) for g in ins['gates']))
            dq, dk, dv, dgates = each_alone(plan.tile, chunk_of.cotangents, like, given, tuple(edges))
        else:
            dq, dk, dv, dgates = chunk_of.cotangents(plan.tile, *given, tuple(edges))
        for name, x in (('q', dq * plan.scale), ('k', dk), ('v', dv)):
            step.write(outs[name], n, x)
        jax.tree.map(lambda out, x: block.write_gate(out, n, x), outs['gates'], dgates)
        d = fading[first]
        scratch['costate'][...] = advance(plan.tile, edges[first][1], q * d.entering, do, d.total)
        if two:
            d = fading[other]
            scratch['state'][...] = advance(plan.tile, edges[other][0], k * d.leaving, v, d.total)

    block.walk_by_kind(other, chunk, tuple(scratch.values()), plan.tile.heads > 1)
    step.end(scratch['costate'], outs['start'])


def _edges(plan: Plan, inputs: dict, memories: dict[str, Memory]) -> dict[str, jax.Array]:
    """Returns the values before each block, (B, groups, blocks, ..), of memories that are carried in one direction."""
    names, gates = {'gates'}, [None, None]
    for m in memories.values():
        names |= {'q', 'do'} if m.cotangent else {'k', 'v', 'start'}
        gates[m.direction] = inputs['gates'][m.direction]
    ins = {name: inputs[name] for name in names} | {'gates': tuple(gates)}
    shape = (*plan.states[:2], plan.blocks, *plan.states[2:])
    like = jax.tree.leaves(gates)[0]
    outs = dict.fromkeys(memories, pallas.output(shape, jnp.float32, like))
    scratch = dict.fromkeys(memories, plan.tile.state)
    walk = next(iter(memories.values())).walk
    return _call(partial(_edges_kernel, memories), plan, ins, outs, scratch, walk)


def _edges_kernel(
    memories: dict[str, Memory], plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict
) -> None:
    block = Block(plan, step, ins)
    for name, memory in memories.items():
        step.begin(scratch[name], None if memory.cotangent else ins['start'])
        outs[name][0, 0, 0] = scratch[name][...]

    def chunk(n: Any, _: None) -> None:
        for name, memory in memories.items():
            scratch[name][...] = block.advance(memory, scratch[name][...], n)

    step.walk(step.grid.backwards, chunk)


class Block(NamedTuple):
    """A block of tokens in VMEM."""

    plan: Plan
    step: scan_tpu.Step
    ins: dict

    def walk_by_kind(self, direction: int, body: Callable[[str, Any, None], None], held: tuple, exact: bool) -> None:
        """Walks with `body(kind, n, None)`, where the kind is of all chunks: MILD, ANY or EXACT.

        EXACT, if that is asked for: a number of the block or of the scratch memory is NaN. MILD: none is, and no
        channel loses more than `mild.MOST` of log decay in a chunk; not if the channels of a head share a decay.
        """
        clean, least = self._look_through(held)
        is_mild = clean & (least >= -mild.MOST)
        kinds = {ANY: clean if exact else True, EXACT: ~clean if exact else False}
        if not self.plan.tile.shared:
            kinds |= {MILD: is_mild, ANY: kinds[ANY] & ~is_mild}
        for kind, when in kinds.items():
            if when is not False:
                pl.when(when)(partial(self.step.walk, bool(direction), partial(body, kind)))

    def _look_through(self, held: tuple) -> tuple[jax.Array, jax.Array]:
        """Returns whether there is no NaN, and the least sum of log decays of a channel in a chunk."""
        rows = [x for name, x in self.ins.items() if name in ('q', 'k', 'v', 'do')]
        gates = [g for g in self.ins['gates'] if g is not None]

        def chunk(n: Any, found: tuple) -> tuple:
            total, least = found
            # Decays of -inf are no NaN.
            logs = [jnp.maximum(self.read_gate(g, n), LOWEST) for g in gates]
            total += sum(jnp.sum(x * 0.0) for x in [self.step.read(x, n) for x in rows] + logs)
            return total, jnp.minimum(least, min_of(logs))

        min_of = lambda logs: jnp.min(jnp.concatenate([jnp.sum(x, axis=0, keepdims=True) for x in logs], axis=1))
        zero = sum(jnp.sum(x[...] * 0.0) for x in held)
        total, least = lax.fori_loop(0, self.plan.chunks, chunk, (zero, jnp.float32(0.0)))
        return total == 0, least

    def store_states(self, memory: Memory, edge: Any, out: Any) -> None:
        """Stores the values of a memory before each chunk, given its value before the block."""
        back = memory.walk
        begin = self.plan.chunks - 1 if back else 0
        if edge is None:
            out[begin] = jnp.zeros(out.shape[1:], out.dtype)
        else:
            out[begin] = edge[0, 0, 0] if len(edge.shape) == 5 else edge[0, 0]

        def chunk(n: Any, _: None) -> None:
            out[n - 1 if back else n + 1] = self.advance(memory, out[n], n)

        if self.plan.chunks > 1:
            self.step.walk(bool(back), chunk, tiles=self.plan.chunks - 1)

    def advance(self, memory: Memory, held: jax.Array, n: Any) -> jax.Array:
        """Returns the value of a memory after a chunk."""
        names = ('q', 'do') if memory.cotangent else ('k', 'v')
        rows, columns = (self.step.read(self.ins[name], n) for name in names)
        gate = self.read_gate(self.ins['gates'][memory.direction], n)
        to_edge = per_head.to_edge if self.plan.tile.shared else mild.to_edge
        fade, total = to_edge(self.plan.tile, gate, memory.direction, not memory.cotangent)
        rows = rows * self.plan.scale if memory.cotangent else rows
        return advance(self.plan.tile, held, rows * fade, columns, total)

    def decays(self, n: Any, kind: str) -> Pair:
        """Returns the products of decays in a chunk, per direction."""
        tile = self.plan.tile

        def read(g: Any, direction: int) -> Any:
            gate = self.read_gate(g, n)
            if tile.shared:
                return per_head.decays(tile, gate, direction, kind == EXACT)
            return mild.decays(tile, gate, direction) if kind == MILD else chunk_of.decays(gate, direction)

        return tuple(None if g is None else read(g, direction) for direction, g in enumerate(self.ins['gates']))

    def read_gate(self, ref: Any, n: Any) -> jax.Array:
        """Returns the log decays of a chunk: (G, C) if the channels of a head share one, else rows."""
        return ref[0, 0, n] if self.plan.tile.shared else self.step.read(ref, n)

    def write_gate(self, ref: Any, n: Any, x: jax.Array) -> None:
        if self.plan.tile.shared:
            ref[0, 0, n] = x
        else:
            self.step.write(ref, n, x)


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict, scratch: dict, walk: int) -> dict:
    """Runs a kernel over groups of heads and blocks of tokens, the last block first if `walk` is 1."""
    grid = plan.grid(walk)
    name = f'gla{getattr(kernel, "func", kernel).__name__.removesuffix("_kernel")}'
    specs = partial(jax.tree.map, partial(plan.spec, grid))
    return scan_tpu.call(partial(kernel, plan), grid, specs, ins, outs, scratch, plan.work(ins), name, plan.memory)
