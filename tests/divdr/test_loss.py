"""The DivDR loss against the formula, its edge cases, and the module around it."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from dynamic_routing.divdr.loss import MIN_VARIANCE, DivDRLoss, assign, divdr_loss
from dynamic_routing.routing import Routes, RoutingSpace
from tests.routing.builders import DETECTION, small_network

SPACE = RoutingSpace.grid(4)


def formula(activations, centres, variance, margin, power):
    """Eq. 2 with plain loops in float64, the own centre left out by its number."""
    losses = []
    for row in np.asarray(activations, dtype=np.float64):
        distances = []
        for centre in np.asarray(centres, dtype=np.float64):
            squared = sum((a - c) ** 2 for a, c in zip(row, centre))
            distances.append(math.sqrt(squared) ** power)
        own = distances.index(min(distances))
        others = [-d / (2 * variance) for k, d in enumerate(distances) if k != own]
        log_sum = np.logaddexp.reduce(others)  # exp() alone would be 0 for far centres
        losses.append(max(0.0, margin + distances[own] / (2 * variance) + log_sum))
    return losses


def spread(activations, centres):
    """sigma^2 of the rows around their nearest centres."""
    distances = assign(activations, centres).distances
    return distances.square().sum() / (len(activations) - 1)


def random_case(seed, images=7, clusters=3, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": dtype}
    return torch.rand(images, dim, **draw), torch.rand(clusters, dim, **draw)


def value_and_gradient(activations, centres, variance, **options):
    activations = activations.clone().requires_grad_()
    losses = divdr_loss(activations, centres, torch.as_tensor(variance), **options)
    losses.sum().backward()
    return losses.detach(), activations.grad


@given(
    seed=st.integers(0, 999),
    clusters=st.integers(2, 5),
    margin=st.sampled_from([0.0, 0.5, 3.0]),
    power=st.sampled_from([1, 2]),
    variance=st.sampled_from([0.02, 0.3, 2.0]),
)
def test_loss_equals_the_formula(seed, clusters, margin, power, variance):
    activations, centres = random_case(seed, clusters=clusters)
    found = divdr_loss(
        activations, centres, torch.tensor(variance), margin=margin, norm_power=power
    )
    expected = formula(activations, centres, float(torch.tensor(variance)), margin, power)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.min() >= 0


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_equals_finite_differences(power):
    activations, centres = random_case(3)

    def loss(x):
        return divdr_loss(x, centres, torch.tensor(0.4), margin=2.0, norm_power=power)

    assert (loss(activations) > 0).all()
    assert torch.autograd.gradcheck(loss, activations.requires_grad_())


def test_gradient_leads_to_the_own_centre_and_away_from_the_other():
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    _, gradient = value_and_gradient(torch.tensor([[0.3, 0.0]]), centres, 0.5, margin=1.0)
    assert gradient[0, 0] > 0 and gradient[0, 1] == 0


@pytest.mark.parametrize("power", [1, 2])
def test_loss_and_gradient_are_0_where_clusters_lie_beyond_the_margin(power):
    centres = torch.tensor([[0.0] * 8, [1.0] * 8])
    activations = centres.repeat(3, 1) + 0.01
    losses, gradient = value_and_gradient(activations, centres, 0.05, margin=2.0, norm_power=power)
    assert not losses.any() and not gradient.any()


def test_order_of_the_clusters_does_not_matter():
    activations, centres = random_case(4, clusters=4)
    for order in ([3, 1, 0, 2], [1, 0, 3, 2]):
        for a, b in zip(
            value_and_gradient(activations, centres, 0.3, margin=1.0),
            value_and_gradient(activations, centres[order], 0.3, margin=1.0),
        ):
            assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_only_squared_distances_are_invariant_to_the_scale_of_the_activations(power):
    activations, centres = random_case(5)
    found = []
    for scale in (1.0, 3.0):
        rows, means = scale * activations, scale * centres
        variance = spread(rows, means)
        found.append(divdr_loss(rows, means, variance, margin=1.0, norm_power=power))
    assert torch.allclose(*found, rtol=1e-9) == (power == 2)


ORIGIN = torch.zeros(3, 4)
ROWS, CENTRES = torch.tensor([[0.1, 0.3, 0.2, 0.18]] * 3), torch.tensor([[0.2] * 4, [0.19] * 4])
DEGENERATE = {
    "all activations equal, on a centre": (ORIGIN, torch.eye(2, 4) - torch.eye(2, 4)[:1], 0.0),
    "all centres equal": (ROWS, torch.ones(3, 4), 0.2),
    "everything equal": (ORIGIN, torch.zeros(2, 4), 0.0),
    "variance 0": (ROWS, CENTRES, 0.0),
    "a cluster far nearer": (ORIGIN, torch.tensor([[0.0] * 4, [1e4] * 4]), 1e-9),
    "half way between two": (torch.full((1, 4), 0.5), torch.tensor([[0.0] * 4, [1.0] * 4]), 1.0),
    "nearly on a centre": (ORIGIN + 1e-30, torch.eye(2, 4), 0.5),
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_case_has_the_formulas_value_and_a_finite_gradient(case, power):
    activations, centres, variance = DEGENERATE[case]
    losses, gradient = value_and_gradient(
        activations, centres, variance, margin=1.0, norm_power=power
    )
    assert losses.isfinite().all() and gradient.isfinite().all()
    expected = formula(activations, centres, max(variance, MIN_VARIANCE), 1.0, power)
    assert losses.tolist() == pytest.approx(expected, rel=1e-4)
    if case == "a cluster far nearer":
        assert not losses.any()


def test_everything_on_one_spot_has_no_gradient():
    losses, gradient = value_and_gradient(ORIGIN, torch.zeros(3, 4), 0.0, margin=1.0)
    assert losses.tolist() == pytest.approx([1 + math.log(2)] * 3) and not gradient.any()


def test_own_centre_is_left_out_by_its_number_and_the_lowest_wins_a_tie():
    centres = torch.tensor([[5.0], [1.0], [1.0]])
    assert assign(torch.ones(1, 1), centres).clusters.tolist() == [1]
    # The twin at distance 0 stays in the sum: log(exp(0) + exp(-4 / 2)).
    loss = divdr_loss(torch.ones(1, 1), centres, torch.tensor(1.0), margin=0.0)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))


def test_loss_is_float32_inside_autocast_and_for_bfloat16_gates():
    activations, centres = random_case(6, dtype=torch.float32)
    expected = divdr_loss(activations, centres, torch.tensor(0.3), margin=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = divdr_loss(activations, centres, torch.tensor(0.3), margin=1.0)
        low = divdr_loss(activations.bfloat16(), centres, torch.tensor(0.3), margin=1.0)
    assert inside.dtype == low.dtype == torch.float32
    assert torch.equal(inside, expected) and torch.allclose(low, expected, rtol=0.05)


def test_fewer_than_two_centres_and_other_shapes_are_refused():
    for clusters in (0, 1):
        with pytest.raises(ValueError, match=f"got {clusters}: one cluster is the trivial sol"):
            divdr_loss(torch.rand(2, 4), torch.rand(clusters, 4), torch.tensor(1.0), margin=1.0)
    with pytest.raises(ValueError, match=r"must agree in A, got \(2, 4\) and \(2, 5\)"):
        divdr_loss(torch.rand(2, 4), torch.rand(2, 5), torch.tensor(1.0), margin=1.0)


# The module --------------------------------------------------------------------------------------


def routes(images=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(images, len(SPACE.edges), generator=generator).requires_grad_()
    return Routes(SPACE, gates, "absent", (32, 32))


def module(**options):
    return DivDRLoss(2, SPACE.activation_dim, **{"weight": 0.5, "margin": 1.0, **options})


def ready_module(**options):
    loss = module(**options)
    loss.set_clusters(torch.rand(2, SPACE.activation_dim), 0.7)
    return loss


@pytest.mark.parametrize("power", [1, 2])
def test_module_is_weight_times_the_mean_over_images(power):
    loss, batch = ready_module(norm_power=power), routes()
    expected = divdr_loss(
        batch.activations(), loss.centres, torch.tensor(0.7), margin=1.0, norm_power=power
    )
    found = loss(batch, ["a"] * 4)
    assert list(found) == ["loss_divdr"]
    assert float(found["loss_divdr"].detach()) == pytest.approx(
        0.5 * float(expected.detach().mean())
    )


def test_loss_is_0_with_gradient_0_before_the_first_clustering_and_after_a_reset():
    loss = module()
    for _ in range(2):
        batch = routes()
        value = loss(batch)["loss_divdr"]
        value.backward()
        assert float(value.detach()) == 0 and not batch.gates.grad.any()
        loss.set_clusters(torch.rand(2, SPACE.activation_dim), 0.7)
        assert float(loss(batch)["loss_divdr"].detach()) > 0
        loss.reset()


def test_clusters_are_part_of_the_checkpoint():
    loss, twin, file = ready_module(), module(), io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert set(loss.state_dict()) == {"centres", "variance", "ready"}
    assert f"2 clusters, A = {SPACE.activation_dim}, weight=0.5, margin=1.0" in repr(loss)
    assert bool(twin.ready) and twin(routes()) == loss(routes())
    assert torch.equal(twin.assign(routes()).clusters, loss.assign(routes()).clusters)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": -1.0}, "must be finite and >= 0, got -1.0 and 1.0"),
        ({"margin": -2.0}, "must be finite and >= 0, got 0.5 and -2.0"),
        ({"weight": math.inf}, "must be finite and >= 0, got inf and 1.0"),
        ({"margin": math.nan}, "must be finite and >= 0, got 0.5 and nan"),
        ({"norm_power": 3}, r"norm_power must be one of \(1, 2\), got 3"),
    ],
)
def test_impossible_argument_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        module(**options)


def test_impossible_clusters_are_refused():
    with pytest.raises(ValueError, match="needs at least 2 clusters, got 1"):
        DivDRLoss(1, 6, weight=1.0, margin=1.0)
    loss, dim = module(), SPACE.activation_dim
    with pytest.raises(ValueError, match="centres must have shape"):
        loss.set_clusters(torch.rand(3, dim), 1.0)
    for centres, variance in [
        (torch.full((2, dim), math.nan), 1.0),
        (torch.rand(2, dim), math.nan),
        (torch.rand(2, dim), -1.0),
    ]:
        with pytest.raises(ValueError, match="must be finite"):
            loss.set_clusters(centres, variance)
    with pytest.raises(ValueError, match="was never clustered"):
        loss.assign(routes())
    with pytest.raises(ValueError, match=r"routes have A = 39, the loss 33"):
        DivDRLoss(2, 33, weight=1.0, margin=1.0)(routes())


def test_gates_without_gradient_are_refused_in_a_training_step_only():
    loss, batch = ready_module(), routes().detach()
    with pytest.raises(ValueError, match="gates carry no gradient .*use_reentrant=False"):
        loss(batch)
    with torch.no_grad():  # statistics of the norms are taken so
        loss(batch)
    loss.eval()(batch)


def test_reentrant_checkpointing_is_refused_and_the_other_kind_works():
    weights, batch = torch.rand(len(SPACE.edges), requires_grad=True), torch.rand(4, 1)

    def gates(x):
        return torch.sigmoid(x * weights)

    for reentrant in (True, False):
        if reentrant:
            with pytest.warns(UserWarning, match="requires_grad"):
                found = checkpoint(gates, batch, use_reentrant=True)
            with pytest.raises(ValueError, match="gates carry no gradient"):
                ready_module()(Routes(SPACE, found, "absent", (32, 32)))
        else:
            found = checkpoint(gates, batch, use_reentrant=False)
            ready_module()(Routes(SPACE, found, "absent", (32, 32)))["loss_divdr"].backward()
            assert weights.grad.any()


def test_sink_gets_every_training_step_and_nothing_else():
    loss, seen, batch = module(), [], routes()
    loss.sink = lambda activations, names: seen.append((activations, list(names)))
    loss(batch, ["a", "b", "c", "d"])
    ((activations, names),) = seen
    assert names == ["a", "b", "c", "d"] and activations.dtype == np.float32
    assert np.array_equal(activations, batch.activations().detach().numpy())
    with torch.no_grad():
        loss(batch, names)
    loss.eval()(batch, names)
    copied = copy.deepcopy(loss).train()
    assert copied.sink is None and loss.sink is not None
    copied(batch, names)
    assert len(seen) == 1 and "sink" not in loss.state_dict()


@torch.no_grad()
@pytest.mark.parametrize(
    ("space", "dim"), [(RoutingSpace.grid(16), 183), (DETECTION, 198)], ids=["16", "detection"]
)
def test_activations_of_the_published_spaces(space, dim):
    network = small_network(space)
    found = network(torch.rand(2, 3, 64, 64, dtype=torch.float64)).routes.activations()
    assert found.shape == (2, dim) and found.min() >= 0 and found.max() <= 1
    empty = sorted(set(range(dim)) - set(space.activation_slots))
    assert len(empty) == {183: 36, 198: 39}[dim] and not found[:, empty].any()
    assert found[:, list(space.activation_slots)].any()
