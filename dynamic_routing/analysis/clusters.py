"""Clusters of routes (DivDR): a map of A-space, and the average route of each cluster."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamic_routing.analysis.curves import LINE_COLOURS
from dynamic_routing.analysis.drawing import draw_route
from dynamic_routing.analysis.panel import route_figure_size
from dynamic_routing.routing.routes import Routes

MARKERS = "osD^vP*X"
"""Each cluster has its own mark and its own colour."""

MAP_ROWS = 3000
"""At most so many images are drawn in a map; more are sampled, with a seed."""

PERPLEXITY = 30
"""Of t-SNE; less where there are few images."""

MIN_TSNE_ROWS = 10
"""Fewer distinct routes have no t-SNE."""


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


def cluster_table(clusters: ClusteredRoutes) -> dict[str, dict[str, float]]:
    """Column -> "cluster k" -> number: size, distance to the centre, open edges, costs."""
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
    return table


def map_figure(clusters: ClusteredRoutes, *, seed: int = 0) -> Figure:
    """A-space in two dimensions, coloured by cluster: PCA with the centres, and t-SNE.

    Args:
        clusters: what to draw; at most :data:`MAP_ROWS` images of it.
        seed: of the sample and of t-SNE.
    """
    activations = clusters.routes.activations().numpy().astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(activations))
    chosen = np.sort(order[:MAP_ROWS])
    rows, labels = activations[chosen], clusters.labels[chosen]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    points, centres, shares = _pca(rows, clusters.centres)
    _scatter(left, points, labels, count=len(clusters))
    for k, centre in enumerate(centres):
        left.scatter(*centre, s=160, marker=_marker(k), c=_colour(k), edgecolors="k", zorder=3)
    left.set_title("PCA (large marks: centres)", fontsize=11)
    left.set_xlabel(f"first component, {100 * shares[0]:.0f} % of the variance")
    left.set_ylabel(f"second, {100 * shares[1]:.0f} %")
    if len(np.unique(rows, axis=0)) >= MIN_TSNE_ROWS:
        _scatter(right, _tsne(rows, seed), labels, count=len(clusters))
        right.set_title("t-SNE", fontsize=11)
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, "too few distinct routes for t-SNE", ha="center")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return figure


def average_route_figure(clusters: ClusteredRoutes, cluster: int) -> Figure:
    """How often the images of a cluster open each edge.

    Raises:
        ValueError: a cluster without images.
    """
    rows = clusters.rows(cluster)
    if not len(rows):
        raise ValueError(f"cluster {cluster} has no images")
    space = clusters.routes.space
    figure = Figure(figsize=route_figure_size(space), layout="constrained")
    rates = clusters.routes.open[rows].double().mean(dim=0)
    draw_route(figure.subplots(), space, rates, label="share of images")
    return figure


def _pca(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and centres in the plane of the largest variance, and the shares of the variance."""
    from sklearn.decomposition import PCA  # slow to import

    size = min(2, *rows.shape)
    model = PCA(n_components=size, svd_solver="full")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no variance at all
        points = model.fit_transform(rows)
        shares = np.nan_to_num(model.explained_variance_ratio_)
    missing = 2 - size
    wide = [np.pad(x, ((0, 0), (0, missing))) for x in (points, model.transform(centres))]
    return wide[0], wide[1], np.pad(shares, (0, missing))


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2), started from PCA."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)


def _scatter(axes: Axes, points: np.ndarray, labels: np.ndarray, *, count: int) -> None:
    """One mark and colour a cluster."""
    for k in range(count):
        own = labels == k
        style: dict[str, Any] = {"s": 22, "alpha": 0.75, "linewidths": 0, "marker": _marker(k)}
        name = f"cluster {k} ({own.sum()})"
        axes.scatter(points[own, 0], points[own, 1], label=name, c=_colour(k), **style)
    axes.set_xticks([])
    axes.set_yticks([])


def _marker(cluster: int) -> str:
    return MARKERS[cluster % len(MARKERS)]


def _colour(cluster: int) -> str:
    return LINE_COLOURS[cluster % len(LINE_COLOURS)]
