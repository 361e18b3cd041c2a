"""The arrays of the selective scan and of its forms: B batch, T tokens, D channels, N states, G groups."""

from typing import NamedTuple

from jaxtyping import Array, Float

Tokens = Float[Array, 'b t d']
Channels = Float[Array, ' d']
Rates = Float[Array, 'd n']
Weights = Float[Array, 'b t n'] | Float[Array, 'b t g n']
State = Float[Array, 'b d n']


class Inputs(NamedTuple):
    """What a form is given, in this order; see `kernels.selective_scan.selective_scan`."""

    u: Tokens
    delta: Tokens
    A: Rates
    B: Weights
    C: Weights
    D: Channels | None = None
    z: Tokens | None = None
    delta_bias: Channels | None = None
    initial_state: State | None = None
