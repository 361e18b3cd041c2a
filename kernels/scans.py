"""What the scans of sequences share: the loop over chunks of tokens, and the scan over devices.

The doubling along the devices is that of Hillis & Steele, Data Parallel Algorithms, 1986. No code was taken from
others.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from longview.kernels import dispatch


def sweep(
    step: Callable, carry: Any, length: int, chunk: int, backwards: bool, given: tuple[Any, Any]
) -> tuple[Any, tuple[Any, Any]]:
    """Runs `step(carry, start, size, given) -> (carry, output)` over the chunks of a sequence.

    The full chunks are a loop; the rest, which is always at the end of the sequence, is a step of its own.

    Args:
      step: the body; `start` is the first token of a chunk, `size` the number of its tokens.
      carry: the initial carry.
      length: tokens of the sequence.
      chunk: tokens of a full chunk.
      backwards: whether to start with the last chunk.
      given: inputs of the steps: stacked over the full chunks, and that of the rest.

    Returns:
      The last carry, and the outputs: stacked over the full chunks, and that of the rest.
    """
    full, rest = (0, length) if length <= chunk else divmod(length, chunk)
    stacked = tail = None
    if rest and backwards:
        carry, tail = step(carry, full * chunk, rest, given[1])
    if full:
        body = lambda carry, x: step(carry, x[0] * chunk, chunk, x[1])
        carry, stacked = lax.scan(body, carry, (jnp.arange(full), given[0]), reverse=backwards)
    if rest and not backwards:
        carry, tail = step(carry, full * chunk, rest, given[1])
    return carry, (stacked, tail)


class Walk(NamedTuple):
    """A scan by chunks of tokens, of which only the states that enter the chunks are kept for its derivative.

    run: (weights, state, tokens) -> (outputs, state) of a chunk; tokens are the first axis, in the order of the scan.
    chunk: tokens of a chunk.
    reverse: whether the scan begins at the last token.
    """

    run: Callable[[Any, Any, Any], tuple[jax.Array, Any]]
    chunk: int
    reverse: bool

    def outputs(
        self, weights: Any, tokens: Any, state: Any, blank: jax.Array, keep: bool
    ) -> tuple[jax.Array, Any, Any]:
        """The outputs, the last state and, with `keep`, the states that enter the chunks, as `sweep` returns them.

        Args:
          weights: what tokens share.
          tokens: a tree of arrays (B, T, ..).
          state: before the first token.
          blank: zeros of the shape of the outputs.
          keep: whether the states are wanted.
        """

        def step(carry: tuple, start: Any, size: int, _: Any) -> tuple[tuple, Any]:
            state, y = carry
            found, after = self.run(weights, state, self._read(tokens, start, size))
            return (after, self._write(y, found, start)), state if keep else None

        (state, y), edges = sweep(step, (state, blank), blank.shape[1], self.chunk, self.reverse, (None, None))
        return y, state, edges

    def cotangents(self, weights: Any, tokens: Any, edges: Any, dy: jax.Array, dlast: Any) -> tuple[Any, Any, Any]:
        """The cotangents of the weights, the tokens and the initial state, given those of the outputs."""

        def step(carry: tuple, start: Any, size: int, edge: Any) -> tuple[tuple, None]:
            dstate, dweights, dtokens = carry
            (y, _), pull = jax.vjp(self.run, weights, edge, self._read(tokens, start, size))
            more, dstate, found = pull((self._read(dy, start, size).astype(y.dtype), dstate))
            dweights = jax.tree.map(jnp.add, dweights, more)
            dtokens = jax.tree.map(lambda out, x: self._write(out, x, start), dtokens, found)
            return (dstate, dweights, dtokens), None

        begin = (dlast, *jax.tree.map(jnp.zeros_like, (weights, tokens)))
        (dstate, *found), _ = sweep(step, begin, dy.shape[1], self.chunk, not self.reverse, edges)
        return *found, dstate

    def _read(self, tokens: Any, start: Any, size: int) -> Any:
        """`size` tokens from `start` on, in the order of the scan and as the first axis."""

        def read(x: jax.Array) -> jax.Array:
            x = lax.dynamic_slice_in_dim(x, start, size, axis=1)
            x = jnp.moveaxis(x.astype(wide(x.dtype)), 1, 0)
            return x[::-1] if self.reverse else x

        return jax.tree.map(read, tokens)

    def _write(self, out: jax.Array, x: jax.Array, start: Any) -> jax.Array:
        x = jnp.moveaxis(x[::-1] if self.reverse else x, 0, 1).astype(out.dtype)
        return lax.dynamic_update_slice_in_dim(out, x, start, axis=1)


def where_it_runs(whole: Callable, on_cpu: Callable, few: int | None, inputs: tuple) -> Any:
    """Runs `whole(*inputs)`; on a CPU `on_cpu(*inputs)`, in float32 and on a few sequences at a time.

    A chunk of a few sequences stays in the cache. Inputs are cast to float32 on a CPU since in a loop that slices
    bfloat16 arrays XLA would cast whole arrays there, in every iteration.

    Args:
      whole, on_cpu: return the same; the batch is the first axis of all arrays if `few` is given.
      few: the number of sequences to run at a time on a CPU, a divisor of the batch; None for all.
      inputs: trees of arrays.
    """
    given = jax.eval_shape(whole, *inputs)
    batch = jax.tree.leaves(inputs)[0].shape[0]

    def run(*inputs: Any) -> Any:
        inputs = jax.tree.map(lambda x: x.astype(wide(x.dtype)), inputs)
        if few is None or few == batch:
            found = on_cpu(*inputs)
        else:
            some = lambda n: jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, n, few), inputs)
            found = lax.map(lambda n: on_cpu(*some(n)), jnp.arange(0, batch, few))
        return jax.tree.map(lambda x, like: x.reshape(like.shape).astype(like.dtype), found, given)

    return lax.platform_dependent(*inputs, cpu=run, default=whole)


def few(x: jax.Array, most: int) -> int:
    """The number of sequences to run at a time on a CPU: a divisor of the batch, the first axis of `x`; at most `most`.

    A batch that may be split over devices is not looped over, for the loop would have to gather it.
    """
    batch = x.shape[0]
    if dispatch.sharded(x) or dispatch.symbolic(x):
        return batch
    return next(n for n in range(min(max(most, 1), batch), 0, -1) if batch % n == 0)


def at_first(axis_name: Hashable, reverse: bool, state: jax.Array | None) -> jax.Array | None:
    """Returns the state before the first token of a sequence that is split over devices, and zeros on other devices."""
    if state is None:
        return None
    first = lax.axis_size(axis_name) - 1 if reverse else 0
    return jnp.where(lax.axis_index(axis_name) == first, state, jnp.zeros_like(state))


def from_last(axis_name: Hashable, reverse: bool, state: jax.Array) -> jax.Array:
    """Returns on all devices the state after the last token of a sequence that is split over them."""
    last = 0 if reverse else lax.axis_size(axis_name) - 1
    return lax.psum(jnp.where(lax.axis_index(axis_name) == last, state, jnp.zeros_like(state)), axis_name)


def over_devices(axis_name: Hashable, reverse: bool, decay: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the state after each device's shard of the sequence, and the state that enters the shard.

    It takes log2(number of devices) rounds. A device that has no other one before it receives zeros.

    Args:
      axis_name: the mesh axis over which the sequence is split, in order.
      reverse: whether the scan goes from the last device to the first.
      decay: the factor of a shard on a state; it broadcasts to the state.
      state: the state after a shard that starts from zero.
    """
    size = lax.axis_size(axis_name)

    def received(x: jax.Array, steps: int) -> jax.Array:
        pairs = [(n, n + steps) for n in range(size - steps)]
        pairs = [pair[::-1] for pair in pairs] if reverse else pairs
        return lax.ppermute(x, axis_name, pairs)

    steps = 1
    while steps < size:
        state = state + decay * received(state, steps)
        decay = decay * received(decay, steps)
        steps *= 2
    return state, received(state, 1)


def wide(dtype: Any) -> Any:
    """Returns the type in which values of `dtype` are accumulated: float32 or wider."""
    return jnp.promote_types(dtype, jnp.float32)


def power_of_two(size: int) -> int:
    """Returns the least power of two that is no smaller than `size`."""
    return 1 << (size - 1).bit_length()
