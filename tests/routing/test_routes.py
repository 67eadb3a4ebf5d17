"""Routes, activation vectors and the recorder."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dynamic_routing.routing import (
    INITIAL,
    UNREACHED_RULES,
    RoutedModule,
    Routes,
    RoutingNetwork,
    RoutingOutput,
    RoutingSpace,
    record_routes,
)
from tests.routing.builders import DETECTION, Triple, random_images, small_network

SPACES = {"16": RoutingSpace.grid(16), "17": DETECTION, "33": RoutingSpace.grid(33)}
IMAGE_SIZE = (64, 64)


class Wrapper(nn.Module):
    """A routed module inside something else, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"inner": small_network(RoutingSpace.grid(2), seed=1)})
        self.second = small_network(RoutingSpace.grid(3), seed=2)

    def forward(self, images: Tensor) -> Tensor:
        """Run the first network, then the second."""
        first: RoutingOutput = self.first["inner"](images)
        return first.features[0].mean() + self.second(images).features[0].mean()


def random_routes(space: RoutingSpace, count: int = 3) -> Routes:
    """Gates that are nowhere zero, so that a misplaced one is seen."""
    gates = 0.1 + 0.9 * torch.rand(count, len(space.edges), dtype=torch.float64)
    return Routes(space, gates, "absent", IMAGE_SIZE)


def activations_by_hand(space: RoutingSpace, gates: list[float]) -> list[float]:
    """A(x) of one image from a dictionary of its gates: up, keep, down of each grid cell."""
    by_edge: dict[Triple, float] = dict(zip(space.to_edges(), gates))
    cells = sorted({(layer, scale) for layer, scale, _ in by_edge if layer >= 0})
    return [by_edge.get((*cell, kind), 0.0) for cell in cells for kind in ("up", "keep", "down")]


@pytest.mark.parametrize("name", SPACES)
def test_activations_stand_in_the_slots_of_their_edges(name):
    routes = random_routes(SPACES[name])
    expected = [activations_by_hand(routes.space, row) for row in routes.gates.tolist()]
    assert routes.activations().tolist() == expected


def test_activations_of_a_subspace_describe_its_own_cells_only():
    whole = RoutingSpace.grid(4)
    space = whole.subspace([e for e in whole.edges if e.kind != "up"])
    routes = random_routes(space)
    expected = [activations_by_hand(space, row) for row in routes.gates.tolist()]
    assert routes.activations().tolist() == expected
    assert routes.activations().shape == (3, 3 * len(space.grid_nodes))


