"""The budget loss against a sum over a dictionary, its schedule, and its gradient."""

from __future__ import annotations

import pytest
import torch

from dynamic_routing.routing import Routes, RoutingNetwork, RoutingSpace
from dynamic_routing.routing.budget import BudgetLoss, BudgetSchedule
from dynamic_routing.routing.cost import CostModel
from tests.routing.builders import DETECTION, small_network

SIZE = (64, 128)
ALWAYS = BudgetSchedule(0.0, 0.0)
SHIFT = {"up": -1, "keep": 0, "down": 1}


def loss_of(space, *, weight=1.0, mu=0.2, schedule=ALWAYS):
    return BudgetLoss(
        CostModel(small_network(space), convention="paper"),
        weight=weight,
        mu=mu,
        schedule=schedule,
    )


def random_routes(space, count=3, seed=0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(count, len(space.edges), generator=generator, dtype=torch.float64)
    return Routes(space, gates * (gates > 0.3), "absent", size)


def value(loss, routes):
    return float(loss(routes)["loss_budget"].detach())


def expected_by_hand(triples, gates, *, width, size):
    """Eq. 8 and 9 for one image: (layer, scale, kind) -> gate, all from channels and areas.

    Per element an affine norm counts 2 and a ReLU 1; the last layer's outputs count no ReLU.
    """
    last = max(layer for layer, _, _ in triples)
    strength: dict[tuple[int, int], float] = {}
    total = 0.0
    for (layer, scale, kind), gate in zip(triples, gates, strict=True):
        c, area = width << scale, (size[0] // (4 << scale)) * (size[1] // (4 << scale))
        out = {"up": c // 2, "keep": 0, "down": 2 * c}[kind]
        there = area // 4 if kind == "down" else area
        transition = there * out * (c + 2 + 1)
        relu = 0 if layer == last else area * c
        total += gate * (transition + relu)
        strength[layer, scale] = max(strength.get((layer, scale), 0.0), gate)
    for (layer, scale), alpha in strength.items():
        c, area = width << scale, (size[0] // (4 << scale)) * (size[1] // (4 << scale))
        if layer >= 0:
            total += alpha * area * c * (2 * (9 + c + 2) + 1)
    return total


@pytest.mark.parametrize("space", [RoutingSpace.grid(5), DETECTION], ids=["5", "17"])
def test_loss_equals_a_sum_over_a_dictionary(space):
    routes = random_routes(space)
    triples = space.to_edges()
    full = expected_by_hand(triples, [1.0] * len(triples), width=8, size=SIZE)
    costs = [expected_by_hand(triples, g, width=8, size=SIZE) for g in routes.gates.tolist()]
    loss = loss_of(space, weight=0.8, mu=0.1)
    assert loss.cost.full_expected(*SIZE) == pytest.approx(full, rel=1e-12)
    assert loss.cost.expected(routes).tolist() == pytest.approx(costs, rel=1e-12)
    expected = 0.8 * sum((c / full - 0.1) ** 2 for c in costs) / len(costs)
    assert value(loss, routes) == pytest.approx(expected, rel=1e-6)  # float32


def test_hand_count_gives_the_published_total():
    triples = RoutingSpace.grid(16).to_edges()
    full = expected_by_hand(triples, [1.0] * len(triples), width=64, size=(768, 768))
    assert round(full / 1e6, 1) == 26891.7


@pytest.mark.parametrize("mu", [0.0, 0.2, 1.0])
def test_loss_is_0_at_its_target(mu):
    space = RoutingSpace.grid(5)
    gates = torch.full((2, len(space.edges)), mu, dtype=torch.float64)
    assert value(loss_of(space, mu=mu), Routes(space, gates, "absent", SIZE)) < 1e-14
    other = torch.full((2, len(space.edges)), 0.5, dtype=torch.float64)
    assert value(loss_of(space, mu=mu), Routes(space, other, "absent", SIZE)) > 0.05


def test_target_is_a_share_whatever_the_size_of_the_batch_and_its_images():
    space = RoutingSpace.grid(5)
    loss = loss_of(space)
    gates = torch.full((1, len(space.edges)), 0.7, dtype=torch.float64)
    for size in (SIZE, (128, 128)):
        for count in (1, 4):
            routes = Routes(space, gates.expand(count, -1), "absent", size)
            assert value(loss, routes) == pytest.approx(0.25, rel=1e-6)


def test_schedule_is_off_then_ramps_then_stays():
    schedule = BudgetSchedule()
    assert (schedule.start, schedule.ramp) == (0.4, 0.02)
    found = [schedule.strength(p) for p in (0.0, 0.39999, 0.4, 0.405, 0.41, 0.42, 0.7, 1.0)]
    assert found == pytest.approx([0, 0, 0, 0.25, 0.5, 1, 1, 1])
    assert [BudgetSchedule(0.5, 0.0).strength(p) for p in (0.49, 0.5)] == [0.0, 1.0]


def test_loss_follows_the_schedule():
    space = RoutingSpace.grid(3)
    loss, routes = loss_of(space, schedule=BudgetSchedule()), random_routes(space)
    full = value(loss_of(space), routes)
    for progress, share in [(0.0, 0), (0.39, 0), (0.41, 0.5), (0.42, 1), (1.0, 1)]:
        loss.set_progress(progress)
        assert value(loss, routes) == pytest.approx(share * full, rel=1e-4)
    assert "progress" not in loss.state_dict()


def test_loss_that_is_off_has_a_gradient_of_0():
    space = RoutingSpace.grid(3)
    routes = random_routes(space)
    routes.gates.requires_grad_()
    loss_of(space, schedule=BudgetSchedule())(routes)["loss_budget"].backward()
    assert routes.gates.grad is not None and not routes.gates.grad.any()


def test_gradient_is_that_of_finite_differences():
    space = RoutingSpace.grid(2)
    cost = CostModel(small_network(space), convention="paper")
    generator = torch.Generator().manual_seed(3)
    gates = torch.rand(2, len(space.edges), generator=generator, dtype=torch.float64)
    full = cost.full_expected(*SIZE)

    def share(values):
        return ((cost.expected(Routes(space, values, "absent", SIZE)) / full - 0.2) ** 2).mean()

    assert torch.autograd.gradcheck(share, gates.requires_grad_())
    loss = loss_of(space)(Routes(space, gates, "absent", SIZE))["loss_budget"]
    (found,) = torch.autograd.grad(loss, gates)
    (expected,) = torch.autograd.grad(share(gates), gates)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9) and found.abs().sum() > 0


def test_gradient_closes_the_gates_of_a_network_above_its_budget():
    network = RoutingNetwork(RoutingSpace.grid(3), width=4)
    loss = BudgetLoss(CostModel(network), weight=1.0, mu=0.0, schedule=ALWAYS)
    routes = network.train()(torch.rand(2, 3, 32, 32)).routes
    routes.gates.retain_grad()
    loss(routes)["loss_budget"].backward()
    assert (routes.gates.grad >= 0).all() and routes.gates.grad.any(dim=1).all()
    biases = [network.cell(node).gate.predict.bias for node in network.space.nodes]
    assert all(bias.grad.any() for bias in biases)
    assert sum(float(bias.grad.sum()) for bias in biases) > 0


@pytest.mark.parametrize(("weight", "mu"), [(-0.1, 0.2), (1.0, -0.1), (1.0, 1.1)])
def test_weight_and_target_out_of_bounds_are_refused(weight, mu):
    with pytest.raises(ValueError, match=f"got {weight} and {mu}"):
        loss_of(RoutingSpace.grid(1), weight=weight, mu=mu)


@pytest.mark.parametrize(("start", "ramp"), [(-0.1, 0), (1.1, 0), (0, -0.1), (0, 2)])
def test_schedule_out_of_bounds_is_refused(start, ramp):
    with pytest.raises(ValueError, match=f"got {start} and {ramp}"):
        BudgetSchedule(start, ramp)
