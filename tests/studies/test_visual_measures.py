"""What is measured of the visual study's networks equals counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynamic_routing.studies.visual_data import SIDE, SUBSETS, generate_scenes
from dynamic_routing.studies.visual_measures import (
    VisualOutcome,
    accuracy_numbers,
    cluster_numbers,
    cost_numbers,
    predict,
)
from dynamic_routing.studies.visual_network import Ensemble, VisualNetwork


def test_mean_iou_against_a_count_by_hand() -> None:
    targets = torch.tensor([[[0, 0, 1], [1, 2, 3]]])
    classes = torch.tensor([[[0, 1, 1], [1, 2, 0]]])
    numbers = accuracy_numbers(classes, targets)
    assert numbers["miou"] == pytest.approx((1 / 3 + 2 / 3 + 1 + 0) / 4)
    assert numbers["pixel_accuracy"] == pytest.approx(4 / 6)
    assert numbers["object_accuracy"] == pytest.approx(3 / 4)


def test_open_network_costs_the_same_for_every_scene() -> None:
    network = VisualNetwork("static", 2)
    subsets = torch.arange(3).repeat(2)
    routes = network.routes(torch.ones(6, len(network.backbone.space.edges)))
    numbers = cost_numbers(network, routes, subsets)
    whole = network.cost.open_cost(SIDE, SIDE) / 1e3
    assert numbers.pop("route_share") == pytest.approx(1)
    assert numbers == {name: pytest.approx(whole) for name in numbers}
    assert {f"kmacs_{name}" for name in SUBSETS} < set(numbers)


def test_cost_of_a_subset_is_the_mean_of_its_scenes() -> None:
    network = VisualNetwork("dr", 2)
    subsets = torch.tensor([0, 1, 2, 0, 1, 2])
    gates = torch.ones(6, len(network.backbone.space.edges))
    gates[3] = 0  # a scene of subset 0 closes everything
    routes = network.routes(gates)
    each = [float(c) / 1e3 for c in network.cost.executed(routes)]
    numbers = cost_numbers(network, routes, subsets)
    assert numbers["kmacs_min"] == pytest.approx(each[3]) and each[3] < each[0]
    assert numbers[f"kmacs_{SUBSETS[0]}"] == pytest.approx((each[0] + each[3]) / 2)
    assert numbers[f"kmacs_{SUBSETS[1]}"] == numbers["kmacs_max"] == pytest.approx(each[0])


def test_subsets_far_apart_are_recovered_at_their_distances() -> None:
    subsets = np.array([0, 0, 1, 1, 2, 2])
    rows = np.array([[0, 0], [0, 1], [6, 0], [6, 1], [0, 8], [0, 9]], dtype=np.float64)
    own = np.array([[0, 0.5], [6, 0.5], [100, 100]])
    numbers = cluster_numbers(rows, subsets, 3, seed=0, own=own)
    assert numbers["recovery"] == 1 and numbers["intra_pair"] == pytest.approx(1)
    assert numbers["inter"] == pytest.approx((6 + 8 + 10) / 3)
    assert numbers["recovery_own"] == pytest.approx(4 / 6)  # none is near the third centre
    assert "recovery_own" not in cluster_numbers(rows, subsets, 3, seed=0, own=None)


def test_prediction_in_parts_equals_prediction_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, scenes = Ensemble("dr", 2, [1]), [generate_scenes(5, seed=1)]
    whole = predict(ensemble, scenes)
    monkeypatch.setattr("dynamic_routing.studies.visual_measures.CHUNK", 2)
    parts = predict(ensemble, scenes)
    assert (whole[0] == parts[0]).float().mean() > 0.999  # a tie may fall either way
    torch.testing.assert_close(whole[1], parts[1])


def test_ratio_exists_where_gates_spread() -> None:
    costs = dict.fromkeys(("kmacs_avg", "kmacs_min", "kmacs_max", "route_share"), 1.0)
    costs |= {f"kmacs_{name}": 1.0 for name in SUBSETS}
    given = {"seed": 1, "miou": 0.5, "pixel_accuracy": 0.5, "object_accuracy": 0.5, **costs}
    assert VisualOutcome(**given, inter=3.0, intra_pair=2.0).ratio == 1.5
    assert math.isnan(VisualOutcome(**given, inter=3.0, intra_pair=0.0).ratio)
    assert math.isnan(VisualOutcome(**given).ratio)