@pytest.mark.parametrize("name", SPACES)
def test_activations_are_never_non_zero_where_no_edge_exists(name):
    space = SPACES[name]
    vectors = random_routes(space).activations()
    existing = {(layer, scale, kind) for layer, scale, kind in space.to_edges()}
    for slot, column in enumerate(vectors.T):
        node, kind = space.grid_nodes[slot // 3], ("up", "keep", "down")[slot % 3]
        exists = (node.layer, node.scale, kind) in existing
        assert bool((column > 0).all()) is exists and bool((column == 0).all()) is not exists


def test_gradient_of_activations_reaches_every_gate_but_those_of_the_initial_cell():
    routes = random_routes(SPACES["16"])
    gates = routes.gates.clone().requires_grad_()
    vectors = Routes(routes.space, gates, "absent", IMAGE_SIZE).activations()
    weights = torch.arange(1.0, vectors.shape[1] + 1, dtype=torch.float64)
    (vectors * weights).sum().backward()
    slots = torch.tensor(routes.space.activation_slots)
    assert torch.equal(gates.grad[:, 2:], weights[slots].expand(3, -1))
    assert torch.equal(gates.grad[:, :2], torch.zeros(3, 2, dtype=torch.float64))


def test_gradient_flows_from_activations_into_the_network():
    network = RoutingNetwork(RoutingSpace.grid(5), width=8).double().train()
    network(random_images(4, 64, 64)).routes.activations().sum().backward()
    for node in network.space.grid_nodes:
        moved = network.cell(node).gate.predict.weight.grad.abs().sum().item()
        assert moved > 0, node
    assert network.stem.first.conv.weight.grad.abs().sum().item() > 0
    assert network.cell(INITIAL).gate.predict.weight.grad.abs().sum().item() > 0


def test_indexing_keeps_the_batch_dimension_and_the_derived_views():
    routes = small_network(seed=3)(random_images(4)).routes
    for n in range(4):
        single = routes[n]
        assert len(single) == 1 and torch.equal(single.gates, routes.gates[n : n + 1])
        assert torch.equal(single.reached, routes.reached[n : n + 1])
        assert torch.equal(single.running, routes.running[n : n + 1])
        assert single.image_size == routes.image_size and single.rule == routes.rule
    assert torch.equal(routes[-1].gates, routes[3].gates)
    assert torch.equal(routes[1:3].gates, routes.gates[1:3])
    assert len(list(routes)) == 4
    with pytest.raises(IndexError):
        routes[4]


def test_detach_leaves_graph_and_precision_behind():
    routes = small_network().train()(random_images(4)).routes
    assert routes.gates.requires_grad
    detached = routes.detach()
    assert not detached.gates.requires_grad and detached.gates.dtype == torch.float32
    assert detached.gates.device.type == "cpu" and torch.equal(detached.open, routes.open)


def test_reached_follows_the_gates_by_hand():
    edges = [(-1, 0, "keep"), (-1, 0, "down"), (0, 0, "keep"), (0, 1, "keep"), (0, 1, "up")]
    edges += [(1, 0, "keep"), (1, 1, "keep")]
    space = RoutingSpace.from_edges(edges)
    assert space.to_edges()[3:5] == [(0, 1, "up"), (0, 1, "keep")]
    # columns: initial keep, down; 1/4 keep; 1/8 up, keep; outputs 1/4, 1/8
    gates = torch.tensor(
        [
            [0.5, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0],  # nothing goes down
            [0.0, 0.0, 0.9, 0.0, 0.0, 0.9, 0.0],  # the initial cell hands its input on
            [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.9],  # only down, then handed on
            [0.0, 0.5, 0.0, 0.9, 0.0, 0.9, 0.0],  # down and up again
        ]
    )
    expected = {
        "absent": [
            [1, 1, 0, 1, 0],
            [1, 1, 0, 1, 0],
            [1, 0, 1, 0, 1],
            [1, 0, 1, 1, 0],
        ],
        "released": [
            [1, 1, 1, 1, 1],  # zeros arrive at 1/8, which hands them on
            [1, 1, 0, 1, 0],
            [1, 1, 1, 1, 1],  # zeros arrive at 1/4, which hands them on
            [1, 1, 1, 1, 1],  # 1/8 is open and so sends zeros along its keep edge
        ],
    }
    for rule, rows in expected.items():
        routes = Routes(space, gates, rule, IMAGE_SIZE)
        assert routes.reached.int().tolist() == rows, rule
        assert routes.running.int().tolist() == [
            [1, 1, 0, 1, 0],
            [0, 1, 0, 1, 0],
            [1, 0, 0, 0, 1],
            [1, 0, 1, 1, 0],
        ]
    absent = Routes(space, gates, "absent", IMAGE_SIZE)
    assert absent.output_reached(0).tolist() == [True, True, False, True]
    assert absent.output_reached(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_gates_of_unreached_cells_are_zero(rule):
    network = small_network(unreached=rule, bias=-0.3)
    for run in (network, network.forward_dense):
        routes = run(random_images(4)).routes
        for v, node in enumerate(routes.space.nodes):
            gates = routes.gates[~routes.reached[:, v]][:, routes.space.columns(node)]
            assert (gates == 0).all()


def test_recorder_sees_every_forward_in_order():
    network = small_network()
    with record_routes(network) as records:
        outputs = [network(random_images(count)) for count in (1, 2)]
    assert [record is o.routes for record, o in zip(records, outputs)] == [True, True]
    network(random_images(1))
    assert len(records) == 2


def test_recorder_finds_nested_modules():
    model = Wrapper()
    with record_routes(model) as records:
        model(random_images(2))
    assert [r.space.num_layers for r in records] == [2, 3]
    assert sum(isinstance(m, RoutedModule) for m in model.modules()) == 2


def test_recorders_may_be_nested():
    network = small_network()
    with record_routes(network) as outer:
        network(random_images(1))
        with record_routes(network) as inner:
            network(random_images(2))
        network(random_images(3))
    assert [len(r) for r in outer] == [1, 2, 3] and [len(r) for r in inner] == [2]


@pytest.mark.parametrize("fails", [False, True])
def test_recorder_leaves_no_hook_behind(fails):
    model = Wrapper()
    try:
        with record_routes(model):
            model(random_images(1))
            assert any(m._forward_hooks for m in model.modules())
            if fails:
                raise RuntimeError("stop")
    except RuntimeError:
        assert fails
    assert not any(m._forward_hooks for m in model.modules())


def test_module_can_be_copied_after_a_recorded_training_step():
    network = small_network(bias=1.0).train()
    with record_routes(network) as records:
        output = network(random_images(4))
    (output.features[0].mean() + records[0].gates.sum()).backward()
    copied = copy.deepcopy(network)
    network.eval(), copied.eval()
    images = random_images(2)
    assert torch.equal(copied(images).features[0], network(images).features[0])
    with record_routes(network) as records:
        copied(images)
    assert records == []
