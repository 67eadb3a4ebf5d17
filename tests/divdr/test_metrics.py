"""Cluster metrics against loops, samples of large sets, and what has no value."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dynamic_routing.divdr import metrics as metrics_module
from dynamic_routing.divdr.metrics import cluster_metrics, intra_pair_distance, silhouette


def case(images=23, clusters=3, seed=0):
    generator = np.random.default_rng(seed)
    return (
        generator.random((images, 5), dtype=np.float32),
        generator.random((clusters, 5), dtype=np.float32),
    )


def distance(a, b):
    return math.dist(a.tolist(), b.tolist())


def by_hand(rows, centres):
    """inter, intra_pair, intra_center and the silhouette with plain loops."""
    labels = [min(range(len(centres)), key=lambda k: distance(row, centres[k])) for row in rows]
    groups = [[r for r, k in zip(rows, labels) if k == number] for number in set(labels)]
    pairs = [distance(a, b) for group in groups for a, b in itertools.combinations(group, 2)]
    coefficients = []
    for i, (row, label) in enumerate(zip(rows, labels)):
        means = {}
        for other in set(labels):
            members = [r for j, r in enumerate(rows) if labels[j] == other and j != i]
            means[other] = sum(distance(row, m) for m in members) / max(len(members), 1)
        own = means.pop(label)
        nearest = min(means.values())
        alone = labels.count(label) == 1
        coefficients.append(0.0 if alone else (nearest - own) / max(nearest, own))
    apart = [distance(a, b) for a, b in itertools.combinations(centres, 2)]
    return (
        sum(apart) / len(apart),
        sum(pairs) / len(pairs),
        sum(distance(row, centres[k]) for row, k in zip(rows, labels)) / len(rows),
        sum(coefficients) / len(rows),
    )


@pytest.mark.parametrize("block", [4, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_equal_loops(monkeypatch, block, seed):
    monkeypatch.setattr(metrics_module, "BLOCK", block)
    rows, centres = case(seed=seed)
    found = cluster_metrics(rows, centres)
    assert (found.inter, found.intra_pair, found.intra_center, found.silhouette) == pytest.approx(
        by_hand(rows, centres), rel=1e-5
    )
    assert sum(found.shares) == pytest.approx(1)
    flat = found.to_dict()
    assert list(flat)[:4] == ["inter", "intra_pair", "intra_center", "silhouette"]
    assert [flat[f"share_{k}"] for k in range(3)] == list(found.shares)


def test_sample_of_a_large_set_is_near_the_whole_and_the_same_for_a_seed():
    rows, centres = case(images=2000)
    whole = cluster_metrics(rows, centres)
    sample = cluster_metrics(rows, centres, pair_rows=500, seed=1)
    assert sample == cluster_metrics(rows, centres, pair_rows=500, seed=1)
    assert sample.intra_pair != whole.intra_pair
    assert sample.intra_pair == pytest.approx(whole.intra_pair, rel=0.05)
    assert (sample.inter, sample.shares) == (whole.inter, whole.shares)


def test_what_has_no_value_is_nan_and_left_out_of_the_log():
    rows, centres = case(images=2, clusters=2)
    alone = cluster_metrics(centres.copy(), centres)
    assert math.isnan(alone.intra_pair) and math.isnan(alone.silhouette)
    assert set(alone.to_dict()) == {"inter", "intra_center", "share_0", "share_1"}
    equal = cluster_metrics(np.repeat(rows[:1], 5, axis=0), centres)
    assert equal.intra_pair == 0 and math.isnan(equal.silhouette)
    assert sorted(equal.shares) == [0, 1]
    assert math.isnan(intra_pair_distance(rows, np.array([0, 1])))
    assert math.isnan(silhouette(rows, np.array([0, 1])))


def test_metrics_without_images_or_with_one_centre_are_refused():
    rows, centres = case()
    for few, means in ((rows[:0], centres), (rows, centres[:1])):
        with pytest.raises(ValueError, match="at least 1 image and 2 centres"):
            cluster_metrics(few, means)
