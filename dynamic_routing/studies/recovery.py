"""How well clusters match known subsets."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def contingency(clusters: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Count (clusters, subsets) pairs.

    Args:
        clusters: (N,) cluster numbers, at least 0.
        subsets: (N,) subset numbers, at least 0.

    Raises:
        ValueError: no rows or different lengths.
    """
    if clusters.shape != subsets.shape or clusters.ndim != 1 or not len(clusters):
        raise ValueError(
            f"clusters and subsets must be (N,), N >= 1, got {clusters.shape} and {subsets.shape}"
        )
    counts = np.zeros((clusters.max() + 1, subsets.max() + 1), dtype=np.int64)
    np.add.at(counts, (clusters, subsets), 1)
    return counts


def recovery(clusters: np.ndarray, subsets: np.ndarray) -> float:
    """Share of the rows that are right under the best one-to-one matching (Hungarian method).

    With more clusters than subsets, or fewer, the rows of what stays unmatched are wrong.

    Args:
        clusters: (N,) cluster numbers.
        subsets: (N,) subset numbers.
    """
    counts = contingency(clusters, subsets)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(clusters))


def purity(clusters: np.ndarray, subsets: np.ndarray) -> float:
    """Share of the rows that belong to the largest subset of their cluster.

    Unlike :func:`recovery` it does not hold it against a cluster that it is one of two for the
    same subset.
    """
    return float(contingency(clusters, subsets).max(axis=1).sum() / len(clusters))
