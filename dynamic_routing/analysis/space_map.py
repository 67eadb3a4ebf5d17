"""A-space in two dimensions: PCA and t-SNE of the routes of a data set, coloured by cluster."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamic_routing.analysis.curves import LINE_COLOURS
from dynamic_routing.analysis.drawing import strength_colours

MARKERS = "osD^vP*X"
"""Each cluster has its own mark and its own colour."""

PLAIN_COLOUR = "#0072b2"
MAP_ROWS = 3000
"""At most so many images are drawn in a map; more are sampled, with a seed."""

PERPLEXITY = 30
"""Of t-SNE; less where there are few images."""

MIN_TSNE_ROWS = 10
"""Fewer distinct routes have no t-SNE."""

LEGEND_DOT = 40
"""Area of a mark in the legend, in square points."""

NAMED_CLUSTERS = 20
"""So many clusters have a place in a legend; more colours and marks could not be told apart."""

FIGURE_SIZE = (5.8, 4.4)
"""Inches, of a figure of half the page's width."""


@dataclass(frozen=True, eq=False)
class SpaceMap:
    """Points of a data set's routes in the plane.

    Attributes:
        rows: (M,) numbers of the drawn images, ascending; M is at most :data:`MAP_ROWS`.
        images: N, how many there are.
        seed: of the sample and of t-SNE.
        pca: (M, 2).
        shares: (2,) shares of the variance of the two components.
        tsne: (M, 2), or None where there are fewer than :data:`MIN_TSNE_ROWS` distinct routes.
        labels: (M,) clusters, or None for a network without.
        centres: (K, 2) the clusters' centres in the plane of PCA, or None.
    """

    rows: np.ndarray
    images: int
    seed: int
    pca: np.ndarray
    shares: np.ndarray
    tsne: np.ndarray | None
    labels: np.ndarray | None
    centres: np.ndarray | None

    @property
    def sample(self) -> str:
        """Which images are drawn, in words."""
        if len(self.rows) == self.images:
            return f"all {self.images} images"
        return f"{len(self.rows)} of {self.images} images, sampled with seed {self.seed}"


def space_map(
    activations: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    centres: np.ndarray | None = None,
    seed: int = 0,
) -> SpaceMap:
    """Bring routes into the plane.

    Args:
        activations: (N, A), A(x) of each image.
        labels: (N,) clusters.
        centres: (K, A) of the clusters.
        seed: of the sample and of t-SNE.
    """
    order = np.random.default_rng(seed).permutation(len(activations))
    rows = np.sort(order[:MAP_ROWS])
    chosen = activations[rows].astype(np.float64)
    points, moved, shares = _pca(chosen, chosen[:0] if centres is None else centres)
    distinct = len(np.unique(chosen, axis=0))
    return SpaceMap(
        rows=rows,
        images=len(activations),
        seed=seed,
        pca=points,
        shares=shares,
        tsne=_tsne(chosen, seed) if distinct >= MIN_TSNE_ROWS else None,
        labels=None if labels is None else labels[rows],
        centres=None if centres is None else moved,
    )


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
    moved = model.transform(centres) if len(centres) else np.zeros((0, size))
    wide = [np.pad(x, ((0, 0), (0, missing))) for x in (points, moved)]
    return wide[0], wide[1], np.pad(shares, (0, missing))


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2), started from PCA."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)


def pca_figure(found: SpaceMap, costs: np.ndarray | None = None, label: str = "") -> Figure:
    """The plane of the largest variance, with the clusters' centres.

    Args:
        found: the points.
        costs: (N,) colours the points of a network without clusters.
        label: what ``costs`` are.
    """
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.subplots()
    _scatter(axes, found.pca, found, costs, label)
    for k, centre in enumerate(() if found.centres is None else found.centres):
        style: dict[str, Any] = {"marker": marker(k), "c": colour(k), "edgecolors": "k"}
        axes.scatter([centre[0]], [centre[1]], s=150, zorder=3, **style)
    axes.set_title("PCA" if found.centres is None else "PCA (large marks: centres)", fontsize=11)
    axes.set_xlabel(f"first component, {100 * found.shares[0]:.0f} % of the variance")
    axes.set_ylabel(f"second, {100 * found.shares[1]:.0f} %")
    return figure


def tsne_figure(found: SpaceMap, costs: np.ndarray | None = None, label: str = "") -> Figure:
    """t-SNE, coloured like :func:`pca_figure`.

    Raises:
        ValueError: too few distinct routes.
    """
    if found.tsne is None:
        raise ValueError(f"t-SNE needs at least {MIN_TSNE_ROWS} distinct routes")
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.subplots()
    _scatter(axes, found.tsne, found, costs, label)
    axes.set_title("t-SNE", fontsize=11)
    return figure


def _scatter(
    axes: Axes, points: np.ndarray, found: SpaceMap, costs: np.ndarray | None, label: str
) -> None:
    """One mark and colour a cluster; without clusters by cost, or plain."""
    style: dict[str, Any] = {"s": _dot_size(len(points)), "alpha": 0.75, "linewidths": 0}
    if found.labels is None:
        _scatter_costs(axes, points, None if costs is None else costs[found.rows], label)
    else:
        count = int(found.labels.max(initial=0)) + 1
        for k in range(count if found.centres is None else len(found.centres)):
            own = found.labels == k
            style |= {"marker": marker(k), "c": colour(k)}
            axes.scatter(points[own, 0], points[own, 1], label=f"{k} ({own.sum()})", **style)
        _legend(axes, found.labels)
    axes.set_xticks([])
    axes.set_yticks([])


def _legend(axes: Axes, labels: np.ndarray) -> None:
    """The clusters below the map, their marks large however small they are in it."""
    marks, names = axes.get_legend_handles_labels()
    largest = np.argsort(-np.bincount(labels, minlength=len(marks)), kind="stable")
    named = np.sort(largest[:NAMED_CLUSTERS]).tolist()
    title = "cluster (images)"
    if len(named) < len(marks):
        title += f", the {len(named)} largest of {len(marks)}"
    legend = axes.figure.legend(  # type: ignore[union-attr]
        handles=[marks[k] for k in named], labels=[names[k] for k in named], title=title,
        loc="outside lower center", ncols=5, frameon=False, fontsize=9,
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(sizes=[LEGEND_DOT], alpha=1)  # type: ignore[union-attr]


def _scatter_costs(axes: Axes, points: np.ndarray, costs: np.ndarray | None, label: str) -> None:
    """Dots coloured by cost, dark is dear."""
    style: dict[str, Any] = {"s": _dot_size(len(points)), "alpha": 0.85, "linewidths": 0}
    if costs is None or not np.isfinite(costs).all():
        axes.scatter(points[:, 0], points[:, 1], c=PLAIN_COLOUR, **style)
        return
    dots = axes.scatter(points[:, 0], points[:, 1], c=costs, cmap=strength_colours(), **style)
    bar = axes.figure.colorbar(dots, ax=axes, aspect=30, pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=9)


def _dot_size(points: int) -> float:
    """Area of a mark in square points: smaller where there are many."""
    return float(np.clip(4000 / max(points, 1), 8, 45))


def marker(cluster: int) -> str:
    """A cluster's mark."""
    return MARKERS[cluster % len(MARKERS)]


def colour(cluster: int) -> str:
    """A cluster's colour."""
    return LINE_COLOURS[cluster % len(LINE_COLOURS)]
