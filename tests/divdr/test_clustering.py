"""k-means over routes: its numbers by hand, stable cluster numbers, empty clusters, collapse."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from dynamic_routing.divdr import clustering
from dynamic_routing.divdr.clustering import (
    cluster,
    count_distinct,
    degenerate_clusters,
    match_clusters,
    nearest_rows,
    reseed_centres,
)
from dynamic_routing.divdr.loss import assign

DIM = 12


def blobs(sizes=(30, 20, 10), noise=0.03, seed=0, shift=0.0):
    """Rows around corners of the unit cube, shuffled, with the number of their corner."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    generator.shuffle(truth)
    corners = np.eye(len(sizes), DIM) + shift
    rows = corners[truth] + noise * generator.standard_normal((len(truth), DIM))
    return rows.astype(np.float32), truth


def groups(labels):
    """The sets of rows that share a label."""
    return {frozenset(np.flatnonzero(labels == k).tolist()) for k in np.unique(labels)}


def test_separate_groups_are_found_and_measured():
    rows, truth = blobs()
    found = cluster(rows, 3, seed=1)
    assert groups(found.labels) == groups(truth) and sorted(found.sizes) == [10, 20, 30]
    wide = rows.astype(np.float64)
    inertia = 0.0
    for k in range(3):
        members = wide[found.labels == k]
        assert found.centres[k] == pytest.approx(members.mean(axis=0), abs=1e-5)
        inertia += ((members - members.mean(axis=0)) ** 2).sum()
    assert found.inertia == pytest.approx(inertia, rel=1e-4)
    assert found.variance == pytest.approx(inertia / (len(rows) - 1), rel=1e-4)
    assert found.centres.dtype == np.float32 and found.seconds > 0
    assert not found.collapsed and found.empty == found.reseeded == ()


def test_equal_arguments_give_equal_results_and_another_seed_the_same_groups():
    rows, _ = blobs(noise=0.3)
    first, second = cluster(rows, 4, seed=7), cluster(rows, 4, seed=7)
    assert np.array_equal(first.centres, second.centres) and first.variance == second.variance
    tight, truth = blobs()
    assert groups(cluster(tight, 3, seed=3).labels) == groups(truth)


def test_labels_are_those_of_the_loss():
    rows, _ = blobs(noise=0.4, seed=2)
    found = cluster(rows, 4)
    theirs = assign(torch.from_numpy(rows), torch.from_numpy(found.centres))
    assert np.array_equal(found.labels, theirs.clusters.numpy())


def test_numbers_stay_while_the_routes_drift():
    rows, truth = blobs()
    found = cluster(rows, 3)
    first = found.labels[[np.flatnonzero(truth == k)[0] for k in range(3)]]
    for step in range(1, 15):
        rows, truth = blobs(seed=step, shift=0.05 * step)
        found = cluster(rows, 3, initial_centres=found.centres)
        assert np.array_equal(found.labels, first[truth]) and found.degenerate == ()


def test_numbers_stay_in_whatever_order_k_means_delivers_the_centres(monkeypatch):
    rows, _ = blobs()
    cold = cluster(rows, 3)
    lloyd = clustering._lloyd
    monkeypatch.setattr(clustering, "_lloyd", lambda *args: lloyd(*args)[[2, 0, 1]])
    found = cluster(rows, 3, initial_centres=cold.centres)
    assert np.array_equal(found.labels, cold.labels)
    assert found.centres == pytest.approx(cold.centres, abs=1e-5)


def test_matching_is_the_best_of_all_permutations():
    generator = np.random.default_rng(0)
    for _ in range(20):
        old, new = generator.random((2, 4, 3))
        found = match_clusters(new, old)

        def total(order, old=old, new=new):
            return np.linalg.norm(old - new[list(order)], axis=1).sum()

        assert total(found) == pytest.approx(min(map(total, itertools.permutations(range(4)))))
    order = np.array([2, 0, 3, 1])
    assert np.array_equal(old[order][match_clusters(old[order], old)], old)
    with pytest.raises(ValueError, match="differ in shape"):
        match_clusters(old, old[:2])


def test_warm_start_of_few_iterations_is_near_the_converged_inertia():
    rows, _ = blobs((200, 150, 100), noise=0.25)
    cold = cluster(rows, 3, max_iter=300, n_init=10)
    moved = rows + np.float32(0.02)
    warm = cluster(moved, 3, initial_centres=cold.centres)
    assert warm.inertia == pytest.approx(cluster(moved, 3, n_init=10).inertia, rel=1e-3)


def test_warm_start_goes_on_from_the_given_centres():
    rows = np.random.default_rng(0).random((60, DIM), dtype=np.float32)  # no clusters to find
    start = rows[:3] + np.float32(0.1)
    found = cluster(rows, 3, initial_centres=start, max_iter=1)
    nearest = np.linalg.norm(rows[:, None] - start, axis=2).argmin(axis=1)
    step = [rows[nearest == k].mean(axis=0) for k in range(3)]  # one step of Lloyd's
    assert found.centres == pytest.approx(np.array(step), abs=1e-5)


FAR = np.full((1, DIM), 50, dtype=np.float32)


