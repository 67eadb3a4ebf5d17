"""k-means over the gate activations of many images, with cluster numbers that stay.

Csaba et al. 2022, Sec. 3.2: with the weights fixed, k-means gives the centres mu_k and the one
sigma^2 of the loss. The paper treats no empty cluster; here they are found, reported and, if
wished, started anew at the images that are farthest from any centre.

SciPy and scikit-learn are imported where they are used: they take two seconds, and a training
without clusters needs neither.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np

from dynamic_routing.divdr.loss import check_clusters

ROUTE_DECIMALS = 2
"""Routes whose gates (in [0, 1]) agree to so many decimals count as one."""

COINCIDING = 0.5 * 10**-ROUTE_DECIMALS
"""Centres nearer than this are one, in units of A-space: no gate differs by a counted decimal."""

COLD_ITERATIONS = 100
"""Most Lloyd iterations from k-means++ on."""

WARM_ITERATIONS = 10
"""Most Lloyd iterations from given centres on: within 0.004 % of the converged inertia."""

COLD_STARTS = 4
"""How many k-means++ starts the first clustering compares."""

BLOCK = 1024
"""Rows whose distances are computed at a time: they stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """N routes in K clusters.

    Attributes:
        centres: (K, A) float32.
        labels: (N,) int64, the nearest centre of each row, the lowest number on ties.
        variance: sigma^2 = 1 / (N - 1) * sum_n ||A(x_n) - mu(x_n)||^2, summed over dimensions.
        sizes: K numbers of rows; 0 is an empty cluster.
        inertia: sum_n ||A(x_n) - mu(x_n)||^2.
        distinct_routes: different rows at :data:`ROUTE_DECIMALS` decimals.
        seconds: wall time; of the first call with the import of scikit-learn.
        degenerate: clusters that were empty, or on another one, among the given centres.
        reseeded: those of them that were started anew.
        collapse_reason: one line if there are fewer distinct routes than clusters, else empty.
    """

    centres: np.ndarray
    labels: np.ndarray
    variance: float
    sizes: tuple[int, ...]
    inertia: float
    distinct_routes: int
    seconds: float
    degenerate: tuple[int, ...] = ()
    reseeded: tuple[int, ...] = ()
    collapse_reason: str = ""

    @property
    def collapsed(self) -> bool:
        """Whether the routes no longer depend on the image enough to be clustered."""
        return bool(self.collapse_reason)

    @property
    def empty(self) -> tuple[int, ...]:
        """Clusters without a row."""
        return tuple(k for k, size in enumerate(self.sizes) if size == 0)


def cluster(
    activations: np.ndarray,
    num_clusters: int,
    *,
    initial_centres: np.ndarray | None = None,
    seed: int = 0,
    max_iter: int | None = None,
    n_init: int = COLD_STARTS,
    reseed: bool = True,
    threads: int = 1,
) -> Clustering:
    """Cluster routes; equal arguments give equal results.

    From given centres the clusters keep their numbers. One of these that no row is nearest to, or
    that lies on another centre, is degenerate: with ``reseed`` it starts anew at the row farthest
    from every centre; without, it stays where it is and takes no part. Nothing is reseeded once
    the routes have collapsed.

    Args:
        activations: (N, A) float32, N >= K; the caller fixes the order of the rows.
        num_clusters: K, at least 2.
        initial_centres: (K, A) to go on from (warm start); None starts with k-means++.
        seed: of k-means++.
        max_iter: most iterations; None for :data:`COLD_ITERATIONS` or :data:`WARM_ITERATIONS`.
        n_init: starts of k-means++ to compare.
        reseed: see above.
        threads: of the numeric libraries meanwhile, so that data workers are not starved; with 1
            the result does not depend on the machine's cores.

    Raises:
        ValueError: fewer rows than clusters, values that are not finite, or wrong shapes.
    """
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    rows = np.ascontiguousarray(activations, dtype=np.float32)
    _check(rows, num_clusters, initial_centres)
    distinct = count_distinct(rows)
    reason = _collapse_reason(len(rows), num_clusters, distinct)
    with threadpool_limits(limits=threads):
        if initial_centres is None:
            iterations = COLD_ITERATIONS if max_iter is None else max_iter
            found = _Fit(_lloyd(rows, num_clusters, "k-means++", seed, iterations, n_init))
        else:
            iterations = WARM_ITERATIONS if max_iter is None else max_iter
            found = _warm(rows, initial_centres, iterations, reseed and not reason)
        labels, squared = nearest_rows(rows, found.centres)
    inertia = float(squared.sum(dtype=np.float64))
    return Clustering(
        centres=found.centres,
        labels=labels,
        variance=inertia / (len(rows) - 1),
        sizes=tuple(np.bincount(labels, minlength=num_clusters).tolist()),
        inertia=inertia,
        distinct_routes=distinct,
        seconds=time.perf_counter() - start,
        degenerate=found.degenerate,
        reseeded=found.reseeded,
        collapse_reason=reason,
    )


