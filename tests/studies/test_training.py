"""Training of the toy networks: repeatable, seed by seed independent, and in the known order."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from dynamic_routing.divdr.loss import divdr_loss
from dynamic_routing.studies import training
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.toy import GATES, ToyNetwork
from dynamic_routing.studies.training import budget_loss, train

SHORT = 40
SMALL = {"samples": 256, "start": 10, "period": 10}
DIVDR = Setting(**SMALL)


def numbers(outcome):
    return [v for v in dataclasses.asdict(outcome).values() if not math.isnan(v)]


def test_training_is_repeatable():
    assert train(DIVDR, [1], iterations=SHORT) == train(DIVDR, [1], iterations=SHORT)


@pytest.mark.parametrize("source", ["bank", "subset", "full"])
def test_a_seed_does_not_depend_on_the_others(source):
    setting = dataclasses.replace(DIVDR, source=source)
    together = train(setting, [5, 1, 9], iterations=SHORT)
    (alone,) = train(setting, [1], iterations=SHORT)
    assert [outcome.seed for outcome in together] == [5, 1, 9]
    assert numbers(together[1]) == pytest.approx(numbers(alone), rel=1e-4)
    assert numbers(together[0])[1:] != pytest.approx(numbers(alone)[1:], rel=1e-4)


def test_oracle_is_far_above_static():
    """Conflicting labels: without gates one linear map has to do for all subsets."""
    (static,) = train(Setting(method="static", samples=2048), [1], iterations=250)
    (oracle,) = train(Setting(method="oracle", samples=2048), [1], iterations=250)
    assert static.accuracy < 0.75 and oracle.accuracy > 0.93
    assert static.open_share == 1.0 and oracle.open_share == pytest.approx(1 / 3)
    assert math.isnan(static.recovery) and math.isnan(oracle.ratio)


def test_clusterings_follow_the_schedule():
    (outcome,) = train(DIVDR, [1], iterations=SHORT)
    assert outcome.clusterings == 3  # at 10, 20 and 30
    (late,) = train(dataclasses.replace(DIVDR, start=SHORT), [1], iterations=SHORT)
    assert late.clusterings == 0 and math.isnan(late.recovery_own)
    (dr,) = train(dataclasses.replace(DIVDR, method="dr"), [1], iterations=SHORT)
    # Without clusters DivDR is DR; as text, since NaN does not equal itself.
    assert str(dataclasses.replace(dr, seed=1)) == str(late)


def test_bank_waits_for_samples():
    """At iteration 0 the bank is empty, a pass is not."""
    (bank,) = train(dataclasses.replace(DIVDR, start=0), [1], iterations=SHORT)
    (full,) = train(dataclasses.replace(DIVDR, start=0, source="full"), [1], iterations=SHORT)
    assert (bank.clusterings, full.clusterings) == (4, 4)  # the bank's: 1, 11, 21, 31


def clusters_of(setting, seeds, samples=8):
    data = training.stack([training._data(seed, samples)[0] for seed in seeds])
    return training._Clusters(setting, seeds, data), data


def test_bank_holds_the_latest_activations_of_seen_samples():
    clusters, _ = clusters_of(Setting(samples=8), [0, 1])
    index = torch.tensor([[2, 5], [0, 7]])
    clusters.record(index, torch.full((2, 2, GATES), 0.5))
    clusters.record(index[:, :1], torch.full((2, 1, GATES), 0.25))
    first, second = clusters._rows(ToyNetwork([0, 1]))
    assert first[:, 0].tolist() == [0.25, 0.5] and second[:, 0].tolist() == [0.25, 0.5]


def test_passes_see_the_present_weights():
    clusters, data = clusters_of(Setting(samples=8, source="full"), [0, 1])
    network = ToyNetwork([0, 1])
    for rows, gates in zip(clusters._rows(network), network(data.inputs).gates):
        assert np.array_equal(rows, gates.detach().numpy())
    assert (
        len(clusters_of(Setting(samples=600, source="subset"), [0], 600)[0]._fresh.inputs[0]) == 512
    )


def test_loss_of_the_batch_is_that_of_each_seed():
    setting = Setting(samples=8, margin=2.0, weight=0.7, norm_power=2)
    clusters, _ = clusters_of(setting, [0, 1])
    gates = torch.rand(2, 5, GATES)
    assert clusters.loss(gates).tolist() == [0, 0]
    clusters.centres, clusters.count = torch.rand(2, 3, GATES), 1
    clusters.variances = torch.tensor([0.5, 0.8])
    for number, found in enumerate(clusters.loss(gates)):
        single = divdr_loss(
            gates[number], clusters.centres[number], clusters.variances[number],
            margin=2.0, norm_power=2,
        )  # fmt: skip
        torch.testing.assert_close(found, 0.7 * single.mean())


def test_budget_loss_squares_image_by_image():
    setting = Setting(budget_weight=2.0, budget_mu=0.25, budget_start=0.5)
    gates = torch.stack([torch.zeros(1, GATES), torch.ones(1, GATES)], dim=1)  # one seed, 2 images
    expected = 2.0 * (0.25**2 + 0.75**2) / 2
    assert budget_loss(setting, gates, 1.0).item() == pytest.approx(expected)
    assert budget_loss(setting, gates, 0.4).item() == 0


def test_divergence_is_reported():
    with np.errstate(all="ignore"):
        (outcome,) = train(Setting(weight=1e30, margin=1e8, **SMALL), [1], iterations=SHORT)
    assert outcome.diverged and math.isnan(outcome.recovery)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        train(DIVDR, [])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "none"}, "method must be one of"),
        ({"source": "none"}, "source must be one of"),
        ({"norm_power": 3}, "norm_power must be one of"),
        ({"clusters": 1}, "at least 2 clusters"),
        ({"margin": -1.0}, "must not be negative"),
        ({"period": 0}, "period must be >= 1"),
        ({"budget_start": 2.0}, "budget start and ramp"),
    ],
)
def test_settings_refuse_impossible_values(wrong, message):
    with pytest.raises(ValueError, match=message):
        Setting(**wrong)
