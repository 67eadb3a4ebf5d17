"""Clusters of routes: their table agrees with counting by hand, their pictures are complete."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamic_routing.analysis.clusters import (
    ClusteredRoutes,
    average_route_figure,
    cluster_table,
    nearest_images,
)
from dynamic_routing.routing import Routes, RoutingSpace

SPACE = RoutingSpace.grid(4, num_scales=3)


def clustered(images=30, count=3, *, empty=None, same=False):
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(images) % count
    if empty is not None:
        labels[labels == empty] = (empty + 1) % count
    gates = torch.zeros(images, len(SPACE.edges))
    for i, label in enumerate(labels):
        gates[i, label::count] = 0.5 + 0.1 * torch.rand(1, generator=generator) * (not same)
    routes = Routes(SPACE, gates, "absent", (64, 64))
    activations = routes.activations().numpy()
    centres = np.stack(
        [activations[labels == k].mean(axis=0) if k != empty else activations[0]
         for k in range(count)]
    )  # fmt: skip
    distances = np.linalg.norm(activations - centres[labels], axis=1)
    return ClusteredRoutes(routes, labels, distances, centres, {"gmacs": np.arange(images) / 10})


def test_table_counts_each_cluster():
    clusters = clustered()
    table = cluster_table(clusters)
    assert table["images"] == {f"cluster {k}": 10.0 for k in range(3)}
    for k in range(3):
        own = [i for i in range(30) if i % 3 == k]
        assert table["gmacs"][f"cluster {k}"] == pytest.approx(np.mean([i / 10 for i in own]))
        opened = [int((clusters.routes.gates[i] > 0).sum()) for i in own]
        assert table["open edges"][f"cluster {k}"] == pytest.approx(np.mean(opened))


def test_cluster_without_images_is_listed_and_not_drawn():
    clusters = clustered(empty=1)
    table = cluster_table(clusters)
    assert table["images"]["cluster 1"] == 0 and "cluster 1" not in table["gmacs"]
    with pytest.raises(ValueError, match="cluster 1 has no images"):
        average_route_figure(clusters, 1)


def test_scores_are_averaged_over_the_images_that_have_one():
    clusters = clustered()
    scores = np.arange(30) / 30
    scores[[0, 1]] = np.nan
    scores[2::3] = np.nan
    table = cluster_table(clusters, {"IoU": scores})
    assert table["IoU"]["cluster 0"] == pytest.approx(np.mean([i / 30 for i in range(3, 30, 3)]))
    assert np.isnan(table["IoU"]["cluster 2"])


def test_nearest_images_are_those_of_the_cluster():
    clusters = clustered()
    for k in range(3):
        own = sorted((clusters.distances[i], i) for i in range(30) if i % 3 == k)
        assert nearest_images(clusters, k, 4) == [i for _, i in own[:4]]
    assert nearest_images(clustered(empty=1), 1, 5) == []


def test_lengths_must_agree():
    clusters = clustered()
    with pytest.raises(ValueError, match="30 routes, 29 labels"):
        ClusteredRoutes(
            clusters.routes, clusters.labels[1:], clusters.distances, clusters.centres, {}
        )
