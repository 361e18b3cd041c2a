"""Calibration: whether a classifier is right as often as it says.

The confidence is the largest probability of a softmax. `reliability` counts on the device and `expected_error` finishes
on the host; `adaptive_error` needs the rows of the split; `brier` and `nll` are one number an example.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from longview.methods.figures.means import ratio


def confidence(logits: Float[Array, 'b k'], label: Int[Array, ' b']) -> tuple[Float[Array, ' b'], Bool[Array, ' b']]:
    """Returns the largest probability of each example, and whether it is the label's class that has it."""
    logits = logits.astype(jnp.float32)
    return jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1), jnp.argmax(logits, axis=-1) == label


def reliability(
    logits: Float[Array, 'b k'], label: Int[Array, ' b'], mask: Bool[Array, ' b'], *, bins: int = 15
) -> dict[str, Num[Array, ' bins']]:
    """Counts the examples of a batch by their confidence, in bins of equal width; these sums may be added.

    Args:
        logits, label: of the batch.
        mask: the examples that count.
        bins: number of bins; one has its upper edge in it, and not its lower one.

    Returns:
        For each bin ``count``, of which ``right``, int32, and the sum of ``confidence``.
    """
    sure, right = confidence(logits, label)
    place = jnp.clip(jnp.ceil(sure * bins).astype(jnp.int32) - 1, 0, bins - 1)
    inside = (place[:, None] == jnp.arange(bins)[None]) & mask[:, None]
    return {
        'count': jnp.sum(inside, axis=0, dtype=jnp.int32),
        'right': jnp.sum(inside & right[:, None], axis=0, dtype=jnp.int32),
        'confidence': jnp.sum(jnp.where(inside, sure[:, None], 0.0), axis=0),
    }


def expected_error(sums: dict[str, Num[np.ndarray, ' bins']]) -> float:
    """Returns the expected calibration error of a split, between 0 and 1; NaN without examples.

    The mean over examples of the distance between the accuracy and the mean confidence of their bin. Guo et al., 2017,
    https://arxiv.org/abs/1706.04599, section 2, with 15 bins.

    Args:
        sums: `reliability`, added over the split.
    """
    distance = np.abs(np.asarray(sums['right'], np.float64) - sums['confidence']).sum()
    return float(ratio(distance, np.sum(sums['count'])))


def adaptive_error(confidence: Float[np.ndarray, ' n'], right: Bool[np.ndarray, ' n'], *, bins: int = 15) -> float:
    """Returns the calibration error of a split in bins of equally many examples; NaN without examples.

    Nguyen and O'Connor, 2015, https://arxiv.org/abs/1508.05154. Where the examples cannot be divided equally, the bins
    of the least confident have one more; equal confidences may be parted, in the order of the rows.

    Args:
        confidence, right: rows of the split.
        bins: number of bins.
    """
    order = np.argsort(confidence, kind='stable')
    gap = confidence[order].astype(np.float64) - right[order]
    return float(ratio(sum(abs(part.sum()) for part in np.array_split(gap, bins)), len(gap)))


def brier(logits: Float[Array, 'b k'], label: Int[Array, ' b']) -> Float[Array, ' b']:
    """Returns the Brier score of each example, the squared distance of the probabilities from the label's, 0 to 2.

    Brier, 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sum((probabilities - jax.nn.one_hot(label, logits.shape[-1])) ** 2, axis=-1)


def nll(logits: Float[Array, 'b k'], label: Int[Array, ' b']) -> Float[Array, ' b']:
    """Returns the negative log-likelihood of each example's label, in nats."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, label[:, None], axis=-1)[:, 0]
