"""How far apart the clusters are, and how tight.

Csaba et al. 2022 report inter and intra distances: inter between the centres; intra, by the text,
between all pairs of a cluster, by the caption of Table 2, to the centre. Both are computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dynamic_routing.divdr.clustering import nearest_rows

PAIR_ROWS = 5000
"""Above so many images ``intra_pair`` is taken over a random sample of so many."""

SILHOUETTE_ROWS = 1000
"""The same for the silhouette."""

BLOCK = 1000
"""Rows whose distances are held at a time."""


@dataclass(frozen=True)
class ClusterMetrics:
    """Distances are Euclidean, in units of A-space.

    Attributes:
        inter: mean over all pairs of centres.
        intra_pair: mean over all pairs of images that share a cluster; NaN without such a pair.
        intra_center: mean over the images, to the nearest centre.
        silhouette: mean silhouette coefficient in [-1, 1]; NaN unless it has a meaning (at least
            two clusters with images, and more images than clusters).
        shares: share of the images in each of the K clusters.
    """

    inter: float
    intra_pair: float
    intra_center: float
    silhouette: float
    shares: tuple[float, ...]

    def to_dict(self) -> dict[str, float]:
        """Flat and finite: inter, intra_pair, intra_center, silhouette, share_<k>."""
        numbers = {
            "inter": self.inter,
            "intra_pair": self.intra_pair,
            "intra_center": self.intra_center,
            "silhouette": self.silhouette,
        }
        numbers |= {f"share_{k}": share for k, share in enumerate(self.shares)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


def cluster_metrics(
    activations: np.ndarray, centres: np.ndarray, *, seed: int = 0, pair_rows: int = PAIR_ROWS
) -> ClusterMetrics:
    """Measure N images, each assigned to its nearest centre.

    Args:
        activations: (N, A), N >= 1, finite.
        centres: (K, A), K >= 2.
        seed: of the samples.
        pair_rows: above so many images ``intra_pair`` is a sample's.

    Raises:
        ValueError: no images or fewer than two centres.
    """
    if not len(activations) or len(centres) < 2:
        raise ValueError(
            "cluster metrics need at least 1 image and 2 centres, got "
            f"{len(activations)} and {len(centres)}"
        )
    labels, squared = nearest_rows(activations, centres)
    order = np.random.default_rng(seed).permutation(len(activations))
    pairs, few = np.sort(order[:pair_rows]), np.sort(order[:SILHOUETTE_ROWS])
    sizes = np.bincount(labels, minlength=len(centres))
    return ClusterMetrics(
        inter=inter_distance(centres),
        intra_pair=intra_pair_distance(activations[pairs], labels[pairs]),
        intra_center=float(np.sqrt(squared.astype(np.float64)).mean()),
        silhouette=silhouette(activations[few], labels[few]),
        shares=tuple((sizes / len(labels)).tolist()),
    )


def inter_distance(centres: np.ndarray) -> float:
    """Mean distance over all pairs of centres (K, A)."""
    first, second = np.triu_indices(len(centres), k=1)
    wide = centres.astype(np.float64)
    return float(np.linalg.norm(wide[first] - wide[second], axis=1).mean())


def intra_pair_distance(rows: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance over all pairs of rows (N, A) with the same label; NaN without a pair.

    Every pair weighs the same, so that large clusters count more. O(N^2), in blocks.
    """
    total, pairs = 0.0, 0
    for label in np.unique(labels):
        members = rows[labels == label].astype(np.float64)
        total += _distance_sum(members - members.mean(axis=0))
        pairs += len(members) * (len(members) - 1)
    return total / pairs if pairs else math.nan


def _distance_sum(rows: np.ndarray) -> float:
    """Sum of the distances over all ordered pairs of rows; exact to some 1e-8 a pair."""
    squares = np.einsum("na,na->n", rows, rows)
    total = 0.0
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        squared = squares[part, None] + squares - 2 * rows[part] @ rows.T
        here = np.arange(len(squared))
        squared[here, start + here] = 0.0  # a row and itself
        total += float(np.sqrt(np.maximum(squared, 0.0)).sum())
    return total


def silhouette(rows: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette coefficient of rows (N, A); NaN where it is not defined."""
    found = len(np.unique(labels))
    if not 2 <= found < len(rows):
        return math.nan
    from sklearn.metrics import silhouette_score  # slow to import

    return float(silhouette_score(rows, labels))
