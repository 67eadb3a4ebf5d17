"""Matching of clusters with subsets, against every permutation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from dynamic_routing.studies.recovery import contingency, purity, recovery


def brute_force(clusters, subsets, count):
    """The best of all ways to name ``count`` clusters by ``count`` numbers."""
    return max(
        np.mean(np.array(names)[clusters] == subsets) for names in permutations(range(count))
    )


@pytest.mark.parametrize(("num_clusters", "num_subsets"), [(3, 3), (2, 3), (4, 3), (5, 3), (5, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_recovery_equals_the_best_permutation(num_clusters, num_subsets, seed):
    generator = np.random.default_rng(seed)
    clusters = generator.integers(num_clusters, size=60)
    subsets = (clusters + generator.integers(2, size=60)) % num_subsets
    expected = brute_force(clusters, subsets, max(num_clusters, num_subsets))
    assert recovery(clusters, subsets) == pytest.approx(expected)


def test_renamed_subsets_are_fully_recovered():
    subsets = np.array([0, 0, 1, 1, 2, 2])
    assert recovery(np.array([2, 1, 0])[subsets], subsets) == 1.0


def test_merged_subsets_cost_the_smaller_one():
    assert recovery(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 2])) == pytest.approx(0.8)


def test_purity_forgives_a_split_but_no_merging():
    subsets = np.array([0, 0, 1, 1])
    assert purity(np.array([0, 1, 2, 2]), subsets) == 1.0
    assert recovery(np.array([0, 1, 2, 2]), subsets) == 0.75
    assert purity(np.array([0, 0, 0, 0]), subsets) == 0.5


def test_contingency_counts_pairs():
    counts = contingency(np.array([0, 0, 1]), np.array([2, 2, 0]))
    assert counts.tolist() == [[0, 0, 2], [1, 0, 0]]


@pytest.mark.parametrize("clusters", [np.zeros(2, int), np.zeros((3, 1), int), np.zeros(0, int)])
def test_other_lengths_are_refused(clusters):
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        recovery(clusters, np.zeros(3, int) if len(clusters) else clusters)
