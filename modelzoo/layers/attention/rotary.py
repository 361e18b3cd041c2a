"""Rotary position embeddings: pairs of channels are turned by an angle that grows with the place in the sequence.

Su et al., 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", https://arxiv.org/abs/2104.09864. The
first half of a head's channels is paired with the second, as in Llama.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(x: Float[Array, 'b h t k'], first: Array | int, base: float) -> Float[Array, 'b h t k']:
    """Applies rotary position embeddings.

    Args:
        x: queries or keys.
        first: the position of the first element.
        base: of the frequencies, ``base ** (-i / (K / 2))`` for pair i.
    """
    half = x.shape[-1] // 2
    speeds = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = (first + jnp.arange(x.shape[2]))[:, None].astype(jnp.float32) * speeds[None]
    cosine, sine = jnp.cos(angles)[None, None], jnp.sin(angles)[None, None]
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1).astype(x.dtype)
