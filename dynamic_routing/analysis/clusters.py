"""Clusters of routes (DivDR): their numbers, their average routes, their nearest images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from dynamic_routing.analysis.panel import compact_route
from dynamic_routing.routing.routes import Routes


@dataclass(frozen=True, eq=False)
class ClusteredRoutes:
    """Routes of N images, each in one of K clusters.

    Attributes:
        routes: of all images.
        labels: (N,) int, in [0, K).
        distances: (N,) Euclidean distance to the cluster's centre in A-space.
        centres: (K, A).
        costs: name -> (N,), for example GMACs.

    Raises:
        ValueError: labels or distances of another length than the routes.
    """

    routes: Routes
    labels: np.ndarray
    distances: np.ndarray
    centres: np.ndarray
    costs: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.distances) == len(self.routes):
            raise ValueError(
                f"{len(self.routes)} routes, {len(self.labels)} labels, "
                f"{len(self.distances)} distances"
            )

    def __len__(self) -> int:
        return len(self.centres)

    def rows(self, cluster: int) -> np.ndarray:
        """Numbers of a cluster's images."""
        return np.flatnonzero(self.labels == cluster)


def cluster_table(
    clusters: ClusteredRoutes, scores: Mapping[str, np.ndarray] | None = None
) -> dict[str, dict[str, float]]:
    """Column -> "cluster k" -> number: size, distance to the centre, open edges, costs, scores.

    Args:
        clusters: of N images.
        scores: name -> (N,), averaged over the images of a cluster that have one (not NaN).
    """
    table: dict[str, dict[str, float]] = {}
    opened = clusters.routes.open.sum(dim=1).numpy()
    for k in range(len(clusters)):
        rows, name = clusters.rows(k), f"cluster {k}"
        table.setdefault("images", {})[name] = float(len(rows))
        if not len(rows):
            continue
        table.setdefault("distance to the centre", {})[name] = float(
            clusters.distances[rows].mean()
        )
        table.setdefault("open edges", {})[name] = float(opened[rows].mean())
        for cost, values in clusters.costs.items():
            table.setdefault(cost, {})[name] = float(values[rows].mean())
        for score, values in (scores or {}).items():
            known = values[rows][~np.isnan(values[rows])]
            table.setdefault(score, {})[name] = float(known.mean()) if len(known) else math.nan
    return table


def average_route_figure(clusters: ClusteredRoutes, cluster: int) -> Figure:
    """How often the images of a cluster open each edge.

    Raises:
        ValueError: a cluster without images.
    """
    rows = clusters.rows(cluster)
    if not len(rows):
        raise ValueError(f"cluster {cluster} has no images")
    rates = clusters.routes.open[rows].double().mean(dim=0)
    return compact_route(clusters.routes.space, rates, label="share of images")


def nearest_images(clusters: ClusteredRoutes, cluster: int, count: int) -> list[int]:
    """Numbers of the images of a cluster that are nearest to its centre, the nearest first."""
    rows = clusters.rows(cluster)
    order = np.argsort(clusters.distances[rows], kind="stable")
    return rows[order[:count]].tolist()
