"""Costs against the published figures, PyTorch's own counter, and by-hand properties."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    Node,
    Routes,
    RoutingNetwork,
    RoutingSpace,
    SegmentationDecoder,
    StemSpec,
)
from dynamic_routing.routing.cost import CostModel, count_parameters, head_work
from dynamic_routing.routing.counting import Work, count_work, meta_image
from tests.routing.builders import DETECTION, randomise, small_network

SIXTEEN, THIRTY_THREE = RoutingSpace.grid(16), RoutingSpace.grid(33)
SMALL, FIXED = GateSpec(small=True), GateSpec("fixed")


@contextmanager
def weightless():
    """Build modules without memory and, which is what takes the time, without initial values."""
    with (
        torch.device("meta"),
        mock.patch.object(nn.init, "kaiming_normal_", lambda weight, **_options: weight),
    ):
        yield


def published(space, *, classes=19, convention="paper", **options):
    """The cost model of a network of width 64, with its head where it has classes."""
    with weightless():
        network = RoutingNetwork(space, width=64, **options)
        fixed = {}
        if classes:
            decoder = SegmentationDecoder([64, 128, 256, 512], classes, norm=nn.BatchNorm2d)
            fixed["head"] = head_work(decoder)
    return CostModel(network, convention=convention, fixed=fixed)


def cell(name):
    return {"operations": (name, "identity")}


SLOW = pytest.mark.slow
THRICE = cell("sep_conv_3x3_x3")


# Li et al. 2020: Tables 2 to 7, and what the released code counts for them.
@pytest.mark.parametrize(
    ("space", "options", "size", "giga"),
    [
        pytest.param(SIXTEEN, {}, (1024, 2048), 119.491, id="raw"),
        pytest.param(SIXTEEN, {"gate": SMALL}, (1024, 2048), 103.676, id="small gates"),
        pytest.param(SIXTEEN, {"gate": FIXED}, (1024, 2048), 102.622, id="fix"),
        pytest.param(THIRTY_THREE, {}, (1024, 2048), 246.028, id="33 layers"),
        pytest.param(SIXTEEN, cell("sep_conv_3x3"), (1024, 2048), 83.772, id="once"),
        pytest.param(SIXTEEN, THRICE, (1024, 2048), 155.210, id="thrice", marks=SLOW),
        pytest.param(SIXTEEN, cell("mb_conv_3x3"), (1024, 2048), 325.64, id="mb", marks=SLOW),
        pytest.param(SIXTEEN, {}, (512, 512), 14.94, id="512"),
        pytest.param(THIRTY_THREE, {}, (512, 512), 30.75, id="33 layers, 512", marks=SLOW),
        pytest.param(DETECTION, {"classes": 0}, (800, 800), 38.34, id="detection"),
    ],
)
def test_paper_convention_gives_the_published_figures(space, options, size, giga):
    assert published(space, **options).open_cost(*size) / 1e9 == pytest.approx(giga, abs=0.01)


def test_full_expected_cost_is_that_of_the_released_code():
    full = published(SIXTEEN, classes=0).full_expected(768, 768)
    assert round(full / 1e6, 1) == 26891.7


@pytest.mark.parametrize("convention", ["macs", "paper"])
@pytest.mark.parametrize("options", [{}, {"gate": SMALL}, {"gate": FIXED}])
def test_parts_sum_to_the_cost_of_the_open_network(convention, options):
    network = small_network(RoutingSpace.grid(5), **options)
    decoder = SegmentationDecoder([8, 16, 32, 64], 4, norm=nn.BatchNorm2d)
    cost = CostModel(network, convention=convention, fixed={"head": head_work(decoder)})
    parts = cost.table(64, 128).parts()
    names = "stem cells.1/4 cells.1/8 cells.1/16 cells.1/32 gates up keep down head"
    assert list(parts) == [name.replace(".", " ") for name in names.split()]
    assert sum(parts.values()) == cost.open_cost(64, 128)
    assert all(parts[name] > 0 for name in ("stem", "cells 1/32", "up", "down", "head"))
    assert (parts["gates"] == 0) == (options.get("gate") is FIXED)


def force_routes(network, seed, share_open):
    """Make the gates of every cell a coin each, whatever the image."""
    generator = torch.Generator().manual_seed(seed)
    for node in network.space.nodes:
        gate = network.cell(node).gate
        nn.init.zeros_(gate.predict.weight)
        coins = torch.rand(gate.predict.bias.shape, generator=generator) < share_open
        with torch.no_grad():
            gate.predict.bias.copy_(torch.where(coins, 1.0, -1.0))


@torch.no_grad()
def assert_exact(network, cost, height, width):
    """Predicted multiply-adds equal what PyTorch counts; returns them."""
    dtype = network.stem.first.conv.weight.dtype
    with FlopCounterMode(display=False) as counter:
        routes = network.eval()(torch.zeros(1, 3, height, width, dtype=dtype)).routes
    predicted = float(cost.executed(routes))
    assert predicted == counter.get_total_flops() / 2
    return predicted


def check_random_routes(network, seeds, *, height=64, width=128):
    """Every seed another route, of another cost."""
    cost = CostModel(network)
    found = set()
    for seed in seeds:
        force_routes(network, seed, share_open=0.3 + 0.5 * (seed % 5) / 4)
        found.add(assert_exact(network, cost, height, width))
    assert len(found) >= len(seeds) / 2
    assert max(found) <= cost.open_cost(height, width)
    assert min(found) >= cost.closed_cost(height, width)


@pytest.mark.parametrize(
    ("gate", "rule", "padding"),
    [
        pytest.param(GateSpec(), "absent", 0, id="full, absent"),
        pytest.param(SMALL, "released", 1, id="small, released, padded"),
        pytest.param(SMALL, "absent", 0, id="small, absent", marks=pytest.mark.slow),
        pytest.param(GateSpec(), "released", 0, id="full, released", marks=pytest.mark.slow),
    ],
)
def test_executed_macs_are_exact_on_random_routes(gate, rule, padding):
    network = small_network(RoutingSpace.grid(4), gate=gate, unreached=rule, padding=padding)
    check_random_routes(network, range(20))


@pytest.mark.parametrize("name", OPERATIONS)
def test_executed_macs_are_exact_for_every_operation(name):
    network = small_network(RoutingSpace.grid(3), operations=(name,))
    check_random_routes(network, range(5), height=32, width=32)


@pytest.mark.slow
@pytest.mark.parametrize("gate", [GateSpec(), SMALL], ids=["full", "small"])
@pytest.mark.parametrize("space", [SIXTEEN, DETECTION, THIRTY_THREE], ids=["16", "17", "33"])
def test_executed_macs_are_exact_in_the_published_spaces(space, gate):
    network = small_network(space, gate=gate)
    check_random_routes(network, range(25))


def test_executed_macs_are_exact_in_the_published_space_once():
    network = RoutingNetwork(SIXTEEN, width=2, stem=StemSpec(middle_channels=2))
    check_random_routes(network, range(2), height=32, width=32)


def test_executed_cost_of_a_fixed_network_is_the_open_cost():
    network = small_network(RoutingSpace.grid(5), gate=FIXED)
    cost = CostModel(network)
    assert assert_exact(network, cost, 64, 64) == cost.open_cost(64, 64)


def test_cost_of_a_batch_is_a_number_an_image():
    network = small_network(RoutingSpace.grid(4))
    cost = CostModel(network)
    gates = torch.zeros(3, len(network.space.edges))
    gates[1] = 1
    routes = Routes(network.space, gates, "absent", (64, 64))
    closed, opened, again = cost.executed(routes).tolist()
    assert closed == again == cost.closed_cost(64, 64) and opened == cost.open_cost(64, 64)
    assert cost.executed(routes[1]).tolist() == [opened]
    assert cost.expected(routes).tolist() == [0, cost.full_expected(64, 64), 0]


SPACE = RoutingSpace.grid(6)
PROPERTY = {
    (rule, convention): CostModel(
        small_network(SPACE, unreached=rule, gate=gate), convention=convention
    )
    for rule in UNREACHED_RULES
    for convention, gate in [("macs", SMALL), ("paper", GateSpec())]
}


def routes_of(values, rule):
    """Routes whose gates are ``values``, 0 on the edges of cells that nothing reaches."""
    gates = torch.tensor([values], dtype=torch.float64)
    columns = [SPACE.node_index[edge.source] for edge in SPACE.edges]
    while True:  # every pass settles at least one more layer
        routes = Routes(SPACE, gates, rule, (64, 128))
        settled = gates * routes.reached[:, columns]
        if torch.equal(settled, gates):
            return routes
        gates = settled


random_gates = st.lists(
    st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
    min_size=len(SPACE.edges),
    max_size=len(SPACE.edges),
)


@settings(max_examples=25)
@given(
    values=random_gates,
    choice=st.integers(min_value=0, max_value=10**6),
    rule=st.sampled_from(sorted(UNREACHED_RULES)),
    convention=st.sampled_from(["macs", "paper"]),
)
def test_closing_a_gate_of_a_cell_that_stays_open_never_raises_the_cost(
    values, choice, rule, convention
):
    cost = PROPERTY[rule, convention]
    routes = routes_of(values, rule)
    candidates = [
        i
        for i, edge in enumerate(SPACE.edges)
        if routes.open[0, i] and routes.open[0, SPACE.columns(edge.source)].sum() > 1
    ]
    if not candidates:
        return
    closed = list(routes.gates[0].tolist())
    closed[candidates[choice % len(candidates)]] = 0.0
    fewer = routes_of(closed, rule)
    assert float(cost.executed(fewer)) <= float(cost.executed(routes))
    assert float(cost.expected(fewer)) < float(cost.expected(routes))


@settings(max_examples=20)
@given(
    values=random_gates,
    rule=st.sampled_from(sorted(UNREACHED_RULES)),
    convention=st.sampled_from(["macs", "paper"]),
)
def test_every_route_costs_between_the_closed_and_the_open_network(values, rule, convention):
    cost = PROPERTY[rule, convention]
    routes = routes_of(values, rule)
    executed, expected = float(cost.executed(routes)), float(cost.expected(routes))
    assert cost.closed_cost(64, 128) <= executed <= cost.open_cost(64, 128)
    assert 0 <= expected <= cost.full_expected(64, 128)
    shares = cost.scale_shares(routes)
    assert sum(shares.values()) == pytest.approx(1 if routes.running.any() else 0)


def test_closing_the_last_gate_of_a_cell_costs_the_gate_of_the_cell_that_now_exists():
    """The one exception: a cell without an open gate hands its input on."""
    cost = PROPERTY["absent", "macs"]
    opened = [edge.source == Node(-1, 0) and edge.kind == "down" for edge in SPACE.edges]
    before = routes_of([float(x) for x in opened], "absent")
    after = routes_of([0.0] * len(SPACE.edges), "absent")
    assert not before.reached[0, SPACE.node_index[Node(0, 0)]]
    assert after.reached[0, SPACE.node_index[Node(0, 0)]]
    saved = float(cost.executed(before) - cost.executed(after))
    table = cost.table(64, 128)
    chains = {s: [SPACE.node_index[Node(k, s)] for k in range(6)] for s in (0, 1)}
    gates = float(table.gates[chains[1]].sum() - table.gates[chains[0]].sum())
    cell = float(table.cells[SPACE.node_index[Node(-1, 0)]])
    assert saved == cell + float(table.edges[opened.index(True)]) + gates


def test_larger_images_cost_in_proportion_and_share_nothing():
    cost = CostModel(small_network(RoutingSpace.grid(4), gate=FIXED, padding=1))
    assert cost.open_cost(128, 256) == 4 * cost.open_cost(64, 128)
    assert cost.table(64, 128) is cost.table(64, 128)


def test_expected_cost_is_differentiable_and_executed_is_exact_for_any_strength():
    network = small_network(RoutingSpace.grid(4))
    cost = CostModel(network)
    gates = torch.full((2, len(network.space.edges)), 0.3, requires_grad=True)
    routes = Routes(network.space, gates, "absent", (64, 64))
    expected = cost.expected(routes)
    assert expected.tolist() == pytest.approx([0.3 * cost.full_expected(64, 64)] * 2)
    expected.sum().backward()
    assert gates.grad.abs().sum() > 0
    assert cost.executed(routes).tolist() == [cost.open_cost(64, 64)] * 2
    assert not cost.executed(routes).requires_grad


def test_counting_leaves_the_network_as_it_was():
    network = small_network(RoutingSpace.grid(4)).train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    CostModel(network).open_cost(64, 64)
    assert network.training and not any(m._forward_hooks for m in network.modules())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("module", "inputs", "macs", "elementwise"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 7), 35 * 6 * 4 * 9, 0),
        (nn.Conv2d(4, 8, (1, 3), groups=4, stride=2), (4, 6, 7), 3 * 3 * 8 * 3, 0),
        (nn.BatchNorm2d(4), (4, 5, 7), 0, 2 * 140),
        (nn.BatchNorm2d(4, affine=False), (4, 5, 7), 0, 140),
        (nn.GroupNorm(2, 4), (4, 5, 7), 0, 280),
        (nn.ReLU(), (4, 5, 7), 0, 140),
        (nn.AdaptiveAvgPool2d(1), (4, 5, 7), 0, 140),
        (nn.Sequential(nn.Flatten(), nn.Linear(140, 3)), (4, 5, 7), 420, 0),
        (nn.MaxPool2d(2), (4, 6, 6), 0, 0),
    ],
    ids=["conv", "grouped", "bn", "bn plain", "gn", "relu", "pool", "linear", "max pool"],
)
def test_work_of_one_layer_is_that_counted_by_hand(module, inputs, macs, elementwise):
    work = count_work(module, meta_image(*inputs))
    assert work == Work(macs, elementwise)
    assert (work.cost("macs"), work.cost("paper")) == (macs, macs + elementwise)


def test_unknown_convention_is_refused_with_the_known_ones():
    message = "convention 'flops' is unknown; allowed: macs, paper"
    with pytest.raises(ValueError, match=message):
        CostModel(small_network(RoutingSpace.grid(1)), convention="flops")
    with pytest.raises(ValueError, match=message):
        Work().cost("flops")


def test_parameters_are_counted_without_buffers():
    assert count_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == 16 + 8


def test_randomised_weights_do_not_change_the_cost():
    network = small_network(RoutingSpace.grid(4))
    before = CostModel(network).open_cost(64, 64)
    randomise(network, seed=9)
    assert CostModel(network).open_cost(64, 64) == before
