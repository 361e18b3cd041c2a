"""The geometry of a depthwise convolution: what is static about a call, and what follows."""

from typing import NamedTuple

import jax

Pair = tuple[int, int]


class Plan(NamedTuple):
    """Along height and width: steps of the output and of the taps, zeros before and after."""

    stride: Pair
    dilation: Pair
    padding: tuple[Pair, Pair]

    def spans(self, kernel: jax.Array) -> Pair:
        """Pixels from the first tap to the last, both included."""
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
        """Of rows whose pixels are the channels of a pixel, one after the other; stride 1."""
        return self._replace(dilation=(self.dilation[0], self.dilation[1] * channels))

    def adjoint(self, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> 'Plan':
        """Of `spread_out(dy)` with the reversed kernel, which makes the cotangent of x."""
        pads = []
        for side, (before, _), span, count, step in zip(
            x.shape[1:3], self.padding, self.spans(kernel), dy.shape[1:3], self.stride
        ):
            first = span - 1 - before
            pads.append((first, side + span - 1 - first - (count - 1) * step - 1))
        return Plan((1, 1), self.dilation, (pads[0], pads[1]))


def spread_out(x: jax.Array, steps: Pair, axes: Pair = (1, 2)) -> jax.Array:
    """Puts zeros between pixels, or taps, so that they are `steps` apart."""
    if steps == (1, 1):
        return x
    holes = dict(zip(axes, steps))
    config = [(0, 0, holes.get(axis, 1) - 1) for axis in range(x.ndim)]
    return jax.lax.pad(x, jax.numpy.zeros((), x.dtype), config)
