"""The selective scan as Pallas kernels for TPUs, forward and backward.

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023,
https://arxiv.org/abs/2312.00752 (section 3.3, for GPUs). No code was taken from others.

The state (N, channels of a block) stays in VMEM from one block of tokens to the next. Only for gradients one copy per
block of 128 tokens is written to HBM; the backward kernel recomputes the states of a block in VMEM and scans it in the
opposite direction. Channels are in lanes, states in sublanes. B and C have tokens in lanes; the column of states of a
token is broadcast over the lanes of the channels.

Step sizes, skip and gate (softplus, `D`, `z`) are computed in the kernels, so that every array is read and written
once, in its own dtype. The last block of channels may be partial: what is read behind the last channel is set to 0.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from longview.kernels import derivatives, dispatch, pallas, scan_tpu
from longview.kernels.selective_scan import pallas_tpu_tile as tile
from longview.kernels.selective_scan.arrays import Inputs, State, Tokens

_WIDEST = 512  # most channels of a block
_STATES = 2**20  # most numbers in the states of a block: 4 MiB of at least 16 MiB
_TILE = scan_tpu.TILE
_LANES = scan_tpu.LANES


class Plan(NamedTuple):
    """Static arguments.

    states: of a channel, filled up to whole registers.
    width: the number of channels of a block, 0 if no width fits.
    """

    batch: int
    tokens: int
    channels: int
    states: int
    groups: int
    width: int
    softplus: bool
    reverse: bool

    def grid(self, backwards: bool) -> scan_tpu.Grid:
        blocks = -(-self.channels // self.width)
        block = min(_LANES, pallas.round_up(self.tokens, _TILE))
        return scan_tpu.Grid(self.batch, blocks, self.tokens, block, _TILE, backwards)

    @property
    def columns(self) -> range:
        """The columns of registers in a block of channels."""
        return range(self.width // _LANES)

    @property
    def held(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the memory that `Block` needs."""
        return {'A': (self.states, self.width)} | dict.fromkeys('BC', (self.states, _LANES))

    def lanes(self, column: int) -> slice:
        """The channels of a column."""
        return slice(column * _LANES, (column + 1) * _LANES)

    def apart(self, x: jax.Array) -> list[jax.Array]:
        """The columns of `x` (rows, channels)."""
        return [x[:, self.lanes(column)] for column in self.columns]

    def rows(self, count: int) -> tuple[int, int, int]:
        """The shape of memory for `count` rows; a row of a single column is read into all sublanes at once."""
        return len(self.columns), count, _LANES

    def specs(self, grid: scan_tpu.Grid, arrays: dict) -> dict:
        """The blocks of arrays, by name."""
        shared = grid.groups // self.groups
        weights = (1, 1, self.states, _LANES)
        rows = ('u', 'delta', 'z', 'y', 'dy', 'du', 'ddelta', 'dz')
        known = {name: grid.spec((1, grid.block, self.width), 'btg') for name in rows}
        known |= {name: pl.BlockSpec(weights, lambda b, g, t: (b, lax.div(g, shared), 0, grid.at(t))) for name in 'BC'}
        known |= {name: grid.spec(weights, 'bg.t') for name in ('dB', 'dC')}
        known |= {name: grid.spec((1, 1, self.width), 'b.g') for name in ('D', 'bias')}
        known |= {name: grid.spec((1, tile.SUBLANES, self.width), 'b.g') for name in ('dD', 'dbias')}
        known['edges'] = grid.spec((1, 1, self.states, self.width), 'bt.g')
        state = grid.spec((1, self.states, self.width), 'b.g')
        return {name: known.get(name, state) for name in arrays}


def selective_scan(*arrays: Any, softplus: bool, reverse: bool) -> tuple[Tokens, State]:
    """See `kernels.selective_scan.selective_scan`; its arrays are those of `Inputs`."""
    u, delta, A, B, C, D, z, delta_bias, initial_state = Inputs(*arrays)
    plan = _plan(u, A, B, softplus, reverse)
    more = plan.states - A.shape[1]

    def state(x: jax.Array) -> jax.Array:
        return jnp.pad(x.astype(jnp.float32).swapaxes(-1, -2), ((0, 0),) * (x.ndim - 2) + ((0, more), (0, 0)))

    def shared(x: jax.Array) -> jax.Array:
        """One copy per sequence, since a mapped axis of `vmap` joins the batch of every array."""
        return jnp.broadcast_to(x.astype(jnp.float32)[None], (plan.batch, *x.shape))

    ins = {'u': u, 'delta': delta, 'A': shared(state(A)), 'B': _columns(plan, B), 'C': _columns(plan, C)}
    ins |= {name: shared(x[None]) for name, x in (('D', D), ('bias', delta_bias)) if x is not None}
    ins |= {} if z is None else {'z': z}
    ins |= {} if initial_state is None else {'start': state(initial_state)}
    y, last = _scan(plan, ins)
    return y, last[:, : A.shape[1]].swapaxes(1, 2)


