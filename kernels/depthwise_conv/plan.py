"""The geometry of a depthwise convolution: the static arguments of a call, and sizes that follow from them."""

from typing import NamedTuple

import jax

Pair = tuple[int, int]


class Plan(NamedTuple):
    """Stride, dilation and zero padding (before, after), along height and width."""

    stride: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]

    def spans(self, kernel: jax.Array) -> Pair:
        """The number of pixels from the first tap to the last one, both included."""
        rows, columns = ((side - 1) * step + 1 for side, step in zip(kernel.shape[:2], self.dilation))
        return rows, columns

    def sizes(self, x: jax.Array, kernel: jax.Array) -> Pair:
        """Height and width of the output."""
        rows, columns = (
            (side + sum(pads) - span) // step + 1
            for side, pads, span, step in zip(x.shape[1:3], self.padding, self.spans(kernel), self.stride)
        )
        return rows, columns

    def flat(self, channels: int) -> 'Plan':
        """The plan for images whose channels are flattened into their rows; for stride 1."""
        return self._replace(dilation=(self.dilation[0], self.dilation[1] * channels))

    def adjoint(self, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> 'Plan':
        """The plan for `spread_out(dy)` with the reversed kernel, which computes the cotangent of x."""
        pads = []
        for side, (before, _), span, count, step in zip(
            x.shape[1:3], self.padding, self.spans(kernel), dy.shape[1:3], self.stride
        ):
            first = span - 1 - before
            pads.append((first, side + span - 1 - first - (count - 1) * step - 1))
        return Plan((1, 1), self.dilation, (pads[0], pads[1]))


def spread_out(x: jax.Array, steps: Pair, axes: Pair = (1, 2)) -> jax.Array:
    """Inserts zeros between pixels, or taps, so that they are `steps` apart."""
    if steps == (1, 1):
        return x
    holes = dict(zip(axes, steps))
    config = [(0, 0, holes.get(axis, 1) - 1) for axis in range(x.ndim)]
    return jax.lax.pad(x, jax.numpy.zeros((), x.dtype), config)
