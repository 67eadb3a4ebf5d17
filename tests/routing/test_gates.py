"""Gates: range, precision, gradients, small inputs."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from dynamic_routing.routing import (
    ACTIVATIONS,
    UNREACHED_RULES,
    GateSpec,
    RoutingNetwork,
    RoutingSpace,
)
from dynamic_routing.routing.gates import FixedGate, SoftGate, build_gate, shrink
from tests.routing.builders import assert_same, random_images, set_gate_bias, small_network

ALL = [*ACTIVATIONS, "fixed"]


def soft_gate(activation: str = "max_tanh", *, small: bool = False, num_edges: int = 3) -> SoftGate:
    """A gate of 8 channels."""
    spec = GateSpec(activation, small=small)
    return SoftGate(8, num_edges, norm=nn.BatchNorm2d, spec=spec)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("max_tanh", lambda g: max(0.0, math.tanh(g))),
        ("sigmoid", lambda g: 1 / (1 + math.exp(-g))),
    ],
)
def test_activation_follows_its_formula(activation, function):
    logits = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = torch.tensor([function(g) for g in logits.tolist()], dtype=torch.float64)
    assert torch.allclose(ACTIVATIONS[activation](logits[:, None])[:, 0], expected, atol=1e-12)


def test_softmax_sums_to_one_over_the_edges_of_each_image():
    gates = ACTIVATIONS["softmax"](torch.randn(5, 3))
    assert torch.allclose(gates.sum(dim=1), torch.ones(5)) and gates.std(dim=0).min() > 0


@pytest.mark.parametrize("activation", ALL)
def test_gates_have_one_value_in_0_1_per_edge(activation):
    gate = build_gate(8, 3, norm=nn.BatchNorm2d, spec=GateSpec(activation))
    gates = gate(torch.randn(4, 8, 6, 6))
    assert gate.num_edges == 3
    assert gates.shape == (4, 3) and (gates >= 0).all() and (gates <= 1).all()
    assert isinstance(gate, FixedGate) == (activation == "fixed") == bool((gates == 1).all())


@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_fixed_gates_may_have_strengths_and_sparse_equals_dense(rule):
    network = small_network(gate=GateSpec("fixed"), unreached=rule)
    images = random_images(2)
    for node in network.space.nodes:
        gate = network.cell(node).gate
        strength = torch.rand(gate.num_edges) - 0.4
        gate.set_strength(strength.clamp(min=0) if node.layer >= 0 else torch.ones(2))
    output = network(images)
    assert_same(network.forward_dense(images), output)
    assert (output.routes.reached & ~output.routes.running).any()
    loaded = small_network(gate=GateSpec("fixed"), unreached=rule, seed=1)
    loaded.load_state_dict(network.state_dict())
    assert_same(loaded(images), output)
    assert_same(loaded.forward_dense(images), output)


def test_fixed_gate_refuses_strengths():
    gate = FixedGate(2)
    with pytest.raises(ValueError, match=r"2 gates need as many strengths, got shape \(3,\)"):
        gate.set_strength(torch.ones(3))
    for bad in (-0.5, 1.5):
        with pytest.raises(ValueError, match=rf"must be in \[0, 1\], got \[1.0, {bad}\]"):
            gate.set_strength(torch.tensor([1.0, bad]))
    with pytest.raises(ValueError, match="must be in"):
        gate.load_state_dict({"strength": torch.tensor([0.5, 7.0])})


def test_gates_start_nearly_open():
    gate = soft_gate()
    nn.init.zeros_(gate.predict.weight)
    gates = gate(torch.randn(2, 8, 4, 4))
    assert torch.allclose(gates, torch.full((2, 3), math.tanh(1.5)))
    assert gates[0, 0].item() == pytest.approx(0.905, abs=5e-4)
    other = SoftGate(8, 2, norm=nn.BatchNorm2d, spec=GateSpec(bias_init=-0.25))
    assert torch.equal(other.predict.bias, torch.full((2,), -0.25))


def test_closed_gate_gets_no_gradient_and_open_gate_does():
    gate = soft_gate().double()
    with torch.no_grad():
        gate.predict.weight.mul_(0.01)
        gate.predict.bias.copy_(torch.tensor([-1.0, 1.0, -0.5]))
    gates = gate(torch.randn(4, 8, 4, 4, dtype=torch.float64))
    assert (gates > 0).tolist() == [[False, True, False]] * 4
    gates.sum().backward()
    moved = gate.predict.weight.grad.abs().flatten(1).sum(dim=1) > 0
    assert moved.tolist() == [False, True, False]
    assert (gate.predict.bias.grad != 0).tolist() == [False, True, False]


def test_closed_gates_get_no_gradient_from_the_task():
    network = RoutingNetwork(RoutingSpace.grid(3), width=8).double().train()
    closed = network.space.nodes[1]
    set_gate_bias(network, closed, -1.0)
    output = network(random_images(4))
    sum(f.square().sum() for f in output.features.values()).backward()
    for node in network.space.nodes:
        moved = network.cell(node).gate.predict.bias.grad.abs().sum().item()
        assert (moved == 0) is (node == closed), node


@pytest.mark.parametrize(("height", "width"), list(product([1, 2, 3, 4, 5, 8, 16], repeat=2)))
def test_shrink_divides_by_four_but_never_to_nothing(height, width):
    x = torch.randn(2, 3, height, width)
    assert shrink(x).shape == (2, 3, max(1, height // 4), max(1, width // 4))


def test_shrink_is_bilinear_at_pixel_centres():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    expected = [[x[0, 0, i : i + 2, j : j + 2].mean().item() for j in (1, 5)] for i in (1, 5)]
    assert shrink(x)[0, 0].tolist() == expected


def test_small_gate_sees_only_the_shrunk_input():
    gate, full = soft_gate(small=True).eval(), soft_gate(small=False).eval()
    full.load_state_dict(gate.state_dict())
    x = torch.randn(2, 8, 16, 16)
    assert torch.allclose(gate(x), full(shrink(x)))
    assert not torch.allclose(gate(x), full(x))


@pytest.mark.parametrize("training", [False, True])
def test_small_gate_works_on_the_smallest_image(training):
    spec = GateSpec(small=True)
    network = small_network(gate=spec, bias=1.0).train(training)
    output = network(random_images(2, 32, 32))
    assert output.features[3].shape == (2, 64, 1, 1)
    assert torch.isfinite(output.routes.gates).all()
    assert output.routes.reached[:, [n.scale == 3 for n in network.space.nodes]].any()


@pytest.mark.parametrize("activation", ALL)
@pytest.mark.parametrize("training", [False, True])
def test_gates_stay_float32_under_autocast(activation, training):
    network = small_network(gate=GateSpec(activation)).float().train(training)
    images = random_images(2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images)
    assert output.routes.gates.dtype == torch.float32
    assert output.routes.activations().dtype == torch.float32
    assert all(torch.isfinite(f).all() for f in output.features.values())


def test_gate_computes_its_logits_in_float32_under_autocast():
    gate = soft_gate().eval()
    pooled = []
    gate.pool.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = gate.logits(torch.randn(2, 8, 4, 4))
    weight, bias = gate.predict.weight[:, :, 0, 0], gate.predict.bias
    expected = pooled[0].flatten(1).float() @ weight.T + bias
    assert pooled[0].dtype == torch.bfloat16
    assert torch.allclose(logits, expected, atol=1e-6)


def test_autocast_reaches_the_same_routes_in_sparse_and_dense():
    for seed in range(4):
        network = small_network(seed=seed).float()
        images = random_images(1, seed=seed).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sparse, dense = network(images).routes, network.forward_dense(images).routes
        assert torch.equal(sparse.open, dense.open)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ALL)
def test_network_works_in_every_precision(dtype, activation):
    network = small_network(gate=GateSpec(activation), seed=2).to(dtype)
    images = random_images(2).to(dtype)
    at_least = torch.float64 if dtype == torch.float64 else torch.float32
    for run in (network, network.forward_dense, network.train()):
        output = run(images)
        assert all(f.dtype == dtype for f in output.features.values())
        assert output.routes.gates.dtype == at_least
        assert all(torch.isfinite(f).all() for f in output.features.values())