def match_clusters(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Which new centre takes over each old number: the assignment of least total distance.

    Args:
        new: (K, A).
        old: (K, A).

    Returns:
        (K,) int64 permutation p, so that ``new[p]`` follows ``old`` (Hungarian method).

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.optimize import linear_sum_assignment

    if new.shape != old.shape:
        raise ValueError(f"old and new centres differ in shape: {old.shape} and {new.shape}")
    distances = np.linalg.norm(old[:, None].astype(np.float64) - new[None], axis=2)
    return linear_sum_assignment(distances)[1].astype(np.int64)


def nearest_rows(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number (N,) int64 of each row's nearest centre and its squared distance (N,) float32."""
    labels, squared = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        differences = (rows[part] - centre for centre in centres)
        found = np.stack([np.einsum("na,na->n", d, d) for d in differences])  # (K, block)
        labels[part] = found.argmin(axis=0)
        squared[part] = found.min(axis=0)
    return labels, squared


def count_distinct(rows: np.ndarray) -> int:
    """How many rows differ at :data:`ROUTE_DECIMALS` decimals."""
    rounded = np.rint(rows * np.float32(10**ROUTE_DECIMALS)).astype(np.int32)
    whole = np.dtype((np.void, rounded.itemsize * max(rounded.shape[1], 1)))
    return len(set(np.ascontiguousarray(rounded).view(whole).ravel().tolist()))


def degenerate_clusters(rows: np.ndarray, centres: np.ndarray) -> tuple[int, ...]:
    """Centres that no row is nearest to, or that lie on one of a lower number which has rows.

    At least one centre is left: that of the lowest number which has rows.
    """
    empty = np.bincount(nearest_rows(rows, centres)[0], minlength=len(centres)) == 0
    distances = np.linalg.norm(centres[:, None].astype(np.float64) - centres[None], axis=2)
    doubled = np.tril((distances < COINCIDING) & ~empty, k=-1).any(axis=1)
    return tuple(np.flatnonzero(empty | doubled).tolist())


def reseed_centres(rows: np.ndarray, centres: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    """Put the centres ``numbers``, one after another, on the row farthest from every centre."""
    centres = centres.copy()
    kept = [k for k in range(len(centres)) if k not in numbers]
    for number in numbers:
        squared = nearest_rows(rows, centres[kept])[1]
        centres[number] = rows[squared.argmax()]
        kept.append(number)
    return centres


@dataclass(frozen=True, eq=False)
class _Fit:
    """What k-means found; see :class:`Clustering`."""

    centres: np.ndarray
    degenerate: tuple[int, ...] = ()
    reseeded: tuple[int, ...] = ()


def _warm(rows: np.ndarray, initial: np.ndarray, iterations: int, reseed: bool) -> _Fit:
    """Go on from given centres."""
    old = initial.astype(np.float32)
    degenerate = degenerate_clusters(rows, old)
    if reseed:
        old = reseed_centres(rows, old, degenerate)
    moving = [k for k in range(len(old)) if reseed or k not in degenerate]
    new = old.copy()
    new[moving] = _lloyd(rows, len(moving), old[moving], 0, iterations, 1)
    return _Fit(new[match_clusters(new, old)], degenerate, degenerate if reseed else ())


def _lloyd(
    rows: np.ndarray, count: int, init: str | np.ndarray, seed: int, iterations: int, starts: int
) -> np.ndarray:
    """Centres (count, A) that scikit-learn finds."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = KMeans(count, init=init, n_init=starts, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: said better by Clustering.collapse_reason.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return means.fit(rows).cluster_centers_.astype(np.float32)


def _check(rows: np.ndarray, num_clusters: int, initial: np.ndarray | None) -> None:
    """Refuse what cannot be clustered."""
    check_clusters(num_clusters)
    if rows.ndim != 2 or len(rows) < num_clusters:
        raise ValueError(
            f"{num_clusters} clusters need activations (N, A) with N >= {num_clusters}, "
            f"got shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"gate activations of row {_first_bad(rows)} are not finite")
    if initial is not None and initial.shape != (num_clusters, rows.shape[1]):
        raise ValueError(
            f"initial centres must have shape {(num_clusters, rows.shape[1])}, got {initial.shape}"
        )
    if initial is not None and not np.isfinite(initial).all():
        raise ValueError(f"initial centre {_first_bad(initial)} is not finite")


def _first_bad(rows: np.ndarray) -> int:
    """Number of the first row that is not finite."""
    return int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])


def _collapse_reason(images: int, num_clusters: int, distinct: int) -> str:
    """One line, or nothing while there are enough distinct routes."""
    if distinct >= num_clusters:
        return ""
    return (
        f"routes have collapsed: {images} images take {distinct} distinct route(s) for "
        f"{num_clusters} clusters; likely the budget is too strong, the period between "
        "clusterings too long, or the margin or lambda_2 too large"
    )
