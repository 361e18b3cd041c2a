"""Retrieval: which features are nearest, by cosine, to each of some features; on the host, in blocks.

Equal similarities count against what is wanted, so features that are all the same find nothing.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from longview.methods.figures.means import known_mean

# Similarities in memory at once: 128 MiB of them.
_AT_ONCE = 2**25


def figures(
    query: Float[np.ndarray, 'q d'],
    query_id: Int[np.ndarray, ' q'],
    gallery: Float[np.ndarray, 'g d'] | None = None,
    gallery_id: Int[np.ndarray, ' g'] | None = None,
    *,
    at: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Returns ``recall_at_K`` for each K, and ``mean_average_precision``.

    Recall at K is the share of queries with one of those they want among their K nearest (Jegou et al., 2011,
    https://doi.org/10.1109/TPAMI.2010.57; of captions and images, https://arxiv.org/abs/1412.2306). Average precision
    is the mean, over all that a query wants, of the share of wanted ones down to each. Queries that want nothing do not
    count; without others, or with a feature that is not finite, all is NaN.

    Args:
        query: features that look.
        query_id: what each is of: a class, or the number of a pair.
        gallery: features that are looked through; None for the queries themselves, each without itself.
        gallery_id: what each is of. A query wants all of the same number.
        at: the K's.
    """
    ranks = [] if _broken(query, gallery) else _ranks(query, query_id, gallery, gallery_id)
    best = np.asarray([r[0] for r in ranks])
    precision = [np.mean(np.arange(1, len(r) + 1) / r) for r in ranks]
    recall = {f'recall_at_{k}': known_mean(best <= k) for k in at}
    return {**recall, 'mean_average_precision': known_mean(precision)}


def _broken(*features: np.ndarray | None) -> bool:
    return not all(np.isfinite(x).all() for x in features if x is not None)


def _ranks(
    query: np.ndarray, query_id: np.ndarray, gallery: np.ndarray | None, gallery_id: np.ndarray | None
) -> list[np.ndarray]:
    """Returns the places, from 1 and rising, of all that a query wants, for each query that wants something."""
    among_themselves = gallery is None
    query = _unit(query)
    gallery, gallery_id = (query, query_id) if among_themselves else (_unit(gallery), gallery_id)
    rows = max(1, _AT_ONCE // max(1, len(gallery)))
    ranks = []
    for begin in range(0, len(query), rows):
        similarities = query[begin : begin + rows] @ gallery.T
        for i, similarity in enumerate(similarities, begin):
            wanted = gallery_id == query_id[i]
            other = ~wanted
            if among_themselves:
                wanted[i] = False
            if wanted.any():
                ranks.append(_places(similarity[wanted], similarity[other]))
    return ranks


def _places(wanted: np.ndarray, other: np.ndarray) -> np.ndarray:
    wanted, other = np.sort(wanted)[::-1], np.sort(other)
    before = len(other) - np.searchsorted(other, wanted)
    return np.arange(1, len(wanted) + 1) + before


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)
