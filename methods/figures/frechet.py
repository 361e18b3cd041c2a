"""The Frechet distance between the normal distributions that two sets of features have: FID, with Inception's features.

Heusel et al., 2017, https://arxiv.org/abs/1706.08500; Dowson and Landau, 1982,
https://doi.org/10.1016/0047-259X(82)90077-X. A mean and a covariance are made of sums that are added over batches, or
of the rows of a split.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num


class Gaussian(NamedTuple):
    """A normal distribution; NaN where there were too few features for one.

    Attributes:
        mean: of the features.
        covariance: of the features, unbiased (divided by one less than their number), as in the published code.
    """

    mean: Float[np.ndarray, ' d']
    covariance: Float[np.ndarray, 'd d']


def moments(features: Float[Array, 'b d'], mask: Bool[Array, ' b']) -> dict[str, Num[Array, '...']]:
    """Returns ``count`` (int32), ``sum`` (d,) and ``product`` (d, d) of a batch's features; these may be added.

    A batch's sums are float32, so a covariance made of them has an error of about 1e-7 times the mean square of the
    features: little where means are no larger than deviations, as those of Inception's. Else take `of_rows`.

    Args:
        features: of the batch.
        mask: the examples that count.
    """
    features = jnp.where(mask[:, None], features.astype(jnp.float32), 0.0)
    product = jnp.einsum('bi,bj->ij', features, features, precision=jax.lax.Precision.HIGHEST)
    return {'count': jnp.sum(mask, dtype=jnp.int32), 'sum': jnp.sum(features, axis=0), 'product': product}


def of_sums(sums: dict[str, Any]) -> Gaussian:
    """Returns the distribution of the features whose `moments` were added."""
    count, total, product = (np.asarray(sums[name], np.float64) for name in ('count', 'sum', 'product'))
    if count < 2:
        return Gaussian(np.full(total.shape, np.nan), np.full(product.shape, np.nan))
    mean = total / count
    return Gaussian(mean, (product - count * np.outer(mean, mean)) / (count - 1))


def of_rows(features: Float[np.ndarray, 'n d']) -> Gaussian:
    """Returns the distribution of features, in float64 around their mean."""
    features = features.astype(np.float64)
    count, width = features.shape
    if count < 2:
        return Gaussian(np.full(width, np.nan), np.full((width, width), np.nan))
    mean = features.mean(axis=0)
    features = features - mean
    return Gaussian(mean, features.T @ features / (count - 1))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Returns ``|mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2))``, which is 0 or more; NaN where one is not finite.

    With ``A = F F^T`` and ``B = G G^T``, of eigenvectors, the trace of the root is the sum of the singular values of
    ``F^T G``. No root of a product is taken, so covariances of low rank, of fewer features than dimensions, need no
    small number on their diagonals. An eigenvalue that rounding has made negative counts as 0; what is lost by this is
    about 1e-8 times the largest eigenvalue for each dimension of the null space.
    """
    if not all(np.isfinite(x).all() for x in (*a, *b)):
        return float('nan')
    root = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False).sum()
    shift = np.sum((a.mean - b.mean) ** 2)
    return float(max(0.0, shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root))


def _factor(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))
