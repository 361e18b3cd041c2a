"""The arrays of gated linear attention and of its forms: B batch, T tokens, H heads, K key and V value channels."""

from jaxtyping import Array, Float

Keys = Float[Array, 'b t h k']  # and queries
Values = Float[Array, 'b t h v']  # and outputs
Gate = Float[Array, 'b t h k'] | Float[Array, 'b t h']  # log decays, per key channel or per head
State = Float[Array, 'b h k v']
Start = State | None  # the state before the first token; zero by default
Chunk = int | None  # tokens of a chunk; None: by the shapes
