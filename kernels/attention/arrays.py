"""Types of the arrays that all forms of attention are given."""

from jaxtyping import Array, Bool, Float

Queries = Float[Array, 'b t h k']
Keys = Float[Array, 'b s g k']
Values = Float[Array, 'b s g v']
Outputs = Float[Array, 'b t h v']
# One entry for all examples, heads, queries or keys where the dimension is 1.
Bias = Float[Array, '#b #h #t #s']
Mask = Bool[Array, '#b #h #t #s']
