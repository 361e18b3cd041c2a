"""Separated speech: the scale-invariant signal-to-noise ratio, and the best way to say who is who.

Luo and Mesgarani, 2018, https://arxiv.org/abs/1711.00541, section 2.3; Yu et al., 2017,
https://arxiv.org/abs/1607.00325 (permutation-invariant training). Reference for the constants:
https://github.com/modelscope/ClearerVoice-Studio (Apache-2.0), train/speech_separation/losses/loss.py.

Signals are (batch, time, speakers). All is one number an example, with gradients: a loss is `separation_loss`'s mean.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_EPSILON = 1e-8


def si_snr(
    estimate: Float[Array, 'b t n'], source: Float[Array, 'b t m'], valid: Bool[Array, 'b t'] | None = None
) -> Float[Array, 'b n m']:
    """Returns the scale-invariant signal-to-noise ratio in dB of each estimate for each source.

    What of an estimate is a multiple of the source is signal, the rest is noise, both without their means over time.

    Args:
        estimate, source: signals.
        valid: False where a signal has ended; None for nowhere.
    """
    estimate, source = (_centred(x, valid) for x in (estimate, source))
    dot = jnp.einsum('btn,btm->bnm', estimate, source, precision=jax.lax.Precision.HIGHEST)
    scale = dot / (jnp.sum(source**2, axis=1)[:, None] + _EPSILON)
    signal = scale[:, None] * source[:, :, None]
    noise = jnp.sum((estimate[..., None] - signal) ** 2, axis=1)
    return 10 * jnp.log10(jnp.sum(signal**2, axis=1) / (noise + _EPSILON) + _EPSILON)


def _centred(x: Array, valid: Array | None) -> Array:
    """Returns signals less their means over time, 0 where they are not valid."""
    x = x.astype(jnp.float32)
    if valid is None:
        return x - jnp.mean(x, axis=1, keepdims=True)
    valid = valid[..., None]
    x = jnp.where(valid, x, 0.0)
    count = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
    return jnp.where(valid, x - jnp.sum(x, axis=1, keepdims=True) / count, 0.0)


def best_permutation(score: Float[Array, 'b n n']) -> tuple[Float[Array, ' b'], Int[Array, 'b n']]:
    """Returns the mean score of the best permutation, and the source that it gives to each estimate.

    All permutations are tried, which is meant for few speakers: 120 of 5.

    Args:
        score: of each estimate for each source.
    """
    places = np.asarray(list(itertools.permutations(range(score.shape[-1]))))
    means = jnp.mean(score[:, np.arange(score.shape[-1])[None], places], axis=-1)
    best = jnp.argmax(means, axis=-1)
    return jnp.max(means, axis=-1), jnp.asarray(places, jnp.int32)[best]


def separation_loss(
    estimate: Float[Array, 'b t n'], source: Float[Array, 'b t n'], valid: Bool[Array, 'b t'] | None = None
) -> Float[Array, ' b']:
    """Returns the negative SI-SNR in dB, the mean over speakers for the best permutation; arguments as of `si_snr`."""
    return -best_permutation(si_snr(estimate, source, valid))[0]


def separation(
    estimate: Float[Array, 'b t n'],
    source: Float[Array, 'b t n'],
    mixture: Float[Array, 'b t'],
    valid: Bool[Array, 'b t'] | None = None,
) -> dict[str, Float[Array, ' b']]:
    """Returns ``si_snr``, the mean over speakers for the best permutation, and ``si_snr_improvement``, both in dB.

    Args:
        estimate, source, valid: as of `si_snr`.
        mixture: what was separated; the improvement is over taking it for each of the speakers.
    """
    found = best_permutation(si_snr(estimate, source, valid))[0]
    before = jnp.mean(si_snr(mixture[..., None], source, valid), axis=(1, 2))
    return {'si_snr': found, 'si_snr_improvement': found - before}
