"""The Frechet distance against scipy's matrix square root and closed forms."""

import jax
import numpy as np
import scipy.linalg

from longview.methods.figures import frechet
from longview.methods.figures.frechet import Gaussian

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(2, 6, 6))
A = (RNG.normal(size=(50, 6)) @ MIX[0] + 0.5).astype(np.float32)
B = (RNG.normal(size=(40, 6)) @ MIX[1] - 0.5).astype(np.float32)


def by_scipy(a, b):
    """The published formula: https://github.com/mseitzer/pytorch-fid."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = np.sum((a.mean(0) - b.mean(0)) ** 2)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return shift + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)


@jax.jit
def counted(features, mask):
    return frechet.moments(features, mask)


def summed(features, batch):
    """Returns the moments of all features, added over batches of which the last one is padded."""
    batches = []
    for begin in range(0, len(features), batch):
        part = features[begin : begin + batch]
        padded = np.full((batch, features.shape[1]), np.nan, np.float32)
        padded[: len(part)] = part
        batches.append(jax.device_get(counted(padded, np.arange(batch) < len(part))))
    return jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *batches)


def test_the_distance_is_scipys_from_rows_and_from_sums():
    wanted = by_scipy(A, B)
    np.testing.assert_allclose(frechet.distance(frechet.of_rows(A), frechet.of_rows(B)), wanted, rtol=1e-9)
    sums = [frechet.of_sums(summed(features, 16)) for features in (A, B)]
    np.testing.assert_allclose(frechet.distance(*sums), wanted, rtol=1e-5)
    np.testing.assert_allclose(sums[0].covariance, np.cov(A, rowvar=False), rtol=1e-4, atol=1e-5)


def test_covariances_that_commute():
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    a, b = np.asarray([4.0, 1, 0.25, 9, 0]), np.asarray([1.0, 1, 4, 0, 0])
    turned = lambda values: Gaussian(np.zeros(5), turn @ np.diag(values) @ turn.T)
    found = frechet.distance(turned(a), turned(b)._replace(mean=np.full(5, 2.0)))
    np.testing.assert_allclose(found, 5 * 4 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rtol=1e-6)


def test_fewer_features_than_dimensions_need_no_help():
    features = RNG.normal(size=(9, 40)).astype(np.float32)
    one = frechet.of_rows(features)
    np.testing.assert_allclose(frechet.distance(one, one), 0, atol=1e-6 * np.trace(one.covariance))
    scaled = frechet.of_rows(3 * features)
    wanted = np.sum((2 * one.mean) ** 2) + 4 * np.trace(one.covariance)
    np.testing.assert_allclose(frechet.distance(one, scaled), wanted, rtol=1e-6)


def test_too_few_features_are_not_a_number():
    nothing = {'count': np.zeros(()), 'sum': np.zeros(3), 'product': np.zeros((3, 3))}
    for one in (frechet.of_sums(nothing), frechet.of_rows(np.zeros((1, 3)))):
        assert np.isnan(frechet.distance(one, one))