def test_cluster_that_became_empty_starts_anew_at_the_farthest_row():
    rows, truth = blobs()
    start = np.concatenate([np.eye(2, DIM, dtype=np.float32), FAR])
    assert degenerate_clusters(rows, start) == (2,)
    moved = reseed_centres(rows, start, (2,))
    assert np.array_equal(moved[:2], start[:2]) and truth[(rows == moved[2]).all(axis=1)] == [2]
    found = cluster(rows, 3, initial_centres=start)
    assert found.degenerate == found.reseeded == (2,)
    assert groups(found.labels) == groups(truth) and found.sizes == (30, 20, 10)


def test_equal_centres_start_anew_at_different_rows():
    rows, truth = blobs()
    start = np.repeat(np.eye(1, DIM, dtype=np.float32), 3, axis=0)
    found = cluster(rows, 3, initial_centres=start)
    assert found.reseeded == (1, 2) and groups(found.labels) == groups(truth)


def test_centres_that_nearly_coincide_are_one_cluster():
    rows, _ = blobs((30, 30))
    start = np.concatenate([np.eye(2, DIM), np.eye(1, DIM)]).astype(np.float32)
    start[2, 3] = 0.004
    assert np.bincount(nearest_rows(rows, start)[0], minlength=3).min() > 0
    assert degenerate_clusters(rows, start) == (2,)
    start[2, 3] = 0.006
    assert degenerate_clusters(rows, start) == ()


def test_centre_that_took_the_rows_of_a_lower_one_stays():
    rows, _ = blobs((40,), noise=1e-5)
    first = rows.mean(axis=0)
    away = np.full_like(first, 9.0)
    # The nearest centre to every row lies on the empty one of a lower number.
    start = np.stack([first + 1e-3, first, away]).astype(np.float32)
    assert (nearest_rows(rows, start)[0] == 1).all()
    assert np.linalg.norm(start[0] - start[1]) < clustering.COINCIDING
    assert degenerate_clusters(rows, start) == (0, 2)
    moved = reseed_centres(rows, start, (0, 2))
    assert np.array_equal(moved[1], start[1]) and all(
        (rows == m).all(axis=1).any() for m in moved[[0, 2]]
    )


def test_empty_cluster_stays_where_it_is_if_so_wished():
    rows, _ = blobs()
    start = np.concatenate([np.eye(2, DIM, dtype=np.float32), FAR])
    found = cluster(rows, 3, initial_centres=start, reseed=False)
    assert found.degenerate == found.empty == (2,) and found.reseeded == ()
    assert np.array_equal(found.centres[2], FAR[0]) and found.sizes[2] == 0


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("distinct", [1, 2])
def test_collapse_is_said_with_its_likely_causes_and_without_a_warning(warm, distinct):
    rows = np.tile(np.eye(distinct, DIM, dtype=np.float32), (6, 1))
    start = 0.3 * np.eye(3, DIM, dtype=np.float32) if warm else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cluster(rows, 3, initial_centres=start)
    assert found.collapsed and found.distinct_routes == distinct and found.reseeded == ()
    assert (
        f"routes have collapsed: {len(rows)} images take {distinct} dist" in found.collapse_reason
    )
    for cause in ("budget is too strong", "too long", "margin or lambda_2 too large"):
        assert cause in found.collapse_reason
    assert "\n" not in found.collapse_reason
    assert np.isfinite(found.centres).all() and found.variance == pytest.approx(0, abs=1e-9)
    assert sum(found.sizes) == len(rows) and len(found.empty) == 3 - distinct


def test_routes_that_differ_in_no_counted_decimal_are_one():
    rows = np.full((4, 3), 0.5, dtype=np.float32)
    rows[1] += 0.004
    rows[2, 1] += 0.02
    assert count_distinct(rows) == 2
    assert cluster(rows, 3).collapsed and not cluster(rows, 2).collapsed


def test_nearest_row_takes_the_lowest_number_on_ties():
    rows = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)
    labels, squared = nearest_rows(rows, np.array([[2.0], [0.0], [0.0]], dtype=np.float32))
    assert labels.tolist() == [1, 0, 0] and squared.tolist() == [0, 1, 0]


NAN = np.where(np.arange(12).reshape(6, 2) == 7, np.nan, 0.5)


@pytest.mark.parametrize(
    ("rows", "clusters", "start", "said"),
    [
        (np.ones((2, 4)), 3, None, r"3 clusters need activations .* N >= 3, got shape \(2, 4\)"),
        (np.ones(5), 2, None, "2 clusters need activations"),
        (np.ones((5, 4)), 1, None, "one cluster is the trivial solution"),
        (NAN, 2, None, "gate activations of row 3 are not finite"),
        (np.ones((5, 4)), 2, np.ones((3, 4)), r"initial centres must have shape \(2, 4\)"),
        (np.ones((6, 2)), 6, NAN, "initial centre 3 is not finite"),
    ],
)
def test_what_cannot_be_clustered_is_one_line(rows, clusters, start, said):
    with pytest.raises(ValueError, match=said) as info:
        cluster(rows, clusters, initial_centres=start)
    assert "\n" not in str(info.value)
