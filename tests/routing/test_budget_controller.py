"""A target in executed cost: the loss that presses and the controller that decides how hard."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamic_routing.routing import Routes, RoutingSpace
from dynamic_routing.routing.budget import INTEGRAL_SHARE, BudgetController, TargetBudgetLoss
from dynamic_routing.routing.cost import CostModel
from tests.routing.builders import small_network

SIZE = (32, 64)
SPACE = RoutingSpace.grid(2)


# The controller against a simulated training ------------------------------------------------------


class Plant:
    """A training whose executed share answers the pressure.

    The share falls in proportion to pressure and learning rate; the task slowly opens gates
    again; half of what was closed is closed for good.

    Args:
        gain: share lost in a whole training under a pressure of 1.
        push: how fast the task opens what can still open.
    """

    def __init__(self, *, gain, push, iterations=300):
        self.share = self.reachable = 1.0
        self.gain, self.push, self.iterations = gain, push, iterations

    def step(self, pressure, rate):
        change = self.gain * pressure * rate * (self.share if pressure > 0 else 1) / self.iterations
        self.share -= change
        self.reachable -= max(change, 0) / 2
        self.share += self.push * rate * max(self.reachable - self.share, 0) / self.iterations
        self.share = min(self.share, self.reachable)


def train(controller, plant, *, noise=0.0, seed=0, period=10):
    """The pressures and shares of a whole training with a polynomial learning rate."""
    generator = random.Random(seed)
    pressure, history = 0.0, []
    for iteration in range(plant.iterations):
        rate = (1 - iteration / plant.iterations) ** 0.9
        progress = iteration / plant.iterations
        if iteration % period == 0:
            seen = plant.share + generator.gauss(0, noise)
            pressure = controller.update(progress, seen, rate=rate)
        plant.step(pressure, rate)
        history.append((progress, pressure, plant.share))
    return history


@pytest.mark.parametrize("target", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("gain", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("push", [0.1, 0.5])
def test_controller_lands_within_5_percent_of_its_target(target, gain, push):
    for seed in range(5):
        plant = Plant(gain=gain, push=push)
        history = train(BudgetController(target), plant, noise=0.005, seed=seed)
        assert plant.share == pytest.approx(target, rel=0.05), seed
        assert all(pressure == 0 for progress, pressure, _ in history if progress < 0.1)


def test_plant_without_control_stays_open_and_under_full_pressure_closes():
    idle, pressed = Plant(gain=0.5, push=0.5), Plant(gain=0.5, push=0.5)
    for _ in range(300):
        idle.step(0, 1)
        pressed.step(10, 1)
    assert idle.share == 1 and pressed.share < 0.1
    lost = 1 - pressed.share
    for _ in range(3000):
        pressed.step(0, 1)
    assert 0 < 1 - pressed.share < lost and pressed.share < 0.6  # much never comes back


@pytest.mark.parametrize("target", [0.5, 0.7])
def test_cost_follows_the_reference_and_is_there_when_it_arrives(target):
    controller = BudgetController(target, start=0.2, arrive=0.7)
    history = train(controller, Plant(gain=0.6, push=0.1))
    late = [share for progress, _, share in history if progress > 0.75]
    assert max(late) < 1.05 * target and min(late) > 0.95 * target
    middle = [s for p, _, s in history if 0.3 < p < 0.6]
    assert all(target < share < 1 for share in middle)


@pytest.mark.parametrize("start", [0.0, 0.1, 0.5])
def test_pressure_is_0_before_the_start(start):
    controller = BudgetController(0.3, start=start)
    for progress in (0.0, start / 2, start - 1e-9):
        if 0 <= progress < start:
            assert controller.update(progress, 1.0) == 0.0
            assert controller.first is None and controller.accumulated == 0
    assert controller.update(max(start, 0.01), 1.0) >= 0.0
    assert controller.first == 1.0


@given(
    seen=st.lists(st.floats(0, 1.5), min_size=1, max_size=30),
    rates=st.lists(st.floats(0, 1), min_size=30, max_size=30),
    target=st.floats(0.01, 1),
    period=st.floats(0.001, 0.2),
)
def test_pressure_stays_in_its_bounds(seen, rates, target, period):
    controller = BudgetController(target)
    for i, (share, rate) in enumerate(zip(seen, rates)):
        pressure = controller.update(i * period, share, rate=rate)
        assert abs(pressure) <= controller.limit / max(rate, controller.least_rate) + 1e-9
        assert abs(pressure) <= controller.limit / controller.least_rate
        bound = INTEGRAL_SHARE * controller.limit
        assert abs(controller.integral * controller.accumulated) <= bound + 1e-9


def test_bounds_are_reached_and_the_learning_rate_is_made_up_for():
    for share, sign in [(5.0, 1), (-5.0, -1)]:
        for rate, factor in [(1.0, 1), (0.5, 2), (0.1, 10), (0.01, 20), (0.0, 20)]:
            controller = BudgetController(0.5, limit=3.0)
            controller.update(0.1, 1.0)
            found = [controller.update(0.1 + 0.01 * i, share, rate=rate) for i in range(1, 9)]
            assert found[-1] == pytest.approx(sign * 3.0 * factor)


@pytest.mark.parametrize(("start", "arrive", "target"), [(0.1, 0.6, 0.4), (0.0, 1.0, 0.9)])
def test_reference_is_a_straight_line_and_then_the_target(start, arrive, target):
    controller = BudgetController(target, start=start, arrive=arrive)
    assert controller.reference(0.5) == 1.0
    controller.update(start, 0.95)
    for way in (0.0, 0.25, 0.5, 0.9, 1.0):
        progress = start + way * (arrive - start)
        assert controller.reference(progress) == pytest.approx(0.95 + way * (target - 0.95))
    assert controller.reference(start / 2) == 0.95
    for progress in (arrive, (arrive + 1) / 2, 1.0):
        assert controller.reference(progress) == pytest.approx(target)


def test_reference_starts_at_the_cost_seen_first_under_control():
    controller = BudgetController(0.4)
    controller.update(0.0, 1.0)
    controller.update(0.05, 0.9)
    controller.update(0.1, 0.8)
    controller.update(0.2, 0.7)
    assert controller.first == 0.8 and controller.reference(0.35) == pytest.approx(0.6)


def held(accumulated, distance, *, smoothing=0.0):
    """The controller after one more probe at ``distance`` from a flat reference."""
    controller = BudgetController(
        0.5, arrive=0.2, derivative=0.0, smoothing=smoothing,
        first=0.9, accumulated=accumulated, last_progress=0.5, last_distance=distance,
    )  # fmt: skip
    return controller, controller.update(0.51, 0.5 + distance)


def test_integral_pushes_above_the_reference_and_not_below_it():
    controller, pressure = held(0.05, 0.02)
    assert pressure == pytest.approx(80 * 0.02 + 40 * (0.05 + 0.02 * 0.01))
    controller, pressure = held(0.05, -0.02)
    assert controller.accumulated == 0.0 and pressure == pytest.approx(-80 * 0.02)
    controller, pressure = held(-0.01, -0.02)
    assert controller.accumulated == pytest.approx(-0.0102)
    assert pressure == pytest.approx(-80 * 0.02 - 40 * 0.0102)


def test_no_pressure_left_over_once_the_cost_is_below_the_reference():
    controller = BudgetController(0.5, arrive=0.2)
    for i in range(1, 60):
        controller.update(i / 100, 0.9)
    assert controller.accumulated > 0
    for i in range(60, 70):
        pressure = controller.update(i / 100, 0.45)
    assert controller.accumulated <= 0 and pressure < 0


def test_fast_approach_brakes_before_the_reference_is_reached():
    slow, fast = (BudgetController(0.5, arrive=0.2, smoothing=0.0, first=0.9) for _ in range(2))
    for controller, before in [(slow, 0.56), (fast, 0.9)]:
        controller.update(0.5, before)
        controller.accumulated = 0.0
    assert fast.update(0.51, 0.55) < 0 < slow.update(0.51, 0.55)


def test_probe_noise_is_smoothed():
    calm, nervous = (BudgetController(0.5, limit=1e3, smoothing=s) for s in (0.8, 0.0))
    seen = [0.8 + 0.05 * (-1) ** i for i in range(20)]
    for controller in (calm, nervous):
        controller.derivative = 0.0
    pressures = {
        name: [controller.update(0.5 + 0.001 * i, share) for i, share in enumerate(seen)][-6:]
        for name, controller in {"calm": calm, "nervous": nervous}.items()
    }
    spans = {name: max(values) - min(values) for name, values in pressures.items()}
    assert spans["calm"] < 0.3 * spans["nervous"]


@pytest.mark.parametrize("stop", [3, 9, 20])
def test_copy_of_the_memory_continues_alike(stop):
    generator = random.Random(stop)
    probes = [(i / 30, generator.uniform(0.3, 1), 1 - i / 40) for i in range(30)]
    controller = BudgetController(0.5)
    for progress, seen, rate in probes[:stop]:
        controller.update(progress, seen, rate=rate)
    restored = BudgetController(**asdict(controller))
    for progress, seen, rate in probes[stop:]:
        expected = controller.update(progress, seen, rate=rate)
        assert restored.update(progress, seen, rate=rate) == expected


# The loss ----------------------------------------------------------------------------------------


def target_loss(threshold=0.25, pressure=1.0):
    loss = TargetBudgetLoss(CostModel(small_network(SPACE)), threshold=threshold)
    loss.pressure.fill_(pressure)
    return loss


def gates_of(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(count, len(SPACE.edges), generator=generator, dtype=torch.float64)
    return gates * (gates > 0.3)


def share_by_hand(gates, threshold, *, width=8):
    """Multiply-adds weighted by f(gate), over those of the open space; from channels and areas."""

    def weigh(values):
        total, strongest = 0.0, {}
        for (layer, scale, kind), value in zip(SPACE.to_edges(), values, strict=True):
            c = width << scale
            area = (SIZE[0] // (4 << scale)) * (SIZE[1] // (4 << scale))
            sent = {"up": area * c * c // 2, "keep": 0, "down": area // 4 * c * 2 * c}[kind]
            total = total + value * sent
            best = strongest.get((layer, scale))
            strongest[layer, scale] = value if best is None else torch.maximum(best, value)
        for (layer, scale), value in strongest.items():
            c = width << scale
            area = (SIZE[0] // (4 << scale)) * (SIZE[1] // (4 << scale))
            total = total + (value * 2 * area * c * (9 + c) if layer >= 0 else 0)
        return total

    pressed = (1 + threshold) * gates / (gates + threshold)
    full = weigh(torch.ones(gates.shape[1], dtype=gates.dtype))
    return torch.stack([weigh(row) for row in pressed]).mean() / full


@pytest.mark.parametrize("threshold", [0.1, 0.25, 2.0])
@pytest.mark.parametrize("pressure", [0.0, 1.0, -3.5])
def test_target_loss_is_pressure_times_a_sum_by_hand(threshold, pressure):
    gates = gates_of()
    loss = target_loss(threshold, pressure)(Routes(SPACE, gates, "absent", SIZE))
    assert list(loss) == ["loss_budget"] and loss["loss_budget"].dtype == torch.float32
    expected = pressure * float(share_by_hand(gates, threshold))
    assert float(loss["loss_budget"]) == pytest.approx(expected, rel=1e-6)


def test_target_loss_of_an_open_space_is_the_pressure_and_of_a_closed_one_0():
    for value, expected in [(1.0, 1.7), (0.0, 0.0)]:
        gates = torch.full((2, len(SPACE.edges)), value, dtype=torch.float64)
        loss = target_loss(pressure=1.7)(Routes(SPACE, gates, "absent", SIZE))["loss_budget"]
        assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_target_loss_gradient_is_that_of_finite_differences():
    gates = gates_of(seed=2).clamp(min=0.05).requires_grad_()  # gates equal 0 tie in the maximum
    assert torch.autograd.gradcheck(lambda g: share_by_hand(g, 0.25), gates)
    (expected,) = torch.autograd.grad(share_by_hand(gates, 0.25), gates)
    loss = target_loss(pressure=2.0)(Routes(SPACE, gates, "absent", SIZE))["loss_budget"]
    (found,) = torch.autograd.grad(loss, gates)
    rows = gates.detach() > 0.06
    assert torch.allclose(found[rows], 2 * expected[rows], rtol=1e-5, atol=1e-9)
    assert found.abs().sum() > 0


def test_weak_gates_are_pressed_harder_than_strong_ones():
    column = SPACE.to_edges().index((0, 1, "up"))
    slopes = []
    for strength in (0.01, 0.1, 0.25, 0.5, 1.0):
        gates = torch.full((1, len(SPACE.edges)), 0.6, dtype=torch.float64)
        gates[0, SPACE.to_edges().index((0, 1, "keep"))] = 1.01  # the cell's maximum lies elsewhere
        gates[0, column] = strength
        gates.requires_grad_()
        loss = target_loss()(Routes(SPACE, gates, "absent", SIZE))["loss_budget"]
        (slope,) = torch.autograd.grad(loss, gates)
        slopes.append(float(slope[0, column]))
    assert slopes == sorted(slopes, reverse=True) and slopes[0] > 15 * slopes[-1] > 0
    # f' = (1 + t) t / (alpha + t)^2
    assert slopes[0] / slopes[2] == pytest.approx((0.5 / 0.26) ** 2, rel=1e-4)


def test_pressure_is_kept_out_of_checkpoints():
    assert not target_loss().state_dict()


@pytest.mark.parametrize("threshold", [0.0, -0.25])
def test_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ValueError, match=f"must be positive, got {threshold}"):
        target_loss(threshold)
