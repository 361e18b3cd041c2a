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

from longview.kernels import derivatives, dispatch, pallas, scan_tpu
from longview.kernels.gla import pallas_tpu_chunk as chunk_of
from longview.kernels.gla import pallas_tpu_head as per_head
from longview.kernels.gla import pallas_tpu_mild as mild
from longview.kernels.gla import pallas_tpu_tile as tile_of
from longview.kernels.gla.pallas_tpu_layout import (
    Plan,
    Window,
    from_states,
    plan_for,
    to_gate,
    to_lanes,
    to_states,
    window,
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
    gate = to_gate(plan, g)
    start = None if initial_state is None else to_states(plan, initial_state)
    o, last = _attend(plan, *map(to_lanes, (q, k, v)), (None, gate) if reverse else (gate, None), start)
    return o.reshape(v.shape), from_states(plan, last)


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
    gates = to_gate(plan, g_forward), to_gate(plan, g_backward)
    return _attend(plan, *map(to_lanes, (q, k, v)), gates, None)[0].reshape(v.shape)


def missing(directions: int, q: jax.Array, k: jax.Array, v: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None; the gates are the first of `others`."""
    lacking = dispatch.lacking((q, k, v, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    if plan_for(q, v, others[:directions], 1.0).coblock == 0:
        return f'heads of {q.shape[-1]} x {v.shape[-1]} channels do not fit into the vector memory'
    return None


def _order(gates: Pair) -> tuple[int, int]:
    """Returns the direction in which the outputs are computed, and the other one."""
    return (0, 1) if gates[0] is not None else (1, 0)


def _outputs(plan: Plan, inputs: tuple, keep: bool) -> tuple[tuple[jax.Array, jax.Array | None], tuple]:
    """The outputs and, for a single direction, its last states, given q, k, v, gates and the states before."""
    ins = dict(zip(('q', 'k', 'v', 'gates', 'start'), inputs))
    first, other = _order(ins['gates'])
    two = ins['gates'][other] is not None
    if two and plan.blocks > 1:
        ins |= _edges(plan, ins, {'edge': Memory(other)})
    scratch = {'held': (plan.parts, *plan.tile.state)}
    if two:
        scratch['others'] = (plan.chunks, *plan.tile.state)
    v = ins['v']
    out = {'o': pallas.output_like(v), 'last': None if two else pallas.output(plan.states, jnp.float32, v)}
    found = _call(_outputs_kernel, plan, ins, out, scratch, first)
    return (found['o'], found['last']), inputs


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    first, other = _order(ins['gates'])
    step.begin(scratch['held'], ins['start'])

    def tile(block: Block) -> None:
        held = scratch['held'].at[block.part]
        others = scratch.get('others')
        if others is not None:
            block.store_states(Memory(other), ins.get('edge'), others)

        def chunk(kind: str, n: Any, _: None) -> None:
            q, k, v = (block.read(name, n) for name in 'qkv')
            fading = block.decays(n, kind)
            states = [None, None]
            states[first] = held[...]
            if others is not None:
                states[other] = others[n]
            given = q * plan.scale, k, v, fading
            if kind == EXACT:
                o = each_alone(plan.tile, chunk_of.exact_outputs, v, given, tuple(states))
            else:
                o = chunk_of.outputs(plan.tile, *given, tuple(states))
            block.write(outs['o'], 'v', n, o)
            kept = k * fading[first].leaving, v, fading[first].total
            held[...] = advance(plan.tile, states[first], *kept)

        block.walk_by_kind(first, chunk, (held, others), True)

    _each_tile(plan, step, ins, tile)
    step.end(scratch['held'], outs['last'])


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple:
    plan = plan._replace(block=plan.coblock)
    ins = dict(zip(('q', 'k', 'v', 'gates', 'start', 'do', 'dlast'), (*kept, *cotangents)))
    first, other = _order(ins['gates'])
    memories = {'edge': Memory(first)}
    if ins['gates'][other] is not None:
        memories['coedge'] = Memory(other, cotangent=True)
    if plan.blocks > 1:
        ins |= _edges(plan, ins, memories)
    carried, stored = (plan.parts, *plan.tile.state), (plan.chunks, *plan.tile.state)
    scratch = {'costate': carried, 'states': stored}
    if len(memories) > 1:
        scratch |= {'state': carried, 'costates': stored}
    out = {name: jax.tree.map(pallas.output_like, ins[name]) for name in ('q', 'k', 'v', 'gates', 'start')}
    found = _call(_cotangents_kernel, plan, ins, out, scratch, other)
    return tuple(found[name] for name in out)


_attend = derivatives.with_rule(_outputs, _cotangents)


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    first, other = _order(ins['gates'])
    two = 'state' in scratch
    step.begin(scratch['costate'], ins['dlast'])
    if two:
        step.begin(scratch['state'], None)

    def tile(block: Block) -> None:
        costate, states = scratch['costate'].at[block.part], scratch['states']
        block.store_states(Memory(first), ins.get('edge', ins['start']), states)
        if two:
            state, costates = scratch['state'].at[block.part], scratch['costates']
            block.store_states(Memory(other, cotangent=True), ins.get('coedge'), costates)

        def chunk(kind: str, n: Any, _: None) -> None:
            q, k, v, do = (block.read(name, n) for name in ('q', 'k', 'v', 'do'))
            q = q * plan.scale
            fading = block.decays(n, kind)
            edges = [None, None]
            edges[first] = (states[n], costate[...])
            if two:
                edges[other] = (state[...], costates[n])
            given = q, k, v, do, fading
            if kind == EXACT:
                like = (q, k, v, tuple(None if g is None else block.read_gate(g, n) for g in ins['gates']))
                dq, dk, dv, dgates = each_alone(plan.tile, chunk_of.cotangents, like, given, tuple(edges))
            else:
                dq, dk, dv, dgates = chunk_of.cotangents(plan.tile, *given, tuple(edges))
            for name, x in (('q', dq * plan.scale), ('k', dk), ('v', dv)):
                block.write(outs[name], name, n, x)
            jax.tree.map(lambda out, x: block.write_gate(out, n, x), outs['gates'], dgates)
            d = fading[first]
            costate[...] = advance(plan.tile, edges[first][1], q * d.entering, do, d.total)
            if two:
                d = fading[other]
                state[...] = advance(plan.tile, edges[other][0], k * d.leaving, v, d.total)

        held = (costate, states, state, costates) if two else (costate, states)
        block.walk_by_kind(other, chunk, held, plan.tile.heads > 1)

    _each_tile(plan, step, ins, tile)
    step.end(scratch['costate'], outs['start'])


def _edges(plan: Plan, inputs: dict, memories: dict[str, Memory]) -> dict[str, jax.Array]:
    """Returns the values before each block, (B, tiles, blocks, ..), of memories that are carried in one direction."""
    names, gates = {'gates'}, [None, None]
    for m in memories.values():
        names |= {'q', 'do'} if m.cotangent else {'k', 'v', 'start'}
        gates[m.direction] = inputs['gates'][m.direction]
    ins = {name: inputs[name] for name in names} | {'gates': tuple(gates)}
    shape = (*plan.states[:2], plan.blocks, *plan.states[2:])
    like = jax.tree.leaves(gates)[0]
    outs = dict.fromkeys(memories, pallas.output(shape, jnp.float32, like))
    scratch = dict.fromkeys(memories, (plan.parts, *plan.tile.state))
    walk = next(iter(memories.values())).walk
    return _call(partial(_edges_kernel, memories), plan, ins, outs, scratch, walk)


def _edges_kernel(
    memories: dict[str, Memory], plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict
) -> None:
    for name, memory in memories.items():
        step.begin(scratch[name], None if memory.cotangent else ins['start'])
        outs[name][0, :, 0] = scratch[name][...]

    def tile(block: Block) -> None:
        def chunk(n: Any, _: None) -> None:
            for name, memory in memories.items():
                scratch[name][block.part] = block.advance(memory, scratch[name][block.part], n)

        step.walk(step.grid.backwards, chunk)

    _each_tile(plan, step, ins, tile)


def _each_tile(plan: Plan, step: scan_tpu.Step, ins: dict, body: Callable[['Block'], None]) -> None:
    """Runs `body` for the tiles of a block, one after the other; the last group may have fewer."""
    if plan.parts == 1:
        body(Block(plan, step, ins, 0))
        return
    here = jnp.minimum(plan.parts, plan.tiles - step.group * plan.parts)
    lax.fori_loop(0, here, lambda part, _: body(Block(plan, step, ins, part)), None)


class Block(NamedTuple):
    """A tile of a block of tokens in VMEM."""

    plan: Plan
    step: scan_tpu.Step
    ins: dict
    part: Any

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
        rows = [name for name in ('q', 'k', 'v', 'do') if name in self.ins]
        gates = [g for g in self.ins['gates'] if g is not None]

        def chunk(n: Any, found: tuple) -> tuple:
            total, least = found
            # Decays of -inf are no NaN.
            logs = [jnp.maximum(self.read_gate(g, n, moved=False), LOWEST) for g in gates]
            total += sum(jnp.sum(x * 0.0) for x in [self.read(name, n, moved=False) for name in rows] + logs)
            return total, jnp.minimum(least, min_of(logs))

        min_of = lambda logs: jnp.min(jnp.concatenate([jnp.sum(x, axis=0, keepdims=True) for x in logs], axis=1))
        zero = sum(jnp.sum(x[...] * 0.0) for x in held if x is not None)
        total, least = lax.fori_loop(0, self.plan.chunks, chunk, (zero, jnp.float32(0.0)))
        return total == 0, least

    def store_states(self, memory: Memory, edge: Any, out: Any) -> None:
        """Stores the values of a memory before each chunk, given its value before the block."""
        back = memory.walk
        begin = self.plan.chunks - 1 if back else 0
        if edge is None:
            out[begin] = jnp.zeros(out.shape[1:], out.dtype)
        else:
            out[begin] = edge[0, self.part, 0] if len(edge.shape) == 5 else edge[0, self.part]

        def chunk(n: Any, _: None) -> None:
            out[n - 1 if back else n + 1] = self.advance(memory, out[n], n)

        if self.plan.chunks > 1:
            self.step.walk(bool(back), chunk, tiles=self.plan.chunks - 1)

    def advance(self, memory: Memory, held: jax.Array, n: Any) -> jax.Array:
        """Returns the value of a memory after a chunk."""
        names = ('q', 'do') if memory.cotangent else ('k', 'v')
        rows, columns = (self.read(name, n) for name in names)
        gate = self.read_gate(self.ins['gates'][memory.direction], n)
        to_edge = per_head.to_edge if self.plan.tile.shared else tile_of.to_edge
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

    def read(self, name: str, n: Any, moved: bool = True) -> jax.Array:
        """Returns the tokens of a chunk, (C, G K) or (C, G V), in float32; among other lanes if not `moved`."""
        return self._rows(self.ins[name], name, n, moved)

    def read_gate(self, ref: Any, n: Any, moved: bool = True) -> jax.Array:
        """Returns the log decays of a chunk: (G, C) if the channels of a head share one, else rows."""
        if not self.plan.tile.shared:
            return self._rows(ref, 'g', n, moved)
        return self.step.within(ref[0, self.part, n], n, axis=1)

    def write_gate(self, ref: Any, n: Any, x: jax.Array) -> None:
        if self.plan.tile.shared:
            ref[0, self.part, n] = x
        else:
            self.write(ref, 'g', n, x)

    def write(self, ref: Any, name: str, n: Any, x: jax.Array) -> None:
        """Writes the tokens of a chunk."""
        if self.plan.parts == 1:
            self.step.write(ref, n, x)
        else:
            place, _ = self._window(ref, name)
            at = 0, self.step.rows(n), pl.ds(place.start, place.size)
            ref[at] = place.put(x, ref[at])

    def _rows(self, ref: Any, name: str, n: Any, moved: bool) -> jax.Array:
        if self.plan.parts == 1:
            return self.step.read(ref, n)
        place, width = self._window(ref, name)
        x = ref[0, self.step.rows(n), pl.ds(place.start, place.size)]
        x = place.taken(x, width).astype(jnp.float32) if moved else place.kept(x.astype(jnp.float32))
        return self.step.within(x, n)

    def _window(self, ref: Any, name: str) -> tuple[Window, int]:
        """Returns where the lanes of the tile are in a block, and how many it has in VMEM."""
        plan, wide = self.plan, name in ('v', 'do')
        width = plan.values if wide else plan.keys
        return window(ref.shape[-1], width, plan.parts, self.part), plan.tile.values if wide else plan.tile.keys


def _call(kernel: Callable, plan: Plan, ins: dict, outs: dict, scratch: dict, walk: int) -> dict:
    """Runs a kernel over groups of heads and blocks of tokens, the last block first if `walk` is 1."""
    grid = plan.grid(walk)
    name = f'gla{getattr(kernel, "func", kernel).__name__.removesuffix("_kernel")}'
    specs = partial(plan.specs, grid)
    return scan_tpu.call(partial(kernel, plan), grid, specs, ins, outs, scratch, plan.work(ins), name, plan.memory)
