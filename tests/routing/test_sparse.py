"""Sparse execution gives what dense execution gives, image by image, on every kind of route."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    Routes,
    RoutingNetwork,
    RoutingSpace,
)
from tests.routing.builders import (
    DETECTION,
    SMALL_DETECTION,
    assert_same,
    close_coarsest,
    close_everything,
    close_initial,
    one_by_one,
    random_images,
    relative_error,
    set_gate_bias,
    small_network,
)

ACTIVATIONS = ["max_tanh", "sigmoid", "softmax", "fixed"]
DETECTION_SPACES = [
    pytest.param(SMALL_DETECTION, id="5"),
    pytest.param(DETECTION, id="17", marks=pytest.mark.slow),
]
SIZES = [(32, 32), (32, 64), (96, 32), (64, 160)]


def what_happened(routes: Routes) -> Counter[str]:
    """How many cells of each kind a batch of routes contains."""
    reached, running = routes.reached, routes.running
    some = [
        routes.open[:, c].any(dim=1) & ~routes.open[:, c].all(dim=1)
        for c in (routes.space.columns(node) for node in routes.space.nodes)
    ]
    absent_rule = Routes(routes.space, routes.gates, "absent", routes.image_size)
    return Counter(
        unreached=int((~reached).sum()),
        passing=int((reached & ~running).sum()),
        running=int(running.sum()),
        partly_open=int(torch.stack(some).sum()),
        by_zeros_only=int((reached & ~absent_rule.reached).sum()),
        images_differ=int((reached != reached[:1]).any(dim=1).sum()),
        initial_closed=int((~running[:, 0]).sum()),
        outputs_missing=sum(
            int((~routes.output_reached(scale)).sum()) for scale in routes.space.output_scales
        ),
    )


@torch.no_grad()
def check_all_ways(network: RoutingNetwork, images: torch.Tensor) -> Routes:
    """Dense and sparse, batched and one by one, must agree; returns the routes."""
    sparse = network(images)
    assert_same(network.forward_dense(images), sparse)
    assert_same(one_by_one(network, images), sparse)
    assert_same(one_by_one(network.forward_dense, images), sparse)
    return sparse.routes


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_sparse_equals_dense_on_random_routes(rule):
    seen: Counter[str] = Counter()
    for seed, (height, width) in zip(range(12), SIZES * 3):
        bias = [0.4, -0.1, -0.7][seed % 3]
        network = small_network(unreached=rule, seed=seed, bias=bias, spread=1.5)
        seen += what_happened(check_all_ways(network, random_images(3, height, width, seed)))
    expected = ["unreached", "passing", "running", "partly_open", "images_differ"]
    expected += ["initial_closed", "outputs_missing" if rule == "absent" else "by_zeros_only"]
    for kind in expected:
        assert seen[kind] >= 5, (kind, seen)


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("close", [close_coarsest, close_initial, close_everything])
def test_sparse_equals_dense_on_extreme_routes(rule, close):
    network = small_network(unreached=rule, seed=1, bias=0.8)
    close(network)
    routes = check_all_ways(network, random_images())
    happened = what_happened(routes)
    if close is close_coarsest and rule == "absent":
        assert not routes.output_reached(3).any()
        assert not routes.reached[:, [n.scale == 3 for n in network.space.nodes]].any()
    if close is close_initial:
        assert happened["initial_closed"] == len(routes) and happened["running"] > 0
    if close is close_everything:
        assert happened["running"] == 0 and not routes.output_reached(1).any()


def test_coarsest_scale_closed_for_one_image_of_the_batch_only():
    for seed in range(20):
        network = small_network(seed=seed, bias=-0.2)
        routes = check_all_ways(network, random_images(4, seed=seed))
        arrived = routes.output_reached(3)
        if arrived.any() and not arrived.all():
            return
    pytest.fail("no random case lost the coarsest scale for some images only")


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize(("activation", "small"), list(product(ACTIVATIONS, [False, True])))
def test_sparse_equals_dense_with_every_gate(rule, activation, small):
    spec = GateSpec(activation, small=small)
    network = small_network(gate=spec, unreached=rule, seed=2)
    check_all_ways(network, random_images(2, 32, 96))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_sparse_equals_dense_where_other_activations_underflow_to_zero(activation):
    happened: Counter[str] = Counter()
    for seed in range(4):
        network = small_network(gate=GateSpec(activation), seed=seed, spread=3000.0)
        happened += what_happened(check_all_ways(network, random_images(2)))
    assert happened["partly_open"] > 0 and happened["unreached"] > 0
    assert happened["passing"] > 0 or activation == "softmax"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_sparse_equals_dense_with_every_operation(operation):
    happened: Counter[str] = Counter()
    for seed in range(3):
        network = small_network(RoutingSpace.grid(3), operations=(operation,), seed=seed)
        happened += what_happened(check_all_ways(network, random_images(2, 64, 32, seed)))
    assert happened["running"] > 0 and happened["passing"] + happened["unreached"] > 0


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("space", DETECTION_SPACES)
def test_sparse_equals_dense_on_detection_spaces(rule, space):
    happened: Counter[str] = Counter()
    for seed in range(3):
        network = small_network(space, unreached=rule, seed=seed)
        happened += what_happened(check_all_ways(network, random_images(2, 64, 128)))
    assert happened["running"] > 0 and happened["passing"] > 0 and happened["unreached"] > 0


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(2))
def test_sparse_equals_dense_on_random_subgraphs(rule, seed):
    whole = RoutingSpace.grid(5)
    generator = torch.Generator().manual_seed(seed)
    kept = [e for e in whole.edges if torch.rand((), generator=generator) < 0.75]
    space = whole.subspace(kept)
    assert len(space.edges) < len(whole.edges)
    for bias in (-0.5, 0.5):
        network = small_network(space, unreached=rule, seed=seed, bias=bias)
        check_all_ways(network, random_images(2, 64, 64, seed))


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_closed_cell_without_a_keep_edge_hands_nothing_on(rule):
    edges = [(-1, 0, "down"), (0, 1, "up"), (1, 0, "keep")]
    network = small_network(RoutingSpace.from_edges(edges), unreached=rule)
    for node in network.space.nodes:
        set_gate_bias(network, node, 1.0)
    assert check_all_ways(network, random_images()).output_reached(0).all()
    set_gate_bias(network, network.space.nodes[1], -1.0)
    routes = check_all_ways(network, random_images())
    assert not routes.output_reached(0).any()
    assert routes.reached.tolist() == [[True, True, False]] * 3


def test_sparse_equals_dense_in_float32():
    for seed in range(4):
        network = small_network(seed=seed).float()
        for node in network.space.nodes:
            network.cell(node).gate.predict.weight.data *= 0.3  # steep gates amplify rounding
        images = random_images(seed=seed).float()
        assert_same(network(images), network.forward_dense(images), tolerance=1e-5)


def test_training_mode_runs_densely_and_masks_image_by_image():
    network = small_network(seed=6)
    images = random_images(4)
    expected = one_by_one(network, images)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert what_happened(expected.routes)["images_differ"] > 0
    assert_same(network(images), expected)


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_sparse_gradients_equal_dense_gradients(rule):
    network = small_network(unreached=rule, seed=7, bias=0.2)
    images = random_images(2)
    gradients = []
    for run in (network, network.forward_dense):
        network.zero_grad()
        output = run(images)
        sum(f.square().mean() for f in output.features.values()).backward()
        named = network.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
    sparse, dense = gradients
    assert len(sparse) > 50 and sparse.keys() <= dense.keys()
    for name, gradient in dense.items():
        zeros = torch.zeros_like(gradient)
        assert relative_error(sparse.get(name, zeros), gradient) < 1e-8, name