def missing(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, *others: jax.Array | None) -> str | None:
    """Returns why this form cannot serve a call, in words, or None."""
    lacking = dispatch.lacking((u, delta, A, B, others), ('float32', 'bfloat16'))
    if lacking is not None:
        return lacking
    plan = _plan(u, A, B, False, False)
    if plan.width == 0:
        return (
            f'{plan.groups} groups of {plan.channels // plan.groups} channels of {A.shape[1]} '
            f'states; wanted one group, or groups of a multiple of {_LANES} channels, and at most '
            f'{_STATES // _LANES**2} states'
        )
    return None


def _plan(u: jax.Array, A: jax.Array, B: jax.Array, softplus: bool, reverse: bool) -> Plan:
    groups, states = (1 if B.ndim == 3 else B.shape[2]), pallas.round_up(A.shape[1], tile.SUBLANES)
    width = _width(u.shape[2] // groups, groups, min(_WIDEST, _STATES // _LANES // states) // _LANES * _LANES)
    return Plan(*u.shape, states, groups, width, softplus, reverse)


def _width(group: int, groups: int, most: int) -> int:
    """The number of channels of a block: as few blocks as fit; they divide a group, unless there is one."""
    if groups == 1 and most:
        return pallas.round_up(-(-group // -(-group // most)), _LANES)
    return next((width for width in range(most, 0, -_LANES) if group % width == 0), 0)


def _columns(plan: Plan, x: jax.Array) -> jax.Array:
    """Returns (B, G, states, T)."""
    x = x.reshape(plan.batch, plan.tokens, plan.groups, -1).transpose(0, 2, 3, 1)
    return jnp.pad(x, ((0, 0), (0, 0), (0, plan.states - x.shape[2]), (0, 0)))


def _outputs(plan: Plan, inputs: tuple[dict], keep: bool) -> tuple[tuple, tuple | None]:
    """The outputs and the last state, by the arrays of the kernels."""
    (ins,) = inputs
    grid = plan.grid(plan.reverse)
    outs = {'y': pallas.output_like(ins['u']), 'last': pallas.output_float32(ins['A'])}
    if keep:
        outs['edges'] = pallas.output_float32(ins['A'], plan.batch, grid.blocks, plan.states, plan.channels)
    state, rows = (plan.states, plan.width), plan.rows(_TILE)
    scratch = {'state': state, 'delta': rows, 'x': rows, 'read': plan.rows(tile.SUBLANES * _TILE), **plan.held}
    found = _call(_outputs_kernel, plan, grid, ins, outs, scratch)
    return (found['y'], found['last']), (ins, found['edges']) if keep else None


def _outputs_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    block = Block(plan, step, ins, scratch)
    step.begin(scratch['state'], ins.get('start'))
    block.begin()
    state = block.within(scratch['state'][...])
    if 'edges' in outs:
        outs['edges'][0, 0] = state

    def walked(n: Any, state: list) -> list:
        u, delta = block.rows('u', n), block.steps(n)[1]
        block.keep('delta', 0, delta)
        block.keep('x', 0, delta * u)
        B, C = block.columns('B', n), block.columns('C', n)
        for i in step.order(plan.reverse):
            for c in plan.columns:
                state[c] = block.decay(c, block.row('delta', c, i)) * state[c] + block.row('x', c, i) * B[i]
                tile.hold(scratch['read'], c, i, state[c] * C[i])
        y = block.skip(tile.summed(scratch['read']), u)
        step.write(outs['y'], n, y * tile.silu(block.rows('z', n)) if 'z' in ins else y)
        return state

    scratch['state'][...] = jnp.concatenate(step.walk(plan.reverse, walked, plan.apart(state)), axis=1)
    step.end(scratch['state'], outs['last'])


def _cotangents(plan: Plan, kept: tuple, cotangents: tuple) -> tuple[dict]:
    """The cotangents of the arrays of the kernels, by their names."""
    (ins, edges), (dy, dlast) = kept, cotangents
    grid = plan.grid(not plan.reverse)
    one = lambda *shape: pallas.output_float32(ins['A'], plan.batch, *shape)
    parts, row = one(grid.groups, plan.states, plan.tokens), one(tile.SUBLANES, plan.channels)
    known = {'A': one(plan.states, plan.channels), 'B': parts, 'C': parts, 'D': row, 'bias': row}
    outs = {f'd{name}': known.get(name) or pallas.output_like(x) for name, x in ins.items()}
    state, rows, sums = (plan.states, plan.width), plan.rows(grid.block), plan.rows(tile.SUBLANES * _TILE)
    scratch = {**plan.held, 'dA': state, 'dstart': state, 'faded': (grid.block, *state)}
    scratch |= {name: rows for name in ('delta', 'x', 'dread')} | {name: sums for name in ('read', 'dx')}
    scratch |= {name: (tile.SUBLANES, plan.width) for name in ('dD', 'dbias') if name in outs}
    given = {name: x for name, x in ins.items() if name != 'start'} | {'edges': edges, 'dy': dy, 'dlast': dlast}
    found = _call(_cotangents_kernel, plan, grid, given, outs, scratch)
    for name in ('dB', 'dC'):
        found[name] = found[name].reshape(plan.batch, plan.groups, -1, plan.states, plan.tokens).sum(2)
    for name in ('dD', 'dbias'):
        if name in found:
            found[name] = found[name].sum(1, keepdims=True)
    return ({name: found[f'd{name}'].astype(x.dtype) for name, x in ins.items()},)


_scan = derivatives.with_rule(_outputs, _cotangents)


def _cotangents_kernel(plan: Plan, step: scan_tpu.Step, ins: dict, outs: dict, scratch: dict) -> None:
    block = Block(plan, step, ins, scratch)
    carried = {name: scratch[name] for name in ('dstart', 'dA', 'dD', 'dbias') if name in scratch}
    for name, held in carried.items():
        step.begin(held, ins['dlast'] if name == 'dstart' else None)
    block.begin()
    blank = jnp.zeros((plan.states, _LANES), jnp.float32)

    def recomputed(n: Any, carry: tuple) -> tuple:
        """Keeps what is left of the state at each token before it adds its own; the cotangents of C, D and z."""
        state, dC = carry
        u, dread, delta = block.rows('u', n), block.rows('dy', n), block.steps(n)[1]
        if 'z' in ins:
            dread *= tile.silu(block.rows('z', n))
        for name, x in (('delta', delta), ('x', delta * u), ('dread', dread)):
            block.keep(name, n, x)
        B, C = block.columns('B', n), block.columns('C', n)
        for i in step.order(plan.reverse):
            at = n * _TILE + i
            for c in plan.columns:
                faded = block.decay(c, block.row('delta', c, at)) * state[c]
                scratch['faded'][at, :, plan.lanes(c)] = faded
                state[c] = faded + block.row('x', c, at) * B[i]
                if 'z' in ins:
                    tile.hold(scratch['read'], c, i, state[c] * C[i])
            dC = tile.put(dC, at, [state[c] * block.row('dread', c, at) for c in plan.columns])
        if 'z' in ins:
            read = block.skip(tile.summed(scratch['read']), u)
            step.write(outs['dz'], n, block.rows('dy', n) * read * tile.silu_slope(block.rows('z', n)))
        if 'D' in ins:
            scratch['dD'][...] += tile.fold(dread * u)
        return state, dC

    def walked(n: Any, carry: tuple) -> tuple:
        dstate, dA, dB = carry
        B, C = block.columns('B', n), block.columns('C', n)
        for i in step.order(not plan.reverse):
            at = n * _TILE + i
            parts = []
            for c in plan.columns:
                delta = block.row('delta', c, at)
                dstate[c] += block.row('dread', c, at) * C[i]
                parts.append(dstate[c] * block.row('x', c, at))
                tile.hold(scratch['dx'], c, i, dstate[c] * B[i])
                dexponent = dstate[c] * scratch['faded'][at, :, plan.lanes(c)]
                tile.hold(scratch['read'], c, i, dexponent * scratch['A'][:, plan.lanes(c)])
                dA[c] += dexponent * delta
                dstate[c] *= block.decay(c, delta)
            dB = tile.put(dB, at, parts)
        dx, delta, dread = tile.summed(scratch['dx']), block.kept('delta', n), block.kept('dread', n)
        step.write(outs['du'], n, block.skip(dx * delta, dread))
        ddelta = dx * block.rows('u', n) + tile.summed(scratch['read']) / tile.LOG2_E
        ddelta = ddelta * jax.nn.sigmoid(block.steps(n)[0]) if plan.softplus else ddelta
        step.write(outs['ddelta'], n, ddelta)
        if 'bias' in ins:
            scratch['dbias'][...] += tile.fold(step.within(ddelta, n))
        return dstate, dA, dB

    begin = (plan.apart(block.within(ins['edges'][0, 0])), blank)
    outs['dC'][0, 0] = step.walk(plan.reverse, recomputed, begin)[1]
    begin = (plan.apart(block.within(scratch['dstart'][...])), plan.apart(scratch['dA'][...]), blank)
    dstate, dA, outs['dB'][0, 0] = step.walk(not plan.reverse, walked, begin)
    scratch['dstart'][...], scratch['dA'][...] = (jnp.concatenate(x, axis=1) for x in (dstate, dA))
    for name, held in carried.items():
        if name in outs:
            step.end(held, outs[name])


class Block(NamedTuple):
    """A block of tokens and channels in VMEM."""

    plan: Plan
    step: scan_tpu.Step
    ins: dict
    scratch: dict

    def begin(self) -> None:
        """Keeps what tokens share: the rates of decay as `decay` needs them, B and C with 0 behind the last token."""
        self.scratch['A'][...] = self.within(self.ins['A'][0]) * tile.LOG2_E
        for name in ('B', 'C'):
            x = self.ins[name][0, 0].astype(jnp.float32)
            token = lax.broadcasted_iota(jnp.int32, x.shape, 1) + self.step.block * self.step.grid.block
            self.scratch[name][...] = jnp.where(token < self.plan.tokens, x, 0.0)

    def within(self, x: jax.Array) -> jax.Array:
        """`x` (rows, channels) with 0 behind the last channel, where memory holds anything."""
        if self.plan.channels % self.plan.width == 0:
            return x
        channel = lax.broadcasted_iota(jnp.int32, x.shape, 1) + pl.program_id(1) * self.plan.width
        return jnp.where(channel < self.plan.channels, x, 0.0)

    def rows(self, name: str, n: Any) -> jax.Array:
        """The tokens of a tile (tokens, channels) in float32, with 0 behind the last token and channel."""
        return self.within(self.step.read(self.ins[name], n))

    def keep(self, name: str, n: Any, x: jax.Array) -> None:
        """Writes the tokens of tile `n` (tokens, channels) of scratch memory."""
        for c in self.plan.columns:
            self.scratch[name][c, self.step.rows(n), :] = x[:, self.plan.lanes(c)]

    def kept(self, name: str, n: Any) -> jax.Array:
        """Reads what `keep` wrote."""
        return jnp.concatenate([self.scratch[name][c, self.step.rows(n), :] for c in self.plan.columns], axis=1)

    def row(self, name: str, column: int, token: Any) -> jax.Array:
        """Reads a column of a token (1, LANES)."""
        return self.scratch[name][column, pl.ds(token, 1), :]

    def columns(self, name: str, n: Any) -> list[jax.Array]:
        """The tokens of a tile as (states, 1)."""
        x = self.scratch[name][...]
        if self.step.grid.tiles > 1:
            x = pallas.roll(x, lax.rem(_LANES - n * _TILE, _LANES), 1)
        return [x[:, i : i + 1] for i in range(_TILE)]

    def steps(self, n: Any) -> tuple[jax.Array, jax.Array]:
        """The step sizes of a tile before and after softplus; the latter are 0 behind the last token."""
        raw = self.rows('delta', n)
        raw = raw + self.within(self.ins['bias'][0]) if 'bias' in self.ins else raw
        return raw, self.step.within(tile.softplus(raw) if self.plan.softplus else raw, n)

    def decay(self, column: int, delta: jax.Array) -> jax.Array:
        """The factor on the states (states, LANES) of a column at a token of step size `delta` (1, LANES)."""
        return jnp.exp2(delta * self.scratch['A'][:, self.plan.lanes(column)])

    def skip(self, y: jax.Array, u: jax.Array) -> jax.Array:
        """`y` with the skip connection from `u`, both (tokens, channels)."""
        return y + self.within(self.ins['D'][0]) * u if 'D' in self.ins else y


def _call(kernel: Any, plan: Plan, grid: scan_tpu.Grid, ins: dict, outs: dict, scratch: dict) -> dict:
    """Runs a kernel over blocks of channels and tokens; each block of channels reads B and C of its group."""
    states = grid.blocks * grid.block * plan.channels * plan.states
    gradients = 'dy' in ins
    weights = sum(ins[name].size * ins[name].dtype.itemsize for name in 'BC') // plan.batch
    work = scan_tpu.Work(
        states * (24 if gradients else 6),
        states * (2 if gradients else 1),
        weights * (grid.groups // plan.groups - 1),
    )
    name = f'selective_scan{kernel.__name__.removesuffix("_kernel")}'
    return scan_tpu.call(partial(kernel, plan), grid, partial(plan.specs, grid), ins, outs, scratch, work, name)
