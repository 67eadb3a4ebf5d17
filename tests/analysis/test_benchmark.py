"""The benchmark's arithmetic and its candidates, without a clock."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from dynamic_routing.analysis import benchmark as bench
from dynamic_routing.analysis import benchmark_networks as networks
from dynamic_routing.analysis.sparsity import FORCED_STRENGTH
from dynamic_routing.routing import RoutingNetwork, RoutingSpace
from dynamic_routing.routing.cost import CostModel

LAST = "80 % of the paths closed"


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    network = RoutingNetwork(RoutingSpace.grid(5), width=4).eval()
    return networks.Setting(network, torch.randn(2, 3, 64, 64))


def test_summary_follows_from_the_times():
    whole = bench.Candidate("a", "open", 1, 4e9, lambda: None, seconds=[4.0, 2.0, 3.0])
    half = bench.Candidate("a", "half", 1, 1e9, lambda: None, seconds=[1.0, 1.0, 1.5])
    other = bench.Candidate("b", "half", 1, 1e9, lambda: None, seconds=[2.0] * 3)
    rows = bench.summarise([whole, half, other], peak=4e9, open_level="open")
    assert [row.ms for row in rows] == [3000, 1000, 2000]
    assert (rows[0].ms_p10, rows[0].ms_p90) == (2000, 4000)
    assert rows[1].ms_per_gmac == 1000 and rows[1].peak_share == 0.25
    assert rows[1].efficiency == pytest.approx((1 / 4) / (1 / 3)) and rows[2].efficiency is None
    assert rows[0].efficiency == 1
    assert "0.75" in bench.format_rows(rows)
    content = json.loads(bench.as_json(rows, device="x"))
    assert content["rows"][1]["name"] == "a" and content["device"] == "x"
    with pytest.raises(ValueError, match="JSON"):
        bench.as_json(rows, peak=float("inf"))


def test_key_figures_follow_from_the_times():
    ours = bench.Candidate("executor", LAST, 1, 1e9, lambda: None, seconds=[1.0] * 3)
    graphs = bench.Candidate(networks.GRAPHS, LAST, 1, 1e9, lambda: None, seconds=[0.5] * 3)
    dense = bench.Candidate("dense definition", LAST, 1, 5e9, lambda: None, seconds=[4.0] * 3)
    rival = bench.Candidate("ResNet-50-FPN", networks.OPEN, 1, 3e9, lambda: None, seconds=[2.0] * 3)
    assert networks.key_figures([ours, graphs, dense, rival]) == {
        f"dense definition / executor, {LAST}, batch 1": 4,
        f"dense definition / {networks.GRAPHS}, {LAST}, batch 1": 8,
        f"ResNet-50-FPN / executor, {LAST}, batch 1": 2,
        f"ResNet-50-FPN / executor, {LAST}, batch 1, our time per multiply-add / theirs": 1.5,
        f"ResNet-50-FPN / {networks.GRAPHS}, {LAST}, batch 1": 4,
        f"ResNet-50-FPN / {networks.GRAPHS}, {LAST}, batch 1, our time per multiply-add / theirs": (
            0.75
        ),
    }


@pytest.mark.parametrize("level", networks.LEVELS)
def test_levels_close_what_they_say_and_reach_an_output(setting, level):
    routes = networks.level_routes(setting, level, count=2)
    outputs = [routes.output_reached(s) for s in setting.network.space.scales]
    assert torch.stack(outputs).any(dim=0).all()
    opened = routes.gates[routes.open]
    assert torch.equal(opened, torch.full_like(opened, FORCED_STRENGTH))
    share = float(routes.open.double().mean())
    assert share == 1.0 if level == networks.OPEN else share <= 0.55
    if level == LAST:
        assert share <= 0.21 and not torch.equal(routes.open[0], routes.open[1])


def test_candidates_are_where_the_images_are(setting):
    """A data type stands for the device, which a machine without a GPU cannot change."""
    network = copy.deepcopy(setting.network).double()
    there = networks.Setting(network, setting.images.double())
    routes = networks.level_routes(there, LAST)
    found = [networks.static(there, LAST, routes), *networks.heads(there, LAST, routes)]
    for candidate in [*found, *networks.executors(there, LAST, routes, 1)]:
        candidate.run()


@pytest.mark.slow
def test_candidates_run_what_they_say(setting):
    routes = networks.level_routes(setting, LAST)
    lean, dense = networks.executors(setting, LAST, routes, 1)
    needed = float(CostModel(setting.network).executed(routes)[0])
    assert lean.macs == bench.count_macs(lean.run) == needed < dense.macs
    assert networks.static(setting, LAST, routes).macs < needed
    head, whole = networks.heads(setting, LAST, routes)
    assert head.macs <= whole.macs
    skipping, every = networks.training_steps(setting, LAST, routes, 2)
    assert skipping.macs < every.macs and skipping.stored_bytes < every.stored_bytes
    found = [lean, dense, skipping, every]
    peak = bench.measure(found, repeats=2, clock="cpu")
    assert peak > 0 and all(len(c.seconds) == 2 and c.peak_bytes > 0 for c in found)
    assert lean.peak_bytes < dense.peak_bytes
    figures = networks.key_figures(found)
    assert f"dense definition / executor, {LAST}, batch 1" in figures
    assert figures[f"stored activations, {LAST}, batch 2"] < 1


def test_memory_counts_what_lives_at_once():
    x = torch.zeros(1000)

    def run():
        y = x + 1  # 4000 bytes
        y = y.view(10, 100) * 2  # 8000, then 4000
        return (y + 1).sum()

    assert 8000 <= bench.peak_memory(run) < 9000


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="clock"):
        bench.measure([], repeats=1, clock="sun")
