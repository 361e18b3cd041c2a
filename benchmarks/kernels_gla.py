"""Gated linear attention for `benchmarks.kernels`: the programs that are compared, and the calls that are timed.

On TPUs arrays are inputs in the shape that a layer produces, (B, T, H K) from a projection, and are then reshaped to
(B, T, H, K). As inputs of the latter shape a TPU would store them with tokens in the lanes, and every form would have
to copy them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from longview.kernels.gla import bidirectional_gla, gla
from longview.kernels.gla.shapes import SHAPES
from tests.kernels import tpu as chips

FACTS = (8, 4096, 4, 64, 128)  # B T H K V, the shape on which forms are compared
CPU = [','.join(map(str, shape[:5])) for shape in SHAPES.values() if shape.timed]
PEER = 'benchmarks.peer_gla'


class Program(NamedTuple):
    """An op and the shapes of its inputs (q, k, v and a gate per direction), with or without gradients."""

    op: Callable
    shape: tuple[int, ...]
    dtype: Any = jnp.bfloat16
    directions: int = 1
    gradients: bool = False

    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        batch, tokens, heads, keys, values = self.shape
        widths = [keys, keys, values, *[keys] * self.directions, *[values] * self.gradients]
        return [jax.ShapeDtypeStruct((batch, tokens, heads * width), self.dtype) for width in widths]

    def run(self, *rows: jax.Array) -> Any:
        def op(*rows: jax.Array) -> jax.Array:
            *qkv, g = (x.reshape(*x.shape[:2], self.shape[2], -1) for x in rows[:4])
            gates = [g] + [x.reshape(g.shape) for x in rows[4:]]
            return self.op(*qkv, *gates).reshape(rows[2].shape)

        if not self.gradients:
            return op(*rows)
        o, pull = jax.vjp(op, *rows[:-1])
        return o, pull(rows[-1])

    def compile(self, chip: str = 'v5e') -> chips.Compiled:
        return chips.compile_for(lambda *rows: self.run(*rows), *self.inputs(), chip=chip)


def one_way(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
    """Returns the outputs without the last state."""
    return gla(q, k, v, g)[0]


def two_passes(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, h: jax.Array) -> jax.Array:
    """Returns the two scans that `bidirectional_gla` merges into one pass."""
    return gla(q, k, v, g)[0] + gla(q, k, v, h, reverse=True)[0]


def xla_chunks(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, chunk: int) -> jax.Array:
    """The paper's chunkwise form without a loop, for the compiler counts the bytes of a loop's body only once."""
    batch, tokens, heads, keys = q.shape
    q, k, v, g = (x.reshape(batch, -1, chunk, heads, x.shape[-1]) for x in (q, k, v, g))
    prefix = jnp.cumsum(g.astype(jnp.float32), 2)
    total = prefix[:, :, -1:]
    queries = (q * jnp.exp(prefix) * keys**-0.5).astype(q.dtype)
    leaving = (k * jnp.exp(total - prefix)).astype(q.dtype)
    added = jnp.einsum('bnchk,bnchv->nbhkv', leaving, v, preferred_element_type=jnp.float32)
    fade = jnp.exp(total[:, :, 0]).transpose(1, 0, 2, 3)[..., None]
    states = [jnp.zeros_like(added[0])]
    for n in range(tokens // chunk - 1):
        states.append(fade[n] * states[-1] + added[n])
    scores = jnp.einsum('bnihk,bnjhk->bnhij', queries, (k * jnp.exp(-prefix)).astype(q.dtype))
    o = jnp.einsum('bnhij,bnjhv->bnihv', jnp.tril(scores), v)
    o += jnp.einsum('bnchk,bnhkv->bnchv', queries, jnp.stack(states, 1).astype(q.dtype))
    return o.reshape(batch, tokens, heads, -1)


def tpu(chip: str) -> Iterator[tuple[str, Any]]:
    """Yields names and what the compiler says; the first program of a group is the reference for the others."""
    for gradients in (False, True):
        what = ', with gradients' * gradients
        yield '', None
        for chunk in (256, 128, 64):
            op = partial(xla_chunks, chunk=chunk)
            yield f'XLA, chunks of {chunk}{what}', Program(op, FACTS, gradients=gradients).compile(chip)
        yield f'Pallas{what}', Program(one_way, FACTS, gradients=gradients).compile(chip)
    for tokens, gradients in ((1024, False), (512, True), (4096, False), (4096, True)):
        what = f'{tokens} tokens{", with gradients" * gradients}'
        yield '', None
        for name, op in (('two passes', two_passes), ('both directions in one', bidirectional_gla)):
            program = Program(op, (8, tokens, 4, 64, 128), jnp.bfloat16, 2, gradients)
            yield f'Pallas, {name}, {what}', program.compile(chip)
    for op, directions in ((one_way, 1), (bidirectional_gla, 2)):
        yield '', None
        program = Program(op, (1, 2**20, 4, 64, 128), jnp.bfloat16, directions, True)
        yield f'Pallas, {directions} direction(s), 1,048,576 tokens, batch 1, with gradients', program.compile(chip)


def calls(case: str) -> dict[str, Callable[[], Any]]:
    """Returns the functions to time for a shape B,T,H,K,V, already compiled and run once."""
    batch, tokens, heads, keys, values = map(int, case.split(','))
    random = np.random.default_rng(0)
    row = lambda width: jnp.asarray(random.standard_normal((batch, tokens, heads, width)), jnp.float32)
    q, k, v, do = row(keys), row(keys), row(values), row(values)
    g = jax.nn.log_sigmoid(row(keys)) / 16
    forward = jax.jit(one_way)
    gradients = jax.jit(lambda do, *inputs: jax.vjp(one_way, *inputs)[1](do))
    found = {
        'forward': lambda: jax.block_until_ready(forward(q, k, v, g)),
        'forward and gradients': lambda: jax.block_until_ready(gradients(do, q, k, v, g)),
    }
    for call in found.values():
        call()
    return found
