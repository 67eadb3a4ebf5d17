"""Statistics of routes against counting by hand and scipy's entropy."""

import json
import math

import pytest
import scipy.stats
import torch

from dynamic_routing.analysis.statistics import (
    COLLAPSED_STD,
    binary_entropy,
    gate_table,
    route_statistics,
)
from dynamic_routing.routing import INITIAL, Routes, RoutingSpace

SPACE = RoutingSpace.grid(4, num_scales=3)


def routes_of(gates):
    return Routes(SPACE, gates, "absent", (64, 64))


def random_gates(images=9):
    gates = torch.rand(images, len(SPACE.edges))
    return torch.where(torch.rand_like(gates) < 0.5, gates, 0.0)


def test_numbers_equal_counting_by_hand():
    gates = random_gates()
    gates[:, 5], gates[:, 6] = 0.0, 0.4
    gates[3] = gates[1] * 0.5  # the same pattern with other strengths
    statistics = route_statistics(routes_of(gates))
    patterns, counts = set(), []
    opened = [0] * len(SPACE.edges)
    for row in gates.tolist():
        grid = [v > 0 for v, e in zip(row, SPACE.edges) if e.source != INITIAL]
        patterns.add(tuple(grid))
        counts.append(sum(grid))
        opened = [n + (v > 0) for n, v in zip(opened, row)]
    grid_edges = [i for i, e in enumerate(SPACE.edges) if e.source != INITIAL]
    assert statistics.images == 9
    assert statistics.distinct_routes == len(patterns) == 8
    assert statistics.open_edges_avg == pytest.approx(sum(counts) / 9)
    assert (statistics.open_edges_min, statistics.open_edges_max) == (min(counts), max(counts))
    assert statistics.open_share == pytest.approx(sum(counts) / 9 / len(grid_edges))
    never = [SPACE.edges[i] for i in grid_edges if opened[i] == 0]
    always = [SPACE.edges[i] for i in grid_edges if opened[i] == 9]
    assert list(statistics.never_open) == never and SPACE.edges[5] in never
    assert list(statistics.always_open) == always and SPACE.edges[6] in always
    assert not statistics.collapsed and not statistics.same_pattern


def test_entropy_equals_scipy():
    gates = random_gates(13)
    statistics = route_statistics(routes_of(gates))
    for i in range(len(SPACE.edges)):
        share = float((gates[:, i] > 0).sum()) / 13
        expected = scipy.stats.entropy([share, 1 - share], base=2)
        assert float(statistics.open_rate[i]) == pytest.approx(share)
        assert float(statistics.entropy[i]) == pytest.approx(expected, abs=1e-12)
    grid = [i for i, e in enumerate(SPACE.edges) if e.source != INITIAL]
    expected = sum(float(statistics.entropy[i]) for i in grid) / len(grid)
    assert statistics.entropy_mean == pytest.approx(expected)
    ends = binary_entropy(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0, 0.0]


def test_mean_and_std_equal_the_definition():
    gates = random_gates(7)
    statistics = route_statistics(routes_of(gates))
    column = gates[:, 4].tolist()
    mean = sum(column) / 7
    std = math.sqrt(sum((v - mean) ** 2 for v in column) / 7)
    assert float(statistics.gate_mean[4]) == pytest.approx(mean)
    assert float(statistics.gate_std[4]) == pytest.approx(std)


def test_equal_routes_have_collapsed():
    gates = random_gates(1).expand(5, -1)
    statistics = route_statistics(routes_of(gates))
    assert statistics.collapsed and statistics.same_pattern
    opened = sum(v > 0 for v, e in zip(gates[0].tolist(), SPACE.edges) if e.source != INITIAL)
    assert f"all 5 images open the same {opened} edges" in statistics.collapse_reason


@pytest.mark.parametrize(("spread", "collapsed"), [(0.9, True), (1.1, False)])
def test_collapse_depends_on_the_threshold_only(spread, collapsed):
    gates = torch.full((2, len(SPACE.edges)), 0.5)
    gates[0, 7] += spread * COLLAPSED_STD
    gates[1, 7] -= spread * COLLAPSED_STD  # std = spread * COLLAPSED_STD
    statistics = route_statistics(routes_of(gates))
    assert statistics.same_pattern
    assert statistics.collapsed is collapsed


def test_initial_cell_does_not_count():
    gates = torch.full((2, len(SPACE.edges)), 0.5)
    gates[1, : len(SPACE.out_edges(INITIAL))] = 0.0
    statistics = route_statistics(routes_of(gates))
    assert statistics.distinct_routes == 1 and statistics.collapsed
    assert statistics.grid_edges == len(SPACE.edges) - 2


def test_one_image_has_not_collapsed():
    statistics = route_statistics(routes_of(random_gates(1)))
    assert not statistics.collapsed and not statistics.same_pattern


def test_dictionary_is_json():
    statistics = route_statistics(routes_of(random_gates()))
    read = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert read["distinct_routes"] == statistics.distinct_routes
    assert len(read["open_rate"]) == len(read["edges"]) == len(SPACE.edges)
    assert RoutingSpace.from_edges(read["edges"]) == SPACE


def test_table_shows_every_gate():
    gates = random_gates(4)
    gates[:, 0], gates[:, 1] = 1.0, 0.0
    lines = gate_table(route_statistics(routes_of(gates))).splitlines()
    assert len(lines) == 1 + 1 + SPACE.num_layers
    assert lines[0].split() == ["layer", "|", "1/4", "|", "1/8", "|", "1/16"]
    assert lines[1].split("|")[1].split() == ["keep", "100", ".00", "down", "0", ".00"]
    words = [word for line in lines[1:] for word in line.split()]
    assert sum(word in ("up", "keep", "down") for word in words) == len(SPACE.edges)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="got 0 images"):
        route_statistics(routes_of(torch.zeros(0, len(SPACE.edges))))
    with pytest.raises(ValueError, match="finite, got nan"):
        route_statistics(routes_of(torch.full((2, len(SPACE.edges)), float("nan"))))
