"""What is closed costs nothing: which modules really ran, and how many multiply-adds."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.routing import UNREACHED_RULES, Node, Routes, RoutingNetwork, RoutingSpace
from tests.routing.builders import (
    DETECTION,
    SMALL_DETECTION,
    close_everything,
    random_images,
    set_gate_bias,
    small_network,
)

SPACES = [
    pytest.param(RoutingSpace.grid(5), id="5"),
    pytest.param(SMALL_DETECTION, id="5 outputs"),
    pytest.param(DETECTION, id="17", marks=pytest.mark.slow),
]
WIDTH = 8
IMAGE = (64, 128)


def count_calls(network: RoutingNetwork) -> Counter[str]:
    """A counter that forward hooks fill with the names of the modules that run."""
    calls: Counter[str] = Counter()

    def count(name: str, *_ignored: object) -> None:
        calls[name] += 1

    for name, module in network.named_modules():
        if name == "stem" or name.startswith("cells."):
            module.register_forward_hook(partial(count, name))
    return calls


def cell_prefix(node: Node) -> str:
    """Where a node's modules stand."""
    return "cells.initial" if node.layer == -1 else f"cells.{node.layer}_{node.scale}"


def stem_macs(height: int, width: int) -> int:
    """Multiply-adds of the stem of ``small_network``: 3 -> 8 -> 8 -> 8 channels, padding 0."""
    half = (height // 2 - 1) * (width // 2 - 1)
    quarter = (height // 4) * (width // 4)
    return half * (27 * 8 + 9 * 8 + 8 * 8) + quarter * (9 * 8 + 8 * WIDTH)


def expected_macs(routes: Routes) -> int:
    """Multiply-adds of one image's route, summed by hand over reached cells and open edges."""
    height, width = routes.image_size
    total = stem_macs(height, width)
    for v, node in enumerate(routes.space.nodes):
        channels, stride = WIDTH * 2**node.scale, 4 * 2**node.scale
        area = (height // stride) * (width // stride)
        edges = routes.space.out_edges(node)
        if routes.reached[0, v]:
            total += area * channels * (channels // 2) + (channels // 2) * len(edges)
        if routes.running[0, v]:
            total += 2 * area * (9 * channels + channels * channels)
        for column, edge in zip(routes.gates[0, routes.space.columns(node)], edges):
            macs = {"up": area * channels**2 // 2, "keep": 0, "down": area // 4 * 2 * channels**2}
            total += macs[edge.kind] if column > 0 else 0
    return total


def measured_macs(network: RoutingNetwork, images: torch.Tensor) -> int:
    """What PyTorch's own counter sees, halved."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


@torch.no_grad()
@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("space", SPACES)
def test_modules_run_exactly_where_the_routes_say(space, rule):
    skipped: Counter[str] = Counter()
    for seed in range(4):
        network = small_network(space, unreached=rule, seed=seed, bias=-0.6)
        calls = count_calls(network)
        for image in random_images(2, *IMAGE, seed).split(1):
            calls.clear()
            routes = network(image).routes
            assert calls["stem"] == 1
            for v, node in enumerate(space.nodes):
                prefix = cell_prefix(node)
                reached, running = bool(routes.reached[0, v]), bool(routes.running[0, v])
                assert calls[f"{prefix}.gate"] == reached, node
                assert calls[f"{prefix}.operations.0"] == running, node
                assert calls[f"{prefix}.operations.1"] == running, node
                skipped.update(gates=not reached, operations=reached and not running)
                for column, edge in zip(routes.open[0, space.columns(node)], space.out_edges(node)):
                    assert calls[f"{prefix}.transitions.{edge.kind}"] == bool(column), edge
                    skipped.update(transitions=running and not column)
    assert min(skipped[kind] for kind in ("gates", "operations", "transitions")) > 0, skipped


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("space", SPACES)
def test_cost_is_that_of_the_route(space, rule):
    costs = set()
    for seed in range(3):
        network = small_network(space, unreached=rule, seed=seed)
        image = random_images(1, *IMAGE, seed)
        cost = measured_macs(network, image)
        assert cost == expected_macs(network(image).routes)
        costs.add(cost)
    assert len(costs) > 1


def test_cost_of_a_batch_is_the_sum_over_its_images():
    network = small_network(seed=1)
    images = random_images(4, *IMAGE)
    single = [measured_macs(network, image) for image in images.split(1)]
    assert measured_macs(network, images) == sum(single) and len(set(single)) > 1


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_closed_image_costs_only_the_stem_and_the_gates_it_passes(rule):
    network = small_network(unreached=rule)
    close_everything(network)
    edges = {-1: 2, 0: 2, 1: 2, 2: 2, 3: 1}
    quarter = (IMAGE[0] // 4) * (IMAGE[1] // 4)
    gates = sum(quarter * WIDTH * WIDTH // 2 + WIDTH // 2 * k for k in edges.values())
    assert measured_macs(network, random_images(1, *IMAGE)) == stem_macs(*IMAGE) + gates


def test_dense_and_sparse_run_the_same_when_everything_is_open():
    network = small_network()
    for node in network.space.nodes:
        set_gate_bias(network, node, 1.0)
    images = random_images(1, *IMAGE)
    assert network(images).routes.open.all()
    sparse = measured_macs(network, images)
    assert measured_macs(network.train(), images) == sparse
