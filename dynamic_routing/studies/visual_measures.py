"""What is measured of a visual network on held-out scenes: accuracy, cost, clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamic_routing.divdr.clustering import cluster, nearest_rows
from dynamic_routing.divdr.metrics import inter_distance, intra_pair_distance
from dynamic_routing.routing.routes import Routes
from dynamic_routing.studies.recovery import recovery
from dynamic_routing.studies.visual_data import CLASSES, SIDE, SUBSETS, Scenes
from dynamic_routing.studies.visual_network import Ensemble, VisualNetwork

CHUNK = 50
"""Images a seed that a pass without gradient takes at a time."""
HELD_OUT_STARTS = 10
"""k-means++ starts on the held-out activations; the best of them counts."""


@dataclass(frozen=True)
class VisualOutcome:
    """What one seed came to on held-out scenes.

    Attributes:
        seed: the seed.
        miou: mean intersection over union of all classes.
        pixel_accuracy: share of correct pixels.
        object_accuracy: the same on pixels of objects.
        kmacs_avg: executed MACs an image in thousands, stem, decoder and gate networks included.
        kmacs_min: of the cheapest image.
        kmacs_max: of the most expensive image.
        route_share: executed cost of cells and edges, as a share of all of them.
        kmacs_large: average over the subset; also kmacs_small, kmacs_mixed.
        recovery: best one-to-one matching of k-means clusters of the held-out activations with
            the subsets; NaN for networks whose gates are given.
        recovery_own: the same with the training's own last centres; NaN without any.
        inter: mean distance between two centres.
        intra_pair: mean distance between two images of a cluster.
        distinct_routes: different activation vectors at two decimals.
        reseeded: centres that were started anew in training.
        seconds: wall time, an equal share for each seed of a pass.
    """

    seed: int
    miou: float
    pixel_accuracy: float
    object_accuracy: float
    kmacs_avg: float
    kmacs_min: float
    kmacs_max: float
    route_share: float
    kmacs_large: float
    kmacs_small: float
    kmacs_mixed: float
    recovery: float = math.nan
    recovery_own: float = math.nan
    inter: float = math.nan
    intra_pair: float = math.nan
    distinct_routes: int = 1
    reseeded: int = 0
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """inter / intra_pair: how far apart for how tight; NaN for gates without any spread."""
        return self.inter / self.intra_pair if self.intra_pair > 0 else math.nan


@torch.no_grad()
def predict(ensemble: Ensemble, scenes: Sequence[Scenes]) -> tuple[Tensor, Tensor]:
    """Classes (S, N, H, W) and gates (S, N, E) in evaluation mode, some images at a time."""
    ensemble.base.eval()
    images, subsets = (
        torch.stack([getattr(s, name) for s in scenes]) for name in ("images", "subsets")
    )
    parts = []
    for i, s in zip(images.split(CHUNK, dim=1), subsets.split(CHUNK, dim=1)):
        scores, gates = ensemble(i, s)
        parts.append((scores.argmax(dim=2), gates))
    return torch.cat([p[0] for p in parts], dim=1), torch.cat([p[1] for p in parts], dim=1)


def accuracy_numbers(classes: Tensor, targets: Tensor) -> dict[str, float]:
    """mIoU, pixel accuracy, and the latter on objects; classes and targets are (N, H, W)."""
    counts = torch.bincount((targets * CLASSES + classes).flatten(), minlength=CLASSES**2)
    table = counts.reshape(CLASSES, CLASSES).double()  # rows: true class
    right = table.diagonal()
    union = table.sum(0) + table.sum(1) - right
    return {
        "miou": float((right / union.clamp(min=1)).mean()),
        "pixel_accuracy": float(right.sum() / table.sum()),
        "object_accuracy": float(right[1:].sum() / table[1:].sum()),
    }


def cost_numbers(network: VisualNetwork, routes: Routes, subsets: Tensor) -> dict[str, float]:
    """Executed MACs in thousands, and the share of cells and edges that ran."""
    executed = network.cost.executed(routes) / 1e3
    table = network.cost.table(SIDE, SIDE)
    routed = routes.running.double() @ table.cells + routes.open.double() @ table.edges
    numbers = {
        "kmacs_avg": float(executed.mean()),
        "kmacs_min": float(executed.min()),
        "kmacs_max": float(executed.max()),
        "route_share": float(routed.mean() / (table.cells.sum() + table.edges.sum())),
    }
    for k, name in enumerate(SUBSETS):
        numbers[f"kmacs_{name}"] = float(executed[subsets == k].mean())
    return numbers


def cluster_numbers(
    rows: np.ndarray, subsets: np.ndarray, count: int, *, seed: int, own: np.ndarray | None
) -> dict[str, float]:
    """Recovery and distances of held-out activations; the same procedure for DR and DivDR."""
    found = cluster(rows, count, seed=seed, n_init=HELD_OUT_STARTS)
    numbers = {
        "recovery": recovery(found.labels, subsets),
        "inter": inter_distance(found.centres),
        "intra_pair": intra_pair_distance(rows, found.labels),
    }
    if own is not None:
        numbers["recovery_own"] = recovery(nearest_rows(rows, own)[0], subsets)
    return numbers
